"""One TCP connection: read and written by coroutines first, joined to another one later. Nothing is held without bound.

What has been received stays in `held` and stops reading until it is taken; what can't be written stops the other side.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

RECEIVE = 128 * 1024  # bytes at once, and so what a connection can hold at most, beside WRITE
WRITE = 64 * 1024  # bytes that wait to be written before the sender has to wait
LINGER = 2.0  # seconds for the other side to read an answer and close

Take = Callable[[bytes], None]


class Channel(asyncio.BufferedProtocol):
    """A connection. `received` and `sent` count bytes, `at` is when the last one came (monotonic seconds)."""

    transport: asyncio.Transport

    def __init__(self, buffer: memoryview, made: Callable[["Channel"], None] | None = None) -> None:
        """`buffer` may serve all connections of one loop: it is emptied before the next one is filled."""
        self.buffer, self.made = buffer, made
        self.held = b""
        self.received = self.sent = 0
        self.at = time.monotonic()
        self.ended = self.lost = self.full = False  # nothing more comes; closed; wait before writing
        self.sink: Take | None = None  # gets what comes, instead of `held`
        self.meter: Callable[[int], None] | None = None  # gets the number of bytes, both ways
        self.news: Callable[[Channel], None] | None = None  # called when `ended` or `lost` becomes true
        self.peer: Channel | None = None  # whose reading stops while this one is full
        self.waiters: list[asyncio.Future[None]] = []

    async def read(self) -> bytes:
        """Return what has come, at least a byte; b"" at the end."""
        while not self.held and not self.ended:
            self.transport.resume_reading()
            await self._wait()
        data, self.held = self.held, b""
        return data

    def write(self, data: bytes) -> None:
        """Write, or keep until it can be written; `drain` waits for that."""
        if data and not self.transport.is_closing():
            self.sent += len(data)
            self.transport.write(data)
            if self.meter:
                self.meter(len(data))

    async def drain(self) -> None:
        """Wait until more may be written. Raises ConnectionResetError when the connection is gone."""
        while self.full and not self.lost:
            await self._wait()
        if self.transport.is_closing():
            raise ConnectionResetError("closed")

    def finish(self) -> None:
        """Say that no more will be written, after what was."""
        if not self.transport.is_closing():
            self.transport.write_eof()

    async def linger(self) -> None:
        """Finish, and let the other side read: closing on bytes that came unread would take the answer back."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(LINGER):
                self.finish()
                while await self.read():
                    pass

    async def flush(self) -> None:
        """Wait until all is written. Raises ConnectionResetError as `drain`."""
        self.transport.set_write_buffer_limits(high=0)
        await self.drain()

    def close(self) -> None:
        """Close when all is written."""
        self.transport.close()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE)
        if self.made:
            self.made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer to the loop."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on or hold what has come."""
        data = bytes(self.buffer[:nbytes])
        self.received += nbytes
        self.at = time.monotonic()
        if self.sink:
            self.sink(data)
        else:
            self.held += data
            self.transport.pause_reading()
            self._wake()
        if self.meter:
            self.meter(nbytes)

    def eof_received(self) -> bool:
        """Note that nothing more comes; the other direction stays open."""
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self.lost = True
        self._end()

    def _end(self) -> None:
        self.ended = True
        self.at = time.monotonic()
        self._wake()
        if self.news:
            self.news(self)

    def pause_writing(self) -> None:
        """Stop the side that this one is written from."""
        self.full = True
        if self.peer:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let it go on."""
        self.full = False
        self._wake()
        if self.peer:
            self.peer.transport.resume_reading()
