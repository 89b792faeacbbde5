"""The credential broker: `/broker/v1/<provider>/…`, called by the clients of model APIs inside agents.

Nothing of a request or a response is logged or kept, but for the count of its tokens.
"""

import asyncio
import contextlib
import json
import time
import uuid
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import structlog
import yarl
from django.conf import settings
from django.db import OperationalError

from broker import allowlist, authorization, key_filter, providers
from broker.authorization import BrokerError, Upstream
from broker.models import BrokerUsage
from broker.providers import Route
from broker.usage import Meter
from groups.models import AgentGroup
from sessions.db_executor import in_thread, on
from sessions.lifecycle import run_tokens
from sessions.machine_api import ClientDisconnected, Headers, Receive, Request, Scope, Send, counted, send_json

log = structlog.get_logger(__name__)
BODY_MAX = 32 * 1024 * 1024  # what the Messages API takes: https://docs.claude.com/en/api/overview#request-size-limits
# Bytes of bodies that are checked, or wait for a response: of all runs, and of one.
BODIES_MAX, BODIES_OF_RUN = 256 * 1024 * 1024, 64 * 1024 * 1024
AT_A_TIME = 32  # requests of one run
ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})  # that the client decodes
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 600.0  # a response that is no stream may take as long: it is made before its first byte comes

# Keys are read from where the runtime has them, which may be slow: that is no reason for couriers and pages to wait.
_pool = ThreadPoolExecutor(4, "broker")
_clients: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession]" = weakref.WeakKeyDictionary()
# Likewise bodies, which may have a million items. Two, since each holds what it reads in memory.
_readers = ThreadPoolExecutor(2, "broker-bodies")
_in_flight: Counter[uuid.UUID] = Counter()  # requests of each run, of this process
_body_bytes: Counter[uuid.UUID] = Counter()  # of their bodies


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass one request on and its response back, or refuse it in the form that clients of the API understand."""
    response = _Response(send)
    try:
        await _respond(Request(scope, receive), response)
    except ClientDisconnected:
        return
    except BrokerError as error:
        await response.error(error)
    except OperationalError as error:
        log.warning("database away", error=str(error))
        await response.error(BrokerError(503, "overloaded_error", "The database is away.", retry_after=1, again=True))
    except Exception:
        log.exception("a request to the broker failed")
        await response.error(BrokerError(500, "api_error", "Berth could not pass the request on."))


async def _respond(request: Request, response: "_Response") -> None:
    run_id = run_tokens.broker_run_of(providers.stand_in(request.scope["headers"]))
    if run_id is None:
        raise BrokerError(401, "authentication_error", "Send the key that this run has in /var/secrets.")
    path = (request.scope.get("raw_path") or request.path.encode()).partition(b"?")[0].decode("latin-1")
    route = providers.route(request.method, path)
    if route is None:
        raise BrokerError(404, "not_found_error", f"Agents may not use {request.method} {path}.")
    size = _body_size(request) if request.method == "POST" else 0
    if _in_flight[run_id] >= AT_A_TIME:
        words = f"A run may make {AT_A_TIME} requests at a time."
        raise BrokerError(429, "rate_limit_error", words, retry_after=1, again=True)
    if _body_bytes[run_id] + size > BODIES_OF_RUN or _body_bytes.total() + size > BODIES_MAX:
        raise BrokerError(429, "rate_limit_error", "Too much is being asked at a time.", retry_after=1, again=True)
    with counted(_in_flight, run_id), counted(_body_bytes, run_id, size):
        body, max_tokens = await _checked_body(request, route, size)
        upstream = await on(_pool, authorization.authorize, run_id, route)
        await _relay(request, route, upstream, body, max_tokens, response)


def _body_size(request: Request) -> int:
    """The size of the request's body. Raises BrokerError for one that is too large, or comes without its length."""
    size = request.content_length
    if size is None:
        raise BrokerError(411, "invalid_request_error", "Send the body with its Content-Length.")
    if size > BODY_MAX:
        raise BrokerError(413, "request_too_large", f"A request may have {BODY_MAX} bytes.")
    return size


async def _checked_body(request: Request, route: Route, size: int) -> tuple[bytes, int]:
    """The body to be sent to the provider, and the most output tokens that it asks for.

    Raises BrokerError for what is not passed on, with the entries that would let it pass.
    """
    extra = settings.BROKER_ALLOWED
    try:
        allowlist.check_query(route.provider, request.scope["query_string"].decode("latin-1"), extra)
        allowlist.check_betas(route.provider, request.scope["headers"], extra)
        if not size:
            return b"", 0
        body = await request.read(size)
        return await on(_readers, allowlist.check_body, route.provider, body, extra)
    except (allowlist.NotAllowed, allowlist.InvalidBody) as error:
        raise BrokerError(400, "invalid_request_error", str(error)) from None


async def _relay(
    request: Request, route: Route, upstream: Upstream, body: bytes, max_tokens: int, response: "_Response"
) -> None:
    """Ask the provider, and pass its response on as it comes. The tokens are counted however it ends."""
    size = len(request.body)
    # Until there is a response: a request counts, also if its client hangs up before.
    meter = Meter("", size, max_tokens) if route.costs else None
    begin, relay = time.monotonic(), asyncio.current_task()

    async def cancel_on_disconnect() -> None:
        """A response that nobody reads costs tokens."""
        await request.disconnected()
        if relay:
            relay.cancel()

    hung_up = asyncio.create_task(cancel_on_disconnect())
    query = request.scope["query_string"].decode("latin-1")
    extra = allowlist.extra_headers(settings.BROKER_ALLOWED)
    headers = providers.request_headers(request.scope["headers"], upstream.header, upstream.key, extra)
    try:
        async with _client().request(
            request.method,
            yarl.URL(upstream.base_url + route.path + (f"?{query}" if query else ""), encoded=True),
            headers=headers + ([("content-type", "application/json")] if body else []),
            data=body or None,
            allow_redirects=False,
        ) as answer:
            meter = None
            _check_answer(answer.status, answer.headers.get("content-encoding", ""))
            passed = [
                (name, key_filter.filter_text(upstream.key_forms, value))
                for name, value in providers.response_headers(answer.headers.items())
            ]
            if answer.status >= 400:
                text = key_filter.filter_error(upstream.key_forms, await _read_error(answer))
                await response.start(answer.status, [*passed, (b"content-length", str(len(text)).encode())])
                await response.body(text)
            else:
                if route.costs:
                    meter = Meter(answer.headers.get("content-type", ""), size, max_tokens)
                await response.start(answer.status, passed)
                await _stream(answer, key_filter.KeyFilter(upstream.key_forms), meter, response)
        await response.end()
    except asyncio.CancelledError:
        if not hung_up.done():
            raise
        raise ClientDisconnected from None
    except (aiohttp.ClientError, TimeoutError) as error:
        if isinstance(error, aiohttp.ClientConnectorError):
            meter = None  # the provider was not reached
        if hung_up.done():
            raise ClientDisconnected from None
        log.warning("the provider failed", provider=route.provider, error=type(error).__name__)
        status, words = (504, "in time") if isinstance(error, TimeoutError) else (502, "as it should")
        raise BrokerError(status, "api_error", f"The provider did not answer {words}.", again=True) from None
    finally:
        hung_up.cancel()
        if meter:
            await asyncio.shield(in_thread(_count, upstream.group, meter, time.monotonic() - begin))


async def _stream(
    answer: aiohttp.ClientResponse, keys: key_filter.KeyFilter, meter: Meter | None, response: "_Response"
) -> None:
    """Pass a body on as it comes, without the key."""
    async for chunk in answer.content.iter_any():
        if meter:
            meter.feed(chunk)
        if clean := keys.feed(chunk):
            await response.body(clean)
    if rest := keys.end():
        await response.body(rest)


async def _read_error(answer: aiohttp.ClientResponse) -> bytes:
    """The whole of an error, if it is not too long to be one."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > key_filter.ERROR_MAX:
            raise BrokerError(502, "api_error", f"The provider answered {answer.status}, and more than is passed on.")
    return bytes(body)


def _check_answer(status: int, encoding: str) -> None:
    """Raises BrokerError for what is not passed on: what a provider says of a key that it doesn't take may show parts
    of it, where it redirects to may be anywhere, and what can't be read can't be cleaned of the key, nor counted."""
    if status == 401:
        log.warning("the provider refused the key")
        raise BrokerError(502, "api_error", "The provider refused Berth's key. Tell an operator.")
    if 300 <= status < 400:
        raise BrokerError(502, "api_error", "The provider redirects, which is not followed. Tell an operator.")
    if encoding.strip().lower() not in ENCODINGS:
        log.warning("the provider's answer can't be read", encoding=encoding[:100])
        raise BrokerError(502, "api_error", "The provider's answer is encoded in a way that Berth can't read.")


def _count(group_id: uuid.UUID, meter: Meter, seconds: float) -> None:
    tokens_in, tokens_out = meter.total(seconds)
    group = AgentGroup.objects.filter(pk=group_id).first()
    if group is not None:
        BrokerUsage.add_tokens(group, tokens_in, tokens_out)


def _client() -> aiohttp.ClientSession:
    """The connections of this event loop. Nothing is followed, or kept from one response for the next."""
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


class _Response:
    """Sends the response, and knows how far it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._stream = self._begun = False

    async def start(self, status: int, headers: Headers) -> None:
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

    async def error(self, error: BrokerError) -> None:
        """Say why not. Clients of either API find the words; a stream that broke off ends with an event of its own."""
        payload = {"type": "error", "error": {"type": error.kind, "message": str(error), "code": error.kind}}
        with contextlib.suppress(OSError):
            if self._begun:
                event = b"event: error\ndata: " + json.dumps(payload).encode() + b"\n\n" if self._stream else b""
                await self._send({"type": "http.response.body", "body": event})
                return
            headers = [(b"x-should-retry", b"true" if error.again else b"false")]
            if error.retry_after:
                headers.append((b"retry-after", str(error.retry_after).encode()))
            await send_json(self._send, error.status, payload, headers)
