"""Secrets, from the reference to the file that an agent reads, and their change while it lives."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Stack
from tests.waiting import wait_for

VALUES = {"BERTH_SECRET_WHOLE": f"value-{uuid.uuid4().hex}"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An embedded stack whose control plane has secrets for agents, and its own."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "agents").mkdir()
    stack = Stack.embedded(folder, SECRETS_FOLDER=str(folder / "agents"), **VALUES)
    try:
        yield stack.up()
    finally:
        stack.down()


def test_an_agent_reads_its_secret_and_its_change(stack: Stack) -> None:
    file = Path(stack.env["SECRETS_FOLDER"]) / "key"
    file.write_text("first")
    profile = stack.profile("renewed", secrets={"key": "ref:renewed", "other": "ref:fixed"})
    stack.secret("renewed", "file", str(file), profile)
    stack.secret("fixed", "env", "BERTH_SECRET_WHOLE", profile)
    length = "wc -c < $BERTH_SECRETS/key"  # of the value: that itself may be redacted on its way
    session = stack.open(f"$ {length}; ls $BERTH_SECRETS", profile=profile)
    first = stack.wait_result(session)
    assert "5" in first["text"].split() and "other" in first["text"]
    file.write_text("the second value")

    def seen() -> bool:
        after = stack.events(session)[-1]["seq"]
        stack.send(session, f"$ {length}")
        return "16" in str(stack.wait_result(session, after=after)["text"]).split()

    wait_for(seen, 60, "the new value; a run is looked at every 15 s")
    assert len(stack.session(session)["runs"]) == 1
    stack.post(f"sessions/{session}/stop")
    told = stack.log.read_text(errors="replace") + str(stack.events(session))
    assert VALUES["BERTH_SECRET_WHOLE"] not in told and "the second value" not in told


@pytest.mark.parametrize(
    ("kind", "place", "words"),
    [
        ("env", "SECRET_KEY", "only BERTH_SECRET_"),
        ("file", "/etc/passwd", "is not in"),
        ("env", "BERTH_SECRET_NONE", "no environment variable BERTH_SECRET_NONE"),
        ("kubernetes", "keys/api", "this runtime has none"),
    ],
)
def test_what_may_not_be_read_stops_the_start(stack: Stack, kind: str, place: str, words: str) -> None:
    name = f"bad-{uuid.uuid4().hex[:6]}"
    profile = stack.profile(name, secrets={"key": f"ref:{name}"})
    stack.secret(name, kind, place, profile)
    session = stack.open("hello", profile=profile)
    run = stack.wait_verdict(session)
    assert run["verdict"] == "mount" and words in run["verdict_words"]
    stack.post(f"sessions/{session}/stop")
