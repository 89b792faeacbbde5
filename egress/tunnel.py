"""What is open: who opened it, to where, how many bytes went, why it ended; and the joining of two connections."""

import asyncio
import time
import uuid
from collections.abc import Callable
from enum import StrEnum
from functools import partial

from egress.channel import Channel
from egress.decisions import DecisionKey
from egress.limits import RunLimits
from egress.sni_filter import HelloError, SniFilter


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

    def __init__(self, key: DecisionKey, until: float | None, cancel: Callable[[], object]) -> None:
        """`until` is when the permission ends (None: not by itself); `cancel` ends what works on the tunnel."""
        self.id = uuid.uuid4().hex
        self.key, self.until, self.cancel = key, until, cancel
        self.opened = time.time()
        self.ended: float | None = None
        self.cause: Cause | None = None
        self.client: Channel | None = None
        self.server: Channel | None = None  # None until it is dialled; then the tunnel is reported
        self.reported = (-1, -1)  # counters as the control plane knows them

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
        self.cancel()

    def timeout_cause(self, now: float, idle: float, half: float) -> Cause | None:
        """Return why it has to end by `now` (monotonic seconds), None if it may stay.

        `idle` and `half` are the seconds without a byte that it may have, while both sides are open or one alone is.
        """
        if self.until is not None and time.time() >= self.until:
            return Cause.EXPIRED
        if self.client and self.server:
            silent = now - max(self.client.active_at, self.server.active_at)
            if silent > (half if self.client.eof or self.server.eof else idle):
                return Cause.IDLE
        return None


class TunnelTable:
    """All tunnels of this process."""

    def __init__(self, limits: RunLimits) -> None:
        self.limits = limits
        self.by_id: dict[str, Tunnel] = {}

    def add(self, tunnel: Tunnel) -> None:
        """Add a tunnel before it is dialled: a permission that is withdrawn meanwhile ends it as well."""
        self.by_id[tunnel.id] = tunnel
        self.limits.open(tunnel.key.run, time.monotonic())

    def remove(self, tunnel: Tunnel) -> None:
        """Remove a tunnel, which has ended."""
        del self.by_id[tunnel.id]
        self.limits.close(tunnel.key.run, time.monotonic())
        tunnel.ended = time.time()
        tunnel.cause = tunnel.cause or Cause.FAILED

    def byte_counter(self, tunnel: Tunnel) -> Callable[[int], None]:
        """Return what counts the tunnel's bytes for its run, and ends the tunnel above the limit."""
        usage = self.limits.usage[tunnel.key.run]

        def count(size: int) -> None:
            usage.bytes += size
            if self.limits.bytes_exceeded(usage):
                tunnel.end(Cause.BYTES)

        return count


class Relay:
    """Two connections joined: what comes on one goes out on the other, and each one's end is the other's."""

    def __init__(self, tunnel: Tunnel, client: Channel, server: Channel, sni_filter: SniFilter) -> None:
        """`sni_filter` has let the first hello pass and goes on until no other can come."""
        self.tunnel, self.client, self.server, self.sni_filter = tunnel, client, server, sni_filter
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Join them until both are closed. Raises HelloError for a second hello that is for another host."""
        client, server = self.client, self.server
        pairs = ((client, server, self._send_to_server), (server, client, client.write))
        for one, other, sink in pairs:
            one.peer, one.sink, one.on_end = other, sink, partial(self._side_ended, other)
        for one, other, sink in pairs:
            if one.buffered:
                buffered, one.buffered = one.buffered, b""
                sink(buffered)
            if one.eof:
                self._side_ended(other, one)
            if not other.paused:
                one.transport.resume_reading()
        await self.done

    def _send_to_server(self, data: bytes) -> None:
        if self.sni_filter.is_open:
            return self.server.write(data)
        try:
            return self.server.write(self.sni_filter.feed(data))
        except HelloError as error:
            if not self.done.done():
                self.done.set_exception(error)
            return self.client.transport.pause_reading()

    def _side_ended(self, other: Channel, one: Channel) -> None:
        """`one` has nothing more to say, or is gone."""
        if self.tunnel.cause is None:
            self.tunnel.cause = Cause.CLIENT if one is self.client else Cause.SERVER
        if one.closed:
            other.close()
        else:
            other.write_eof()
            if other.eof:
                one.close()
                other.close()
        if one.closed and other.closed and not self.done.done():
            self.done.set_result(None)
