"""From a host to a connection: the name is resolved once, every address checked, and one of those is dialled."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from egress import addresses
from egress.channel import RECEIVE_SIZE, Channel
from egress.responses import ErrorResponse, forbidden
from egress.settings import Settings

Resolver = Callable[..., Awaitable[Sequence[Any]]]  # as loop.getaddrinfo
LOOKUPS_PER_RUN = 8  # at a time, of the 32 in all: its name server may be a slow one


class Dialer:
    """Dials for one loop."""

    def __init__(self, settings: Settings, resolver: Resolver | None = None) -> None:
        """`resolver` takes and returns what loop.getaddrinfo does, which is the default."""
        self.settings = settings
        self.resolver = resolver or asyncio.get_running_loop().getaddrinfo
        self.lookups_by_run: Counter[str] = Counter()
        self.lookups: set[asyncio.Future[Any]] = set()
        self.buffer = memoryview(bytearray(RECEIVE_SIZE))

    async def dial(self, host: str, port: int, run: str = "") -> Channel:
        """Return a connection to a host (A-label form) for a run.

        Raises ErrorResponse: 403, 429 for a run that waits for too many names, or 502 and 504 where nobody answers.
        """
        try:
            async with asyncio.timeout(self.settings.dial_seconds):
                return await self._connect(await self._allowed_addresses(host, port, run), port)
        except TimeoutError:
            raise ErrorResponse(504, f"{host}:{port} does not answer in time") from None

    def close(self) -> None:
        """Cancel the lookups that are under way."""
        for lookup in self.lookups:
            lookup.cancel()

    async def _allowed_addresses(self, host: str, port: int, run: str) -> list[str]:
        """Resolve a name and check its addresses. Raises ErrorResponse (403, 429, 502).

        The dot keeps the search list of resolv.conf out of it; exceptions may be names of a hosts file.
        """
        name = host if host in self.settings.exceptions else f"{host}."
        try:
            entries = await self._lookup(run, name, port)
        except (OSError, UnicodeError):
            raise ErrorResponse(502, f"{host} does not resolve") from None
        try:
            allowed = addresses.allowed_addresses(
                host, [str(entry[4][0]) for entry in entries], self.settings.exceptions, self.settings.refused
            )
        except addresses.NotPublic as address:
            error = forbidden(
                "address",
                f"{host} resolves to an address that is not public",
                "Such addresses can't be reached, whatever the rules say, unless an operator names host and address.",
            )
            error.reason = f"{host} has the address {address}, which is not public"
            raise error from None
        if not allowed:
            raise ErrorResponse(502, f"{host} does not resolve")
        return allowed

    async def _lookup(self, run: str, name: str, port: int) -> Sequence[Any]:
        """Look a name up. It counts until its thread is free, which may be long after nobody waits for it any more."""
        if self.lookups_by_run[run] >= LOOKUPS_PER_RUN:
            raise ErrorResponse(429, "too many names of this run are being looked up", retry_after=1)
        self.lookups_by_run[run] += 1
        lookup = asyncio.ensure_future(self.resolver(name, port, type=socket.SOCK_STREAM))
        self.lookups.add(lookup)
        lookup.add_done_callback(lambda done: self._lookup_done(run, done))
        return await asyncio.shield(lookup)

    def _lookup_done(self, run: str, lookup: "asyncio.Future[Any]") -> None:
        self.lookups_by_run[run] -= 1
        if not self.lookups_by_run[run]:
            del self.lookups_by_run[run]
        self.lookups.discard(lookup)
        if not lookup.cancelled():
            lookup.exception()  # raised to who waited, if somebody did

    async def _connect(self, allowed: list[str], port: int) -> Channel:
        """Return the first connection that comes about; each address gets its share of the time."""
        loop = asyncio.get_running_loop()
        share = self.settings.dial_seconds / len(allowed)
        problem = "no answer in time"
        for address in allowed:
            try:
                async with asyncio.timeout(share):
                    return (await loop.create_connection(lambda: Channel(self.buffer), address, port))[1]
            except OSError as error:
                problem = error.strerror or problem
        raise ErrorResponse(502, f"port {port} can't be reached: {problem}")
