"""What is open: who opened it, to where, how many bytes went, why it ended; and the joining of two connections."""

import asyncio
import time
import uuid
from collections.abc import Callable
from enum import StrEnum
from functools import partial

from egress.channel import Channel
from egress.decisions import Key
from egress.limits import Limits
from egress.sni_filter import Gate, HelloError


class Cause(StrEnum):
    """Why a tunnel ended (docs/egress.md)."""

    CLIENT = "client"
    SERVER = "server"
    HELLO = "hello"
    IDLE = "idle"
    REVOKED = "revoked"
    EXPIRED = "expired"
    BYTES = "bytes"
    AWAY = "away"
    SHUTDOWN = "shutdown"
    FAILED = "failed"


class Tunnel:
    """One permitted connection, or one plain request. `opened` and `ended` are seconds since the epoch."""

    def __init__(self, key: Key, until: float | None, end_task: Callable[[], object]) -> None:
        """`until` is when the permission ends (None: not by itself); `end_task` ends what works on the tunnel."""
        self.id = uuid.uuid4().hex
        self.key, self.until, self.end_task = key, until, end_task
        self.opened = time.time()
        self.ended: float | None = None
        self.cause: Cause | None = None
        self.client: Channel | None = None
        self.server: Channel | None = None  # None until it is dialled; then the tunnel is reported
        self.told = (-1, -1)  # counters as the control plane knows them

    @property
    def counters(self) -> tuple[int, int]:
        """Bytes sent to the server, and received from it."""
        return (self.server.sent, self.server.received) if self.server else (0, 0)

    def end(self, cause: Cause) -> None:
        """End it now. The first cause is the one that counts."""
        if self.cause is None:
            self.cause = cause
        for channel in (self.client, self.server):
            if channel:
                channel.abort()
        self.end_task()

    def overdue(self, now: float, idle: float, half: float) -> Cause | None:
        """Return why it has to end by now (monotonic seconds), None if it may stay."""
        if self.until is not None and time.time() >= self.until:
            return Cause.EXPIRED
        if self.client and self.server:
            silent = now - max(self.client.at, self.server.at)
            if silent > (half if self.client.ended or self.server.ended else idle):
                return Cause.IDLE
        return None


class Table:
    """All tunnels of this process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.tunnels: dict[str, Tunnel] = {}

    def enter(self, tunnel: Tunnel) -> None:
        """Take a tunnel in, before it is dialled: a permission that is taken back meanwhile ends it as well."""
        self.tunnels[tunnel.id] = tunnel
        self.limits.enter(tunnel.key.run, time.monotonic())

    def leave(self, tunnel: Tunnel) -> None:
        """Take it out, ended."""
        del self.tunnels[tunnel.id]
        self.limits.leave(tunnel.key.run, time.monotonic())
        tunnel.ended = time.time()
        tunnel.cause = tunnel.cause or Cause.FAILED

    def meter(self, tunnel: Tunnel) -> Callable[[int], None]:
        """Return what counts the tunnel's bytes for its run, and ends the tunnel above the limit."""
        account = self.limits.accounts[tunnel.key.run]

        def count(size: int) -> None:
            account.bytes += size
            if self.limits.over(account):
                tunnel.end(Cause.BYTES)

        return count


class Relay:
    """Two connections joined: what comes on one goes out on the other, and each one's end is the other's."""

    def __init__(self, tunnel: Tunnel, client: Channel, server: Channel, gate: Gate) -> None:
        """`gate` has let the first hello pass and goes on until no other can come."""
        self.tunnel, self.client, self.server, self.gate = tunnel, client, server, gate
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Join them until both are closed. Raises HelloError for a second hello that is for another host."""
        client, server = self.client, self.server
        pairs = ((client, server, self._up), (server, client, client.write))
        for one, other, sink in pairs:
            one.peer, one.sink, one.news = other, sink, partial(self._news, other)
        for one, other, sink in pairs:
            if one.held:
                held, one.held = one.held, b""
                sink(held)
            if one.ended:
                self._news(other, one)
            if not other.full:
                one.transport.resume_reading()
        await self.done

    def _up(self, data: bytes) -> None:
        if self.gate.is_open:
            return self.server.write(data)
        try:
            return self.server.write(self.gate.feed(data))
        except HelloError as error:
            if not self.done.done():
                self.done.set_exception(error)
            return self.client.transport.pause_reading()

    def _news(self, other: Channel, one: Channel) -> None:
        """`one` has nothing more to say, or is gone."""
        if self.tunnel.cause is None:
            self.tunnel.cause = Cause.CLIENT if one is self.client else Cause.SERVER
        if one.lost:
            other.close()
        else:
            other.finish()
            if other.ended:
                one.close()
                other.close()
        if one.lost and other.lost and not self.done.done():
            self.done.set_result(None)
