"""What the task queue calls: a few lines each, and payloads are ids.

Every task may run twice, or be lost: the watcher's sweep finds what it left undone.
"""

import uuid

import structlog
from django_q.tasks import async_task

from sessions import admission, berths
from sessions import gc as cleaning
from sessions import reconcile as reconciler

log = structlog.get_logger(__name__)


def start(session_id: str) -> None:
    """A session waits for a slot: admit who may start, and take this session's first step at once."""
    for started in admission.admit():
        if str(started) == session_id:
            reconcile(session_id)
        else:
            async_task("sessions.tasks.reconcile", str(started))


def reconcile(session_id: str) -> None:
    """Take the next step for one session; if that freed a slot, let the next one have it."""
    if reconciler.reconcile(uuid.UUID(session_id)):
        admit()


def gc() -> None:
    """Clean up for a few seconds; what is left then is a task of its own."""
    if cleaning.step():
        async_task("sessions.tasks.gc")


def keep(group_id: str) -> None:
    """Put a group's berth right, should somebody have changed it."""
    berths.keep(uuid.UUID(group_id))


def admit() -> None:
    """Fill the free slots."""
    for started in admission.admit():
        async_task("sessions.tasks.reconcile", str(started))
