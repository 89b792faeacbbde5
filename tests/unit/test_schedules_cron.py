"""When tasks are due: cron by the clocks of a place, intervals, once."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groups.times import zone
from schedules import cron
from schedules.choices import Kind
from schedules.cron import Schedule

BERLIN, NEW_YORK, LORD_HOWE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")


def times(expression: str, place: ZoneInfo, start: str, count: int) -> list[str]:
    """The next times after `start` (UTC), by the clocks of `place`."""
    schedule = Schedule(Kind.CRON, expression, place)
    first = cron.first(schedule, datetime.fromisoformat(start).replace(tzinfo=UTC))
    return [at.astimezone(place).strftime("%m-%d %H:%M%z") for at in cron.coming(schedule, first, count)]


@pytest.mark.parametrize(
    ("expression", "place", "start", "due"),
    [
        # Berlin skips 02:00 to 03:00 on 29 March 2026, New York on 8 March.
        ("30 2 * * *", BERLIN, "2026-03-27T12:00", ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]),
        ("*/15 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:00+0200"]),
        ("30 2,3 * * *", BERLIN, "2026-03-28T12:00", ["03-29 03:00+0200", "03-29 03:30+0200", "03-30 02:30+0200"]),
        ("0 3 * * *", BERLIN, "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 03:00+0200"]),
        ("30 2 * * *", NEW_YORK, "2026-03-07T12:00", ["03-08 03:00-0400", "03-09 02:30-0400"]),
        # Every hour has nothing to make up for: there was no such hour.
        ("30 * * * *", BERLIN, "2026-03-29T00:00", ["03-29 01:30+0100", "03-29 03:30+0200", "03-29 04:30+0200"]),
        # Half an hour is skipped.
        ("15 2 * * *", LORD_HOWE, "2026-10-03T12:00", ["10-04 02:30+1100", "10-05 02:15+1100"]),
    ],
)
def test_a_time_that_the_clocks_skip_is_due_once_after_the_change(
    expression: str, place: ZoneInfo, start: str, due: list[str]
) -> None:
    assert times(expression, place, start, len(due)) == due


@pytest.mark.parametrize(
    ("expression", "place", "start", "due"),
    [
        # Berlin shows 02:00 to 03:00 twice on 25 October 2026, New York 01:00 to 02:00 on 1 November.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("*/30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 02:00+0200", "10-25 02:30+0200", "10-26 02:00+0100"]),
        ("30 1-3 * * *", NEW_YORK, "2026-11-01T00:00", ["11-01 01:30-0400", "11-01 02:30-0500", "11-01 03:30-0500"]),
        # Asked for between the two, also within the repeated hour.
        ("30 2 * * *", BERLIN, "2026-10-25T00:45", ["10-26 02:30+0100"]),
        ("30 2 * * *", BERLIN, "2026-10-25T01:15", ["10-26 02:30+0100"]),
        # What is due every hour goes on hour by hour.
        (
            "30 * * * *", BERLIN, "2026-10-24T23:00",
            ["10-25 01:30+0200", "10-25 02:30+0200", "10-25 02:30+0100", "10-25 03:30+0100"],
        ),
        ("0 * * * *", NEW_YORK, "2026-11-01T04:30", ["11-01 01:00-0400", "11-01 01:00-0500", "11-01 02:00-0500"]),
    ],
)  # fmt: skip
def test_a_time_that_the_clocks_show_twice_is_due_once(
    expression: str, place: ZoneInfo, start: str, due: list[str]
) -> None:
    assert times(expression, place, start, len(due)) == due


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-28T23:00", 23), ("2026-10-24T22:00", 25), ("2026-06-01T22:00", 24)]
)
def test_every_hour_of_a_day_is_due(day: str, hours: int) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(seconds=1)
    found = list(islice(cron.coming(Schedule(Kind.CRON, "@hourly", BERLIN), start, 40), 1, None))
    assert sum(at.astimezone(BERLIN).date() == found[0].astimezone(BERLIN).date() for at in found) == hours


ZONES = st.sampled_from(
    [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Pacific/Apia",
        "UTC",
        "Asia/Tehran",
    ]
)
EXPRESSIONS = st.builds(
    "{} {} {} * {}".format,
    st.sampled_from(["0", "30", "*/20", "59", "*"]),
    st.sampled_from(["*", "0", "1", "2", "1-3", "*/2", "23", "0-23"]),
    st.sampled_from(["*", "1", "L", "25-31"]),
    st.sampled_from(["*", "0", "1-5"]),
)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, ZONES, st.datetimes(datetime(2009, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)))
def test_the_next_time_is_later_and_the_first_one(expression: str, name: str, now: datetime) -> None:
    place = ZoneInfo(name)
    found = cron.next_time(expression, place, now)
    assert found > now
    assert cron.next_time(expression, place, found) > found
    assert cron.next_time(expression, place, now + (found - now) / 2) == found
    assert cron.next_time(expression, place, found - timedelta(microseconds=1)) == found


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, ZONES, st.datetimes(datetime(2009, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)))
def test_no_time_by_the_clocks_is_due_twice_unless_it_is_so_every_hour(
    expression: str, name: str, now: datetime
) -> None:
    schedule = Schedule(Kind.CRON, expression, ZoneInfo(name))
    found = [at.astimezone(schedule.zone).replace(tzinfo=None) for at in cron.coming(schedule, now, 30)][1:]
    if expression.split()[1] not in ("*", "0-23"):
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("61 * * * *", "out of range"),
        ("* * * *", "no cron expression"),
        ("* * * * * *", "no cron expression"),
        ("R * * * *", "no cron expression"),
        ("h h * * *", "no cron expression"),
        ("", "no cron expression"),
        ("@reboot", "no cron expression"),
        ("nine o'clock every single day", "not acceptable"),
        ("*/0 * * * *", "not acceptable"),
        ("0 0 30 2 *", "never due"),
        ("0 0 31 4,6 *", "never due"),
    ],
)
def test_what_is_no_cron_expression_is_said_with_an_example(expression: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        cron.check(expression)
    assert "0 9 * * 1-5" in str(error.value)


@pytest.mark.parametrize(
    "expression", ["0 9 * * 1-5", "@daily", "0 0 29 2 *", "0 0 L * *", "0 0 * mar thu", "0 9 * * 5#2"]
)
def test_what_is_one_is_accepted(expression: str) -> None:
    assert cron.check(f"  {expression.replace(' ', '   ')} ") == expression


def test_a_place_needs_a_name_that_there_is() -> None:
    assert zone("Europe/Berlin") == BERLIN
    for name in ("", "Mars", "Europe", "../etc/passwd", "europe/berlin "):
        with pytest.raises(ValueError, match="Use a name such as Europe/Berlin"):
            zone(name)


# --- after a time was due -------------------------------------------------------------------------------------------

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATE = NOON + timedelta(days=30, minutes=5)


@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        (Schedule(Kind.CRON, "0 12 * * *"), NOON, NOON + timedelta(days=1)),
        (Schedule(Kind.CRON, "0 12 * * *"), LATE, NOON + timedelta(days=31)),
        (Schedule(Kind.INTERVAL, every=timedelta(hours=1)), NOON + timedelta(seconds=2), NOON + timedelta(hours=1)),
        (Schedule(Kind.INTERVAL, every=timedelta(hours=1)), LATE, LATE + timedelta(hours=1)),
        (
            Schedule(Kind.INTERVAL, every=timedelta(minutes=1)),
            NOON + timedelta(seconds=60),
            NOON + timedelta(minutes=2),
        ),
        (Schedule(Kind.ONCE, once=NOON), LATE, None),
    ],
    ids=["cron", "cron after an outage", "interval keeps its beat", "interval after an outage", "just late", "once"],
)
def test_missed_times_are_not_made_up(schedule: Schedule, now: datetime, due: datetime | None) -> None:
    assert cron.following(schedule, NOON, now) == due


def test_once_is_due_in_the_future_alone() -> None:
    assert cron.first(Schedule(Kind.ONCE, once=LATE), NOON) == LATE
    assert cron.first(Schedule(Kind.ONCE, once=NOON), LATE) is None


@pytest.mark.parametrize(
    ("wall", "instant"),
    [
        ("2026-07-01T09:00", "2026-07-01T07:00+00:00"),
        ("2026-03-29T02:30", "2026-03-29T01:00+00:00"),
        ("2026-10-25T02:30", "2026-10-25T00:30+00:00"),
    ],
)
def test_a_local_time_is_one_instant(wall: str, instant: str) -> None:
    assert cron.instant(datetime.fromisoformat(wall), BERLIN) == datetime.fromisoformat(instant)
