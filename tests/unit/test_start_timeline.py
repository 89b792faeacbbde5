"""The bars of a run's start."""

from datetime import UTC, datetime, timedelta

from sessions.admin.start_timeline import SCALE, bars

BEGIN = datetime(2026, 11, 22, 12, tzinfo=UTC)


def after(**seconds: float | None) -> dict[str, datetime | None]:
    return {name: None if s is None else BEGIN + timedelta(seconds=s) for name, s in seconds.items()}


def test_each_step_takes_from_the_one_before_it() -> None:
    found = bars(after(queued=0, claimed=4, made=5, started=6, hello=8, output=10), cluster=False)

    assert [(bar.name, bar.seconds, bar.begins, bar.width) for bar in found] == [
        ("queued", 0, 0, 0),
        ("claimed", 4, 0, 400),
        ("made", 1, 400, 100),
        ("started", 1, 500, 100),
        ("hello", 2, 600, 200),
        ("output", 2, 800, 200),
    ]


def test_a_cluster_schedules_and_pulls() -> None:
    names = [bar.name for bar in bars(after(queued=0), cluster=True)]

    assert names == ["queued", "claimed", "made", "scheduled", "courier", "pulled", "started", "hello", "output"]


def test_what_comes_after_the_last_step_was_not_reached() -> None:
    found = bars(after(queued=0, claimed=1, made=2, scheduled=3), cluster=True)

    assert [bar.name for bar in found if bar.at is None] == ["courier", "pulled", "started", "hello", "output"]
    assert all(bar.seconds is None and bar.width == 0 for bar in found if bar.at is None)


def test_a_step_that_nobody_told_of_is_left_out_if_a_later_one_was_reached() -> None:
    assert [bar.name for bar in bars(after(claimed=0, output=1), cluster=True)] == ["claimed", "output"]


def test_clocks_that_differ_give_no_negative_time() -> None:
    found = bars(after(claimed=0, made=1.4, scheduled=1.2, courier=1, started=2), cluster=True)[:5]

    assert [round(bar.seconds or 0, 1) for bar in found] == [0, 1.4, 0, 0, 0.6]
    assert all(0 <= bar.begins <= SCALE and 0 <= bar.begins + bar.width <= SCALE for bar in found)


def test_nothing_was_reached() -> None:
    assert bars(after(queued=None), cluster=True) == []
