"""Who starts now, which idle run gives way, who waits at which position: pure decisions over plain data.

A slot is a run. Order: priority, then the group that holds the fewest slots for its weight, then first come. Priority
grows with the wait (`AGE`), so that whoever waits is first one day, whatever the others send.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

# One step of priority for each of these: from lowest to highest priority is 20 steps, some three hours.
# The idea is ageing, as schedulers do it (Silberschatz et al., Operating System Concepts, "Priority scheduling").
AGE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Waiter:
    """A session that waits for a slot."""

    session: UUID
    group: UUID
    since: datetime
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """A run that holds a slot.

    It took the slot at `since`. `idle_since` is set while it could give it away without losing work; `ending` once it
    was asked to end.
    """

    run: UUID
    group: UUID
    idle_since: datetime | None = None
    ending: bool = False
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a group may have. `hold` says why nothing of it may start now, in words; empty if it may."""

    slots: int
    weight: int = 1
    hold: str = ""


class Position(NamedTuple):
    """Where a session stands in the queue: `number` of `of`, and what it waits for.

    `ahead` runs have to end before it starts, as far as one can tell, of the `slots` that it may use. `ages` are the
    seconds for which the runs there hold theirs, but for those that are ending: nobody knows how long that takes.
    """

    number: int
    of: int
    message: str
    ahead: int = 0
    slots: int = 1
    ages: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision."""

    start: tuple[UUID, ...]  # sessions
    preempt: tuple[UUID, ...]  # runs, to be closed gracefully
    positions: dict[UUID, Position]  # of the sessions that stay waiting


def plan(
    waiters: Sequence[Waiter], holders: Sequence[Holder], shares: dict[UUID, Share], slots: int, now: datetime
) -> Plan:
    """Fill the free slots in order; for those who still wait, ask idle runs to give way, the longest idle first.

    A run that is already ending frees a slot by itself, so no second one is closed in its stead. Lower limits than what
    runs close nobody: nothing starts until enough has ended by itself.
    """
    held = Counter(holder.group for holder in holders)
    free = slots - len(holders)
    start: list[UUID] = []
    waiting: list[Waiter] = []
    levels = _levels(waiters, now)
    for level in levels:
        for waiter in _fair_order(level, held, shares):
            if free > 0 and not (share := shares[waiter.group]).hold and held[waiter.group] < share.slots:
                held[waiter.group] += 1
                free -= 1
                start.append(waiter.session)
            else:
                waiting.append(waiter)
    preempt = _preempted(waiting, holders, held, shares, free)
    return Plan(tuple(start), preempt, _positions(waiting, held, shares, slots, _ages(holders, held, now)))


def estimate_wait(ahead: int, ages: Sequence[float], typical: float) -> float | None:
    """Seconds until the last of `ahead` slots is free, if every run lasts `typical` seconds; None if nobody can tell.

    A run that has lasted longer than that says nothing of its end, so it counts as one that stays.
    """
    ends = [typical - age for age in ages if age <= typical]
    heapq.heapify(ends)
    if not ends or ahead < 1:
        return None
    for _ in range(ahead - 1):
        heapq.heapreplace(ends, ends[0] + typical)
    return ends[0]


def _ages(holders: Sequence[Holder], held: Counter[UUID], now: datetime) -> dict[UUID, list[float]]:
    """For how long the runs of each group hold their slots, in seconds; those that start now are new."""
    ages: dict[UUID, list[float]] = defaultdict(list)
    new = held.copy()
    for holder in holders:
        new[holder.group] -= 1
        if holder.since and not holder.ending:
            ages[holder.group].append(max((now - holder.since).total_seconds(), 0.0))
    for group, count in new.items():
        ages[group] += [0.0] * count
    return ages


def _levels(waiters: Sequence[Waiter], now: datetime) -> list[list[Waiter]]:
    """The waiters by priority, highest first, each level in the order of arrival."""
    levels: dict[int, list[Waiter]] = defaultdict(list)
    for waiter in waiters:
        levels[waiter.priority + max(now - waiter.since, timedelta()) // AGE].append(waiter)
    for level in levels.values():
        level.sort(key=attrgetter("since", "session"))
    return [levels[priority] for priority in sorted(levels, reverse=True)]


def _fair_order(level: list[Waiter], held: Counter[UUID], shares: dict[UUID, Share]) -> Iterator[Waiter]:
    """The waiters of one level in the order in which slots should go to them.

    Whoever is passed over counts as served here, so that the order is also that of the positions in the queue.
    """
    groups: dict[UUID, list[Waiter]] = defaultdict(list)
    for waiter in reversed(level):
        groups[waiter.group].append(waiter)
    heap = []
    for group, line in groups.items():
        served, weight = held[group], shares[group].weight
        heap.append((served / weight, line[-1].since, line[-1].session, served, weight, line))
    heapq.heapify(heap)
    while heap:  # each turn's own data is in the heap: hashing ids thousands of times would take longer than all else
        *_, served, weight, line = heap[0]
        yield line.pop()
        if line:
            served += 1
            heapq.heapreplace(heap, (served / weight, line[-1].since, line[-1].session, served, weight, line))
        else:
            heapq.heappop(heap)


def _preempted(
    waiting: list[Waiter], holders: Sequence[Holder], held: Counter[UUID], shares: dict[UUID, Share], free: int
) -> tuple[UUID, ...]:
    """The idle runs that have to close so that the waiting may start."""
    idle = sorted((h for h in holders if h.idle_since and not h.ending), key=attrgetter("idle_since", "run"))
    ending = [h for h in holders if h.ending]
    chosen: list[UUID] = []
    # As long as nobody can help, the rest of a group needn't ask again: there may be thousands of them.
    hopeless: set[UUID] = set()
    for waiter in waiting:
        share = shares[waiter.group]
        if share.hold or waiter.group in hopeless:
            continue
        full = held[waiter.group] >= share.slots
        if not full and free > 0:
            continue
        relief = _first(ending, waiter.group if full else None)
        giving = None if relief else _first(idle, waiter.group if full else None)
        if relief:
            ending.remove(relief)
        elif giving:
            idle.remove(giving)
            chosen.append(giving.run)
        else:
            hopeless.add(waiter.group)
        if not ending and not idle:
            break
    return tuple(chosen)


def _first(holders: list[Holder], group: UUID | None) -> Holder | None:
    return next((h for h in holders if group is None or h.group == group), None)


def _positions(
    waiting: list[Waiter],
    held: Counter[UUID],
    shares: dict[UUID, Share],
    slots: int,
    ages: dict[UUID, list[float]],
) -> dict[UUID, Position]:
    """Each waiting session's position, in words that name the limit it waits for."""
    all_used, of = f"all {slots} slots in use", len(waiting)
    all_ages = tuple(age for of_group in ages.values() for age in of_group)
    limits: dict[UUID, list[Any]] = {}  # of each group: the message, its slots, their ages, how many of it stand before
    positions = {}
    for number, waiter in enumerate(waiting, 1):
        limit = limits.get(waiter.group)
        if limit is None:
            message, own = _limit(shares[waiter.group], held[waiter.group])
            limit = limits[waiter.group] = [message, own, tuple(ages.get(waiter.group, ())), 0]
        message, own, of_own, before = limit
        if not message:
            positions[waiter.session] = Position(number, of, all_used, number, slots, all_ages)
        elif own:
            limit[3] = before + 1
            positions[waiter.session] = Position(number, of, message, before + 1, own, of_own)
        else:
            positions[waiter.session] = Position(number, of, message)
    return positions


def _limit(share: Share, held: int) -> tuple[str, int]:
    """What of its own a group waits for, in words, and how many slots it has; ("", 0) if it is only the others."""
    if share.hold:
        return share.hold, 0
    return (f"group at its limit of {share.slots}", share.slots) if held >= share.slots else ("", 0)
