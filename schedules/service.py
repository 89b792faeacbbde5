"""What people, programs and agents do to tasks: make, change, pause, resume, remove. Each is in the audit log."""

from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django.utils import timezone

from groups import audit
from groups.permissions import Person
from schedules import cron
from schedules.choices import Kind, TaskState
from schedules.models import ScheduledTask
from sessions.lifecycle.intake import InvalidRequest

EDITABLE = [
    "name", "prompt", "kind", "cron", "time_zone", "every_seconds", "once_at", "context", "session", "profile",
    "max_failures",
]  # fmt: skip


def store(task: ScheduledTask, *, by: str, actor: Person | None = None) -> ScheduledTask:
    """Make a task, or save what was edited. A schedule that changed counts from now. Raises InvalidRequest."""
    _validate(task)
    with transaction.atomic():
        old = locked(task)
        if old is None:
            task.state = TaskState.DONE  # it has no time yet
        else:
            task.state, task.next_at = old.state, old.next_at
        if old is None or (task.schedule != old.schedule and old.state != TaskState.PAUSED):
            _activate(task)
        if old is None:
            task.save(force_insert=True)
        else:
            task.save(update_fields=[*EDITABLE, "state", "next_at"])
        _audit("task.change" if old else "task.create", task, by, actor, schedule=task.schedule_text)
    return task


def pause(task: ScheduledTask, *, by: str, actor: Person | None = None) -> bool:
    """It is not due until it is resumed. False if it was not active."""
    with transaction.atomic():
        active = ScheduledTask.objects.filter(pk=task.pk, state=TaskState.ACTIVE)
        if not active.update(state=TaskState.PAUSED, next_at=None, reason=f"Paused by {by}."):
            return False
        _audit("task.pause", task, by, actor)
    return True


def resume(task: ScheduledTask, *, by: str, actor: Person | None = None) -> bool:
    """It is due again, from now on; failures are forgiven. False if it was active. Raises InvalidRequest."""
    with transaction.atomic():
        row = locked(task)
        if row is None or row.state == TaskState.ACTIVE:
            return False
        row.failures, row.reason = 0, ""
        _activate(row)
        row.save(update_fields=["state", "next_at", "failures", "reason"])
        _audit("task.resume", row, by, actor)
    return True


def remove(task: ScheduledTask, *, by: str, actor: Person | None = None) -> None:
    """It is gone. What it said stays in its sessions."""
    with transaction.atomic():
        _audit("task.remove", task, by, actor, name=str(task), schedule=task.schedule_text)
        ScheduledTask.objects.filter(pk=task.pk).delete()


def locked(task: ScheduledTask) -> ScheduledTask | None:
    """The task's row as it is, locked until the transaction ends. A session's row is locked after it, never before."""
    return ScheduledTask.objects.select_for_update().filter(pk=task.pk).first()


def _validate(task: ScheduledTask) -> None:
    """Raises InvalidRequest with the first thing that is wrong."""
    try:
        task.full_clean(exclude={"state", "next_at"})
    except ValidationError as error:
        field, words = next(iter(error.message_dict.items()))
        raise InvalidRequest("task" if field == NON_FIELD_ERRORS else field, words[0]) from error


def check_limit(task: ScheduledTask) -> None:
    """Whether its group may have one more active task. Raises InvalidRequest."""
    if task.group.deleted_at:
        raise InvalidRequest("group", "The group was deleted.")
    active = ScheduledTask.objects.filter(group_id=task.group_id, state=TaskState.ACTIVE).exclude(pk=task.pk)
    if active.count() >= settings.SCHEDULES_PER_GROUP:
        raise InvalidRequest(
            "group", f"The group has {settings.SCHEDULES_PER_GROUP} active tasks, which is its limit. Remove one first."
        )


def _activate(task: ScheduledTask) -> None:
    """Give it its next time. Raises InvalidRequest."""
    check_limit(task)
    task.next_at = cron.first(task.schedule, timezone.now())
    if task.next_at is None:
        field = "once_at" if task.kind == Kind.ONCE else task.kind
        raise InvalidRequest(field, f"Its time ({task.schedule_text}) is over. Give it another one.")
    task.state = TaskState.ACTIVE


def _audit(action: str, task: ScheduledTask, by: str, actor: Person | None, **details: object) -> None:
    audit.record(action, actor=actor, by=by, target=task.pk, group=task.group, **details)
