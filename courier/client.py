"""HTTP to the control plane: one persistent connection for each thread, and the retries that the protocol wants."""

import http.client
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

TIMEOUT = 30.0  # seconds without a byte of a response; a long poll adds its own
RETRY_PAUSES = (0.1, 5.0)  # seconds; first and longest pause before another try, docs/courier-protocol.md
MAX_RETRY_AFTER = 60.0  # seconds


class RunOver(Exception):
    """The control plane says that the run is over (410)."""


class Stopped(Exception):
    """The courier ends before a response came."""


class StopSignal(Protocol):
    """The part of threading.Event that is needed here."""

    def is_set(self) -> bool:
        """Tell whether it is time to end."""

    def wait(self, timeout: float) -> bool:
        """Wait for that, at most `timeout` seconds."""


class Response(NamedTuple):
    """Status and JSON of one response; `retry_after` in seconds, 0 without that header."""

    status: int
    body: dict[str, Any]
    retry_after: float = 0.0

    @property
    def ok(self) -> bool:
        """Any 2xx."""
        return 200 <= self.status < 300


class Client:
    """Calls of one thread."""

    def __init__(self, url: str, token_file: Path) -> None:
        self.parts = urlsplit(url)
        self.token_file = token_file
        self.connection: http.client.HTTPConnection | None = None
        self.throttled_at = float("-inf")  # when the control plane last answered 429 (monotonic seconds)

    def call(self, method: str, path: str, body: bytes | None = None, wait: float = 0.0) -> Response:
        """Make one call, with a response within `wait` seconds. Raises OSError, HTTPException or ValueError."""
        fresh = self.connection is None
        try:
            return self._call(method, path, body, wait)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if fresh:
                raise
            # An idle connection had been closed: every call may be repeated.
            return self._call(method, path, body, wait)

    def _call(self, method: str, path: str, body: bytes | None, wait: float) -> Response:
        connection = self.connection = self.connection or self._connect()
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(TIMEOUT + wait)
            headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, self.parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            self.connection = None
            raise
        if response.status == 429:
            self.throttled_at = time.monotonic()
        retry_after = response.getheader("Retry-After") or ""
        value = json.loads(content) if content and response.status in {*range(200, 300), 409} else {}
        return Response(
            response.status,
            value if isinstance(value, dict) else {},
            float(retry_after) if retry_after.isdigit() else 0.0,
        )

    def _connect(self) -> http.client.HTTPConnection:
        host = self.parts.hostname or ""
        if self.parts.scheme == "https":
            import ssl  # megabytes, for those who use it

            return http.client.HTTPSConnection(host, self.parts.port, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, self.parts.port)


def retry(call: Callable[[], Response], stop: StopSignal, accept: tuple[int, ...] = ()) -> Response:
    """Call until the response is a 2xx or in `accept`, with growing pauses. Raises RunOver at 410, or Stopped."""
    pause, longest = RETRY_PAUSES
    while not stop.is_set():
        retry_after = 0.0
        try:
            response = call()
        except (OSError, http.client.HTTPException, ValueError):
            pass
        else:
            if response.ok or response.status in accept:
                return response
            if response.status == 410:
                raise RunOver
            retry_after = min(response.retry_after, MAX_RETRY_AFTER)
        stop.wait(max(retry_after, random.uniform(0.5, 1.0) * pause))
        pause = min(2 * pause, longest)
    raise Stopped
