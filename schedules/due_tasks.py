"""Receivers of what `sessions` tells: they store, look and queue tasks, and do no more."""

import time
import uuid
from datetime import timedelta
from typing import Any

from django.dispatch import receiver
from django.utils import timezone

from schedules.models import ScheduledTask, TaskRequest
from sessions import work_queue
from sessions.signals import swept, task_asked

AGAIN = 10.0  # seconds until what was asked for and did not happen is asked for again
LOST = timedelta(seconds=5)  # a request that is older was lost on its way
FIRE, REQUESTED = "schedules.tasks.fire_due", "schedules.tasks.requested"
asked: dict[object, float] = {}


@receiver(swept)
def look(**_: Any) -> None:
    """Queue what time has made due: tasks, outcomes to count, requests whose task was lost."""
    now, clock = timezone.now(), time.monotonic()
    for key in [key for key, at in asked.items() if clock - at >= AGAIN]:
        del asked[key]
    due: list[object] = list(ScheduledTask.objects.due(now).values_list("pk", "next_at")[:100])
    due += list(ScheduledTask.objects.settled().values_list("pk", "last_message_id")[:100])
    if [key for key in due if _fresh(key, clock)]:
        work_queue.request(FIRE)
    for pk in TaskRequest.objects.filter(created_at__lt=now - LOST).values_list("pk", flat=True)[:100]:
        if _fresh(pk, clock):
            work_queue.request(REQUESTED, pk)


@receiver(task_asked)
def store(session_id: uuid.UUID, run_id: uuid.UUID, text: str, **_: Any) -> None:
    """Keep what an agent asks for, in the transaction that stores its event, and queue the task that answers."""
    request = TaskRequest.objects.create(session_id=session_id, run_id=run_id, text=text)
    work_queue.request(REQUESTED, request.pk)


def _fresh(key: object, clock: float) -> bool:
    """Whether this was not asked for a moment ago."""
    if key in asked:
        return False
    asked[key] = clock
    return True
