"""HTTP to the control plane: one kept connection for each thread, and the patience that the protocol asks for."""

import http.client
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

TIMEOUT = 30.0  # seconds without a byte of an answer; a long poll adds its own
PAUSES = (0.1, 5.0)  # seconds; first and longest pause before another try, docs/courier-protocol.md
LONGEST_RETRY_AFTER = 60.0  # seconds


class Over(Exception):
    """The control plane says that the run is over (410)."""


class Ended(Exception):
    """The courier ends before an answer was had."""


class Signal(Protocol):
    """What a threading.Event has, and no more of it than is needed here."""

    def is_set(self) -> bool:
        """Tell whether it is time to end."""

    def wait(self, timeout: float) -> bool:
        """Wait for that, at most `timeout` seconds."""


class Answer(NamedTuple):
    """Status and JSON of one answer; `retry_after` in seconds, 0 where it was not said."""

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
        self.slowed_at = float("-inf")  # when the control plane last said that this is too much (monotonic seconds)

    def call(self, method: str, path: str, body: bytes | None = None, wait: float = 0.0) -> Answer:
        """Make one call, whose answer may be held back `wait` seconds. Raises OSError, HTTPException or ValueError."""
        fresh = self.connection is None
        try:
            return self._call(method, path, body, wait)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if fresh:
                raise
            return self._call(method, path, body, wait)  # a kept connection had been closed: every call may be repeated

    def _call(self, method: str, path: str, body: bytes | None, wait: float) -> Answer:
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
            self.slowed_at = time.monotonic()
        retry_after = response.getheader("Retry-After") or ""
        value = json.loads(content) if content and response.status in {*range(200, 300), 409} else {}
        return Answer(
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


def persist(call: Callable[[], Answer], ended: Signal, accept: tuple[int, ...] = ()) -> Answer:
    """Call until the answer is a 2xx or in `accept`, with growing pauses. Raises Over on 410, Ended if that is set."""
    pause, longest = PAUSES
    while not ended.is_set():
        retry_after = 0.0
        try:
            answer = call()
        except (OSError, http.client.HTTPException, ValueError):
            pass
        else:
            if answer.ok or answer.status in accept:
                return answer
            if answer.status == 410:
                raise Over
            retry_after = min(answer.retry_after, LONGEST_RETRY_AFTER)
        ended.wait(max(retry_after, random.uniform(0.5, 1.0) * pause))
        pause = min(2 * pause, longest)
    raise Ended
