"""A new SECRET_KEY: what the old one made stays good while it is among the fallbacks, and what is new is made anew."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.accounts import SecondFactor
from egress_policy import decision_service
from runtimes.names import matches_hash, spec_hash
from sessions.lifecycle import run_spec, run_tokens, transitions
from sessions.models import AgentSession, Run

OLD, NEW = "old" * 20, "new" * 20


def known(made: tuple[str, str, str], run: uuid.UUID) -> tuple[bool, bool, bool]:
    """Which of a run's token, stand-in and egress credential are taken."""
    token, stand_in, credential = made
    return (
        run_tokens.run_of(token) == run,
        run_tokens.broker_run_of(stand_in) == run,
        run_tokens.is_egress(run, credential),
    )


def mint(run: uuid.UUID) -> tuple[str, str, str]:
    return run_tokens.mint(run), run_tokens.mint_broker(run), run_tokens.mint_egress(run)


def test_a_rotation_ends_nothing_until_the_old_key_is_taken_out(settings: Any) -> None:
    run, settings.SECRET_KEY = uuid.uuid4(), OLD
    before = mint(run)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, ["older" * 10, OLD]
    after = mint(run)
    assert not set(before) & set(after)
    assert known(before, run) == known(after, run) == (True, True, True)
    assert {each.rpartition(".")[2] for each in (*before, *after)} <= set(run_tokens.secrets_of(run))
    settings.SECRET_KEY_FALLBACKS = []
    assert known(before, run) == (False, False, False) and known(after, run) == (True, True, True)


def test_each_purpose_has_a_key_of_its_own(settings: Any) -> None:
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS, run = NEW, [OLD], uuid.uuid4()
    token, stand_in, credential = mint(run)
    wrong = [
        (stand_in, token, token.rpartition(".")[2]),
        (f"{run}.{credential}", f"{run}.{credential}", stand_in.rpartition(".")[2]),
        *(tuple(each.replace(str(run), str(uuid.uuid4())) for each in (token, stand_in, "x")),),
        (token.replace("-", ""), f"{{{run}}}.{stand_in.partition('.')[2]}", credential.upper()),
    ]
    for made in wrong:
        assert known(made, run) == (False, False, False)  # type: ignore[arg-type]


@given(st.text(max_size=120))
def test_no_text_opens_anything(text: str) -> None:
    run = uuid.UUID(int=7)
    for made in (text, f"{run}.{text}"):
        assert known((made, made, made), run) == (False, False, False)


@pytest.mark.django_db
def test_a_living_run_is_the_same_after_a_rotation(session: AgentSession, settings: Any) -> None:
    """The proxy takes its credential, and a second `ensure` adopts what the first one made."""
    settings.SECRET_KEY, settings.EGRESS_PROXY_URL = OLD, "http://proxy:3128"
    found = transitions.claim(session.pk, "local")
    assert found
    run = Run.objects.select_related("session__group", "session__profile").get(pk=found.pk)
    before = run_spec.build(run)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    after = run_spec.build(run)
    assert before.token != after.token and before.egress
    assert decision_service.find_run(str(run.pk), before.egress.credential) == run
    assert matches_hash(after, spec_hash(before))


def test_second_factors_live_through_it(settings: Any) -> None:
    settings.SECRET_KEY = OLD
    stored = SecondFactor().encrypt("JBSWY3DP")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    assert SecondFactor().decrypt(stored) == "JBSWY3DP"
