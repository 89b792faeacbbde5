"""A task's time has come: its prompt becomes a message, once. Later the message's end becomes the task's outcome.

All of it happens in one transaction that holds the task's row: of two workers the second finds that it is not due any
more, and a worker that is killed has done nothing.
"""

import uuid
from collections.abc import Callable
from datetime import datetime

import structlog
from django.db import OperationalError, transaction
from django.utils import timezone

from groups import audit
from groups.permissions import Person
from schedules import cron, service
from schedules.choices import Context, Kind, Outcome, TaskState
from schedules.models import UNSETTLED, ScheduledTask
from sessions.choices import EventKind, MessageState, SessionState
from sessions.courier_api import ingest
from sessions.lifecycle import intake
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import Message

log = structlog.get_logger(__name__)
BATCH = 200  # tasks of one round; the next sweep finds the rest
SAVED = [
    "state", "reason", "next_at", "last_at", "last_message", "outcome", "outcome_words", "failures", "skipped",
]  # fmt: skip


def execute_due() -> int:
    """Count what came to its end, then run what is due; return how many were run."""
    for pk in ScheduledTask.objects.settled().values_list("pk", flat=True)[:BATCH]:
        _guarded(settle, pk)
    due = ScheduledTask.objects.due(timezone.now()).order_by("next_at")
    return sum(_guarded(execute, pk) for pk in due.values_list("pk", flat=True)[:BATCH])


def execute(task_id: uuid.UUID) -> bool:
    """Run one task if it is due, or pass over this time if its last run is not over. True if it was due."""
    with transaction.atomic():
        now = timezone.now()
        task = ScheduledTask.objects.due(now).select_for_update(of=("self",)).filter(pk=task_id).first()
        if task is None or task.next_at is None:
            return False
        due, task.next_at = task.next_at, cron.next_after(task.schedule, task.next_at, now)
        if task.next_at is None:
            task.state = TaskState.DONE
        _record_outcome(task)
        if task.outcome == Outcome.PENDING:
            task.skipped += 1
        elif task.state != TaskState.PAUSED:
            _send(task, f"{intake.SCHEDULED}{task.pk}:{due.isoformat()}", now)
        task.save(update_fields=SAVED)
    return True


def settle(task_id: uuid.UUID) -> bool:
    """Count the outcome of a task's last message, if it has come to its end."""
    with transaction.atomic():
        task = ScheduledTask.objects.select_for_update().filter(pk=task_id, outcome=Outcome.PENDING).first()
        if task is None:
            return False
        _record_outcome(task)
        task.save(update_fields=SAVED)
    return task.outcome != Outcome.PENDING


def run_now(task: ScheduledTask, *, by: str, actor: Person | None = None) -> Message:
    """Run a task now, whatever its state; its next time stays. Raises InvalidRequest."""
    with transaction.atomic():
        row = service.locked(task)
        if row is None or row.group.deleted_at:
            raise InvalidRequest("task", "The task is gone.")
        _record_outcome(row)
        if row.outcome == Outcome.PENDING and row.last_message:
            state = row.last_message.get_state_display().lower()
            raise InvalidRequest("task", f"Its last run is not over: its message is {state}.")
        message = _message(row, f"{intake.SCHEDULED}{row.pk}:now:{uuid.uuid4()}")
        _mark_sent(row, message, timezone.now())
        row.save(update_fields=SAVED)
        audit.record("task.run", actor=actor, by=by, target=row.pk, group=row.group)
    return message


def _send(task: ScheduledTask, key: str, now: datetime) -> None:
    """Hand the prompt in. What intake refuses is a failure, with its words."""
    try:
        with transaction.atomic():
            message = _message(task, key)
    except InvalidRequest as error:
        task.last_message, task.last_at = None, now
        _count_failure(task, str(error))
    else:
        _mark_sent(task, message, now)


def _message(task: ScheduledTask, key: str) -> Message:
    """The message that a prompt becomes. Raises InvalidRequest."""
    if task.context == Context.SESSION:
        if task.session is None:
            raise InvalidRequest("session", "The session that it continues was removed.")
        return intake.post_message(task.session, task.prompt, sender=None, key=key)
    if task.profile is None:
        raise InvalidRequest("profile", "It has no profile for a fresh session.")
    session = intake.open_session(
        group=task.group, profile=task.profile, text=task.prompt, sender=None, title=str(task), key=key
    )
    return session.messages.get(idempotency_key=key)


def _mark_sent(task: ScheduledTask, message: Message, now: datetime) -> None:
    task.last_message, task.last_at = message, now
    task.outcome, task.outcome_words = Outcome.PENDING, ""


def _record_outcome(task: ScheduledTask) -> None:
    """Turn the end of its last message into an outcome. Does nothing while that is still under way."""
    message = task.last_message
    if task.outcome != Outcome.PENDING:
        return
    if message is None:
        task.outcome, task.outcome_words = Outcome.CANCELLED, "Its message was removed."
    elif message.state == MessageState.ANSWERED:
        task.outcome, task.outcome_words, task.failures = Outcome.ANSWERED, "", 0
    elif message.state == MessageState.CANCELLED:
        task.outcome, task.outcome_words = Outcome.CANCELLED, message.reason
    elif message.state not in UNSETTLED or message.session.state == SessionState.FAILED:
        _count_failure(task, message.reason or message.session.reason)


def _count_failure(task: ScheduledTask, words: str) -> None:
    """Count a failure. After too many in a row, a recurring task pauses itself and says so."""
    task.outcome, task.outcome_words = Outcome.FAILED, words
    task.failures += 1
    if task.failures >= task.max_failures and task.state == TaskState.ACTIVE and task.kind != Kind.ONCE:
        count = f"{task.failures} failures in a row" if task.failures > 1 else "a failure"
        _pause(task, f"Paused itself after {count}. The last one: {words}")


def _pause(task: ScheduledTask, reason: str) -> None:
    """Pause a task because of what happened to it: on its row, in the audit log, and where it last spoke."""
    task.state, task.next_at, task.reason = TaskState.PAUSED, None, reason
    audit.record("task.pause", by="schedule", target=task.pk, group=task.group, reason=reason)
    session_id = task.last_message.session_id if task.last_message else task.session_id
    if session_id:
        words = f"The scheduled task “{task}” has a problem. {reason}"
        ingest.record(session_id, [(EventKind.STATE, words, {"task": str(task.pk)})])
    log.warning("a task paused itself", task=str(task.pk), reason=reason)


def _guarded(step: Callable[[uuid.UUID], bool], task_id: uuid.UUID) -> bool:
    """Take a step for one task. One that can't be taken at all pauses the task, so that it holds up no other."""
    try:
        return step(task_id)
    except OperationalError:
        raise
    except Exception as error:
        log.exception("a task can't be run", task=str(task_id))
        with transaction.atomic():
            task = ScheduledTask.objects.select_for_update().filter(pk=task_id).first()
            if task is not None:
                task.outcome, task.outcome_words = Outcome.FAILED, str(error)
                _pause(task, f"Paused itself, since it can't be run: {error}")
                task.save(update_fields=SAVED)
        return False
