"""When tasks are due: cron by the clocks of a place, intervals, once."""

import calendar
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
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
    return [at.astimezone(place).strftime("%m-%d %H:%M%z") for at in cron.upcoming(schedule, first, count)]


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
    found = list(islice(cron.upcoming(Schedule(Kind.CRON, "@hourly", BERLIN), start, 40), 1, None))
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
    found = [at.astimezone(schedule.zone).replace(tzinfo=None) for at in cron.upcoming(schedule, now, 30)][1:]
    if expression.split()[1] not in ("*", "0-23"):
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("61 * * * *", "minute can't be read"),
        ("* * * *", "no cron expression"),
        ("* * * * * *", "no cron expression"),
        ("R * * * *", "minute can't be read"),
        ("0 h * * *", "hour can't be read"),
        ("", "no cron expression"),
        ("@reboot", "no cron expression"),
        ("nine o'clock every single day", "minute can't be read"),
        ("*/0 * * * *", "minute can't be read"),
        ("0 0 15W * 1", "W, the weekday next to a day, can't be read"),
        ("0 0 * * 1#6", "day-of-week can't be read"),
        ("0 0 * * L", "day-of-week can't be read"),
        ("0 0 */31 * 1#5", "never due"),
        ("0 0 32 * *", "never due"),
        ("1," * 200 + "1 * * * *", "no cron expression"),
        ("0 0 30 2 *", "never due"),
        ("0 0 31 4,6 *", "never due"),
    ],
)
def test_what_is_no_cron_expression_is_said_with_an_example(expression: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        cron.check(expression)
    assert "0 9 * * 1-5" in str(error.value)


@pytest.mark.parametrize(
    "expression",
    [
        "0 9 * * 1-5",
        "@daily",
        "0 0 29 2 *",
        "0 0 L * *",
        "0 0 * mar thu",
        "0 9 * * 5#2",
        "0 0 28-31 * L5",
        "0 0 LW * ?",
    ],
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
    assert cron.next_after(schedule, NOON, now) == due


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


# --- against a reference that walks day by day and minute by minute -------------------------------------------------


def days(year_month: tuple[int, int]) -> int:
    return calendar.monthrange(*year_month)[1]


def last_weekday(at: datetime) -> bool:
    later = range(at.day + 1, days((at.year, at.month)) + 1)
    return at.weekday() < 5 and all(at.replace(day=day).weekday() >= 5 for day in later)


Match = Callable[[datetime], bool]
WEEKDAYS = ["SUN", "mon", "2", "Wed", "4", "5", "6"]


def weekday(at: datetime) -> int:
    return at.isoweekday() % 7


def number(low: int, high: int, of: Callable[[datetime], int]) -> st.SearchStrategy[tuple[str, Match]]:
    """A field of numbers: its text, and what it matches."""
    one = st.integers(low, high)
    singles = one.map(lambda n: (str(n), lambda at: of(at) == n))
    spans = st.tuples(one, one).map(
        lambda ends: (
            f"{ends[0]}-{ends[1]}",
            lambda at: ends[0] <= of(at) <= ends[1] if ends[0] <= ends[1] else not ends[1] < of(at) < ends[0],
        )
    )
    steps = st.integers(1, high).map(lambda n: (f"*/{n}", lambda at: (of(at) - low) % n == 0))
    single = st.one_of(singles, spans)
    lists = st.tuples(single, single).map(
        lambda two: (f"{two[0][0]},{two[1][0]}", lambda at: two[0][1](at) or two[1][1](at))
    )
    return st.one_of(st.just(("*", lambda at: True)), single, lists, steps)


DAYS = st.one_of(
    number(1, 31, lambda at: at.day),
    st.just(("L", lambda at: at.day == days((at.year, at.month)))),
    st.just(("LW", last_weekday)),
)
DOWS = st.one_of(
    number(0, 6, weekday),
    st.integers(0, 6).map(lambda n: (WEEKDAYS[n], lambda at: weekday(at) == n)),
    st.tuples(st.integers(0, 6), st.integers(1, 5)).map(
        lambda nth: (f"{nth[0]}#{nth[1]}", lambda at: weekday(at) == nth[0] and (at.day + 6) // 7 == nth[1])
    ),
    st.tuples(st.integers(0, 6), st.sampled_from(["{}L", "L{}"])).map(
        lambda last: (
            last[1].format(last[0]),
            lambda at: weekday(at) == last[0] and at.day + 7 > days((at.year, at.month)),
        )
    ),
)
Field = tuple[str, Match]


@settings(max_examples=250, deadline=None)
@given(DAYS, number(1, 12, lambda at: at.month), DOWS, st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)))
def test_days_are_those_of_debians_cron(day: Field, month: Field, dow: Field, now: datetime) -> None:
    """Of both day fields, either; but both where one begins with a star."""
    expression = f"0 0 {day[0]} {month[0]} {dow[0]}"
    both = day[0].startswith("*") or dow[0].startswith("*")

    def due(at: datetime) -> bool:
        matches = (day[1](at), dow[1](at))
        return month[1](at) and (all(matches) if both else any(matches))

    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    walked = (midnight + timedelta(days=count) for count in range(1, 3000))
    expected = list(islice((at.replace(tzinfo=UTC) for at in walked if due(at)), 3))
    if len(expected) == 3:
        assert cron.check(expression) == expression
        schedule = Schedule(Kind.CRON, expression)
        assert list(cron.upcoming(schedule, cron.first(schedule, now.replace(tzinfo=UTC)), 3)) == expected
    else:  # rarer than once in some years, or never: either way it is told, and nothing else is due before
        try:
            found = cron.next_time(cron.check(expression), cron.UTC_ZONE, now.replace(tzinfo=UTC))
        except ValueError as error:
            assert "never due" in str(error) and not expected
        else:
            assert not expected or found == expected[0]


@pytest.mark.parametrize(
    ("expression", "due"),
    [
        ("0 0 28-31 * L5", ["01-28", "01-29", "01-30", "01-31", "02-27", "02-28"]),
        ("0 0 13 * 5", ["01-02", "01-09", "01-13", "01-16"]),
        ("0 0 */2 * 5", ["01-09", "01-23", "02-13", "02-27"]),
        ("0 0 L * 1#1", ["01-05", "01-31", "02-02", "02-28"]),
        ("0 0 LW * *", ["01-30", "02-27", "03-31"]),
        ("0 0 * * fri-mon", ["01-02", "01-03", "01-04", "01-05", "01-09"]),
    ],
)
def test_both_fields_of_days_count(expression: str, due: list[str]) -> None:
    found = times(cron.check(expression), ZoneInfo("UTC"), "2026-01-01T12:00", len(due))
    assert [at.split()[0] for at in found] == due


@settings(max_examples=100, deadline=None)
@given(
    number(0, 59, lambda at: at.minute),
    number(0, 23, lambda at: at.hour),
    st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)),
)
def test_minutes_and_hours_are_those_of_cron(minute: Field, hour: Field, now: datetime) -> None:
    schedule = Schedule(Kind.CRON, cron.check(f"{minute[0]} {hour[0]} * * *"))
    begun = now.replace(second=0, microsecond=0, tzinfo=UTC)
    walked = (begun + timedelta(minutes=count) for count in range(1, 3 * 24 * 60))
    expected = list(islice((at for at in walked if minute[1](at) and hour[1](at)), 3))
    assert list(cron.upcoming(schedule, cron.first(schedule, now.replace(tzinfo=UTC)), 3))[: len(expected)] == expected


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("0123456789*,-/#LW?@ R\0\ud800é"), max_size=120) | st.text(max_size=40))
@example("")
def test_no_text_is_a_fault(text: str) -> None:
    with suppress(ValueError):  # what was stored by an older version, or is in a form
        assert cron.next_time(text, BERLIN, NOON) > NOON
    try:
        checked = cron.check(text)
    except ValueError as error:
        assert cron.EXAMPLE in str(error)
    else:
        assert cron.next_time(checked, BERLIN, NOON) > NOON
