"""HTTP to the control plane: persistent connections, a bearer token, JSON both ways (docs/egress.md)."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11

MAX_IDLE = 16  # connections that wait for the next call
MAX_RESPONSE = 4 * 1024 * 1024  # bytes


class ControlPlaneUnavailable(Exception):
    """The control plane gave no response, or none that can be used."""


class Response(NamedTuple):
    """Status and JSON object of one response."""

    status: int
    body: dict[str, Any]


class ControlPlaneClient:
    """Calls to the control plane, any number at a time."""

    def __init__(self, url: str, token_file: Path) -> None:
        """`url` is its base address; the file is read at each call, so a token may change."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("BERTH_URL is no http or https address")
        self.host, self.path = parts.hostname, parts.path.rstrip("/")
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.authority = parts.netloc.rpartition("@")[2]
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.token_file = token_file
        self.idle: list[Connection] = []

    async def call(self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None) -> Response:
        """Make one call, which must be one that may be repeated. Raises ControlPlaneUnavailable."""
        try:
            async with asyncio.timeout(seconds):
                return await self._call(method, path, json.dumps(body).encode() if body is not None else b"")
        except TimeoutError:
            self.close()  # idle connections lead to the same host, which may be gone without a word
            raise ControlPlaneUnavailable("no answer in time") from None
        except (OSError, h11.ProtocolError, ValueError, EOFError) as error:
            raise ControlPlaneUnavailable(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ) from None

    async def _call(self, method: str, path: str, body: bytes) -> Response:
        headers = [
            ("Host", self.authority),
            ("Authorization", f"Bearer {self.token_file.read_text().strip()}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        request = h11.Request(method=method, target=self.path + path, headers=headers)
        while True:
            fresh = not self.idle
            connection = await self._connect() if fresh else self.idle.pop()
            try:
                response = await connection.exchange(request, body)
            except BaseException as error:
                connection.close()
                if fresh or not isinstance(error, OSError | h11.ProtocolError | EOFError):
                    raise
                continue  # an idle connection had been closed
            if connection.reusable() and len(self.idle) < MAX_IDLE:
                self.idle.append(connection)
            else:
                connection.close()
            return response

    async def _connect(self) -> "Connection":
        return Connection(*await asyncio.open_connection(self.host, self.port, ssl=self.tls))

    def close(self) -> None:
        """Close the idle connections."""
        while self.idle:
            self.idle.pop().close()


class Connection:
    """One connection to the control plane."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(h11.CLIENT)

    async def exchange(self, request: h11.Request, body: bytes) -> Response:
        """Send a request and return the response. Raises OSError, EOFError, ProtocolError or ValueError."""
        data = [self.http.send(event) for event in (request, h11.Data(data=body), h11.EndOfMessage())]
        self.writer.write(b"".join(part for part in data if part))
        await self.writer.drain()
        status, content = 0, bytearray()
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
                if len(content) > MAX_RESPONSE:
                    raise ValueError("an answer that is too long")
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("closed")
        value = json.loads(content) if content and 200 <= status < 300 else {}
        return Response(status, value if isinstance(value, dict) else {})

    def reusable(self) -> bool:
        """Make ready for the next call; tell if there may be one."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        return not self.reader.at_eof()

    def close(self) -> None:
        """Close the connection now."""
        self.writer.transport.abort()
