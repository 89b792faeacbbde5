"""Passes connections through the wall of a local agent's sandbox (see `bwrap.py`). A program of its own.

`socket_proxy.py outside SOCKET HOST PORT` listens on a UNIX socket and connects to the proxy. `socket_proxy.py inside
SOCKET PORT -- COMMAND…` listens on the sandbox's own loopback, connects to that socket, and becomes the command; with
an empty SOCKET it only becomes the command.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]
CHUNK = 64 * 1024
MAX_CONNECTIONS = 64  # at a time: the egress proxy takes so many of a run, and has room for more only once
SOCKET_TIMEOUT = 10.0  # seconds in which the socket outside has to be there: its listener may just be starting
PAUSE = 0.05  # seconds between two tries


async def serve(listener: socket.socket, dial: Dial) -> None:
    """Join every connection that comes with one that is dialled for it, for ever."""
    slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                other, back = await dial()
            except OSError:
                return
            with contextlib.closing(back):
                await asyncio.gather(pump(reader, back), pump(other, writer))

    async def limited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with slots:
            await join(reader, writer)

    start = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
    async with await start(limited, sock=listener) as server:
        await server.serve_forever()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, no faster than it goes, and the end as well."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def dial_socket(path: str) -> Streams:
    """Connect to a UNIX socket, which may be about to be made. Raises OSError if it isn't there in time.

    An agent's first connection can be faster than the start of the socket proxy outside, and is not to fail for it.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SOCKET_TIMEOUT
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(PAUSE)


def outside(path: str, host: str, port: int) -> None:
    """Listen on a UNIX socket, whose path is relative to the folder: absolute ones may be too long for a socket."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    asyncio.run(serve(listener, lambda: asyncio.open_connection(host, port)))


def inside(path: str, port: int, command: list[str]) -> None:
    """Listen on loopback in a process of its own; become the command."""
    if path:
        listener = socket.socket()
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):  # the agent's pipes are the agent's
                os.dup2(null, number)
            asyncio.run(serve(listener, lambda: dial_socket(path)))
            return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    mode, name, *arguments = sys.argv[1:]
    if mode == "outside":
        outside(name, arguments[0], int(arguments[1]))
    else:
        inside(name, int(arguments[0]), arguments[2:])
