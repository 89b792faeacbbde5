"""How long something takes or is ago, in one number with its unit."""

from datetime import timedelta

UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def age(lasted: timedelta) -> str:
    """A length of time, rounded down: 42 s, 7 min, 3 h, 12 d."""
    seconds = max(0, int(lasted.total_seconds()))
    for unit, size in UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
