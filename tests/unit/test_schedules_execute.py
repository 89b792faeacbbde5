"""Tasks whose time has come: run once, counted, paused when they fail too often."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from groups.choices import Hold
from groups.models import AgentGroup, AgentProfile, AuditEntry
from schedules import due_tasks, execute, service
from schedules.choices import Context, Kind, Outcome, TaskState
from schedules.models import ScheduledTask
from sessions.choices import MessageState, SessionState
from sessions.lifecycle import intake
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession, Message, WorkItem
from sessions.signals import swept

Make = Callable[..., ScheduledTask]


@pytest.fixture
def make(group: AgentGroup, profile: AgentProfile) -> Make:
    """Makes a task of every hour in a fresh session; `due` says how long it is overdue."""

    def made(due: timedelta | None = timedelta(seconds=1), **more: Any) -> ScheduledTask:
        wanted: dict[str, Any] = {"kind": Kind.INTERVAL, "every_seconds": 3600, "profile": profile} | more
        task = service.store(ScheduledTask(group=group, prompt="Look at the moorings", **wanted), by="ada")
        return overdue(task, due) if due else task

    return made


def overdue(task: ScheduledTask, by: timedelta = timedelta(seconds=1)) -> ScheduledTask:
    ScheduledTask.objects.filter(pk=task.pk).update(next_at=timezone.now() - by)
    return again(task)


def again(task: ScheduledTask) -> ScheduledTask:
    return ScheduledTask.objects.select_related("last_message__session").get(pk=task.pk)


def end(task: ScheduledTask, state: MessageState, reason: str = "") -> None:
    """The last message of a task comes to its end."""
    Message.objects.filter(pk=again(task).last_message_id).update(state=state, reason=reason)


def test_a_task_that_is_due_starts_a_fresh_session(make: Make, group: AgentGroup) -> None:
    task = make()
    assert execute.execute_due() == 1

    session, task = AgentSession.objects.get(), again(task)
    assert (session.group, session.profile, session.title) == (group, task.profile, "Look at the moorings")
    assert session.state == SessionState.QUEUED
    assert task.last_message == session.messages.get()
    assert (task.last_message.text, task.outcome) == ("Look at the moorings", Outcome.PENDING)
    assert task.last_at and task.next_at and timezone.now() < task.next_at <= timezone.now() + timedelta(hours=1)


def test_a_task_can_continue_a_session(make: Make, session: AgentSession) -> None:
    task = make(context=Context.SESSION, session=session)
    execute.execute_due()

    assert AgentSession.objects.count() == 1
    assert [message.text for message in session.messages.all()] == ["Hello", "Look at the moorings"]
    assert again(task).last_message == session.messages.get(number=2)


def test_what_is_not_due_does_not_run(make: Make) -> None:
    task = make(due=None)
    assert execute.execute_due() == 0 and not execute.execute(task.pk)
    assert not AgentSession.objects.exists()


def test_a_time_runs_once_whoever_looks_again(make: Make) -> None:
    task = make()
    assert [execute.execute(task.pk), execute.execute(task.pk), execute.execute_due()] == [True, False, 0]
    assert Message.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_time_runs_once_with_many_workers(make: Make) -> None:
    task = make()
    together = threading.Barrier(4)
    ran: list[bool] = []

    def work() -> None:
        together.wait()
        ran.append(execute.execute(task.pk))
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(ran) == [False, False, False, True]
    assert Message.objects.count() == 1


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


@pytest.mark.parametrize(
    "place", ["sessions.lifecycle.intake.post_message", "schedules.execute._mark_sent", "django.db.models.Model.save"]
)
def test_a_worker_killed_in_the_middle_has_done_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    task = make()

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, die)
        with pytest.raises(Killed):
            execute.execute_due()
    assert not Message.objects.exists() and again(task).next_at == task.next_at
    assert execute.execute_due() == 1 and Message.objects.count() == 1


@pytest.mark.parametrize("schedule", [{}, {"kind": Kind.CRON, "cron": "*/5 * * * *"}], ids=["interval", "cron"])
def test_times_missed_in_a_long_outage_run_once(make: Make, schedule: dict[str, Any]) -> None:
    task = make(due=timedelta(days=30), **schedule)
    assert [execute.execute_due(), execute.execute_due()] == [1, 0]
    assert Message.objects.count() == 1
    assert again(task).next_at > timezone.now()  # type: ignore[operator]


def test_once_is_done_after_its_time(make: Make) -> None:
    task = make(kind=Kind.ONCE, once_at=timezone.now() + timedelta(days=1))
    execute.execute_due()

    task = again(task)
    assert (task.state, task.next_at, task.outcome) == (TaskState.DONE, None, Outcome.PENDING)
    end(task, MessageState.ANSWERED)
    execute.execute_due()
    assert again(task).outcome == Outcome.ANSWERED


def test_a_time_is_passed_over_while_the_last_run_is_not_over(make: Make) -> None:
    task = make()
    execute.execute_due()
    for state in (MessageState.QUEUED, MessageState.DELIVERED):
        end(task, state)
        overdue(task)
        execute.execute_due()
    assert Message.objects.count() == 1
    assert (again(task).skipped, again(task).outcome) == (2, Outcome.PENDING)
    assert again(task).next_at > timezone.now()  # type: ignore[operator]

    end(task, MessageState.ANSWERED)
    overdue(task)
    execute.execute_due()
    assert Message.objects.count() == 2


@pytest.mark.parametrize(
    ("state", "outcome", "failures"),
    [
        (MessageState.ANSWERED, Outcome.ANSWERED, 0),
        (MessageState.FAILED, Outcome.FAILED, 3),
        (MessageState.CANCELLED, Outcome.CANCELLED, 2),
    ],
)
def test_the_end_of_its_message_is_its_outcome(
    make: Make, state: MessageState, outcome: Outcome, failures: int
) -> None:
    task = make()
    execute.execute_due()
    ScheduledTask.objects.update(failures=2)
    end(task, state, "for a reason" if failures else "")
    assert ScheduledTask.objects.settled().count() == 1
    execute.execute_due()

    task = again(task)
    assert (task.outcome, task.failures, task.state) == (outcome, failures, TaskState.ACTIVE)
    assert task.outcome_words == ("for a reason" if failures else "")
    execute.execute_due()
    assert again(task).failures == failures


def test_a_message_that_waits_in_a_failed_session_is_a_failure_and_the_next_time_tries_again(make: Make) -> None:
    task = make()
    execute.execute_due()
    AgentSession.objects.update(state=SessionState.FAILED, reason="The image can't be pulled.")
    execute.execute_due()
    assert (again(task).outcome, again(task).outcome_words) == (Outcome.FAILED, "The image can't be pulled.")

    overdue(task)
    execute.execute_due()
    assert Message.objects.count() == 2


def test_what_intake_refuses_is_a_failure_with_its_words(make: Make, profile: AgentProfile) -> None:
    task = make()
    profile.active = False
    profile.save()
    execute.execute_due()

    task = again(task)
    assert (task.outcome, task.failures, task.last_message) == (Outcome.FAILED, 1, None)
    assert "switched off" in task.outcome_words
    assert task.state == TaskState.ACTIVE and not AgentSession.objects.exists()


def test_too_many_failures_in_a_row_pause_it_and_it_says_so(make: Make, session: AgentSession) -> None:
    task = make(context=Context.SESSION, session=session, max_failures=3)
    for _ in range(3):
        overdue(task)
        execute.execute_due()
        assert again(task).state == TaskState.ACTIVE
        end(task, MessageState.FAILED, "The agent ran out of memory.")
    execute.execute_due()

    task = again(task)
    assert (task.state, task.next_at, task.failures) == (TaskState.PAUSED, None, 3)
    assert "3 failures in a row" in task.reason and "ran out of memory" in task.reason
    event = session.events.order_by("-seq").first()
    assert event and event.kind == "state" and task.reason in event.text and event.data == {"task": str(task.pk)}
    entry = AuditEntry.objects.filter(action="task.pause").get()
    assert (entry.by, entry.target, entry.group) == ("schedule", str(task.pk), task.group)


def test_a_resumed_task_begins_its_count_anew(make: Make, people: dict[str, Any]) -> None:
    task = make(due=None)
    ScheduledTask.objects.update(state=TaskState.PAUSED, next_at=None, failures=5, reason="Paused itself.")
    assert service.resume(task, by="owner", actor=people["owner"])

    task = again(task)
    assert (task.state, task.failures, task.reason) == (TaskState.ACTIVE, 0, "")
    assert task.next_at and task.next_at > timezone.now()
    assert not service.resume(task, by="owner")
    assert AuditEntry.objects.get(action="task.resume").actor == people["owner"]


def test_a_paused_task_is_not_due(make: Make) -> None:
    task = make()
    assert service.pause(task, by="ada") and not service.pause(task, by="ada")
    assert execute.execute_due() == 0
    assert again(task).reason == "Paused by ada."


def test_a_time_that_is_over_is_not_resumed(make: Make) -> None:
    task = make(kind=Kind.ONCE, once_at=timezone.now() + timedelta(days=1), due=None)
    service.pause(task, by="ada")
    ScheduledTask.objects.update(once_at=timezone.now() - timedelta(days=1))
    with pytest.raises(InvalidRequest, match="is over") as refused:
        service.resume(task, by="ada")
    assert refused.value.field == "once_at" and again(task).state == TaskState.PAUSED


def test_a_session_that_is_gone_is_said(make: Make, session: AgentSession) -> None:
    task = make(context=Context.SESSION, session=session)
    session.delete()
    execute.execute_due()
    assert again(task).outcome_words == "The session that it continues was removed."


def test_a_paused_groups_task_is_queued_and_a_deleted_groups_does_not_run(make: Make, group: AgentGroup) -> None:
    task = make()
    AgentGroup.objects.update(hold=Hold.PAUSED)
    assert execute.execute_due() == 1
    assert again(task).last_message.state == MessageState.QUEUED  # type: ignore[union-attr]

    end(task, MessageState.ANSWERED)
    overdue(task)
    AgentGroup.objects.update(deleted_at=timezone.now())
    assert execute.execute_due() == 0 and Message.objects.count() == 1
    with pytest.raises(InvalidRequest):
        execute.run_now(again(task), by="ada")


def test_run_now_leaves_the_next_time(make: Make, people: dict[str, Any]) -> None:
    task = make(due=None)
    message = execute.run_now(task, by="member", actor=people["member"])

    assert message.text == "Look at the moorings"
    assert (again(task).next_at, again(task).outcome) == (task.next_at, Outcome.PENDING)
    with pytest.raises(InvalidRequest, match="is queued"):
        execute.run_now(task, by="member")
    assert AuditEntry.objects.filter(action="task.run").count() == 1
    end(task, MessageState.ANSWERED)
    service.pause(task, by="ada")
    execute.run_now(task, by="member")
    assert Message.objects.count() == 2 and again(task).state == TaskState.PAUSED


def test_a_task_that_cannot_be_run_at_all_is_paused_and_holds_up_no_other(make: Make) -> None:
    broken, good = make(due=timedelta(minutes=1)), make()
    ScheduledTask.objects.filter(pk=broken.pk).update(time_zone="Atlantis/Capital")
    assert execute.execute_due() == 1
    assert again(broken).state == TaskState.PAUSED and "Atlantis/Capital" in again(broken).reason
    assert again(good).outcome == Outcome.PENDING


# --- the sweep ------------------------------------------------------------------------------------------------------


@pytest.fixture
def queued(db: None) -> Callable[[], list[str]]:
    """The tasks of this app that are queued."""
    due_tasks.queued_at.clear()
    return lambda: [row.key for row in WorkItem.objects.filter(key__startswith="schedules.")]


def test_the_sweep_queues_a_task_only_when_something_is_due(make: Make, queued: Callable[[], list[str]]) -> None:
    task = make(due=None)
    swept.send(None)
    assert queued() == []

    overdue(task)
    for _ in range(3):
        swept.send(None)
    assert queued() == ["schedules.tasks.fire_due"]


def test_the_sweep_finds_outcomes_to_count(make: Make, queued: Callable[[], list[str]]) -> None:
    task = make()
    execute.execute_due()
    swept.send(None)
    assert queued() == []

    end(task, MessageState.ANSWERED)
    swept.send(None)
    assert queued() == ["schedules.tasks.fire_due"]


def test_a_sweep_costs_three_queries(make: Make, queued: Any, django_assert_num_queries: Any) -> None:
    for _ in range(5):
        make(due=None)
    with django_assert_num_queries(3):
        swept.send(None)


def test_a_message_of_a_schedule_is_berths(make: Make) -> None:
    make()
    execute.execute_due()
    message = Message.objects.get()
    assert message.sender is None
    assert message.session.events.get(kind="message").data == {"number": 1, "sender": "Berth"}
    assert intake.post_message(message.session, "x", sender=None, key=message.idempotency_key or "") == message
