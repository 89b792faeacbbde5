"""The control plane by the one port of it that pods may connect to: what is asked there without being a courier."""

import base64
import http.client
import os
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from agents.attacks.base import Got, Refused
from agents.attacks.network import SECONDS, connection

LOGIN = "/login/"
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


def ask(url: str, path: str, method: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Ask the control plane for a path; the answer, unread. Raises Refused if nobody answers."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    talk = connection(parts.hostname or "", parts.port or (443 if tls else 80))
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        talk = context.wrap_socket(talk, server_hostname=parts.hostname)
    talk.settimeout(SECONDS)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port)
    client.sock = talk
    client.request(method, path, headers=headers)
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


ATTACKS: dict[str, Any] = {"http_path": http_path, "websocket": websocket}
