"""`GET /healthz`, on a port of its own: 200 while the proxy takes clients, 503 while it ends."""

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress.server import Server

SECONDS = 5.0  # for one request


class Health:
    """Answers for one proxy. The control plane's absence is told, but is no reason to restart the proxy."""

    def __init__(self, server: "Server") -> None:
        self.server = server

    async def start(self, host: str, port: int) -> None:
        """Listen."""
        self.listener = await asyncio.start_server(self._serve, host, port)

    async def stop(self) -> None:
        """Listen no more."""
        self.listener.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b"\r\n", 1)[0].split(b" ")))
                await writer.drain()
        writer.close()

    def _answer(self, words: list[bytes]) -> bytes:
        if words[:2] != [b"GET", b"/healthz"]:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        state = {
            "tunnels": len(self.server.desk.table.tunnels),
            "heard_seconds_ago": round(time.monotonic() - self.server.watch.heard, 1),
            "version": self.server.desk.decisions.version,
        }
        status = "503 Service Unavailable" if self.server.stopping else "200 OK"
        body = json.dumps(state)
        return (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}"
        ).encode()
