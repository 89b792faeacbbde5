"""The task queue: a table keyed by what is to be done, so that it never holds more than there is to do.

As the work queue of Kubernetes' own controllers (k8s.io/client-go/util/workqueue): asked twice while it waits is once;
asked while it is at work is once more, afterwards; never two at work at a time for one key, as long as the first one
lives; what fails comes back after growing pauses, each key for itself. Rows move by compare-and-set on `generation`,
which grows with every request and every take, so it works alike on SQLite and PostgreSQL.

A key is a task and its argument, as text: `sessions.tasks.reconcile 4b2d…`. Django-Q's cluster does the work:
its broker (`sessions/workers/task_broker.py`) takes from here, and its workers call `do`.
"""

import pydoc
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.apps import apps
from django.db import connection
from django.db.models import F, Q
from django.utils import timezone

from sessions.models import WorkItem

log = structlog.get_logger(__name__)

RECONCILE = "sessions.tasks.reconcile"  # the argument is a session's id
ADMIT = "sessions.tasks.admit"
DRAIN = "sessions.tasks.drain"
ORPHANS = "sessions.tasks.remove_orphans"
GC = "sessions.tasks.gc"
SYNC_NAMESPACE = "sessions.tasks.keep"  # the argument is a group's id

FIRST, NORMAL, LOW = 0, 1, 2  # priorities: starts and ends go before looks at what goes on by itself

# For how long a key is its taker's. A task that lasts longer may be begun a second time beside itself, which every one
# bears; so this is how long it takes until somebody goes on where a worker was killed. Django-Q ends a task after 60 s.
LASTS = {RECONCILE: timedelta(seconds=10)}
LONGEST = timedelta(seconds=65)
# Pauses after failures: they double, as those of client-go's ItemExponentialFailureRateLimiter.
BACKOFF = (1.0, 30.0)  # seconds, first and longest
AT_ONCE = 200  # rows in a statement


@dataclass(slots=True)
class _Current:
    """What this worker is at."""

    key: str
    token: int
    retry_after: float | None = None


_current: ContextVar[_Current | None] = ContextVar("current work item", default=None)


def request(
    task: str, argument: object = "", *, priority: int = NORMAL, due_at: datetime | None = None, observed: str = ""
) -> None:
    """Ask for a task to be done, from `due_at` on. It is part of the transaction that is open, if one is.

    `observed` is handed to the task as its second argument; what was asked for later counts. Raises ValueError for an
    argument that is too long or has blanks in it.
    """
    request_all(task, {str(argument): observed}, priority=priority, due_at=due_at)


def request_all(
    task: str, arguments: Mapping[str, str], *, priority: int = NORMAL, due_at: datetime | None = None
) -> None:
    """As `request`, for many: argument → observed. In the order of their keys, so that two callers don't deadlock."""
    due = connection.ops.adapt_datetimefield_value(due_at or timezone.now())
    generation = time.time_ns() // 1000  # of a new row: above all that an earlier row of the same key had
    rows = sorted((_key(task, argument), observed) for argument, observed in arguments.items())
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        values = [value for key, observed in some for value in (key, priority, due, generation, observed)]
        with connection.cursor() as cursor:
            cursor.execute(_UPSERT.format(rows=", ".join(["(%s, %s, %s, %s, 0, %s)"] * len(some))), values)


# While a key is at work and nobody has asked again, `generation` is what its taker made it. The first who asks then
# asks for a new round; before that, and after it, for the one that waits. What failed waits for its pause, unless
# somebody asks for more than a look.
_UPSERT = f"""
INSERT INTO {WorkItem._meta.db_table} AS item (key, priority, due_at, generation, failures, observed)
VALUES {{rows}}
ON CONFLICT (key) DO UPDATE SET
    generation = item.generation + 1,
    priority = CASE
        WHEN item.taken_generation = item.generation OR excluded.priority < item.priority THEN excluded.priority
        ELSE item.priority END,
    due_at = CASE
        WHEN item.taken_generation = item.generation THEN excluded.due_at
        WHEN item.failures > 0 AND excluded.priority >= {LOW} THEN item.due_at
        WHEN excluded.due_at < item.due_at THEN excluded.due_at
        ELSE item.due_at END,
    observed = CASE
        WHEN item.taken_generation = item.generation OR excluded.observed != '' THEN excluded.observed
        ELSE item.observed END
"""


def take(count: int) -> list[tuple[str, int]]:
    """Take what is due, by priority and time: (key, token) of each. A key whose taker fell silent is due again."""
    now = timezone.now()
    due = WorkItem.objects.filter(Q(taken_until=None) | Q(taken_until__lt=now), due_at__lte=now)
    taken = []
    for key, generation in list(due.order_by("priority", "due_at").values_list("key", "generation")[:count]):
        token, until = generation + 1, now + _lasts(key)
        row = WorkItem.objects.filter(key=key, generation=generation)
        if row.update(generation=token, taken_generation=token, taken_until=until):
            taken.append((key, token))
    return taken


def do(key: str, token: int) -> None:
    """Do what was taken, unless it went to another taker meanwhile. What the task raises is raised, and counted."""
    row = WorkItem.objects.filter(key=key, taken_generation=token)
    found = row.values_list("observed", "failures").first()
    if found is None or not row.update(taken_until=timezone.now() + _lasts(key)):
        return
    observed, failures = found
    name, _, argument = key.partition(" ")
    item = _Current(key, token)
    mark = _current.set(item)
    try:
        _function(name)(*filter(None, (argument, observed)))
    except BaseException:
        _failed(item, failures)
        raise
    finally:
        _current.reset(mark)
    if item.retry_after is not None:
        _failed(item, failures)
    elif not row.filter(generation=token).delete()[0]:
        row.update(taken_generation=None, taken_until=None, failures=0)


def retry(after: float) -> None:
    """From within a task: have it done again, not before `after` seconds, and later each time that it says so."""
    if (item := _current.get()) is not None:
        item.retry_after = after


def holds() -> bool:
    """From within a task: whether it still is this worker's. Asked before what can't be taken back; a fencing token."""
    item = _current.get()
    if item is None:  # nobody's queue: called by hand
        return True
    mine = WorkItem.objects.filter(key=item.key, taken_generation=item.token, taken_until__gt=timezone.now())
    return mine.exists()


def oldest() -> datetime | None:
    """Since when what waits longest for a worker has been due; None if nothing waits."""
    due = WorkItem.objects.filter(taken_until=None, due_at__lte=timezone.now()).order_by("due_at")
    return due.values_list("due_at", flat=True).first()


def backoff(failures: int) -> float:
    """The pause after so many failures in a row, in seconds."""
    first, longest = BACKOFF
    return min(first * 2.0 ** min(failures - 1, 30), longest)


def _failed(item: _Current, failures: int) -> None:
    """Let a key come back after its pause; sooner only if somebody asked meanwhile for more than a look."""
    pause = max(backoff(failures + 1), item.retry_after or 0.0)
    log.info("task comes back", key=item.key, failures=failures + 1, seconds=pause)
    row = WorkItem.objects.filter(key=item.key, taken_generation=item.token)
    free = {"taken_generation": None, "taken_until": None, "failures": F("failures") + 1}
    if not row.filter(~Q(generation=item.token), priority__lt=LOW).update(**free):
        row.update(**free, due_at=timezone.now() + timedelta(seconds=pause))


def _key(task: str, argument: str) -> str:
    key = f"{task} {argument}".strip()
    if key.count(" ") > 1 or len(key) > WorkItem.KEY_LENGTH:
        raise ValueError(f"{key[:200]!r} is no task with at most one argument without blanks")
    return key


def _lasts(key: str) -> timedelta:
    return LASTS.get(key.partition(" ")[0], LONGEST)


def _function(name: str) -> Callable[..., object]:
    """The task of that name. A row may name functions of the apps' modules `tasks`, and nothing else."""
    module, _, function = name.rpartition(".")
    known = {f"{app.name}.tasks" for app in apps.get_app_configs()}
    found = pydoc.locate(name) if module in known and not function.startswith("_") else None
    if not callable(found):
        raise LookupError(f"there is no task {name}")
    return found
