"""Straight connections: to addresses, by name, and to resolvers."""

import os
import select
import socket
import struct
import time
from typing import Any

from isolation.attacks.base import Blocked, Success

SECONDS = 2.5  # for an answer; what a policy drops never gives one


def open_connection(address: str, port: int) -> socket.socket:
    """A TCP connection. Raises Blocked in words."""
    try:
        return socket.create_connection((address, port), SECONDS)
    except TimeoutError:
        raise Blocked(f"no answer from {address}:{port} within {SECONDS:g} s") from None
    except OSError as error:
        raise Blocked(f"{address}:{port}: {error.strerror or error}") from None


def tcp(address: str, port: int) -> Success:
    """Connect, and send nothing."""
    with open_connection(address, port):
        return Success(f"connected to {address}:{port}")


def tcp_any(endpoints: list[tuple[str, int]]) -> Success:
    """Connect to any of several endpoints, all at once."""
    end, refusals = time.monotonic() + SECONDS, []
    waiting = {
        sock.fileno(): (sock, f"{address}:{port}")
        for address, port in endpoints
        for sock in [_start_connecting(address, port)]
    }
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLOUT)
    while waiting and (left := end - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            sock, endpoint = waiting.pop(fd)
            poll.unregister(fd)
            if not (number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return Success(f"connected to {endpoint}")
            refusals.append(f"{endpoint}: {os.strerror(number)}")
    if waiting:
        silent = ", ".join(endpoint for _, endpoint in waiting.values())
        refusals.append(f"no answer from {silent} within {SECONDS:g} s")
    raise Blocked("; ".join(refusals))


def _start_connecting(address: str, port: int) -> socket.socket:
    """A connection that is being made."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setblocking(False)
    sock.connect_ex((address, port))
    return sock


def udp(address: str, port: int, text: str) -> Success:
    """Send one datagram, and wait for anything that comes back."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.connect((address, port))
        try:
            sock.send(text.encode())
            response = sock.recv(2048)
        except TimeoutError:
            raise Blocked(f"no answer from {address}:{port} within {SECONDS:g} s") from None
    return Success(f"{address}:{port} answered {len(response)} bytes")


def dns_query(name: str) -> bytes:
    """A DNS query for the address of a name (RFC 1035, section 4), with a random id in its first two bytes."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return os.urandom(2) + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def dns(address: str, name: str, port: int = 53) -> Success:
    """Ask a resolver for a name, in a single packet: any answer at all would be a tunnel."""
    query = dns_query(name)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.connect((address, port))
        try:
            sock.send(query)
            while (response := sock.recv(2048))[:2] != query[:2]:
                continue
        except TimeoutError:
            raise Blocked(f"no answer from {address}:{port} within {SECONDS:g} s") from None
    return Success(f"{address}:{port} answered {len(response)} bytes for {name}")


def dns_tcp(address: str, name: str, port: int = 53) -> Success:
    """The same over TCP (RFC 7766)."""
    query = dns_query(name)
    with open_connection(address, port) as sock:
        sock.sendall(struct.pack(">H", len(query)) + query)
        response = sock.recv(2048)
    return Success(f"connected to {address}:{port}, which answered {len(response)} bytes")


def resolve(names: list[str]) -> Success:
    """Look names up in the way that programs do."""
    for name in names:
        try:
            found = socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
        except OSError:
            continue
        return Success(f"{name} is {found[0][4][0]}")
    raise Blocked(f"none of {', '.join(names)} could be looked up")


ATTACKS: dict[str, Any] = {
    "tcp": tcp,
    "tcp_any": tcp_any,
    "udp": udp,
    "dns": dns,
    "dns_tcp": dns_tcp,
    "resolve": resolve,
}
