"""The broker's door: `/broker/v1/<provider>/…`, spoken to by the clients of model APIs inside agents.

A bare ASGI application. Nothing of a request or an answer is logged or kept, but for the count of its tokens.
"""

import asyncio
import contextlib
import json
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import structlog
import yarl
from django.conf import settings
from django.db import OperationalError

from broker import allowlist, authorization, key_filter, providers
from broker.authorization import Errand, Refused
from broker.providers import Route
from broker.usage import Meter
from groups.models import AgentGroup, BrokerUsage
from sessions.db_executor import in_thread, on
from sessions.lifecycle import run_tokens

log = structlog.get_logger(__name__)
BODY_MAX = 32 * 1024 * 1024  # what the Messages API takes: https://docs.claude.com/en/api/overview#request-size-limits
HELD_MAX, HELD_OF_RUN = 256 * 1024 * 1024, 64 * 1024 * 1024  # bytes of bodies that are looked at, or wait for an answer
AT_A_TIME = 32  # requests of one run
ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})  # that the client decodes
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 600.0  # an answer that is no stream may take as long: it is made before its first byte comes
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# Keys are read from where the runtime has them, which may be slow: that is no reason for couriers and pages to wait.
_pool = ThreadPoolExecutor(4, "broker")
_clients: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession]" = weakref.WeakKeyDictionary()
# Likewise bodies, which may have a million items. Two, since each holds what it reads in memory.
_readers = ThreadPoolExecutor(2, "broker-bodies")
_under_way: Counter[uuid.UUID] = Counter()  # of this process
_held: Counter[uuid.UUID] = Counter()  # bytes of a run's bodies


class Gone(Exception):
    """The agent hung up."""


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Pass one request on and its answer back, or refuse it in the form that clients of the API understand."""
    started = _Started(send)
    try:
        await _serve(scope, receive, started)
    except Gone:
        return
    except Refused as refusal:
        await started.refuse(refusal)
    except OperationalError as error:
        log.warning("database away", error=str(error))
        await started.refuse(Refused(503, "overloaded_error", "The database is away.", retry_after=1, again=True))
    except Exception:
        log.exception("a request to the broker failed")
        await started.refuse(Refused(500, "api_error", "Berth could not pass the request on."))


async def _serve(scope: dict[str, Any], receive: Receive, send: "_Started") -> None:
    run_id = run_tokens.broker_run_of(providers.stand_in(scope["headers"]))
    if run_id is None:
        raise Refused(401, "authentication_error", "Send the key that this run has in /var/secrets.")
    path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0].decode("latin-1")
    route = providers.route(scope["method"], path)
    if route is None:
        raise Refused(404, "not_found_error", f"Agents may not use {scope['method']} {path}.")
    size = _size(scope) if scope["method"] == "POST" else 0
    if _under_way[run_id] >= AT_A_TIME:
        words = f"A run may make {AT_A_TIME} requests at a time."
        raise Refused(429, "rate_limit_error", words, retry_after=1, again=True)
    if _held[run_id] + size > HELD_OF_RUN or _held.total() + size > HELD_MAX:
        raise Refused(429, "rate_limit_error", "Too much is being asked at a time.", retry_after=1, again=True)
    _under_way[run_id] += 1
    _held[run_id] += size
    try:
        request = _Request(scope, receive, route, size)
        await _look_through(request)
        errand = await on(_pool, authorization.errand, run_id, route)
        await _relay(request, errand, send)
    finally:
        for counter, count in ((_under_way, 1), (_held, size)):
            counter[run_id] -= count
            if not counter[run_id]:
                del counter[run_id]


async def _look_through(request: "_Request") -> None:
    """Read the body, and refuse what is not to be passed on, with the entries that would let it pass."""
    provider, more = request.route.provider, settings.BROKER_ALLOWED
    try:
        allowlist.query(provider, request.query, more)
        allowlist.betas(provider, request.headers, more)
        data = await request.read()
        if request.size:
            request.data, request.most = await on(_readers, allowlist.body, provider, data, more)
    except (allowlist.NotAllowed, allowlist.Unreadable) as error:
        raise Refused(400, "invalid_request_error", str(error)) from None


async def _relay(request: "_Request", errand: Errand, send: "_Started") -> None:
    """Ask the provider, and hand its answer over as it comes. The tokens are counted however it ends."""
    # Until there is an answer: what was asked counts, also of who hangs up before.
    meter = Meter("", request.size, request.most) if request.route.costs else None
    begin, work = time.monotonic(), asyncio.current_task()
    gone = request.watch(work)
    more = allowlist.extra_headers(settings.BROKER_ALLOWED)
    typed = [("content-type", "application/json")] if request.data else []
    try:
        async with _client().request(
            request.route_method,
            yarl.URL(errand.base_url + request.route.path + request.asked, encoded=True),
            headers=providers.asked(request.headers, errand.header, errand.key, more) + typed,
            data=request.data or None,
            allow_redirects=False,
        ) as answer:
            meter = None
            _must_be_good(answer.status, answer.headers.get("content-encoding", ""))
            headers = [
                (name, key_filter.whole(errand.needles, value))
                for name, value in providers.told(answer.headers.items())
            ]
            if answer.status >= 400:
                body = key_filter.error(errand.needles, await _all(answer))
                await send.start(answer.status, [*headers, (b"content-length", str(len(body)).encode())])
                await send.body(body)
            else:
                if request.route.costs:
                    meter = Meter(answer.headers.get("content-type", ""), request.size, request.most)
                await send.start(answer.status, headers)
                clean = key_filter.Scrub(errand.needles)
                async for chunk in answer.content.iter_any():
                    if meter:
                        meter.feed(chunk)
                    if told := clean.feed(chunk):
                        await send.body(told)
                if left := clean.end():
                    await send.body(left)
        await send.end()
    except asyncio.CancelledError:
        if not request.gone:
            raise
        raise Gone from None
    except (aiohttp.ClientError, TimeoutError) as error:
        if isinstance(error, aiohttp.ClientConnectorError):
            meter = None  # nothing was asked
        if request.gone:
            raise Gone from None
        log.warning("the provider failed", provider=request.route.provider, error=type(error).__name__)
        status, words = (504, "in time") if isinstance(error, TimeoutError) else (502, "as it should")
        raise Refused(status, "api_error", f"The provider did not answer {words}.", again=True) from None
    finally:
        gone.cancel()
        if meter:
            await asyncio.shield(in_thread(_count, errand.group, meter, time.monotonic() - begin))


async def _all(answer: aiohttp.ClientResponse) -> bytes:
    """The whole of an error, if it is not too long to be one."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > key_filter.ERROR_MAX:
            raise Refused(502, "api_error", f"The provider answered {answer.status}, and more than is passed on.")
    return bytes(body)


def _must_be_good(status: int, encoding: str) -> None:
    """What a provider says of a key it doesn't take may show parts of it; where it redirects to may be anywhere.

    What can't be read can't be cleaned of the key, nor counted.
    """
    if status == 401:
        log.warning("the provider refused the key")
        raise Refused(502, "api_error", "The provider refused Berth's key. Tell an operator.")
    if 300 <= status < 400:
        raise Refused(502, "api_error", "The provider redirects, which is not followed. Tell an operator.")
    if encoding.strip().lower() not in ENCODINGS:
        log.warning("the provider's answer can't be read", encoding=encoding[:100])
        raise Refused(502, "api_error", "The provider's answer is encoded in a way that Berth can't read.")


def _count(group: uuid.UUID, meter: Meter, seconds: float) -> None:
    tokens_in, tokens_out = meter.total(seconds)
    found = AgentGroup.objects.filter(pk=group).first()
    if found is not None:
        BrokerUsage.add(found, tokens_in, tokens_out)


def _size(scope: dict[str, Any]) -> int:
    """The size of the request's body. Raises Refused for one that is too large, or not told."""
    told = {name.lower(): value for name, value in scope["headers"]}
    length = told.get(b"content-length", b"0")
    if b"transfer-encoding" in told or not length.isdigit():
        raise Refused(411, "invalid_request_error", "Send the body with its Content-Length.")
    if len(length) > 18 or int(length) > BODY_MAX:
        raise Refused(413, "request_too_large", f"A request may have {BODY_MAX} bytes.")
    return int(length)


def _client() -> aiohttp.ClientSession:
    """The connections of this event loop. Nothing is followed, or kept from one answer for the next."""
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None:
        client = _clients[loop] = aiohttp.ClientSession(
            auto_decompress=True,  # of what comes so although it was not asked for: it has to be read here
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("user-agent", "accept", "content-type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
            trust_env=True,  # HTTPS_PROXY, where the control plane needs one to get out
        )
    return client


class _Request:
    """What came from the agent."""

    def __init__(self, scope: dict[str, Any], receive: Receive, route: Route, size: int) -> None:
        self.route, self.size, self.headers = route, size, scope["headers"]
        self.route_method: str = scope["method"]
        self.gone = False
        self._receive = receive
        self._read = asyncio.Event()
        if not size:
            self._read.set()
        self.query = scope["query_string"].decode("latin-1")
        self.asked = f"?{self.query}" if self.query else ""
        self.data, self.most = b"", 0  # what is sent to the provider; the most output tokens that it asks for

    async def read(self) -> bytes:
        """The body. Raises Gone."""
        data = bytearray()
        while len(data) < self.size:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise Gone
            data += message.get("body", b"")[: self.size - len(data)]
            if not message.get("more_body"):
                break
        self._read.set()
        return bytes(data)

    def watch(self, work: "asyncio.Task[Any] | None") -> "asyncio.Task[None]":
        """End `work` when the agent hangs up after its body was read: an answer that nobody reads costs tokens."""

        async def look() -> None:
            await self._read.wait()
            while (await self._receive())["type"] != "http.disconnect":
                continue
            self.gone = True
            if work is not None:
                work.cancel()

        return asyncio.create_task(look())


class _Started:
    """Sends the answer, and knows how far it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._stream = self._begun = False

    async def start(self, status: int, headers: providers.Headers) -> None:
        """Status and headers."""
        self._begun = True
        self._stream = any(name == b"content-type" and b"event-stream" in value for name, value in headers)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes) -> None:
        """A piece of the body, at once."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """There is no more."""
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refused) -> None:
        """Say why not. Clients of either API find the words; a stream that broke off ends with an event of its own."""
        error = {"type": refusal.kind, "message": str(refusal), "code": refusal.kind}
        body = json.dumps({"type": "error", "error": error}).encode()
        with contextlib.suppress(OSError):
            if self._begun:
                await self._send(
                    {
                        "type": "http.response.body",
                        "body": b"event: error\ndata: " + body + b"\n\n" if self._stream else b"",
                    }
                )
                return
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"x-should-retry", b"true" if refusal.again else b"false"),
            ]
            if refusal.retry_after:
                headers.append((b"retry-after", str(refusal.retry_after).encode()))
            await self._send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body})
