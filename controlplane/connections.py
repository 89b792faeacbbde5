"""How many connections `web` holds, in all and by address, and what it says of those that it refused. Pure.

Beyond a limit a connection is not shut at once: it is one of a few spare ones, which get an answer to a health check
and 503 to anything else, so that an orchestrator does not restart a `web` that is merely full.
"""

from collections import Counter
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)
SPARE = 64  # connections beyond the limits; one more puts out the oldest
LOG_EVERY = 10.0  # seconds between two lines of the log about refusals with one status
T = TypeVar("T")


class Connections(Generic[T]):
    """Who is connected. `most` connections in all, `most_each` of one address."""

    def __init__(self, most: int, most_each: int) -> None:
        self.most, self.most_each = most, most_each
        self._within: dict[T, str | None] = {}  # whose address is counted
        self._by_address: Counter[str] = Counter()
        self._waiting: dict[T, None] = {}  # those that owe us a request's head, the longest first
        self._spare: dict[T, None] = {}

    def all(self) -> list[T]:
        """All connections."""
        return [*self._within, *self._spare]

    def add(self, one: T, address: str | None) -> list[T]:
        """Take a connection in (`address` None: one that is not limited by it); returns whom to put out for it.

        At the limit of all, who has owed a head for longest makes room, as nginx reuses connections that are idle.
        """
        each = address is not None and self._by_address[address] >= self.most_each
        out = []
        if not each and len(self._within) >= self.most and self._waiting:
            out = [next(iter(self._waiting))]
            self.remove(out[0])
        if each or len(self._within) >= self.most:
            self._spare[one] = None
            if len(self._spare) > SPARE:
                out.append(next(iter(self._spare)))
                self.remove(out[-1])
            return out
        self._within[one] = address
        if address is not None:
            self._by_address[address] += 1
        self._waiting[one] = None
        return out

    def is_spare(self, one: T) -> bool:
        """Whether a connection is beyond the limits."""
        return one in self._spare

    def head_awaited(self, one: T) -> None:
        """A connection owes a request's head from now on."""
        if one in self._within:
            self._waiting[one] = None

    def head_received(self, one: T) -> None:
        """A connection has sent a request's head."""
        self._waiting.pop(one, None)

    def remove(self, one: T) -> None:
        """A connection is over. May be said again."""
        self._waiting.pop(one, None)
        self._spare.pop(one, None)
        address = self._within.pop(one, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]


class RefusalLog:
    """Counts what was refused by status, and logs it, at most one line for a status in `LOG_EVERY` seconds."""

    def __init__(self) -> None:
        self._unlogged: Counter[int] = Counter()
        self._logged_at: dict[int, float] = {}

    def add(self, status: int, address: str, now: float) -> None:
        """One request or connection was refused. `now` is in seconds of a monotonic clock."""
        self._unlogged[status] += 1
        if now - self._logged_at.get(status, -LOG_EVERY) >= LOG_EVERY:
            self._logged_at[status] = now
            log.warning("refused", status=status, count=self._unlogged.pop(status), last=address)
