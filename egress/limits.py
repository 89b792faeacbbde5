"""How much a run may take of this proxy (not of all replicas): tunnels at a time, connects a minute, bytes."""

from dataclasses import dataclass

FORGET_AFTER = 24 * 3600.0  # seconds without tunnels; runs don't last that long


class RateLimiter:
    """A bucket for each key, from which a minute's worth can be taken at once; it refills steadily."""

    def __init__(self, per_minute: int) -> None:
        """`per_minute` 0 is no limit."""
        self.per_minute = per_minute
        self.buckets: dict[str, tuple[float, float]] = {}  # what was left, and when

    def take(self, key: str, now: float) -> bool:
        """Take one; False if there is none left. `now` is monotonic seconds."""
        if not self.per_minute:
            return True
        left, at = self.buckets.get(key, (self.per_minute, now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
        self.buckets[key] = (left - 1, now) if left >= 1 else (left, now)
        return left >= 1

    def prune(self, now: float) -> None:
        """Forget the buckets that are full by now."""
        self.buckets = {key: (left, at) for key, (left, at) in self.buckets.items() if now - at < 60}


@dataclass(slots=True)
class Usage:
    """What a run holds and has used; `changed_at` is when a tunnel was last opened or closed (monotonic seconds)."""

    tunnels: int = 0
    bytes: int = 0
    changed_at: float = 0.0


class RunLimits:
    """The usage of all runs."""

    def __init__(self, tunnels: int, size: int) -> None:
        """`tunnels` at a time and `size` in bytes, of one run; 0 is no limit."""
        self.tunnels, self.size = tunnels, size
        self.usage: dict[str, Usage] = {}

    def exceeded(self, run: str) -> str:
        """Return why the run gets no further tunnel, "" if it does."""
        usage = self.usage.get(run, Usage())
        if self.tunnels and usage.tunnels >= self.tunnels:
            return f"{self.tunnels} connections of this run are open, which is its limit"
        if self.bytes_exceeded(usage):
            return f"this run has moved {self.size} bytes, which is its limit"
        return ""

    def bytes_exceeded(self, usage: Usage) -> bool:
        """Tell whether a run has moved more bytes than it may."""
        return 0 < self.size < usage.bytes

    def open(self, run: str, now: float) -> Usage:
        """Count a tunnel, and return the run's usage."""
        usage = self.usage.setdefault(run, Usage())
        usage.tunnels += 1
        usage.changed_at = now
        return usage

    def close(self, run: str, now: float) -> None:
        """Count the end of a tunnel."""
        self.usage[run].tunnels -= 1
        self.usage[run].changed_at = now

    def prune(self, now: float) -> None:
        """Forget runs that are over."""
        old = [run for run, usage in self.usage.items() if not usage.tunnels and now - usage.changed_at > FORGET_AFTER]
        for run in old:
            del self.usage[run]
