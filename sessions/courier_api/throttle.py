"""How fast one run may speak: two token buckets, in the memory of one `web`.

An agent that says more is not cut off: its courier is told to wait (429), so its pipe fills and it waits itself, and
nobody else does. With several `web` processes behind one address a run has that much at each of them.
"""

import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field

BURST = 10  # seconds' worth that may come at once, after a silence
RUNS_MAX = 10_000  # runs that are remembered; one that was forgotten begins with a full bucket


@dataclass(slots=True)
class TokenBucket:
    """So many units a second, and `BURST` times as many at once. Times are in seconds of any steady clock.

    What is asked for is given as long as anything is left, and may leave a debt: so a request that is larger than the
    bucket passes too, and is paid for by waiting longer after it.
    """

    rate: float
    at: float
    left: float

    @classmethod
    def full(cls, rate: float, now: float) -> "TokenBucket":
        """A bucket that nothing was taken from."""
        return cls(rate, now, rate * BURST)

    def wait(self, now: float) -> float:
        """Seconds until something may be taken; 0 for now."""
        self.left = min(self.rate * BURST, self.left + (now - self.at) * self.rate)
        self.at = now
        return 0.0 if self.left > 0 else -self.left / self.rate + 1 / self.rate

    def take(self, units: float) -> None:
        """Take what `wait` has just allowed."""
        self.left -= units


@dataclass(slots=True)
class RunBuckets:
    """What one run has left, and when its session last had a notice that it is slowed."""

    events: TokenBucket
    size: TokenBucket
    notice_at: float = float("-inf")


@dataclass(slots=True)
class RunThrottle:
    """The runs of this process. `events` a second and `size` bytes a second are every run's own."""

    events: float
    size: float
    runs: "OrderedDict[uuid.UUID, RunBuckets]" = field(default_factory=OrderedDict)

    def _of(self, run: uuid.UUID, now: float) -> RunBuckets:
        buckets = self.runs.get(run)
        if buckets is None:
            buckets = self.runs[run] = RunBuckets(TokenBucket.full(self.events, now), TokenBucket.full(self.size, now))
            if len(self.runs) > RUNS_MAX:
                self.runs.popitem(last=False)
        self.runs.move_to_end(run)
        return buckets

    def admit(self, run: uuid.UUID, size: int, now: float | None = None) -> float:
        """Whether a request of `size` bytes may come in: seconds to wait, 0 for yes. Yes takes the bytes."""
        now = time.monotonic() if now is None else now
        buckets = self._of(run, now)
        wait = max(buckets.events.wait(now), buckets.size.wait(now))
        if not wait:
            buckets.size.take(size)
        return wait

    def take_events(self, run: uuid.UUID, events: int) -> None:
        """So many events came in a request that `admit` let in. Called, as everything here, on the event loop alone."""
        self._of(run, time.monotonic()).events.take(events)

    def notice_due(self, run: uuid.UUID, every: float, now: float | None = None) -> bool:
        """Whether it is time to say in the session that the run is slowed: once in `every` seconds at most."""
        now = time.monotonic() if now is None else now
        buckets = self._of(run, now)
        if now - buckets.notice_at < every:
            return False
        buckets.notice_at = now
        return True
