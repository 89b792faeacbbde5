"""What agents say is stored up to a bound, of each run and of each group; who reads is told where it ends."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from sessions.choices import RunState
from sessions.cleanup import retention
from sessions.courier_api import ingest
from sessions.events import event_log, stored_bytes
from sessions.events.event_log import ROW, NewEvent
from sessions.events.stored_bytes import MIB, Usage, apply_limits
from sessions.lifecycle import transitions
from sessions.models import AgentSession, Event, Run
from tests.unit.things import gc
from tests.unit.things import runtime as runtime


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    stored_bytes._sums.clear()
    yield
    stored_bytes._sums.clear()


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


def post(run: Run, *said: tuple[str, str], **data: Any) -> None:
    """Post events as a courier does, each with kind and text, after what is stored."""
    run.refresh_from_db()
    batch = [
        {"n": run.last_number + place, "kind": kind, "text": text, "at": 1e9, "data": data}
        for place, (kind, text) in enumerate(said, 1)
    ]
    ingest.ingest(run.pk, ingest.parse(batch))
    run.refresh_from_db()


def kinds(run: Run) -> list[str]:
    return list(Event.objects.filter(run=run).exclude(kind="state").order_by("seq").values_list("kind", flat=True))


FULL = 1_000_000  # bytes; an event of 1,000 characters takes 1,128


@pytest.mark.parametrize(
    ("run", "group", "left_out", "said", "stored"),
    [
        (0, 0, 0, ["stdout", "text", "tool", "result"], ["stdout", "text", "tool", "result"]),
        (FULL, 0, 0, ["stdout", "result", "text"], ["gap", "result"]),
        (FULL, 0, 5, ["stdout", "result", "usage", "turn"], ["result", "usage", "turn"]),
        (FULL - 2 * 1128, 0, 0, ["stdout", "stderr", "stdout", "tool"], ["stdout", "stderr", "gap"]),
        (0, FULL + 1, 0, ["tool", "error", "session"], ["gap", "error", "session"]),
        (2 * FULL, 0, 5, ["result", "turn", "usage", "session", "task", "delivered"], ["delivered"]),
        (0, 2 * FULL + 1, 0, ["result", "delivered"], ["gap", "delivered"]),
        (FULL, 0, 0, ["stdout", "exit"], ["gap", "gap", "exit"]),
        (FULL, 0, 7, ["exit"], ["gap", "exit"]),
        (FULL, 0, 0, ["exit"], ["exit"]),
    ],
)
def test_what_is_kept(run: int, group: int, left_out: int, said: list[str], stored: list[str]) -> None:
    batch = [NewEvent(kind, "x" * 1000) for kind in said]
    kept = apply_limits(batch, Usage(run, FULL, group, FULL, left_out))
    assert [event.kind for event in kept.events] == stored
    mine = sum(any(event is each for each in kept.events) for event in batch)
    assert kept.size == mine * 1128 and kept.left_out == (len(batch) - mine) * 1128


def test_a_run_that_prints_without_end_is_stored_up_to_its_bound(run: Run, settings: Any) -> None:
    settings.RUN_EVENTS_MIB = 1
    for _ in range(20):
        post(run, ("stdout", "x" * 100_000))
    post(run, ("result", "the answer"), ("turn", ""))
    post(run, ("exit", ""), code=3)
    assert kinds(run) == ["stdout"] * 10 + ["gap", "result", "turn", "gap", "exit"]
    first, last = Event.objects.filter(run=run, kind="gap").order_by("seq")
    assert first.text.startswith("This run's output beyond 1 MiB is not stored (RUN_EVENTS_MIB).")
    assert first.data == {"limit": "run"} and last.data == {"bytes": run.left_out_bytes}
    assert (run.last_number, run.exit_code) == (23, 3)
    assert run.left_out_bytes == 10 * (100_000 + ROW) and run.event_bytes < MIB
    assert list(run.session.events.order_by("seq").values_list("seq", flat=True)) == list(
        range(1, run.session.events.count() + 1)
    )
    run.session.refresh_from_db()
    assert run.session.last_seq == run.session.events.count()


def test_a_group_that_is_full_stores_no_more_output_until_some_has_gone(run: Run, settings: Any) -> None:
    settings.GROUP_EVENTS_MIB = 1
    AgentSession.objects.create(group=run.session.group, profile=run.session.profile, event_bytes=MIB + 1)
    post(run, ("stdout", "x"), ("result", "the answer"))
    assert kinds(run) == ["gap", "result"]
    gap = Event.objects.get(run=run, kind="gap")
    assert "GROUP_EVENTS_MIB" in gap.text and gap.data == {"limit": "group"}
    AgentSession.objects.update(event_bytes=0)
    post(run, ("stdout", "x"))
    assert kinds(run) == ["gap", "result"], "the sum is asked for once in a while"
    stored_bytes._sums.clear()
    post(run, ("stdout", "x"))
    assert kinds(run) == ["gap", "result", "stdout"]


def test_the_counter_is_what_the_rows_take(run: Run) -> None:
    post(run, ("stdout", "é€😀" * 100), ("tool", "sh"), ("text", ""), input={"command": "echo ü", "n": [1, 2.5, None]})
    run.session.refresh_from_db()
    own = stored_bytes.size_of(Event.objects.filter(run=run, number__isnull=False))
    every = stored_bytes.size_of(Event.objects.filter(session=run.session))
    assert run.event_bytes == pytest.approx(own, rel=0.05)
    assert run.session.event_bytes == pytest.approx(every, rel=0.05) and every > own


@pytest.mark.usefixtures("runtime")
def test_what_retention_removes_counts_no_longer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 4)
    post(run, *[("stdout", "x" * 1000)] * 10)
    old = timezone.now() - timedelta(days=200)
    Run.objects.update(state=RunState.ENDED, ended_at=timezone.now())
    AgentSession.objects.update(created_at=old)
    Event.objects.filter(session=run.session).update(at=old)
    last = run.session.events.order_by("-seq")[:3].values_list("pk", flat=True)
    Event.objects.filter(pk__in=list(last)).update(at=timezone.now())
    gc()
    run.session.refresh_from_db()
    assert run.session.events.count() == 3
    assert run.session.event_bytes == pytest.approx(stored_bytes.size_of(run.session.events.all()), rel=0.05)
    Event.objects.filter(session=run.session).update(at=old)
    gc()
    run.session.refresh_from_db()
    assert (run.session.events.count(), run.session.event_bytes) == (0, 0)


def test_events_of_berths_own_are_stored_in_a_full_run_and_counted(run: Run, settings: Any) -> None:
    settings.RUN_EVENTS_MIB = 1
    Run.objects.update(event_bytes=5 * MIB)
    before = AgentSession.objects.get(pk=run.session_id).event_bytes
    ingest.record(run.session_id, [("state", "words", {})])
    after = AgentSession.objects.get(pk=run.session_id)
    assert after.event_bytes == before + ROW + len("words")
    assert [event["text"] for event in event_log.read(run.session_id, after.last_seq - 1)] == ["words"]
