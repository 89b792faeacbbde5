"""What the APIs for machines have in common (couriers, egress proxies, model clients): bare ASGI, without Django's
middleware, since they are called many times a second for each run.

A request is refused by its token before its body is read. How long a body may take, the server sees to.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs

import structlog
from django.db import DataError, InterfaceError, OperationalError

from sessions.events import notify

log = structlog.get_logger(__name__)
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
K = TypeVar("K", bound=Hashable)
N = TypeVar("N", int, float)
T = TypeVar("T")
POLL_SECONDS = 30.0  # the longest long poll


class ClientDisconnected(Exception):
    """The client hung up, or was cut off: nobody waits for a response."""


class ApiError(Exception):
    """Ends a request with another status than 200. `fields` stand in the body beside `detail`; retry_after: seconds."""

    def __init__(self, status: int, detail: str, retry_after: int = 0, **fields: Any) -> None:
        super().__init__(detail)
        self.status, self.retry_after, self.payload = status, retry_after, fields | {"detail": detail}


class InvalidPayload(ApiError):
    """422: what was sent is no JSON, or does not follow the protocol; `str()` says where."""

    def __init__(self, detail: str) -> None:
        super().__init__(422, detail[:500])


class Request:
    """One HTTP request, as ASGI hands it over."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.method, self.path = scope, scope["method"], scope["path"]
        self.headers: dict[bytes, bytes] = {name.lower(): value for name, value in scope["headers"]}
        self._query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        self._receive = receive
        self.body = b""

    @property
    def bearer_token(self) -> str:
        """The token of `Authorization: Bearer …`; empty if there is none."""
        return self.headers.get(b"authorization", b"").decode("latin-1").removeprefix("Bearer ")

    @property
    def content_length(self) -> int | None:
        """Bytes of the body; None if it comes in chunks, or if Content-Length is no number."""
        value = self.headers.get(b"content-length", b"0")
        if b"transfer-encoding" in self.headers or not value.isdigit():
            return None
        return int((value.lstrip(b"0") or b"0")[:18])  # more digits than that are an exabyte, whatever they say

    async def read(self, at_most: int) -> bytes:
        """The body, from then on in `self.body`. Raises ApiError (413), without reading if the head says so;
        ClientDisconnected."""
        too_large = ApiError(413, f"at most {at_most} bytes")
        if (self.content_length or 0) > at_most:
            raise too_large
        chunks: list[bytes] = []
        left, more = at_most, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            chunks.append(message.get("body", b""))
            left, more = left - len(chunks[-1]), message.get("more_body", False)
            if left < 0:
                raise too_large
        self.body = b"".join(chunks)
        return self.body

    def json(self, empty: bytes = b"") -> Any:
        """The body's value; `empty` is what stands for a body without a byte. Raises InvalidPayload."""
        return parse_json(self.body or empty)

    def query(self, name: str, default: str = "") -> str:
        """A parameter of the query: the last one of its name."""
        return self._query.get(name, [default])[-1]

    def number(self, name: str, default: N) -> N:
        """A parameter that is a number of the default's type. Raises InvalidPayload."""
        try:
            value = type(default)(self.query(name, str(default)))
        except ValueError as error:
            raise InvalidPayload(f"{name} is a number: {error}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidPayload(f"{name} is a finite number")
        return value

    async def disconnected(self) -> None:
        """Wait until the client hangs up. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def long_poll(self, topic: Any, kind: str, tick: float, poll: Callable[[], Awaitable[tuple[T, bool]]]) -> T:
        """What `poll` returns, as soon as it says that it is news, or after the query's `wait` seconds.

        It polls at once, at every notification and every `tick` seconds, until the client hangs up.
        """
        end = time.monotonic() + min(self.number("wait", 0.0), POLL_SECONDS)
        hung_up = asyncio.ensure_future(self.disconnected())
        try:
            async with notify.hub().subscribe(topic, kind) as notified:
                hung_up.add_done_callback(lambda _: notified.set())
                while True:
                    notified.clear()
                    result, news = await poll()
                    left = end - time.monotonic()
                    if news or left <= 0 or hung_up.done():
                        return result
                    await notify.wait(notified, min(left, tick))
        finally:
            hung_up.cancel()


def parse_json(content: bytes) -> Any:
    """The value that a text holds. Raises InvalidPayload.

    NaN, Infinity and 1e999, which Python's reader takes for numbers, are the texts that they are: JSON knows no such
    number (RFC 8259, section 6), and no database does.
    """
    try:
        return json.loads(content, parse_constant=str, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise InvalidPayload(f"not JSON: {str(error)[:200]}") from None


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


Endpoint = Callable[..., Awaitable[dict[str, Any]]]


def endpoint(routes: Mapping[tuple[str, str], Endpoint], request: Request) -> Endpoint:
    """The endpoint of a request's method and path. Raises ApiError (404)."""
    found = routes.get((request.method, request.path))
    if found is None:
        raise ApiError(404, "no such address")
    return found


def json_app(respond: Callable[[Request], Awaitable[dict[str, Any]]], failed: str) -> App:
    """An ASGI application that answers with what `respond` returns, as JSON; `failed` is what the log says of a
    failure.

    Every failure has a status that tells the client whether to come again.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, payload, retry_after = 200, await respond(Request(scope, receive)), 0
        except ClientDisconnected:
            return
        except Exception as error:
            failure = _api_error(error, failed, scope["path"])
            status, payload, retry_after = failure.status, failure.payload, failure.retry_after
        headers = [(b"retry-after", str(retry_after).encode())] if retry_after else []
        await send_json(send, status, payload, headers)

    return app


def _api_error(error: Exception, failed: str, path: str) -> ApiError:
    """What a failure is answered with. Called while it is handled."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DataError):
        log.warning(failed, path=path, error=str(error)[:500])
        return ApiError(422, "the database can't hold this")
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("database away", error=str(error))
        return ApiError(503, "the database is away", retry_after=1)
    log.exception(failed, path=path)
    return ApiError(500, "internal error")


async def send_json(send: Send, status: int, payload: Any, headers: Headers) -> None:
    """A whole response."""
    body = json.dumps(payload).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def counted(counter: "Counter[K]", key: K, amount: int = 1) -> Iterator[None]:
    """Count `amount` more for a key while the block lasts; a key with nothing left is forgotten."""
    counter[key] += amount
    try:
        yield
    finally:
        counter[key] -= amount
        if not counter[key]:
            del counter[key]
