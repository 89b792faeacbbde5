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

from croniter import CroniterBadDateError, CroniterError, croniter

from schedules.choices import Kind

EXAMPLE = "Use five fields: minute, hour, day, month, weekday. “0 9 * * 1-5” is at nine from Monday to Friday."
ALIASES = frozenset({"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"})
RANDOM = re.compile(r"(?<![a-z])[hr](?![a-z])", re.IGNORECASE)  # croniter's own fields of random times
REPEATED = timedelta(hours=3)  # no clocks anywhere were ever put back by more
UTC_ZONE = ZoneInfo("UTC")
PROMPT = timedelta(minutes=1)  # an interval that is due keeps its beat if it is not later than this


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
    plain = " ".join(expression.split())
    if plain not in ALIASES and (len(plain.split(" ")) != 5 or RANDOM.search(plain)):
        raise ValueError(f"{expression!r} is no cron expression. {EXAMPLE}")
    try:
        croniter(plain, datetime(2000, 1, 1)).get_next(datetime)
    except CroniterBadDateError:
        raise ValueError(f"{plain!r} is never due: no month has such a day. {EXAMPLE}") from None
    except CroniterError as error:
        raise ValueError(f"{error}. {EXAMPLE}") from None
    return plain


def instant(wall: datetime, place: ZoneInfo) -> datetime:
    """The instant, in UTC, at which the clocks of a place show `wall` (naive): the first one, or that of the change."""
    return _instants(wall, place, both=False)[0]


def next_time(expression: str, place: ZoneInfo, after: datetime) -> datetime:
    """The first instant after `after` (aware) at which a checked expression is due, in UTC."""
    local = after.astimezone(place).replace(tzinfo=None)
    walls = croniter(expression, local - REPEATED)
    both = walls.expanded[1] == ["*"]
    best, until = None, local
    while True:
        wall = walls.get_next(datetime)
        if best and wall > until:
            return best
        for found in _instants(wall, place, both):
            if found > after and (best is None or found < best):
                best, until = found, wall + REPEATED


def _instants(wall: datetime, place: ZoneInfo, both: bool) -> list[datetime]:
    """The instants at which clocks show `wall`; if they skip it, that of the change. With `both`, what is true alone.

    Fold 0 reads the clocks as before a change, fold 1 as after it: https://peps.python.org/pep-0495/
    """
    before, after = (wall.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1))
    if before <= after:
        return [before, after] if both and before < after else [before]
    return [] if both else [_change(place, after, before)]


def _change(place: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first second after `low` at which the clocks of a place are as at `high`."""
    offset = high.astimezone(place).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(place).utcoffset() == offset:
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


def following(schedule: Schedule, due: datetime, now: datetime) -> datetime | None:
    """When it is due again, having been due at `due` and noticed `now`; None if never. Missed times are not made up."""
    if schedule.kind == Kind.ONCE:
        return None
    if schedule.kind == Kind.INTERVAL and now - due < min(PROMPT, schedule.every):
        return due + schedule.every
    return first(schedule, now)


def coming(schedule: Schedule, due: datetime | None, count: int = 5) -> Iterator[datetime]:
    """The next times, `due` being the first of them."""
    while due is not None and count > 0:
        yield due
        count -= 1
        due = following(schedule, due, due)
