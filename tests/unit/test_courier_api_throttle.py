"""The rate of one run: a table of what comes when, and what is answered."""

import uuid

import pytest

from sessions.courier_api import throttle
from sessions.courier_api.throttle import BURST, RunThrottle, TokenBucket

RUN, OTHER = uuid.uuid4(), uuid.uuid4()


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket.full(10, now=0)
    taken = 0
    while not bucket.wait(0):
        bucket.take(1)
        taken += 1
    assert taken == 10 * BURST
    assert bucket.wait(0) == pytest.approx(0.1)
    assert bucket.wait(0.2) == 0


def test_what_is_larger_than_the_bucket_passes_and_is_paid_for() -> None:
    bucket = TokenBucket.full(10, now=0)
    assert bucket.wait(0) == 0
    bucket.take(1000)
    assert bucket.wait(0) == pytest.approx(90.1)
    assert bucket.wait(90.2) == 0


def test_silence_fills_a_bucket_up_to_its_burst() -> None:
    bucket = TokenBucket.full(10, now=0)
    bucket.take(10 * BURST)
    assert bucket.wait(3600) == 0
    assert bucket.left == 10 * BURST


def test_what_is_refused_costs_nothing() -> None:
    throttled = RunThrottle(events=10, size=1000)
    assert throttled.admit(RUN, 1000 * BURST, now=0) == 0
    first = throttled.admit(RUN, 5000, now=0)
    assert first > 0
    assert throttled.admit(RUN, 5000, now=0) == first


def test_events_and_bytes_both_count() -> None:
    throttled = RunThrottle(events=10, size=1000)
    assert throttled.admit(RUN, 1, now=0) == 0
    throttled.take_events(RUN, 10 * BURST + 20)
    assert throttled.admit(RUN, 1, now=0) == pytest.approx(2.1)
    assert throttled.admit(RUN, 1, now=2.2) == 0


def test_one_run_does_not_slow_another() -> None:
    throttled = RunThrottle(events=10, size=1000)
    throttled.admit(RUN, 10**9, now=0)
    assert throttled.admit(RUN, 1, now=1) > 0
    assert throttled.admit(OTHER, 1, now=1) == 0


def test_it_is_told_once_in_a_while() -> None:
    throttled = RunThrottle(events=10, size=1000)
    assert [throttled.notice_due(RUN, 60, now) for now in (0, 1, 59, 60, 61)] == [True, False, False, True, False]
    assert throttled.notice_due(OTHER, 60, 61)


def test_runs_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "RUNS_MAX", 3)
    throttled = RunThrottle(events=10, size=1000)
    for _ in range(10):
        throttled.admit(uuid.uuid4(), 1, now=0)
    assert len(throttled.runs) == 3


def test_twenty_agents_that_say_500_lines_a_second_are_not_slowed() -> None:
    """What docs/performance.md promises a relay: each line is an event of its own here, the worst case."""
    throttled = RunThrottle(events=5000, size=4096 * 1024)
    runs = [uuid.uuid4() for _ in range(20)]
    for tenth in range(600):
        for run in runs:
            assert throttled.admit(run, 50 * 200, now=tenth / 10) == 0
            throttled.take_events(run, 50)
