"""What is finished goes after its retention; what is not, or what a state follows from, stays."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import Task

from sessions.choices import MessageState
from sessions.cleanup import retention
from sessions.cleanup.retention import count_old
from sessions.events import event_log
from sessions.models import AgentSession, Event, Message, Run
from tests.unit.things import DAY, deleted, gc, gc_json, run_of, say
from tests.unit.things import runtime as runtime

pytestmark = pytest.mark.usefixtures("runtime")
NOW = timezone.now()
RUN = uuid.uuid4()


@pytest.fixture
def aged(session: AgentSession) -> AgentSession:
    """A session of 200 days ago, whose first message was answered then."""
    past = timezone.now() - 200 * DAY
    AgentSession.objects.update(created_at=past)
    Event.objects.update(at=past)
    Message.objects.update(state=MessageState.ANSWERED, created_at=past, answered_at=past)
    return session


def seqs(session: AgentSession) -> list[int]:
    return list(session.events.order_by("seq").values_list("seq", flat=True))


@pytest.mark.parametrize(
    ("ages", "runs", "count"),
    [
        ([], [], 0),
        ([100, 95, 10], [None] * 3, 2),
        ([100, 10, 100], [None] * 3, 1),  # up to the first that is younger
        ([100, 100, 100], [None, RUN, None], 1),  # an active run keeps its events, and what came after
        ([10, 100], [None] * 2, 0),
        ([90], [None], 0),  # at the cutoff
    ],
)
def test_old_events_are_those_before_the_first_that_stays(ages: list[int], runs: list[Any], count: int) -> None:
    rows = [(seq, NOW - age * DAY, run) for seq, (age, run) in enumerate(zip(ages, runs, strict=True), 1)]
    assert count_old(rows, NOW - 90 * DAY, {RUN}) == count


def test_events_past_retention_go_and_readers_can_tell(aged: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    last_old = say(aged, 10, 100 * DAY)
    say(aged, 5, 10 * DAY)
    code, out = gc()
    aged.refresh_from_db()
    assert (code, aged.pruned_seq) == (0, last_old)
    assert seqs(aged) == list(range(last_old + 1, aged.last_seq + 1))
    assert f"deleted events 1-{last_old} of session {aged.pk}: older than 90 days\n" in out
    assert [event["seq"] for event in event_log.read(aged.pk, 0)] == seqs(aged)
    assert "events" not in gc()[1]


def test_an_active_run_keeps_its_events(aged: AgentSession) -> None:
    Event.objects.filter(session=aged).delete()
    AgentSession.objects.update(pruned_seq=aged.last_seq)
    run = run_of(aged)
    Run.objects.update(claimed_at=timezone.now())
    Event.objects.update(at=timezone.now() - 100 * DAY)
    say(aged, 3, 100 * DAY, run)
    before = seqs(aged)
    gc()
    assert seqs(aged) == before


def test_days_override_the_setting_and_nought_keeps_all(aged: AgentSession) -> None:
    say(aged, 3, 10 * DAY)
    before = seqs(aged)
    gc("--days", "0")
    assert seqs(aged) == before
    gc("--days", "5")
    assert seqs(aged) == []


def test_a_session_that_goes_on_can_be_cleaned_again(aged: AgentSession) -> None:
    say(aged, 3, 100 * DAY)
    gc()
    say(aged, 3, 100 * DAY)
    gc()
    aged.refresh_from_db()
    assert (seqs(aged), aged.pruned_seq) == ([], aged.last_seq)


def test_runs_without_events_go_but_the_last_tells_the_sessions_state(aged: AgentSession) -> None:
    first, second, third = [run_of(aged, ended=days * DAY, removed=days * DAY) for days in (120, 110, 100)]
    Event.objects.update(at=timezone.now() - 120 * DAY)
    say(aged, 1, 10 * DAY, second)
    gc()
    assert set(Run.objects.all()) == {second, third}
    Event.objects.all().delete()
    gc()
    assert list(Run.objects.all()) == [third]
    assert first != third


def test_a_run_whose_traces_were_not_removed_stays(aged: AgentSession) -> None:
    runs = [run_of(aged, ended=120 * DAY), run_of(aged, ended=100 * DAY, removed=100 * DAY)]
    Event.objects.update(at=timezone.now() - 120 * DAY)
    gc()
    assert set(Run.objects.all()) == set(runs)


@pytest.mark.parametrize("state", MessageState)
def test_settled_messages_go(aged: AgentSession, state: MessageState) -> None:
    Message.objects.update(state=state)
    gc()
    assert Message.objects.exists() == (state in (MessageState.QUEUED, MessageState.DELIVERED))


def test_a_message_that_was_answered_lately_stays(aged: AgentSession) -> None:
    Message.objects.update(answered_at=timezone.now() - DAY)
    gc()
    assert Message.objects.exists()


def test_the_task_queues_old_results_go(db: None) -> None:
    for name, age in (("old", 8), ("new", 1)):
        at = timezone.now() - age * DAY
        Task.objects.create(id=name, name=name, func="f", started=at, stopped=at, success=False)
    assert "deleted task results 1: older than 7 days\n" in gc()[1]
    assert [task.name for task in Task.objects.all()] == ["new"]


def test_browser_sessions_that_are_over_go(db: None) -> None:
    for seconds in (-10, 1000):
        store = SessionStore()
        store["key"] = "value"
        store.set_expiry(timezone.now() + timedelta(seconds=seconds))
        store.save()
    assert "deleted browser sessions 1: expired\n" in gc()[1]
    assert Session.objects.count() == 1


def test_a_dry_run_counts_and_deletes_nothing(aged: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    last = say(aged, 10, 100 * DAY)
    told = gc_json("--dry-run")
    named = [action for action in told["done"] if action["kind"] == "events"]
    assert [action["name"] for action in named] == [f"1-{last} of session {aged.pk}"]
    assert aged.events.count() == last
    assert f"would be deleted events 1-{last}" in gc("--dry-run")[1]


def test_a_group_narrows_it(aged: AgentSession) -> None:
    say(aged, 3, 100 * DAY)
    deleted(aged.group, timedelta(0))
    gc("--group", aged.group.slug)
    assert seqs(aged) == []


def test_looking_for_old_events_takes_as_many_queries_for_many_sessions(aged: AgentSession, profile: Any) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            gc()
        return len(captured)

    gc()
    few = queries()
    fields = {"group": aged.group, "profile": profile, "created_at": aged.created_at}
    AgentSession.objects.bulk_create(AgentSession(**fields) for _ in range(50))
    assert queries() == few
