"""Times and time zones that people, programs and agents name. Pure; raises ValueError with words for people."""

from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from django.core.exceptions import ValidationError

# Far from the ends of what Python (years 1 to 9999) and PostgreSQL can hold: no zone or sum leads out of it from here.
FIRST_YEAR, LAST_YEAR = 1970, 2999


def bounded(at: datetime) -> datetime:
    """The time itself, if it can be compared, moved between zones and shown. Raises ValueError."""
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise ValueError(f"The year {at.year} can't be: use a time between {FIRST_YEAR} and {LAST_YEAR}.")
    return at


def validate_time(at: datetime) -> None:
    """`bounded` for forms."""
    try:
        bounded(at)
    except ValueError as error:
        raise ValidationError(str(error)) from None


@cache
def zones() -> frozenset[str]:
    """The names of all time zones."""
    return frozenset(available_timezones())


def zone(name: str) -> ZoneInfo:
    """The time zone of that name. Raises ValueError.

    A POSIX rule such as `UTC+2` is none (there it would mean two hours *west* of Greenwich:
    https://pubs.opengroup.org/onlinepubs/9799919799/basedefs/V1_chap08.html).
    """
    if name not in zones():
        raise ValueError(
            f"{name[:60]!r} is no time zone. Use a name such as Europe/Berlin, America/New_York or UTC; for a fixed "
            "offset Etc/GMT-2, which is two hours ahead of UTC."
        )
    return ZoneInfo(name)


def clock(variable: str) -> str:
    """The time zone that a program's variable TZ names, which may begin with a colon; UTC if it is empty.

    Raises ValueError.
    """
    return zone(variable.removeprefix(":") if variable else "UTC").key
