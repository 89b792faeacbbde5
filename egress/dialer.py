"""From a host to a connection: the name is resolved once, every address judged, and one of those judged is dialled."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from egress import addresses
from egress.channel import RECEIVE, Channel
from egress.responses import Refusal, denied
from egress.settings import Settings

Resolver = Callable[..., Awaitable[Sequence[Any]]]  # as loop.getaddrinfo


NAMES = 8  # of one run that are looked up at a time, of the 32 in all: its name server may be a slow one


class Dialler:
    """Dials for one loop."""

    def __init__(self, settings: Settings, resolver: Resolver | None = None) -> None:
        """`resolver` takes and returns what loop.getaddrinfo does, which is the default."""
        self.settings = settings
        self.resolver = resolver or asyncio.get_running_loop().getaddrinfo
        self.looking: Counter[str] = Counter()  # names that are being looked up, by run
        self.lookups: set[asyncio.Future[Any]] = set()
        self.buffer = memoryview(bytearray(RECEIVE))

    async def dial(self, host: str, port: int, run: str = "") -> Channel:
        """Return a connection to a host (A-label form) for a run.

        Raises Refusal: 403, 429 for a run that waits for too many names, or 502 and 504 where nobody answers.
        """
        try:
            async with asyncio.timeout(self.settings.dial_seconds):
                return await self._connect(await self._judged(host, port, run), port)
        except TimeoutError:
            raise Refusal(504, f"{host}:{port} does not answer in time") from None

    def close(self) -> None:
        """Wait for no name any more."""
        for work in self.lookups:
            work.cancel()

    async def _judged(self, host: str, port: int, run: str) -> list[str]:
        """Resolve. The dot keeps the search list of resolv.conf out of it; exceptions may be names of a hosts file."""
        name = host if host in self.settings.exceptions else f"{host}."
        try:
            found = await self._resolved(run, name, port)
        except (OSError, UnicodeError):
            raise Refusal(502, f"{host} does not resolve") from None
        try:
            wanted = addresses.judge(
                host, [str(entry[4][0]) for entry in found], self.settings.exceptions, self.settings.refused
            )
        except addresses.NotPublic as error:
            refusal = denied(
                "address",
                f"{host} resolves to an address that is not public",
                "Such addresses can't be reached, whatever the rules say, unless an operator names host and address.",
            )
            refusal.reason = f"{host} has the address {error}, which is not public"
            raise refusal from None
        if not wanted:
            raise Refusal(502, f"{host} does not resolve")
        return wanted

    async def _resolved(self, run: str, name: str, port: int) -> Sequence[Any]:
        """Look a name up. It counts until its thread is free, which may be long after nobody waits for it any more."""
        if self.looking[run] >= NAMES:
            raise Refusal(429, "too many names of this run are being looked up", retry_after=1)
        self.looking[run] += 1
        work = asyncio.ensure_future(self.resolver(name, port, type=socket.SOCK_STREAM))
        self.lookups.add(work)
        work.add_done_callback(lambda done: self._free(run, done))
        return await asyncio.shield(work)

    def _free(self, run: str, done: "asyncio.Future[Any]") -> None:
        self.looking[run] -= 1
        if not self.looking[run]:
            del self.looking[run]
        self.lookups.discard(done)
        if not done.cancelled():
            done.exception()  # it was told to who waited, if somebody did

    async def _connect(self, wanted: list[str], port: int) -> Channel:
        """Return the first connection that comes about; each address gets its share of the time."""
        loop = asyncio.get_running_loop()
        share = self.settings.dial_seconds / len(wanted)
        problem = "no answer in time"
        for address in wanted:
            try:
                async with asyncio.timeout(share):
                    return (await loop.create_connection(lambda: Channel(self.buffer), address, port))[1]
            except OSError as error:
                problem = error.strerror or problem
        raise Refusal(502, f"port {port} can't be reached: {problem}")
