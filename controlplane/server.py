"""The server of `web`: daphne's, with limits on what comes in before anybody looks at who sends it.

Daphne takes a request whole before it asks the application. Here the application is asked as soon as the head is there,
and the body follows as the application takes it: who has no token is refused before the body comes, and no more of it
than `AHEAD` is held. What is too large, too slow or one too many is refused here, whatever the address asked for.
"""

import asyncio
import json
import math
import resource
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import structlog
from daphne import server as daphne
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from django.conf import settings
from twisted.internet import defer, reactor
from twisted.internet.endpoints import serverFromString
from twisted.logger import globalLogBeginner
from twisted.protocols import basic
from twisted.web import http

from controlplane.connections import SPARE, Connections, RefusalLog
from sessions.client_address import client_network, is_proxy

log = structlog.get_logger(__name__)
LINE_MAX = 8 * 1024  # bytes of a request line; at least 8,000: RFC 9110, section 4.1
HEAD_MAX = 32 * 1024  # bytes of a request's head
HEADERS_MAX = 100
AHEAD = 64 * 1024  # bytes of a body, or of frames, that are taken before the application asks for them
BODY_RATE = 8 * 1024  # bytes a second that a body has to come at, on average, after BODY_SECONDS
IDLE_SECONDS = 60.0  # between two requests of one connection
SEND_SECONDS = 60.0  # without a byte that the other side took
LINGER_SECONDS, LINGER_MAX = (
    3.0,
    4 * 1024 * 1024,
)  # how long, and for how many bytes, a refused body is read and dropped
FRAME_MAX = 64 * 1024  # bytes of a websocket's message that comes in: an acknowledgement has 40
SENT_FRAME_MAX = 32 * 1024 * 1024  # bytes of one that goes out: a page of events
OWN_FILES = 256  # descriptors that connections leave for the database, logs and the rest
NOFILE_MAX = 1 << 20  # more than this is asked of nobody
PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
FORWARDED = (b"x-forwarded-", b"forwarded", b"x-real-ip")  # beginnings of headers that only a proxy may set
BodyMax = Callable[[str], int | None]


class Phase(Enum):
    """What a connection does, and so what it owes us."""

    IDLE = auto()  # between two requests
    HEAD = auto()
    BODY = auto()
    WORK = auto()  # the request is whole: it waits for the application
    SOCKET = auto()  # a websocket
    CLOSING = auto()  # our last word is said; what still comes is dropped


def problem(status: int, words: str, retry_after: int = 0) -> bytes:
    """A whole answer that closes the connection, as problem details (RFC 9457)."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": words}
    body = json.dumps(content).encode()
    head = b"HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\nConnection: close\r\n"
    more = b"Retry-After: %d\r\n" % retry_after if retry_after else b""
    return head % (status, PHRASES[status], len(body)) + more + b"\r\n" + body


class ReceiveQueue(asyncio.Queue[dict[str, Any]]):
    """What the application has not taken yet. A sender that is more than AHEAD in front of it has to wait."""

    def __init__(self, wire: "Channel") -> None:
        super().__init__()
        self._wire, self._size, self.expects = wire, 0, False

    async def get(self) -> dict[str, Any]:
        """The next message, which a client that asked whether to send it (Expect, RFC 9110, 10.1.1) is told to send."""
        if self.expects:
            self.expects = False
            self._wire.send_continue()
        return await super().get()

    def _put(self, item: dict[str, Any]) -> None:
        super()._put(item)
        self._size += _length(item)
        if self._size > AHEAD:
            self._wire.pause_reading()

    def _get(self) -> dict[str, Any]:
        item: dict[str, Any] = super()._get()
        self._size -= _length(item)
        if self._size <= AHEAD:
            self._wire.resume_reading()
        return item


def _length(message: dict[str, Any]) -> int:
    return 64 + len(message.get("body") or message.get("bytes") or message.get("text") or b"")


class Channel(http.HTTPChannel):
    """One connection: reads heads and bodies, keeps to the limits, and closes in a way that lets the answer arrive."""

    # Ours come first; a line of a head may be as long as the head.
    maxHeaders, totalHeadersSize, MAX_LENGTH = HEADERS_MAX + 1, HEAD_MAX * 2, HEAD_MAX

    def connectionMade(self) -> None:
        """Take the connection in, if need be for a health check alone."""
        super().connectionMade()
        self.server: Server = self.factory.server
        self.peer = str(getattr(self.transport.getPeer(), "host", ""))
        self.proxied = is_proxy(self.peer)
        self.phase, self.deadline = Phase.HEAD, self.now() + settings.HEAD_SECONDS
        self.received = self.dropped = 0
        self.body_since = 0.0
        self.paused_since: float | None = None
        self.blocked: asyncio.Future[None] | None = None
        self.blocked_since, self.unsent = 0.0, (0, 0)
        self._lines = self._head_size = 0
        self.server.enter(self)

    now = staticmethod(time.monotonic)

    # --- reading ---

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""
        if self.phase is Phase.CLOSING:
            self.dropped += len(data)
            if self.dropped > LINGER_MAX:
                self.transport.abortConnection()
            return
        if self.phase is Phase.IDLE:
            self.phase, self.deadline = Phase.HEAD, self.now() + settings.HEAD_SECONDS
        basic.LineReceiver.dataReceived(self, data)

    def lineReceived(self, line: bytes) -> None:
        """A line of a head."""
        if self.phase is Phase.CLOSING:
            return
        self._lines += 1
        self._head_size += len(line) + 2
        if self._lines == 1 and len(line) > LINE_MAX:
            self.refuse(414, f"A request line may have {LINE_MAX} bytes.")
        elif self._head_size > HEAD_MAX or self._lines > HEADERS_MAX + 2:
            self.refuse(431, f"A request may have {HEADERS_MAX} headers, with {HEAD_MAX} bytes in all.")
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line without an end."""
        self.refuse(*((414, "The request line is too long.") if not self._lines else (431, "A header is too long.")))

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        if header == b"Content-Length" and len(data) > 18:  # more digits than Python reads as a number, in the end
            self.refuse(413, "No address takes an exabyte.")
            return False
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def allHeadersReceived(self) -> None:
        """The head is there: refuse it, or ask the application."""
        request = self.requests[-1]
        self._lines = self._head_size = 0
        self.persistent = self.checkPersistence(request, self._version)
        self.server.open.head_received(self)
        request.read_head(self._command, self._path, self._version)
        error = self.server.head_error(self, request, self.length)
        if error:
            self.refuse(*error)
            return
        self.phase, self.deadline = Phase.BODY, math.inf
        self.received, self.body_since = 0, self.now()
        request.start(self.length)

    def rawDataReceived(self, data: bytes) -> None:
        """Bytes of a body, or what was sent before its time."""
        if self.phase is Phase.SOCKET:
            self.transport.protocol.dataReceived(data)
        elif self.phase is not Phase.CLOSING:
            super().rawDataReceived(data)

    def body_received(self, size: int, body_limit: int | None) -> bool:
        """Count a piece of the body; False if it is to be dropped."""
        if self.phase is Phase.CLOSING:
            return False
        self.received += size
        if body_limit is not None and self.received > body_limit:
            self.refuse(413, f"A request to this address may have {body_limit} bytes.")
            return False
        return True

    def allContentReceived(self) -> None:
        """The request is whole."""
        if self.phase is not Phase.CLOSING:
            self.phase = Phase.WORK
            super().allContentReceived()

    def requestDone(self, request: "Request") -> None:
        """The answer is given. If it did not wait for the whole request, what follows is no request."""
        if self.phase is Phase.BODY:
            self.requests.remove(request)
            self.linger()
            return
        self.phase, self.deadline = Phase.IDLE, self.now() + IDLE_SECONDS
        self.server.open.head_awaited(self)
        super().requestDone(request)

    def send_continue(self) -> None:
        """Tell the client to send its body."""
        if self.phase is Phase.BODY and not self.received:
            self._send100Continue()

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        if self.paused_since is None and self.phase in (Phase.BODY, Phase.SOCKET):
            self.paused_since = self.now()
            self._networkProducer.pauseProducing()

    def resume_reading(self) -> None:
        """Read on. The time that we took is not the client's."""
        if self.paused_since is not None:
            self.body_since += self.now() - self.paused_since
            self.paused_since = None
            if self.phase is not Phase.CLOSING:
                self._networkProducer.resumeProducing()

    # --- writing ---

    def pauseProducing(self) -> None:
        """The other side takes less than the application gives."""
        super().pauseProducing()
        if self.blocked is None:
            self.blocked, self.blocked_since = asyncio.get_event_loop().create_future(), self.now()

    def resumeProducing(self) -> None:
        """All was taken."""
        self._unblock()
        super().resumeProducing()

    def _unblock(self) -> None:
        if self.blocked is not None and not self.blocked.done():
            self.blocked.set_result(None)
        self.blocked = None

    # --- ending ---

    def refuse(self, status: int, words: str, retry_after: int = 0) -> None:
        """Answer in the place of the application, and close."""
        if self.phase is Phase.CLOSING:
            return
        self.server.refusals.add(status, self.peer, self.now())
        request = self.requests[-1] if self.requests else None
        if request is not None and request.startedWriting:  # half an answer: its reader has to see that it broke off
            self.phase, self.deadline = Phase.CLOSING, self.now() + LINGER_SECONDS
            self.transport.abortConnection()
            return
        self.transport.write(problem(status, words, retry_after))
        if request is not None:
            request.abandon()
        self.linger()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(400, "This is no HTTP/1.1 request.")

    def linger(self) -> None:
        """Close our side, and read on for a while: bytes that nobody reads would reset the connection, and the answer
        with it (RFC 9112, section 9.6)."""
        self.phase, self.deadline = Phase.CLOSING, self.now() + LINGER_SECONDS
        self._networkProducer.unregisterProducer()
        self._networkProducer.resumeProducing()
        self.transport.loseWriteConnection()

    def loseConnection(self) -> None:
        """Close when all is sent."""
        self.phase, self.deadline = Phase.CLOSING, self.now() + SEND_SECONDS
        super().loseConnection()

    def check_deadlines(self, now: float) -> None:
        """End what is overdue. Called each second."""
        if self.blocked is not None:
            unsent = (len(self.transport.dataBuffer) - self.transport.offset, self.transport._tempDataLen)
            if unsent != self.unsent:
                self.unsent, self.blocked_since = unsent, now
            elif now - self.blocked_since > SEND_SECONDS:
                self.transport.abortConnection()
        if self.phase is Phase.BODY and self.paused_since is None:
            if now > self.body_since + settings.BODY_SECONDS + self.received / BODY_RATE:
                self.refuse(408, "The body did not come in time.")
        elif now <= self.deadline or self.phase in (Phase.WORK, Phase.SOCKET):
            return
        elif self.phase is Phase.CLOSING:
            self.transport.abortConnection()
        elif self.phase is Phase.HEAD and (self._buffer or self.requests):
            self.refuse(408, "The request's head did not come in time.")
        else:
            self.loseConnection()

    def connectionLost(self, reason: Any) -> None:
        """The connection is over."""
        self.closed()
        super().connectionLost(reason)

    def closed(self) -> None:
        """The connection is over: as a websocket it has another protocol, which hears of it."""
        self.phase = Phase.CLOSING
        self.server.leave(self)
        self._unblock()


class Request(WebRequest):
    """One request, which the application gets when its head is there."""

    def __init__(self, channel: Channel, *args: Any) -> None:
        self.wire = channel
        super().__init__(channel, *args)

    def read_head(self, method: bytes, uri: bytes, version: bytes) -> None:
        """Know what is asked for."""
        self.method, self.uri, self.clientproto = method, uri, version
        self.path, _, self.query_string = uri.partition(b"?")
        self.client_addr = [str(self.client.host), self.client.port]
        self.server_addr = [str(self.host.host), self.host.port]
        upgrade = self.requestHeaders.getRawHeaders(b"Upgrade") or [b""]
        self.is_socket = upgrade[0].lower() == b"websocket"

    def start(self, length: int | None) -> None:
        """Ask the application; `length` is None for a body that comes in chunks."""
        self.body_limit = self.server.body_max(unquote(self.path.decode("ascii")))
        self.length = length
        if self.is_socket:
            return
        self.application_queue = self.server.create_application(
            self,
            {
                "type": "http",
                "http_version": self.clientproto.rpartition(b"/")[2].decode("ascii"),
                "method": self.method.decode("ascii"),
                "path": unquote(self.path.decode("ascii")),
                "raw_path": self.path,
                "root_path": "",
                "scheme": "http",
                "query_string": self.query_string,
                "headers": [(name.lower(), value) for name, value in self._trusted_headers()],
                "client": self.client_addr,
                "server": self.server_addr,
            },
        )
        expect = self.requestHeaders.getRawHeaders(b"Expect") or [b""]
        self.application_queue.expects = expect[0].lower() == b"100-continue" and length != 0

    def _trusted_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers, but those that the sender has no right to.

        What a proxy adds is believed from a proxy alone. `Daphne-Root-Path` is from nobody: Berth lives at the root. A
        name with an underscore would be mistaken for one with a hyphen (CVE-2015-0219).
        """
        return [
            (name, value)
            for name, values in self.requestHeaders.getAllRawHeaders()
            if b"_" not in name
            and (low := name.lower()) != b"daphne-root-path"
            and (self.wire.proxied or not low.startswith(FORWARDED))
            for value in values
        ]

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
        if self.wire.body_received(len(data), self.body_limit) and self.application_queue:
            more = self.length is None or self.wire.received < self.length
            self.application_queue.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is whole."""
        if self.is_socket:
            self._upgrade()
        elif self.application_queue and not self.length:
            self.application_queue.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    def _upgrade(self) -> None:
        """Hand the connection to a websocket's protocol, as daphne does."""
        protocol = self.server.ws_factory.buildProtocol(self.client)
        protocol._raw_query_string, protocol.wire = self.query_string, self.wire
        self.wire.phase = Phase.SOCKET
        head = b"%b %b HTTP/1.1\r\n" % (self.method, self.uri)
        head += b"".join(b"%b: %b\r\n" % header for header in self._trusted_headers())
        self.server.protocol_disconnected(self)
        self.wire.transport.protocol = protocol
        protocol.makeConnection(self.wire.transport)
        protocol.dataReceived(head + b"\r\n")

    def handle_reply(self, message: dict[str, Any]) -> None:
        """What the application answers. Who answers before the body is there does not want the rest."""
        if message["type"] == "http.response.start" and (self.wire.phase is Phase.BODY or not self.wire.persistent):
            self.wire.persistent = False
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        super().handle_reply(message)

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """With the phrase of the registry, of which Twisted knows a part: 422 was an "Unknown Status"."""
        super().setResponseCode(code, message or PHRASES.get(code, b"Unknown"))

    def handle_exception(self, exception: Exception) -> None:
        """The application failed where it could not say so itself."""
        full = isinstance(exception, OSError) and exception.errno in (28, 122)  # ENOSPC, EDQUOT
        self.wire.refuse(*((507, "There is no room for the request.") if full else (500, "Berth failed. See its log.")))

    def abandon(self) -> None:
        """It was refused: the application hears that its client is gone, and what it answers is dropped."""
        if self.application_queue:
            self.send_disconnect()
        self.server.protocol_disconnected(self)


class WebSocket(WebSocketProtocol):
    """A websocket, whose messages are small and whose reader sets the pace."""

    wire: Channel

    def onMessageFrameBegin(self, length: int) -> None:
        """A frame's head: autobahn's own limit is also one of what goes out, so what comes in has another."""
        if self.message_data_total_length + length > FRAME_MAX and not self.failedByMe:
            size = self.message_data_total_length + length
            self._max_message_size_exceeded(size, FRAME_MAX, f"a message may have {FRAME_MAX} bytes")
        super().onMessageFrameBegin(length)

    def connectionLost(self, reason: Any) -> None:
        """Tell the connection as well."""
        self.wire.closed()
        super().connectionLost(reason)


class SocketFactory(WebSocketFactory):
    """Makes websockets of ours."""

    protocol = WebSocket


class Factory(HTTPFactory):
    """Makes connections of ours."""

    protocol = Channel

    def __init__(self, server: "Server") -> None:
        super().__init__(server)
        self.timeOut = None  # `Channel.check_deadlines` instead: a timer for each piece that comes costs more

    def buildProtocol(self, addr: Any) -> Channel:
        """A connection from an address."""
        made: Channel = super().buildProtocol(addr)
        made.requestFactory = Request
        return made


class Server(daphne.Server):
    """Listens on one address until it is told to end. `body_max` says how many bytes a path takes; None: any number."""

    def __init__(self, application: Any, host: str, port: int, body_max: BodyMax, health: tuple[str, ...]) -> None:
        address = host.strip("[]").replace(":", r"\:")
        super().__init__(
            application,
            endpoints=[f"tcp:port={port}:interface={address}:backlog=1024"],
            application_close_timeout=5,
            websocket_max_message_size=SENT_FRAME_MAX,
            websocket_max_frame_size=SENT_FRAME_MAX,
            server_name="",
        )
        self.body_max, self.health = body_max, health
        self.failed = ""
        self.refusals = RefusalLog()
        most = min(settings.MAX_CONNECTIONS, raise_descriptors() - OWN_FILES - SPARE)
        if most < settings.MAX_CONNECTIONS:
            log.warning("fewer connections than MAX_CONNECTIONS: the limit of open files is low", connections=most)
        self.open: Connections[Channel] = Connections(max(most, 1), settings.CONNECTIONS_PER_ADDRESS)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Daphne's own, with protocols of ours."""
        self.connections: dict[Any, dict[str, Any]] = {}
        self.http_factory = Factory(self)
        self.ws_factory = SocketFactory(self, server=self.server_name)
        self.ws_factory.setProtocolOptions(
            autoPingTimeout=self.ping_timeout,
            allowNullOrigin=True,
            openHandshakeTimeout=self.websocket_handshake_timeout,
            maxMessagePayloadSize=self.websocket_max_message_size,
            maxFramePayloadSize=self.websocket_max_frame_size,
        )
        globalLogBeginner.beginLoggingTo([lambda _: None], redirectStandardIO=False, discardBuffer=True)
        reactor.callLater(1, self.application_checker)
        reactor.callLater(2, self.timeout_checker)
        reactor.callLater(1, self._check_deadlines)
        for endpoint in self.endpoints:
            listening = serverFromString(reactor, endpoint).listen(self.http_factory)
            listening.addCallback(self.listen_success)
            listening.addErrback(self.listen_error)
            self.listeners.append(listening)
        asyncio.set_event_loop(reactor._asyncioEventloop)
        reactor.addSystemEventTrigger("before", "shutdown", self.kill_all_applications)
        if not self.abort_start:
            reactor.run(installSignalHandlers=True)

    def listen_error(self, failure: Any) -> None:
        """There is nobody to serve."""
        self.failed = failure.getErrorMessage()
        self.stop()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for channel in self.open.all():
            try:
                channel.check_deadlines(now)
            except Exception:
                log.exception("a connection could not be checked")
        reactor.callLater(1, self._check_deadlines)

    def enter(self, channel: Channel) -> None:
        """A connection was made."""
        for other in self.open.add(channel, None if channel.proxied else client_network(channel.peer)):
            self.refusals.add(503, other.peer, time.monotonic())
            other.transport.abortConnection()

    def leave(self, channel: Channel) -> None:
        """A connection is over."""
        self.open.remove(channel)

    def head_error(self, channel: Channel, request: Request, length: int | None) -> tuple[Any, ...] | None:
        """Why a request is refused by its head: status, words, and seconds after which to come again; None if not."""
        if not (request.path.isascii() and request.query_string.isascii()):
            return 400, "An address is written in ASCII."
        path = unquote(request.path.decode("ascii"))
        if self.open.is_spare(channel):
            if path not in self.health or request.is_socket:
                return 503, "There are too many connections. Come again later.", 5
            channel.persistent = False
        if request.is_socket and length != 0:
            return 400, "A request for a websocket has no body."
        body_limit = self.body_max(path)
        if length is not None and body_limit is not None and length > body_limit:
            return 413, f"A request to this address may have {body_limit} bytes."
        return None

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> ReceiveQueue:
        """Start the application for a request or a websocket; returns where what its client sends is put."""
        queue = ReceiveQueue(protocol.wire)
        scope["asgi"] = {"version": "3.0"}
        running = self.application(scope=scope, receive=queue.get, send=partial(self.handle_reply, protocol))
        self.connections[protocol]["application_instance"] = asyncio.ensure_future(running)
        return queue

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Hand on what the application says, at the pace of who reads it."""
        await super().handle_reply(protocol, message)
        if not message.get("more_body") and message["type"] != "websocket.send":
            return
        if protocol.wire.blocked is not None:
            await asyncio.shield(protocol.wire.blocked)
        elif protocol.wire.phase is Phase.CLOSING:
            await asyncio.sleep(0)  # who talks on to nobody lets others have their turn, until it is ended

    def protocol_disconnected(self, protocol: Any) -> None:
        """A request or websocket is over. May be said again, also of one that was cleared away."""
        if protocol in self.connections:
            super().protocol_disconnected(protocol)

    def kill_all_applications(self) -> Any:
        """End the applications before the process does; a request whose head is not there yet has none."""
        running = [one for each in self.connections.values() if (one := each.get("application_instance"))]
        for one in running:
            one.cancel()
        ended = defer.Deferred.fromFuture(asyncio.gather(*running, return_exceptions=True))
        ended.addErrback(lambda _: None)
        return ended


def raise_descriptors() -> int:
    """Let this process open as many files as the machine allows it; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = NOFILE_MAX if hard == resource.RLIM_INFINITY else min(hard, NOFILE_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return NOFILE_MAX if soft == resource.RLIM_INFINITY else soft
