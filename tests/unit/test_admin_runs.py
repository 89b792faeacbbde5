"""The pages of a run and of a message: what they tell, and to whom."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from k8s_adapter.describe import describe
from runtimes.base import Cause, Description, TransientFault
from sessions.admin import runs
from sessions.events import event_log
from sessions.lifecycle import run_archive, runtime_factory
from sessions.models import AgentSession, Message, Run, RunRecord
from tests.unit.test_admin import address, client

pytestmark = pytest.mark.django_db
RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "kubernetes"


class Away:
    """A runtime that answers `describe` as it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def describe(self, ref: Any) -> Description:
        return self.answer()  # type: ignore[no-any-return]


@pytest.fixture
def operator(people: dict[str, Any]) -> Client:
    return client(people["operator"])


@pytest.fixture
def run(session: AgentSession) -> Run:
    now = timezone.now()
    return Run.objects.create(
        session=session,
        number=1,
        runtime="kubernetes",
        queued_at=now - timedelta(seconds=20),
        claimed_at=now - timedelta(seconds=10),
        attempt=2,
    )


def ended(run: Run, **changes: Any) -> Run:
    now = timezone.now()
    Run.objects.filter(pk=run.pk).update(
        state="ended", ended_at=now, removed_at=now, **{"verdict": "oom", "verdict_words": "No memory left.", **changes}
    )
    run.refresh_from_db()
    return run


def page(who: Client, row: Any) -> str:
    answer = who.get(address(type(row), "change", row.pk))
    assert answer.status_code == 200
    return answer.content.decode()


def runtime(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(runtime_factory, "get", lambda name: Away(answer))


def test_a_run_that_is_over_tells_how_it_went(operator: Client, run: Run) -> None:
    record = run_archive.to_json(describe(**json.loads((RECORDED / "oom.json").read_text())))
    RunRecord.objects.create(run=run, **record)
    ended(run, exit_code=137, last_lines="MemoryError\nat line 3", intent="stop", intent_by="ada")
    told = page(operator, run)

    for words in (
        "No memory left.",
        "137",
        "MemoryError",
        "Stop, asked by ada",
        "attempt 2",
        "Slot given",
        "Scheduled",
    ):
        assert words in told
    assert "Container started" in told  # what the cluster said
    assert "&quot;kind&quot;: &quot;Job&quot;" in told  # of what it was made
    assert 'data-step="started"' in told
    assert address(AgentSession, "change", run.session_id) in told


def test_the_page_holds_no_style_or_script_of_its_own(operator: Client, run: Run) -> None:
    told = page(operator, ended(run))
    own = told[told.index('class="berth-page"') : told.index("Made of")]

    assert " style=" not in own
    assert "<script" not in own


def test_of_an_active_run_the_runtime_is_asked(operator: Client, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime(monkeypatch, lambda: describe(**json.loads((RECORDED / "image_pull.json").read_text())))
    told = page(operator, run)

    assert "no-such-image" in told
    assert "not yet" in told


def test_a_runtime_that_is_away_is_said_in_a_sentence(
    operator: Client, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Description:
        raise TransientFault(Cause.UNREACHABLE, "https://10.0.0.1:6443 refused")

    runtime(monkeypatch, fail)
    told = page(operator, run)

    assert "The runtime can&#x27;t be reached now" in told
    assert "10.0.0.1" not in told


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    over = threading.Event()
    monkeypatch.setattr(runs, "DESCRIBE_SECONDS", 0.1)
    runtime(monkeypatch, lambda: over.wait(60) and Description())
    yield
    over.set()


def test_a_runtime_that_hangs_does_not_hang_the_page(operator: Client, run: Run, hanging: None) -> None:
    assert "did not answer within 0.1 s" in page(operator, run)


def test_an_outsider_finds_neither_run_nor_message(people: dict[str, Any], run: Run) -> None:
    outsider = people["outsider"]
    outsider.is_staff = True
    outsider.save()

    assert client(outsider).get(address(Run, "change", run.pk)).status_code == 404
    message = run.session.messages.get()
    assert client(outsider).get(address(Message, "change", message.pk)).status_code == 404
    for action in ("retry", "cancel"):
        assert client(outsider).post(address(Message, action, message.pk)).status_code == 404
    message.refresh_from_db()
    assert message.state == "queued"


# --- messages -------------------------------------------------------------------------------------------------------


def handed(run: Run, number: int) -> None:
    event_log.append_event(event_log.lock_session(run.session_id), "delivered", "", {"number": number}, run)


def fail_message(session: AgentSession) -> Message:
    session.messages.update(state="failed", reason="No memory left.", attempts=2)
    AgentSession.objects.filter(pk=session.pk).update(state="failed", queued_at=None)
    return session.messages.get()


def test_a_message_tells_to_which_runs_it_was_handed(operator: Client, run: Run) -> None:
    handed(run, 1)
    handed(run, 2)  # another message
    ended(run)
    second = Run.objects.create(session=run.session, number=2, runtime="local")
    handed(second, 1)
    ended(second, verdict="completed", verdict_words="The agent finished.")
    answer = operator.get(address(Message, "change", run.session.messages.get().pk))

    told = [(event.run.number, event.run.verdict) for event in answer.context["deliveries"]]
    assert told == [(1, "oom"), (2, "completed")]
    assert "No memory left." in answer.content.decode()


def test_a_message_that_failed_is_queued_again(operator: Client, session: AgentSession) -> None:
    message = fail_message(session)
    assert "Retry" in page(operator, message)
    answer = operator.post(address(Message, "retry", message.pk))

    message.refresh_from_db()
    assert answer["Location"] == address(Message, "change", message.pk)
    assert message.state == "queued"


@pytest.mark.parametrize(("failed", "button"), [(False, "Take back"), (True, "Discard")])
def test_a_message_is_taken_back_or_discarded(
    failed: bool, button: str, operator: Client, session: AgentSession
) -> None:
    message = fail_message(session) if failed else session.messages.get()
    assert button in page(operator, message)
    operator.post(address(Message, "cancel", message.pk))

    message.refresh_from_db()
    assert message.state == "cancelled"


def test_what_is_too_late_is_said(operator: Client, session: AgentSession) -> None:
    session.messages.update(state="answered")
    message = session.messages.get()
    answer = operator.post(address(Message, "cancel", message.pk), follow=True)

    assert "answered already" in answer.content.decode()


def test_a_viewer_sees_a_message_and_changes_nothing(people: dict[str, Any], session: AgentSession) -> None:
    viewer = people["viewer"]
    viewer.is_staff = True
    viewer.save()
    message = session.messages.get()

    assert "Take back" not in page(client(viewer), message)
    client(viewer).post(address(Message, "cancel", message.pk))
    message.refresh_from_db()
    assert message.state == "queued"


@pytest.mark.parametrize("action", ["retry", "cancel"])
def test_a_message_changes_by_post_alone(action: str, operator: Client, session: AgentSession) -> None:
    assert operator.get(address(Message, action, session.messages.get().pk)).status_code == 405
