"""What the control plane knows to be secret of a run is in no event, verdict or record of it."""

import uuid

import pytest

from runtimes.base import Cause, Observed, PermanentFault, Phase
from sessions.courier_api import ingest
from sessions.lifecycle import redact, run_tokens, transitions
from sessions.models import AgentSession, Event, Run

KEY = "ghp_a1B2c3D4e5F6g7H8i9J0kLmNoPqRsTuVwXyZ"


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


@pytest.mark.django_db
def test_an_event_holds_no_credential_of_its_run(run: Run) -> None:
    made = [run_tokens.mint(run.pk), run_tokens.mint_broker(run.pk), run_tokens.mint_egress(run.pk)]
    said = [{"n": 1, "kind": "text", "at": 1, "text": " ".join(made), "data": {made[2]: [made[0]]}}]
    ingest.ingest(run.pk, ingest.parse(said))
    event = Event.objects.get(run=run, number=1)
    assert not any(each.rpartition(".")[2] in event.text + str(event.data) for each in made)
    assert event.text.count("[redacted:") == 3 and "[redacted:egress-credential]" in event.data


@pytest.mark.django_db
def test_nor_do_a_verdict_and_its_last_lines(run: Run) -> None:
    credential = run_tokens.mint_egress(run.pk)
    observed = Observed(
        Phase.FINISHED, cause=Cause.AGENT_ERROR, message=f"it said {KEY}", last_lines=f"{credential}\n{KEY}"
    )
    transitions.end(run, observed, PermanentFault(Cause.AGENT_ERROR, f"it said {KEY} {credential}"))
    run.refresh_from_db()
    told = run.verdict_words + run.last_lines + str(list(Event.objects.values_list("text", flat=True)))
    assert KEY not in told and credential not in told and "[redacted:github-token]" in told


def test_what_holds_nothing_is_the_same() -> None:
    text, data = "as it was", {"a": ["b", 1, None]}
    assert redact.redact_event(uuid.uuid4(), text, data) == (text, data)
    assert redact.redact_text(uuid.uuid4(), "") == ""
