"""How much of what agents say is stored: RUN_EVENTS_MIB for a run, GROUP_EVENTS_MIB for all sessions of a group.

Beyond that raw output, text and tools are left out, and a `gap` says so; results, usage and changes of state are still
stored, up to twice as much. What is stored is counted on the rows of session and run, which ingest holds locked anyway:
one counter for a group would let its runs wait for each other's commits. A group's is the sum over its sessions, asked
for once in a while.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Count, QuerySet, Sum

from sessions.choices import EventKind
from sessions.events.event_log import ROW, NewEvent, size
from sessions.models import AgentSession
from sessions.pagination import Bytes

MIB = 1024 * 1024
BULK = frozenset({EventKind.TEXT, EventKind.STDOUT, EventKind.STDERR, EventKind.TOOL})
VITAL = frozenset({EventKind.DELIVERED, EventKind.EXIT})  # few, and what becomes of messages follows from them
FRESH = 10.0  # seconds for which a group's sum is used again
MOST = 10_000  # groups that are remembered
_sums: dict[uuid.UUID, tuple[float, int]] = {}


@dataclass(frozen=True, slots=True)
class Usage:
    """What is stored and left out of a run, and what is stored of its group, in bytes, with their limits."""

    run: int
    run_limit: int
    group: int
    group_limit: int
    left_out: int = 0


@dataclass(slots=True)
class Batch:
    """What of a batch is to be stored, its size, and how much is left out, in bytes."""

    events: list[NewEvent]
    size: int = 0
    left_out: int = 0


def apply_limits(batch: Sequence[NewEvent], usage: Usage) -> Batch:
    """Leave out what is beyond the limits; a gap stands where that begins, and one before the exit sums it up."""
    stored = Batch([])
    for event in batch:
        more = size(event)
        taken = usage.run + stored.size + more
        full = max(taken / usage.run_limit, usage.group / usage.group_limit)
        if (full > 1 and event.kind in BULK) or (full > 2 and event.kind not in VITAL):
            if not usage.left_out + stored.left_out:
                stored.events.append(_gap(usage, taken > usage.run_limit, event))
            stored.left_out += more
            continue
        if event.kind == EventKind.EXIT and (left_out := usage.left_out + stored.left_out):
            message = f"In all, about {left_out / MIB:,.1f} MiB of this run's output were not stored."
            stored.events.append(NewEvent(EventKind.GAP, message, {"bytes": left_out}, event.at))
        stored.events.append(event)
        stored.size += more
    return stored


def _gap(usage: Usage, own: bool, event: NewEvent) -> NewEvent:
    still = "Results, usage and changes of state still are, up to twice as much."
    if own:
        message = f"This run's output beyond {usage.run_limit / MIB:,.0f} MiB is not stored (RUN_EVENTS_MIB). {still}"
    else:
        message = (
            f"The group's sessions hold {usage.group / MIB:,.0f} MiB of events, which is its limit (GROUP_EVENTS_MIB): "
            f"this run's output is not stored until older events go after their retention. {still}"
        )
    return NewEvent(EventKind.GAP, message, {"limit": "run" if own else "group"}, event.at)


def usage(group: uuid.UUID, run_bytes: int, left_out: int) -> Usage:
    """What a run may still store, as the settings are now."""
    limits = settings.RUN_EVENTS_MIB * MIB, settings.GROUP_EVENTS_MIB * MIB
    return Usage(run_bytes, limits[0], group_bytes(group), limits[1], left_out)


def group_bytes(group: uuid.UUID, now: float | None = None) -> int:
    """Bytes that a group's sessions hold, as of some seconds ago."""
    now = time.monotonic() if now is None else now
    until, known = _sums.get(group, (0.0, 0))
    if now < until:
        return known
    if len(_sums) >= MOST:
        _sums.clear()
    found = AgentSession.objects.filter(group=group).order_by().aggregate(total=Sum("event_bytes"))["total"] or 0
    _sums[group] = now + FRESH, found
    return int(found)


def size_of(events: QuerySet[Any]) -> int:
    """Bytes that stored events take, about as `size` counted them."""
    rows = events.order_by().annotate(text_bytes=Bytes("text"), data_bytes=Bytes("data"))
    sums = rows.aggregate(texts=Sum("text_bytes"), data=Sum("data_bytes"), count=Count("pk"))
    return int(sums["texts"] or 0) + int(sums["data"] or 0) + ROW * sums["count"]
