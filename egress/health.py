"""`GET /healthz`, on a port of its own: 200 while the proxy takes clients, 503 while it ends."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

REQUEST_SECONDS = 5.0


class HealthServer:
    """Answers for one proxy."""

    def __init__(self, status: Callable[[], tuple[bool, dict[str, Any]]]) -> None:
        """`status` is called at each request; it returns whether the proxy takes clients, and details for the body."""
        self.status = status

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
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head.split(b"\r\n", 1)[0].split(b" ")))
                await writer.drain()
        writer.close()

    def _response(self, request_line: list[bytes]) -> bytes:
        if request_line[:2] != [b"GET", b"/healthz"]:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ready, details = self.status()
        status_line = "200 OK" if ready else "503 Service Unavailable"
        body = json.dumps(details)
        return (
            f"HTTP/1.1 {status_line}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}"
        ).encode()
