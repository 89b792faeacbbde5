"""When a task is due: pure functions of its schedule and the time. Raise ValueError with words for people.

Cron is read by the clocks of a time zone, also on the two days a year when those are changed:

- A time that the clocks skip is due once, at the first instant after the change.
- A time that the clocks show twice is due once, the first time; but what is due every hour goes on hour by hour: it is
  due both times, and has nothing to make up for an hour that was skipped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from schedules.choices import Kind

EXAMPLE = "Use five fields: minute, hour, day, month, weekday. “0 9 * * 1-5” is at nine from Monday to Friday."
LONGEST = 100  # characters of an expression
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# What Berth has taken since its first version, in the words of cronsim: the last Friday, and spans over an end.
LAST = re.compile(r"(?<![A-Z0-9])L([0-7])(?![A-Z0-9])")
SPAN = re.compile(r"(?<![A-Z0-9])([A-Z]{3}|[0-9]{1,2})-([A-Z]{3}|[0-9]{1,2})(?![A-Z0-9/])")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
NAMES = {
    3: {name: place for place, name in enumerate(MONTHS, 1)},
    4: {name: place for place, name in enumerate(WEEKDAYS)},
}
ENDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
REPEATED = timedelta(hours=3)  # no clocks anywhere were ever put back by more
UTC_ZONE = ZoneInfo("UTC")
PROMPT = timedelta(minutes=1)  # an interval that is due keeps its rhythm if it is not later than this


@dataclass(frozen=True, slots=True)
class Schedule:
    """When something is due. Of the last three fields, the one of its kind counts."""

    kind: str
    cron: str = ""
    zone: ZoneInfo = UTC_ZONE
    every: timedelta = timedelta(0)
    once: datetime | None = None  # aware


def check(expression: str) -> str:
    """Return the expression with single blanks, if it is one that will ever be due."""
    plain = " ".join(expression[: LONGEST + 1].split())
    if len(plain) > LONGEST or (plain not in ALIASES and len(plain.split(" ")) != 5):
        raise ValueError(f"{plain!r} is no cron expression. {EXAMPLE}")
    if next(_local_times(plain, datetime(2000, 1, 1)), None) is None:
        raise ValueError(f"{plain!r} is never due. {EXAMPLE}")
    return plain


def _local_times(expression: str, after: datetime) -> CronSim:
    """The times after `after`, both by the same clocks, at which an expression is due. Raises ValueError.

    As Debian's cron has it (crontab(5)), a day is due if it matches both of its fields where one of them begins with a
    star, and otherwise if it matches either.
    """
    fields = [_translated(place, field) for place, field in enumerate(ALIASES.get(expression, expression).split())]
    try:
        return CronSim(" ".join(fields), after)
    except CronSimError as error:
        if any("W" in field for field in fields[2:3]):
            words = "W, the weekday next to a day, can't be read here; LW is the last weekday of a month"
        elif str(error) == "Bad day-of-month":
            words = "its day of the month can't be read, or it is never due: no month has such a day"
        else:
            words = f"its {str(error).removeprefix('Bad ')} can't be read"
        raise ValueError(f"{expression!r}: {words}. {EXAMPLE}") from None


def _translated(place: int, field: str) -> str:
    """A field as cronsim reads it: the last Friday is `5L`, and from Friday to Monday are two spans."""

    def number(word: str) -> int:
        return int(word) if word.isdecimal() else NAMES.get(place, {}).get(word, -1)

    def span(found: re.Match[str]) -> str:
        first, last = number(found[1]), number(found[2])
        low, high = ENDS[place]
        return f"{first}-{high},{low}-{last}" if low <= last < first <= high else found[0]

    if place in (2, 4) and field == "?":
        return "*"
    field = SPAN.sub(span, field.upper())
    return LAST.sub(r"\1L", field) if place == 4 else field


def instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, at which the clocks of a zone show `local` (naive): the first one, or that of the change."""
    return _instants(local, zone, both=False)[0]


def next_time(expression: str, zone: ZoneInfo, after: datetime) -> datetime:
    """The first instant after `after` (aware) at which a checked expression is due, in UTC."""
    start = after.astimezone(zone).replace(tzinfo=None)
    times = _local_times(expression, start - REPEATED)
    both = len(times.hours) == 24
    best, until = None, start
    for local in times:
        if best and local > until:
            break
        for found in _instants(local, zone, both):
            if found > after and (best is None or found < best):
                best, until = found, local + REPEATED
    if best is None:
        raise ValueError(f"{expression!r} is never due again. {EXAMPLE}")
    return best


def _instants(local: datetime, zone: ZoneInfo, both: bool) -> list[datetime]:
    """The instants at which clocks show `local`; if they skip it, that of the change. With `both`, what is true alone.

    Fold 0 reads the clocks as before a change, fold 1 as after it: https://peps.python.org/pep-0495/
    """
    before, after = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if before <= after:
        return [before, after] if both and before < after else [before]
    return [] if both else [_change(zone, after, before)]


def _change(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first second after `low` at which the clocks of a zone are as at `high`."""
    offset = high.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return high


def first(schedule: Schedule, now: datetime) -> datetime | None:
    """When it is due for the first time after `now`; None if never."""
    if schedule.kind == Kind.CRON:
        return next_time(schedule.cron, schedule.zone, now)
    if schedule.kind == Kind.INTERVAL:
        return now + schedule.every
    return schedule.once if schedule.once and schedule.once > now else None


def next_after(schedule: Schedule, due: datetime, now: datetime) -> datetime | None:
    """When it is due again, having been due at `due` and noticed `now`; None if never. Missed times are not made up."""
    if schedule.kind == Kind.ONCE:
        return None
    if schedule.kind == Kind.INTERVAL and now - due < min(PROMPT, schedule.every):
        return due + schedule.every
    return first(schedule, now)


def upcoming(schedule: Schedule, due: datetime | None, count: int = 5) -> Iterator[datetime]:
    """The next times, `due` being the first of them."""
    while due is not None and count > 0:
        yield due
        count -= 1
        due = next_after(schedule, due, due)
