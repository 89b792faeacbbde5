"""The queue's plan: a table of rows in, a decision out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.scheduling import plan as planner
from sessions.scheduling.plan import AGE, Holder, Plan, Share, Waiter

START = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
NOW = START + timedelta(minutes=9)  # before anybody's priority has grown


def waiter(number: int, group: UUID = A, minute: int | None = None, priority: int = 0) -> Waiter:
    return Waiter(
        UUID(int=100 + number), group, START + timedelta(minutes=number if minute is None else minute), priority
    )


def holder(number: int, group: UUID = A, idle: int | None = None, ending: bool = False) -> Holder:
    return Holder(UUID(int=900 + number), group, None if idle is None else START + timedelta(minutes=idle), ending)


def shares(**slots: int) -> dict[UUID, Share]:
    return {A: Share(slots.get("a", 1)), B: Share(slots.get("b", 1)), C: Share(slots.get("c", 1))}


def plan(waiting: list[Waiter], holding: list[Holder], limits: dict[UUID, Share], slots: int) -> Plan:
    return planner.plan(waiting, holding, limits, slots, NOW)


def test_first_come_first_served_within_a_group() -> None:
    decision = plan([waiter(2), waiter(1)], [], shares(), 5)
    assert decision.start == (waiter(1).session,)
    assert decision.positions[waiter(2).session].message == "group at its limit of 1"


def test_priority_goes_before_age() -> None:
    assert plan([waiter(1), waiter(2, priority=5)], [], shares(), 5).start == (waiter(2).session,)


def test_the_group_with_fewer_slots_goes_first() -> None:
    decision = plan([waiter(1, A), waiter(2, B)], [holder(1, A)], shares(a=3), 2)
    assert decision.start == (waiter(2, B).session,)


def test_weight_counts_slots_in_proportion() -> None:
    heavy = {A: Share(5, weight=4), B: Share(5, weight=1)}
    decision = plan([waiter(5, A), waiter(1, B)], [holder(1, A), holder(2, A), holder(3, B)], heavy, 4)
    assert decision.start == (waiter(5, A).session,)


def test_a_full_house_names_the_limit_and_the_place() -> None:
    decision = plan([waiter(1, A), waiter(2, B)], [holder(1, C)], shares(), 1)
    assert decision.start == ()
    assert [(p.number, p.of, p.message) for p in decision.positions.values()] == [
        (1, 2, "all 1 slots in use"),
        (2, 2, "all 1 slots in use"),
    ]


def test_the_longest_idle_run_gives_way_in_whatever_group() -> None:
    decision = plan([waiter(9, A)], [holder(1, B, idle=3), holder(2, C, idle=1)], shares(), 2)
    assert decision.preempt == (holder(2, C).run,)


def test_a_group_at_its_limit_gets_relief_only_from_its_own_runs() -> None:
    decision = plan([waiter(9, A)], [holder(1, B, idle=1), holder(2, A, idle=3)], shares(), 5)
    assert decision.preempt == (holder(2, A).run,)
    assert plan([waiter(9, A)], [holder(1, B, idle=1), holder(2, A)], shares(), 5).preempt == ()


def test_nobody_else_gives_way_while_a_run_is_ending() -> None:
    decision = plan([waiter(9, A)], [holder(1, B, ending=True), holder(2, C, idle=1)], shares(), 2)
    assert decision.preempt == ()


def test_no_idle_run_is_closed_while_nobody_waits() -> None:
    assert plan([], [holder(1, B, idle=1)], shares(), 1).preempt == ()


groups = st.sampled_from([A, B, C])
waiters = st.lists(
    st.builds(waiter, st.integers(0, 60), groups, priority=st.integers(-1, 1)), unique_by=lambda w: w.session
)
holders = st.lists(
    st.builds(holder, st.integers(0, 60), groups, st.none() | st.integers(0, 60), st.booleans()),
    unique_by=lambda h: h.run,
)


def test_a_group_that_is_held_keeps_its_place_and_says_why() -> None:
    held = {A: Share(1, hold="the group is paused by an operator"), B: Share(1)}
    decision = plan([waiter(1, A), waiter(2, B)], [], held, 5)
    assert decision.start == (waiter(2, B).session,)
    assert decision.positions[waiter(1, A).session].message == "the group is paused by an operator"


def test_nobody_gives_way_for_a_group_that_is_held() -> None:
    held = {A: Share(1, hold="paused"), B: Share(1)}
    assert plan([waiter(1, A)], [holder(1, B, idle=1)], held, 1).preempt == ()


def test_a_limit_below_what_runs_closes_nobody_who_works() -> None:
    decision = plan([waiter(1, A)], [holder(n, B) for n in range(5)], shares(b=5), 2)
    assert (decision.start, decision.preempt) == ((), ())


def test_places_go_round_among_groups() -> None:
    decision = plan([waiter(n, A) for n in (1, 2)] + [waiter(5, B)], [holder(1, C)], shares(a=5, b=5), 1)
    assert list(decision.positions) == [waiter(1).session, waiter(5).session, waiter(2).session]


def test_a_place_tells_how_many_have_to_end_first() -> None:
    decision = plan([waiter(n, A) for n in (1, 2, 3)], [holder(1, A), holder(2, A)], shares(a=2), 5)
    assert [(p.ahead, p.slots) for p in decision.positions.values()] == [(1, 2), (2, 2), (3, 2)]


def test_a_place_tells_how_long_the_slots_are_held() -> None:
    holding = [
        replace(holder(1, A), since=NOW - timedelta(seconds=40)),
        replace(holder(2, A, ending=True), since=NOW),
        replace(holder(3, B), since=NOW - timedelta(seconds=5)),
    ]
    decision = plan([waiter(1, A), waiter(2, B), waiter(3, C), waiter(4, C)], holding, shares(a=2, b=2), 4)
    assert decision.start == (waiter(3, C).session,)
    assert decision.positions[waiter(1, A).session].ages == (40.0,)
    assert sorted(decision.positions[waiter(2, B).session].ages) == [0.0, 5.0, 40.0]
    assert decision.positions[waiter(4, C).session].ages == (0.0,)


@pytest.mark.parametrize(
    ("ahead", "ages", "expected"),
    [
        (1, (0.0,), 60.0),
        (1, (45.0,), 15.0),
        (2, (45.0,), 75.0),
        (1, (45.0, 10.0), 15.0),
        (2, (45.0, 10.0), 50.0),
        (3, (45.0, 10.0), 75.0),
        (1, (2400.0,), None),  # longer than is typical: nobody can tell
        (1, (2400.0, 2500.0), None),
        (1, (2400.0, 20.0), 40.0),
        (2, (2400.0, 20.0), 100.0),
        (1, (), None),  # all that hold a slot are ending
        (0, (0.0,), None),
    ],
)
def test_a_wait_is_guessed_from_the_runs_that_hold_the_slots(
    ahead: int, ages: tuple[float, ...], expected: float | None
) -> None:
    assert planner.estimate_wait(ahead, ages, typical=60) == expected


def test_priority_grows_with_the_wait() -> None:
    old, urgent = waiter(0, A, minute=0), waiter(1, B, minute=60, priority=2)
    at = START + timedelta(minutes=60)
    assert planner.plan([old, urgent], [], shares(), 1, at).start == (old.session,)
    assert planner.plan([old, urgent], [], shares(), 1, START + 2 * AGE - timedelta(seconds=1)).start == (
        urgent.session,
    )


def test_no_group_starves_whatever_the_others_send() -> None:
    """One slot, and a group that sends something of the highest priority every minute."""
    patient = waiter(0, A, minute=0, priority=-10)
    flood: list[Waiter] = []
    for minute in range(1, 20 * 10 + 30):
        flood.append(waiter(minute, B, priority=10))
        started = planner.plan([patient, *flood], [], shares(), 1, START + timedelta(minutes=minute)).start
        if patient.session in started:
            return
        flood = [w for w in flood if w.session not in started]
    raise AssertionError("the patient one never started")


holds = st.sampled_from(["", "paused"])


@st.composite
def limits(draw: st.DrawFn) -> dict[UUID, Share]:
    return {g: Share(draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(holds)) for g in (A, B, C)}


@given(waiters, holders, limits(), st.integers(1, 8), st.integers(0, 300))
def test_slots_are_never_exceeded_and_never_stand_empty(
    waiting: list[Waiter], holding: list[Holder], limits: dict[UUID, Share], slots: int, minute: int
) -> None:
    decision = planner.plan(waiting, holding, limits, slots, START + timedelta(minutes=minute))
    started = [w for w in waiting if w.session in decision.start]
    total = len(holding) + len(started)
    assert not started or total <= slots
    for group, share in limits.items():
        new = sum(w.group == group for w in started)
        held = new + sum(h.group == group for h in holding)
        assert not new or (held <= share.slots and not share.hold)
        left = any(w.group == group for w in waiting if w.session not in decision.start)
        assert not (left and total < slots and held < share.slots and not share.hold)
    assert set(decision.start) | set(decision.positions) == {w.session for w in waiting}
    assert [p.number for p in decision.positions.values()] == list(range(1, len(decision.positions) + 1))
    assert all(h.idle_since and not h.ending for h in holding if h.run in decision.preempt)


@given(waiters, limits(), st.integers(1, 8))
def test_within_a_group_and_a_priority_nobody_is_overtaken(
    waiting: list[Waiter], limits: dict[UUID, Share], slots: int
) -> None:
    decision = planner.plan(waiting, [], limits, slots, START)
    order = {session: number for number, session in enumerate([*decision.start, *decision.positions])}
    for one in waiting:
        for other in waiting:
            if one.group == other.group and one.priority == other.priority and one.since < other.since:
                assert order[one.session] < order[other.session]
