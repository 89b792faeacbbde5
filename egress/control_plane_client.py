"""HTTP to the control plane: kept connections, a bearer token, JSON both ways (docs/egress.md has the three calls)."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11

KEPT = 16  # connections that wait for the next call
LONGEST = 4 * 1024 * 1024  # bytes of an answer


class Away(Exception):
    """The control plane gave no answer, or none that can be used."""


class Answer(NamedTuple):
    """Status and JSON object of one answer."""

    status: int
    body: dict[str, Any]


class ControlPlane:
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
        self.kept: list[Connection] = []

    async def call(self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None) -> Answer:
        """Make one call, which must be one that may be repeated. Raises Away."""
        try:
            async with asyncio.timeout(seconds):
                return await self._call(method, path, json.dumps(body).encode() if body is not None else b"")
        except TimeoutError:
            self.close()  # what is kept leads to the same place, which may be gone without a word
            raise Away("no answer in time") from None
        except (OSError, h11.ProtocolError, ValueError, EOFError) as error:
            raise Away(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None

    async def _call(self, method: str, path: str, body: bytes) -> Answer:
        headers = [
            ("Host", self.authority),
            ("Authorization", f"Bearer {self.token_file.read_text().strip()}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        request = h11.Request(method=method, target=self.path + path, headers=headers)
        while True:
            fresh = not self.kept
            connection = await self._connect() if fresh else self.kept.pop()
            try:
                answer = await connection.exchange(request, body)
            except BaseException as error:
                connection.close()
                if fresh or not isinstance(error, OSError | h11.ProtocolError | EOFError):
                    raise
                continue  # a kept connection had been closed
            if connection.reusable() and len(self.kept) < KEPT:
                self.kept.append(connection)
            else:
                connection.close()
            return answer

    async def _connect(self) -> "Connection":
        return Connection(*await asyncio.open_connection(self.host, self.port, ssl=self.tls))

    def close(self) -> None:
        """Close what is kept."""
        while self.kept:
            self.kept.pop().close()


class Connection:
    """One connection to the control plane."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(h11.CLIENT)

    async def exchange(self, request: h11.Request, body: bytes) -> Answer:
        """Send a request and return the answer. Raises OSError, EOFError, ProtocolError or ValueError."""
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
                if len(content) > LONGEST:
                    raise ValueError("an answer that is too long")
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("closed")
        value = json.loads(content) if content and 200 <= status < 300 else {}
        return Answer(status, value if isinstance(value, dict) else {})

    def reusable(self) -> bool:
        """Make ready for the next call; tell if there may be one."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        return not self.reader.at_eof()

    def close(self) -> None:
        """Close the connection now."""
        self.writer.transport.abort()
