"""What no program can be started with is refused in the profile's form."""

import os
import subprocess

import pytest
from django.core.exceptions import ValidationError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groups import validators
from groups.models import AgentProfile

REFUSED = [
    ({"command": ["sh", "a\0b"]}, "NUL"),
    ({"command": ["sh", "\udc80"]}, "half a character"),
    ({"command": ["sh", "x" * 131_072]}, "131071"),
    ({"command": ["x" * 131_071] * 5}, "524288"),
    ({"environment": {"A": "\0"}}, "NUL"),
    ({"environment": {"A": "x" * 131_070}}, "131071"),
    ({"environment": {f"A{n}": "x" * 100_000 for n in range(6)}}, "524288"),
    ({"environment": {"A\n": "x"}}, "variable's name"),
    ({"environment": {"A-B": "x"}}, "variable's name"),
    ({"state_folder": "/home/node/../../etc"}, "without . and"),
    ({"state_folder": "/home/node/.state\n"}, "without . and"),
    ({"state_folder": "/home/node/."}, "without . and"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_a_profile_with_it_is_refused(db: None, fields: dict[str, object], words: str) -> None:
    profile = AgentProfile(slug="any", **({"command": ["sh"], "image": "a"} | fields))
    with pytest.raises(ValidationError, match=words):
        profile.full_clean()


@settings(deadline=None, max_examples=30)
@example("", 131_071)
@given(st.text(st.characters(), max_size=50), st.integers(0, 131_072))
def test_what_is_accepted_can_be_executed(text: str, more: int) -> None:
    text += "x" * (more if more > 131_000 else 0)
    if validators.exec_problem([text]) == "":
        subprocess.run(["true", text], env={"PATH": os.environ["PATH"], "A": text[:-2]}, check=True)
