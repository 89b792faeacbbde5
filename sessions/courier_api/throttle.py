"""How fast one run may speak: two token buckets, in the memory of one `web`.

An agent that says more is not cut off: its courier is told to wait (429), so its pipe fills and it waits itself, and
nobody else does. With several `web` processes behind one address a run has that much at each of them.
"""

import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field

BURST = 10  # seconds' worth that may come at once, after a silence
MOST = 10_000  # runs that are remembered; one that was forgotten begins with a full bucket


@dataclass(slots=True)
class Bucket:
    """So many units a second, and `BURST` times as many at once. Times are in seconds of any steady clock.

    What is asked for is given as long as anything is left, and may leave a debt: so a request that is larger than the
    bucket passes too, and is paid for by waiting longer after it.
    """

    rate: float
    at: float
    left: float

    @classmethod
    def full(cls, rate: float, now: float) -> "Bucket":
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
class Speed:
    """What one run has left, and when its session was last told that it is slowed."""

    events: Bucket
    size: Bucket
    told_at: float = float("-inf")


@dataclass(slots=True)
class Rates:
    """The runs of this process. `events` a second and `size` bytes a second are every run's own."""

    events: float
    size: float
    runs: "OrderedDict[uuid.UUID, Speed]" = field(default_factory=OrderedDict)

    def _of(self, run: uuid.UUID, now: float) -> Speed:
        speed = self.runs.get(run)
        if speed is None:
            speed = self.runs[run] = Speed(Bucket.full(self.events, now), Bucket.full(self.size, now))
            if len(self.runs) > MOST:
                self.runs.popitem(last=False)
        self.runs.move_to_end(run)
        return speed

    def ask(self, run: uuid.UUID, size: int, now: float | None = None) -> float:
        """Whether a request of `size` bytes may come in: seconds to wait, 0 for yes. Yes takes the bytes."""
        now = time.monotonic() if now is None else now
        speed = self._of(run, now)
        wait = max(speed.events.wait(now), speed.size.wait(now))
        if not wait:
            speed.size.take(size)
        return wait

    def count(self, run: uuid.UUID, events: int) -> None:
        """So many events came in a request that `ask` let in. Called, as everything here, on the event loop alone."""
        self._of(run, time.monotonic()).events.take(events)

    def tell(self, run: uuid.UUID, every: float, now: float | None = None) -> bool:
        """Whether it is time to say in the session that the run is slowed: once in `every` seconds at most."""
        now = time.monotonic() if now is None else now
        speed = self._of(run, now)
        if now - speed.told_at < every:
            return False
        speed.told_at = now
        return True
