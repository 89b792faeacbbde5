"""How often somebody may try, how many of their requests are worked on at a time, how many streams they may hold.

By person and by address. Attempts (passwords, codes, tokens) are counted in Django's cache, which all `web` share with
Redis; requests and streams in the memory of one `web`, where they are.
"""

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.cache import cache

from sessions.client_address import client_network

WINDOW = 60  # seconds in which attempts are counted, from the first on
BEGIN_SECONDS = 30.0
STREAM_RETRY = 30  # seconds after which somebody with too many streams may ask again


class Throttled(Exception):
    """Refused for now: `str()` says why, `seconds` when to come again, `status` whose fault it is.

    429: the caller's own (RFC 6585, section 4). 503: everybody's together (RFC 9110, section 15.6.4).
    """

    def __init__(self, words: str, seconds: int, status: int = 429) -> None:
        super().__init__(words)
        self.seconds, self.status = seconds, status


# --- attempts ------------------------------------------------------------------------------------------------------


def _key(kind: str, who: str) -> str:
    return f"attempts:{kind}:{hashlib.sha256(who.encode()).hexdigest()[:32]}"


def attempts(kind: str, who: str) -> int:
    """How many attempts that did not succeed are counted now."""
    return int(cache.get(_key(kind, who), 0))


def spend(kind: str, who: str) -> None:
    """Count an attempt of `who` before it is made; one that succeeds is given back by `refund`.

    Raises Throttled when more than LOGIN_ATTEMPTS_PER_MINUTE were made: then nothing shall be looked up or computed.
    """
    key = _key(kind, who)
    cache.add(key, 0, WINDOW)
    try:
        count = cache.incr(key)
    except ValueError:  # the minute ended just now
        cache.set(key, count := 1, WINDOW)
    if count > settings.LOGIN_ATTEMPTS_PER_MINUTE:
        raise Throttled(f"Too many failed attempts. Try again in {WINDOW} s.", WINDOW)


def refund(kind: str, who: str) -> None:
    """Give an attempt back."""
    if attempts(kind, who) > 0:
        try:
            cache.decr(_key(kind, who))
        except ValueError:
            return


# --- requests ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Queue:
    """Who is at work or waits under one key."""

    places: asyncio.Semaphore
    members: int = 0


class ConcurrencyLimiter:
    """So many at a time under each key; the others of that key wait, in order, and nobody of another key does.

    Who waits has neither a thread nor a database connection. However much one client asks for at once, so many threads
    of its at most compete for Python's interpreter with those of everybody else. For one event loop.
    """

    def __init__(self) -> None:
        self._queues: dict[Hashable, _Queue] = {}

    @asynccontextmanager
    async def limit(self, who: Hashable, at_once: int) -> AsyncIterator[None]:
        """A block that `at_once` of the same `who` are in at a time."""
        queue = self._queues.setdefault(who, _Queue(asyncio.Semaphore(at_once)))
        queue.members += 1
        try:
            async with queue.places:
                yield
        finally:
            queue.members -= 1
            if not queue.members:
                del self._queues[who]

    @asynccontextmanager
    async def request(self, where: str, credential: str) -> AsyncIterator[None]:
        """The block in which a request is worked on: some of a credential (a token, a login, or none) at an address.

        Credentials can be invented: so all of an address together have half of DATABASE_POOL.
        """
        at_once: int = settings.REQUESTS_AT_ONCE
        address = client_network(where)
        of_address = max(at_once, settings.DATABASE_POOL // 2)
        async with self.limit((address, credential), at_once), self.limit(address, of_address):
            yield


concurrency = ConcurrencyLimiter()


def credential(request: Any) -> str:
    """What a request of Django's says about who sends it: its token, or its login's cookie; empty for nobody."""
    token = request.META.get("HTTP_AUTHORIZATION", "").rpartition(" ")[2]
    return str(token or request.COOKIES.get(settings.SESSION_COOKIE_NAME, ""))


# --- streams -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Ticket:
    """One stream: what it counts for, and until when (by the steady clock) it may begin."""

    keys: tuple[tuple[str, str], ...]
    until: float


class Streams:
    """The websockets and event streams that are open in this process. For any thread."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()
        self._waiting: set[_Ticket] = set()  # counted, and not begun
        self._lock = threading.Lock()

    def _limits(self, person: Any, where: str) -> tuple[tuple[tuple[str, str], int, str], ...]:
        return (
            (("person", str(person)), settings.STREAMS_PER_PERSON, "of yours"),
            (("address", client_network(where)), settings.STREAMS_PER_ADDRESS, "from your address"),
        )

    def admit(self, person: Any, where: str) -> AbstractContextManager[None]:
        """Count one more stream of a person (a user's key) from the address `where`, and return the block it lives in.

        One that does not enter its block within BEGIN_SECONDS is counted no longer: its reader left before it began.
        Raises Throttled.
        """
        limits = self._limits(person, where)
        ticket = _Ticket(tuple(key for key, _, _ in limits), time.monotonic() + BEGIN_SECONDS)
        with self._lock:
            for late in [each for each in self._waiting if each.until < time.monotonic()]:
                self._waiting.remove(late)
                self._count(late, -1)
            for key, most, whose in limits:
                if self._open[key] >= most:
                    words = f"{most} streams {whose} are open, and more are not let in. Close some, then come again."
                    raise Throttled(words, STREAM_RETRY)
            self._waiting.add(ticket)
            self._count(ticket, 1)
        return self._open_while(ticket)

    @contextmanager
    def _open_while(self, ticket: "_Ticket") -> Iterator[None]:
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:  # it came so late that it was counted no longer
                self._count(ticket, 1)
        try:
            yield
        finally:
            with self._lock:
                self._count(ticket, -1)

    def _count(self, ticket: "_Ticket", by: int) -> None:
        for key in ticket.keys:
            self._open[key] += by
            if self._open[key] <= 0:
                del self._open[key]


streams = Streams()
