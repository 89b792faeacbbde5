"""Clean-up: what a runtime has and the rows don't want, and the reverse; what is past its retention; deleted groups.

It is a list of stages, each an iterator that does one thing, then yields it. A kill between two, or in the middle of
one, leaves rows that still say what is to be done: the next clean-up goes on. `manage.py gc` runs all stages to their
end; the task of every day (`step`) takes a few seconds at a time and is queued again for the rest.
"""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import structlog
from django.utils import timezone

from sessions.cleanup import actions, orphans, retention
from sessions.cleanup.actions import UNCHANGED, CleanupAction, Scope
from sessions.cleanup.deleted_groups import process_deleted_groups
from sessions.models import Lease

log = structlog.get_logger(__name__)
EVERY = timedelta(days=1)
NAME = "gc"  # the row that remembers when it was last begun, and as its holder, which stage is next
SLICE = 5.0  # seconds; a worker is held for one thing longer than that

STAGES: dict[str, Callable[[Scope], Iterator[CleanupAction]]] = {
    "rows": orphans.rows_without_resources,
    "things": orphans.resources_without_rows,
    "events": retention.delete_old_events,
    "runs": retention.delete_old_runs,
    "messages": retention.delete_old_messages,
    "groups": process_deleted_groups,
    "housekeeping": retention.housekeeping,
}


def collect(scope: Scope) -> Iterator[CleanupAction]:
    """Run all stages, or report what would be done; yields each action when it is done."""
    for stage in STAGES.values():
        yield from stage(scope)


def due() -> bool:
    """Whether a day has passed since the clean-up was last begun. Who asks first begins it: True once a day."""
    now = timezone.now()
    row, _ = Lease.objects.get_or_create(name=NAME)
    if row.renewed_at > now - EVERY:
        return False
    begun = Lease.objects.filter(name=NAME, renewed_at=row.renewed_at)
    return bool(begun.update(renewed_at=now, holder=next(iter(STAGES))))


def step(seconds: float = SLICE) -> bool:
    """Do some seconds' worth of the stage that is next, and note how far it came; whether there is more to do."""
    stages = list(STAGES)
    stage = Lease.objects.filter(name=NAME).values_list("holder", flat=True).first()
    if stage not in stages:
        return False
    end, done = time.monotonic() + seconds, 0
    for action in STAGES[stage](Scope()):
        actions.log_action(action)
        done += action.outcome not in UNCHANGED
        if done and time.monotonic() >= end:  # what was done is not found again, so each step gets further
            return True
    following = "".join(stages[stages.index(stage) + 1 :][:1])
    Lease.objects.filter(name=NAME, holder=stage).update(holder=following)
    log.info("clean-up: stage done", stage=stage, done=done)
    return bool(following)
