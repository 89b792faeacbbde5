"""Where pods may connect to, from URLs: addresses for NetworkPolicies, and names for pods' /etc/hosts.

Pods have no DNS, so the control plane resolves the few names that they need. Answers are kept for a minute, and longer
while nobody gives a newer one.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from runtimes.base import Cause, TransientFault

FRESH_SECONDS = 60.0
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a URL leads: a host that may be a name, its port, and its addresses in order."""

    host: str
    port: int
    addresses: tuple[str, ...]


class Resolver:
    """Resolves the hosts of URLs. Safe to share among threads."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, float]] = {}  # host → address → when it was last among its addresses
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}  # host → (until when it is fresh, addresses)
        self._lock = threading.Lock()

    def endpoint(self, url: str) -> Endpoint | None:
        """Where `url` leads; None if it is empty. Raises TransientFault if its name never could be resolved."""
        if not url:
            return None
        parts = urlsplit(url)
        host = parts.hostname or ""
        return Endpoint(host, parts.port or (443 if parts.scheme == "https" else 80), self._addresses(host))

    def endpoint_with_history(self, url: str) -> Endpoint | None:
        """As `endpoint`, with all addresses of the last day.

        What was started while a name led elsewhere keeps to that, and shall not be cut off while it answers there.
        """
        found = self.endpoint(url)
        if found is None:
            return None
        with self._lock:
            seen = self._seen.setdefault(found.host, {})
            seen.update(dict.fromkeys(found.addresses, time.monotonic()))
            for address in [each for each, at in seen.items() if time.monotonic() - at > DAY]:
                del seen[address]
            return replace(found, addresses=tuple(sorted(seen)))

    def hosts(self, urls: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """(address, name) for each name in these URLs, for /etc/hosts; addresses stand for themselves."""
        found = filter(None, map(self.endpoint, urls))
        return tuple(sorted({(ip, each.host) for each in found if not is_address(each.host) for ip in each.addresses}))

    def _addresses(self, host: str) -> tuple[str, ...]:
        if is_address(host):
            return (host,)
        with self._lock:
            until, addresses = self._known.get(host, (0.0, ()))
        if until > time.monotonic():
            return addresses
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = tuple(sorted({str(each[4][0]).partition("%")[0] for each in found}))
        except OSError as error:
            if not addresses:
                raise TransientFault(Cause.UNREACHABLE, f"{host} can't be resolved: {error}", 5.0) from error
        with self._lock:
            self._known[host] = (time.monotonic() + FRESH_SECONDS, addresses)
        return addresses


def is_address(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
