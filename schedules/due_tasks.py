"""Handlers of the signals of `sessions`: they store requests, and queue what is due."""

import time
import uuid
from datetime import timedelta
from typing import Any

from django.dispatch import receiver
from django.utils import timezone

from schedules.models import ScheduledTask, TaskRequest
from sessions import work_queue
from sessions.signals import swept, task_asked

QUEUE_AGAIN = 10.0  # seconds until what was queued and did not happen is queued again
LOST = timedelta(seconds=5)  # a request that is older was lost on its way
EXECUTE_DUE, HANDLE_REQUEST = "schedules.tasks.fire_due", "schedules.tasks.requested"
queued_at: dict[object, float] = {}


@receiver(swept)
def queue_due(**_: Any) -> None:
    """Queue what time has made due: tasks, outcomes to count, requests whose task was lost."""
    now, clock = timezone.now(), time.monotonic()
    for key in [key for key, at in queued_at.items() if clock - at >= QUEUE_AGAIN]:
        del queued_at[key]
    due: list[object] = list(ScheduledTask.objects.due(now).values_list("pk", "next_at")[:100])
    due += list(ScheduledTask.objects.settled().values_list("pk", "last_message_id")[:100])
    if [key for key in due if _not_queued_lately(key, clock)]:
        work_queue.request(EXECUTE_DUE)
    for pk in TaskRequest.objects.filter(created_at__lt=now - LOST).values_list("pk", flat=True)[:100]:
        if _not_queued_lately(pk, clock):
            work_queue.request(HANDLE_REQUEST, pk)


@receiver(task_asked)
def store_request(session_id: uuid.UUID, run_id: uuid.UUID, text: str, **_: Any) -> None:
    """Keep what an agent asks for, in the transaction that stores its event, and queue the task that answers."""
    request = TaskRequest.objects.create(session_id=session_id, run_id=run_id, text=text)
    work_queue.request(HANDLE_REQUEST, request.pk)


def _not_queued_lately(key: object, clock: float) -> bool:
    """Whether this was not queued a moment ago; it is now."""
    if key in queued_at:
        return False
    queued_at[key] = clock
    return True
