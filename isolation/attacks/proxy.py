"""The egress proxy: what it must let through, and every way around it that goes through it."""

import base64
import http.client
import os
import socket
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from isolation.attacks.base import Got, Refused, Untested
from isolation.attacks.network import connection

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
    told = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Proxy-Authorization: Basic {told}\r\n"


def ask(head: str) -> tuple[socket.socket, int, str]:
    """Send a request's head to the proxy; the connection, the answer's status, and how the answer begins."""
    proxy = urlsplit(os.environ.get("HTTPS_PROXY", ""))
    if not proxy.hostname:
        raise Untested("the agent was given no proxy")
    talk = connection(proxy.hostname, proxy.port or 3128)
    talk.settimeout(SECONDS)
    answer = b""
    try:
        talk.sendall(head.encode())
        # Byte by byte, since what follows the head is the other side's first word.
        while not answer.endswith(b"\r\n\r\n") and len(answer) < HEAD_MAX and (data := talk.recv(1)):
            answer += data
    except TimeoutError:
        raise Refused(f"the proxy gave no answer within {SECONDS:g} s") from None
    start = answer.partition(b"\r\n")[0].decode("latin-1")
    words = start.split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise Refused("the proxy closed the connection")
    return talk, int(words[1]), " ".join(words[1:])


def tunnel(host: str, port: int, credential: str = "own") -> socket.socket:
    """A tunnel to a host. Raises Refused with the proxy's words."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization(credential)}\r\n"
    talk, status, start = ask(head)
    if status != 200:
        talk.close()
        raise Refused(f"CONNECT {place}: {start}")
    return talk


def connect(hosts: list[str], port: int, credential: str = "own") -> Got:
    """Ask for tunnels to hosts; one that opens is enough."""
    refusals = []
    for host in hosts:
        try:
            tunnel(host, port, credential).close()
        except Refused as refused:
            refusals.append(str(refused))
            continue
        return Got(f"the proxy opened a tunnel to {host}:{port}")
    raise Refused("; ".join(refusals))


def tls(host: str, port: int, name: str = "", path: str = "/", credential: str = "own") -> tuple[int, str]:
    """Speak TLS through a tunnel, with `name` as the server's name, and ask for a path: status and Location.

    An empty `name` sends none. Certificates are not looked at: the question is who is reached. Raises Refused.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = tunnel(host, port, credential)
    try:
        with context.wrap_socket(plain, server_hostname=name or None) as talk:
            talk.sendall(f"GET {path} HTTP/1.1\r\nHost: {name or host}\r\nConnection: close\r\n\r\n".encode())
            client = http.client.HTTPResponse(talk)
            client.begin()
            return client.status, client.getheader("Location") or ""
    except (OSError, http.client.HTTPException) as error:
        raise Refused(f"the tunnel to {host} was closed before an answer ({type(error).__name__})") from None


def fetch(host: str, port: int, name: str = "", path: str = "/") -> Got:
    """Get a page by HTTPS through the proxy, as `name`, or without a server name if it is `-`."""
    sent = "" if name == "-" else name or host
    status, _ = tls(host, port, sent, path)
    return Got(f"https://{host}:{port}{path} as {sent or 'nobody'} answered {status}")


def redirect(host: str, port: int, path: str, to: tuple[str, int]) -> Got:
    """Follow a redirect of an allowed host; where there is none, ask for what it would have led to."""
    status, location = tls(host, port, host, path)
    parts = urlsplit(location)
    target = (parts.hostname, parts.port or 443) if 300 <= status < 400 and parts.hostname else to
    tunnel(*target).close()
    return Got(f"the proxy opened a tunnel to {target[0]}:{target[1]}, to which {host} redirects")


def raw(host: str, port: int, text: str) -> Got:
    """Speak something else than TLS in a tunnel. Got is a single byte in answer."""
    with tunnel(host, port) as talk:
        talk.settimeout(SECONDS)
        try:
            talk.sendall(text.encode())
            answer = talk.recv(1024)
        except TimeoutError:
            raise Refused(f"nothing came back from {host} within {SECONDS:g} s") from None
    if not answer:
        raise Refused("the tunnel was closed without an answer")
    return Got(f"{host}:{port} answered {len(answer)} bytes")


def plain(urls: list[str], hosts: list[str]) -> Got:
    """Plain HTTP for a URL with Host lines that say something else. Got is an answer that is not the proxy's no."""
    refusals = []
    for url in urls:
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        talk, status, start = ask(f"GET {url} HTTP/1.1\r\n{lines}{authorization('own')}Connection: close\r\n\r\n")
        talk.close()
        if status < 400:
            return Got(f"{url} answered {start}")
        refusals.append(f"{url}: {start}")
    raise Refused("; ".join(refusals))


ATTACKS: dict[str, Any] = {
    "proxy_connect": connect,
    "proxy_fetch": fetch,
    "proxy_redirect": redirect,
    "proxy_raw": raw,
    "proxy_plain": plain,
}
