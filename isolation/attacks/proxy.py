"""The egress proxy: what it must let through, and every way around it that goes through it."""

import base64
import http.client
import os
import socket
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from isolation.attacks.base import Blocked, Inconclusive, Success
from isolation.attacks.network import open_connection

SECONDS = 4.0  # the proxy may look names up and ask the control plane
HEAD_MAX = 65536


def authorization(credential: str) -> str:
    """The proxy's header line: with the run's `own` credential, a `forged` one, that of another `RUN`, or `none`."""
    proxy = urlsplit(os.environ.get("HTTPS_PROXY", ""))
    user, password = unquote(proxy.username or ""), unquote(proxy.password or "")
    if credential == "none":
        return ""
    if credential == "forged":
        password = "0" * 64
    elif credential != "own":
        user = credential
    userinfo = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Proxy-Authorization: Basic {userinfo}\r\n"


def request(head: str) -> tuple[socket.socket, int, str]:
    """Send a request's head to the proxy; the connection, the answer's status, and how the answer begins."""
    proxy = urlsplit(os.environ.get("HTTPS_PROXY", ""))
    if not proxy.hostname:
        raise Inconclusive("the agent was given no proxy")
    sock = open_connection(proxy.hostname, proxy.port or 3128)
    sock.settimeout(SECONDS)
    answer = b""
    try:
        sock.sendall(head.encode())
        # Byte by byte, since what follows the head is the other side's first word.
        while not answer.endswith(b"\r\n\r\n") and len(answer) < HEAD_MAX and (data := sock.recv(1)):
            answer += data
    except TimeoutError:
        raise Blocked(f"the proxy gave no answer within {SECONDS:g} s") from None
    start = answer.partition(b"\r\n")[0].decode("latin-1")
    status_line = start.split(" ", 2)
    if len(status_line) < 2 or not status_line[1].isdigit():
        raise Blocked("the proxy closed the connection")
    return sock, int(status_line[1]), " ".join(status_line[1:])


def tunnel(host: str, port: int, credential: str = "own") -> socket.socket:
    """A tunnel to a host. Raises Blocked with the proxy's words."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization(credential)}\r\n"
    sock, status, start = request(head)
    if status != 200:
        sock.close()
        raise Blocked(f"CONNECT {target}: {start}")
    return sock


def connect(hosts: list[str], port: int, credential: str = "own") -> Success:
    """Ask for tunnels to hosts; one that opens is enough."""
    refusals = []
    for host in hosts:
        try:
            tunnel(host, port, credential).close()
        except Blocked as refused:
            refusals.append(str(refused))
            continue
        return Success(f"the proxy opened a tunnel to {host}:{port}")
    raise Blocked("; ".join(refusals))


def tls(host: str, port: int, name: str = "", path: str = "/", credential: str = "own") -> tuple[int, str]:
    """Speak TLS through a tunnel, with `name` as the server's name, and ask for a path: status and Location.

    An empty `name` sends none. Certificates are not looked at: the question is who is reached. Raises Blocked.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = tunnel(host, port, credential)
    try:
        with context.wrap_socket(plain, server_hostname=name or None) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {name or host}\r\nConnection: close\r\n\r\n".encode())
            client = http.client.HTTPResponse(sock)
            client.begin()
            return client.status, client.getheader("Location") or ""
    except (OSError, http.client.HTTPException) as error:
        raise Blocked(f"the tunnel to {host} was closed before an answer ({type(error).__name__})") from None


def fetch(host: str, port: int, name: str = "", path: str = "/") -> Success:
    """Get a page by HTTPS through the proxy, as `name`, or without a server name if it is `-`."""
    sent = "" if name == "-" else name or host
    status, _ = tls(host, port, sent, path)
    return Success(f"https://{host}:{port}{path} as {sent or 'nobody'} answered {status}")


def redirect(host: str, port: int, path: str, to: tuple[str, int]) -> Success:
    """Follow a redirect of an allowed host; where there is none, ask for what it would have led to."""
    status, location = tls(host, port, host, path)
    parts = urlsplit(location)
    target = (parts.hostname, parts.port or 443) if 300 <= status < 400 and parts.hostname else to
    tunnel(*target).close()
    return Success(f"the proxy opened a tunnel to {target[0]}:{target[1]}, to which {host} redirects")


def raw(host: str, port: int, text: str) -> Success:
    """Speak something else than TLS in a tunnel. Success is a single byte in answer."""
    with tunnel(host, port) as sock:
        sock.settimeout(SECONDS)
        try:
            sock.sendall(text.encode())
            answer = sock.recv(1024)
        except TimeoutError:
            raise Blocked(f"nothing came back from {host} within {SECONDS:g} s") from None
    if not answer:
        raise Blocked("the tunnel was closed without an answer")
    return Success(f"{host}:{port} answered {len(answer)} bytes")


def plain_http(urls: list[str], hosts: list[str]) -> Success:
    """Plain HTTP for a URL with Host lines that say something else. Success is an answer of no error."""
    refusals = []
    for url in urls:
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        sock, status, start = request(f"GET {url} HTTP/1.1\r\n{lines}{authorization('own')}Connection: close\r\n\r\n")
        sock.close()
        if status < 400:
            return Success(f"{url} answered {start}")
        refusals.append(f"{url}: {start}")
    raise Blocked("; ".join(refusals))


ATTACKS: dict[str, Any] = {
    "proxy_connect": connect,
    "proxy_fetch": fetch,
    "proxy_redirect": redirect,
    "proxy_raw": raw,
    "proxy_plain": plain_http,
}
