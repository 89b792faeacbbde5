"""Who starts now, which idle run gives way, who waits at which place: pure decisions over plain data.

A slot is a run. Order: priority, then the group that holds the fewest slots for its weight, then first come.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Waiter:
    """A session that waits for a slot."""

    session: UUID
    group: UUID
    since: datetime
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """A run that holds a slot. `idle_since` is set while it waits for a follow-up; `ending` once asked to end."""

    run: UUID
    group: UUID
    idle_since: datetime | None = None
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What a group may have."""

    slots: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session stands in the queue: `number` of `of`, and what it waits for."""

    number: int
    of: int
    words: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision."""

    start: tuple[UUID, ...]  # sessions
    give_way: tuple[UUID, ...]  # runs, to be closed gracefully
    places: dict[UUID, Place]  # of the sessions that stay waiting


def plan(waiters: Sequence[Waiter], holders: Sequence[Holder], shares: dict[UUID, Share], slots: int) -> Plan:
    """Fill the free slots in order; for those who still wait, ask idle runs to give way, the longest idle first.

    A run that is already ending frees a slot by itself, so no second one is closed in its stead.
    """
    held = Counter(holder.group for holder in holders)
    free = slots - len(holders)
    queue, start, waiting = list(waiters), [], []
    while queue:
        following = min(
            queue, key=lambda w: (-w.priority, held[w.group] / shares[w.group].weight, w.since, w.session.int)
        )
        queue.remove(following)
        if free > 0 and held[following.group] < shares[following.group].slots:
            held[following.group] += 1
            free -= 1
            start.append(following.session)
        else:
            waiting.append(following)
    return Plan(tuple(start), _give_way(waiting, holders, held, shares, free), _places(waiting, held, shares, slots))


def _give_way(
    waiting: list[Waiter], holders: Sequence[Holder], held: Counter[UUID], shares: dict[UUID, Share], free: int
) -> tuple[UUID, ...]:
    """The idle runs that have to close so that the waiting may start."""
    idle = sorted((h for h in holders if h.idle_since and not h.ending), key=lambda h: (h.idle_since, h.run.int))
    ending = [h for h in holders if h.ending]
    chosen: list[UUID] = []
    for waiter in waiting:
        full = held[waiter.group] >= shares[waiter.group].slots
        if not full and free > 0:
            continue
        relief = next((h for h in ending if not full or h.group == waiter.group), None)
        if relief:
            ending.remove(relief)
            continue
        giving = next((h for h in idle if not full or h.group == waiter.group), None)
        if giving:
            idle.remove(giving)
            chosen.append(giving.run)
    return tuple(chosen)


def _places(waiting: list[Waiter], held: Counter[UUID], shares: dict[UUID, Share], slots: int) -> dict[UUID, Place]:
    """Each waiting session's place, in words that name the limit it waits for."""
    places = {}
    for number, waiter in enumerate(waiting, 1):
        share = shares[waiter.group]
        limit = (
            f"group at its limit of {share.slots}" if held[waiter.group] >= share.slots else f"all {slots} slots in use"
        )
        places[waiter.session] = Place(number, len(waiting), limit)
    return places
