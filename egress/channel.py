"""One TCP connection: read and written by coroutines first, joined to another one later. No buffer is without bound.

What has been received stays in `buffered` and stops reading until it is taken; what can't be written stops the other
side.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

RECEIVE_SIZE = 128 * 1024  # bytes at once, and so what a connection can hold at most, beside WRITE_BUFFER
WRITE_BUFFER = 64 * 1024  # bytes that wait to be written before the sender has to wait
LINGER_SECONDS = 2.0  # for the other side to read a response and close

Sink = Callable[[bytes], None]


class Channel(asyncio.BufferedProtocol):
    """A connection. `received` and `sent` count bytes.

    `active_at` is when the last byte came, or the end (monotonic seconds).
    """

    transport: asyncio.Transport

    def __init__(self, buffer: memoryview, on_connect: Callable[["Channel"], None] | None = None) -> None:
        """`buffer` may serve all connections of one loop: it is emptied before the next one is filled."""
        self.buffer, self.on_connect = buffer, on_connect
        self.buffered = b""
        self.received = self.sent = 0
        self.active_at = time.monotonic()
        self.eof = self.closed = self.paused = False  # nothing more comes; gone; wait before writing
        self.sink: Sink | None = None  # gets what comes, instead of `buffered`
        self.on_transfer: Callable[[int], None] | None = None  # gets the number of bytes, both ways
        self.on_end: Callable[[Channel], None] | None = None  # called when `eof` or `closed` becomes true
        self.peer: Channel | None = None  # whose reading stops while this one is paused
        self.waiters: list[asyncio.Future[None]] = []

    async def read(self) -> bytes:
        """Return what has come, at least a byte; b"" at the end."""
        while not self.buffered and not self.eof:
            self.transport.resume_reading()
            await self._wait()
        data, self.buffered = self.buffered, b""
        return data

    def write(self, data: bytes) -> None:
        """Write, or keep until it can be written; `drain` waits for that."""
        if data and not self.transport.is_closing():
            self.sent += len(data)
            self.transport.write(data)
            if self.on_transfer:
                self.on_transfer(len(data))

    async def drain(self) -> None:
        """Wait until more may be written. Raises ConnectionResetError when the connection is gone."""
        while self.paused and not self.closed:
            await self._wait()
        if self.transport.is_closing():
            raise ConnectionResetError("closed")

    def write_eof(self) -> None:
        """Close for writing, after what has been written."""
        if not self.transport.is_closing():
            self.transport.write_eof()

    async def linger(self) -> None:
        """Close for writing, and let the other side read: closing on unread bytes would take the response back."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(LINGER_SECONDS):
                self.write_eof()
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
        """Keep the transport, and pass the channel to `on_connect`."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        if self.on_connect:
            self.on_connect(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer to the loop."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on or buffer what has come."""
        data = bytes(self.buffer[:nbytes])
        self.received += nbytes
        self.active_at = time.monotonic()
        if self.sink:
            self.sink(data)
        else:
            self.buffered += data
            self.transport.pause_reading()
            self._wake()
        if self.on_transfer:
            self.on_transfer(nbytes)

    def eof_received(self) -> bool:
        """Note that nothing more comes; the other direction stays open."""
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self.closed = True
        self._end()

    def _end(self) -> None:
        self.eof = True
        self.active_at = time.monotonic()
        self._wake()
        if self.on_end:
            self.on_end(self)

    def pause_writing(self) -> None:
        """Stop the side that this one is written from."""
        self.paused = True
        if self.peer:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let that side go on."""
        self.paused = False
        self._wake()
        if self.peer:
            self.peer.transport.resume_reading()
