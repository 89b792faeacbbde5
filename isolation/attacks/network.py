"""Straight connections: to addresses, by name, and to resolvers."""

import os
import select
import socket
import struct
import time
from typing import Any

from isolation.attacks.base import Got, Refused

SECONDS = 2.5  # for an answer; what a policy drops never gives one


def connection(address: str, port: int) -> socket.socket:
    """A TCP connection. Raises Refused in words."""
    try:
        return socket.create_connection((address, port), SECONDS)
    except TimeoutError:
        raise Refused(f"no answer from {address}:{port} within {SECONDS:g} s") from None
    except OSError as error:
        raise Refused(f"{address}:{port}: {error.strerror or error}") from None


def tcp(address: str, port: int) -> Got:
    """Connect, and send nothing."""
    with connection(address, port):
        return Got(f"connected to {address}:{port}")


def tcp_any(places: list[tuple[str, int]]) -> Got:
    """Connect to any of several places, all at once."""
    end, refusals = time.monotonic() + SECONDS, []
    waiting = {
        talk.fileno(): (talk, f"{address}:{port}") for address, port in places for talk in [_begun(address, port)]
    }
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLOUT)
    while waiting and (left := end - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            talk, place = waiting.pop(fd)
            poll.unregister(fd)
            if not (number := talk.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return Got(f"connected to {place}")
            refusals.append(f"{place}: {os.strerror(number)}")
    if waiting:
        silent = ", ".join(place for _, place in waiting.values())
        refusals.append(f"no answer from {silent} within {SECONDS:g} s")
    raise Refused("; ".join(refusals))


def _begun(address: str, port: int) -> socket.socket:
    """A connection that is being made."""
    talk = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    talk.setblocking(False)
    talk.connect_ex((address, port))
    return talk


def udp(address: str, port: int, text: str) -> Got:
    """Send one datagram, and wait for anything that comes back."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as talk:
        talk.settimeout(SECONDS)
        talk.connect((address, port))
        try:
            talk.send(text.encode())
            answer = talk.recv(2048)
        except TimeoutError:
            raise Refused(f"no answer from {address}:{port} within {SECONDS:g} s") from None
    return Got(f"{address}:{port} answered {len(answer)} bytes")


def question(name: str) -> bytes:
    """A DNS query for the address of a name (RFC 1035, section 4), with a random id in its first two bytes."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return os.urandom(2) + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def dns(address: str, name: str, port: int = 53) -> Got:
    """Ask a resolver for a name, in a single packet: any answer at all would be a tunnel."""
    query = question(name)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as talk:
        talk.settimeout(SECONDS)
        talk.connect((address, port))
        try:
            talk.send(query)
            while (answer := talk.recv(2048))[:2] != query[:2]:
                continue
        except TimeoutError:
            raise Refused(f"no answer from {address}:{port} within {SECONDS:g} s") from None
    return Got(f"{address}:{port} answered {len(answer)} bytes for {name}")


def dns_tcp(address: str, name: str, port: int = 53) -> Got:
    """The same over TCP (RFC 7766)."""
    query = question(name)
    with connection(address, port) as talk:
        talk.sendall(struct.pack(">H", len(query)) + query)
        answer = talk.recv(2048)
    return Got(f"connected to {address}:{port}, which answered {len(answer)} bytes")


def resolve(names: list[str]) -> Got:
    """Look names up in the way that programs do."""
    for name in names:
        try:
            found = socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
        except OSError:
            continue
        return Got(f"{name} is {found[0][4][0]}")
    raise Refused(f"none of {', '.join(names)} could be looked up")


ATTACKS: dict[str, Any] = {
    "tcp": tcp,
    "tcp_any": tcp_any,
    "udp": udp,
    "dns": dns,
    "dns_tcp": dns_tcp,
    "resolve": resolve,
}
