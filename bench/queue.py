"""Queue decisions: one decision over 10,000 waiting sessions in 500 groups with 400 runs, a third of them idle, of all
priorities; every decision gives each waiting session its place, starts who may start, and chooses who gives way.

The floor is Python's own sort of the same 10,000 rows by priority and time. The two take turns.
"""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bench.harness import Figure, Outcome, median, ms, percentile
from sessions.scheduling.plan import Holder, Share, Waiter, plan

WAITING, GROUPS, RUNS, SLOTS, ROUNDS, WARM_UP = 10_000, 500, 400, 450, 40, 5
TARGET = 0.050  # seconds
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run() -> Outcome:
    """Measure; one row."""
    waiters, holders, shares = rows(random.Random(1))
    ours, floor = [], []
    for turn in range(WARM_UP + ROUNDS):
        sorting = timed(lambda: sorted(waiters, key=lambda waiter: (-waiter.priority, waiter.since, waiter.session)))
        deciding = timed(lambda: plan(waiters, holders, shares, SLOTS, NOW))
        if turn >= WARM_UP:
            floor.append(sorting)
            ours.append(deciding)
    made = plan(waiters, holders, shares, SLOTS, NOW)
    spreads = [f"p50 {ms(median(times))}, p95 {ms(percentile(times, 0.95))} of {ROUNDS}" for times in (ours, floor)]
    met = percentile(ours, 0.95) <= TARGET
    row = Figure("queue decisions", spreads[0], spreads[1], f"p95 {ms(percentile(ours, 0.95))}", f"≤ {ms(TARGET)}", met)
    words = f"{len(made.start)} sessions started, {len(made.preempt)} runs gave way, {len(made.positions)} got a place"
    ratio = median(ours) / median(floor)
    return Outcome([row], [f"A decision: {words}. It takes {ratio:.0f} times as long as the sort."])


def rows(chance: random.Random) -> tuple[list[Waiter], list[Holder], dict[UUID, Share]]:
    """Who waits, who holds a slot, and what each group may have: the same every time."""

    def some() -> UUID:
        return UUID(int=chance.getrandbits(128))

    def ago(seconds: int) -> datetime:
        return NOW - timedelta(seconds=chance.randrange(seconds))

    groups = [some() for _ in range(GROUPS)]
    shares = {group: Share(chance.choice([1, 2, 5]), chance.choice([1, 1, 3])) for group in groups}
    waiters = [Waiter(some(), chance.choice(groups), ago(7200), chance.randint(-10, 10)) for _ in range(WAITING)]
    holders = [Holder(some(), chance.choice(groups), ago(3600) if not i % 3 else None) for i in range(RUNS)]
    return waiters, holders, shares


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
