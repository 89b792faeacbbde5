"""The address that a request comes from, as far as the proxies in front of `web` are believed (PROXIES,
PROXY_NETWORKS)."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from django.conf import settings


def is_proxy(address: str) -> bool:
    """Whether this address is believed in what it says in X-Forwarded-…. Without PROXY_NETWORKS everybody is."""
    return settings.PROXIES > 0 and _within(address, tuple(settings.PROXY_NETWORKS))


@lru_cache(maxsize=1024)
def _within(address: str, networks: tuple[str, ...]) -> bool:
    if not networks:
        return True
    try:
        caller = ip_address(address)
    except ValueError:
        return False
    if isinstance(caller, IPv6Address) and caller.ipv4_mapped:
        caller = caller.ipv4_mapped
    return any(caller in ip_network(each) for each in networks)


def client_address(direct: str, forwarded: str) -> str:
    """The address that a request came from, seen by the outermost of our `PROXIES` proxies.

    Each proxy appends the address that called it to X-Forwarded-For (`forwarded`), so the entry that counts is that
    many from the end. What stands before it was written by the client, who may write anything. Who calls past the
    proxies (a pod reaches `web` by itself) writes all of it: so only callers (`direct`) of `PROXY_NETWORKS` are
    believed, if any are named.
    """
    if not is_proxy(direct):
        return direct
    chain = [part.strip() for part in forwarded.split(",") if part.strip()]
    return chain[-settings.PROXIES][:45] if len(chain) >= settings.PROXIES else direct


def request_address(request: Any) -> str:
    """As `client_address`, of a request of Django's."""
    return client_address(str(request.META.get("REMOTE_ADDR") or ""), request.META.get("HTTP_X_FORWARDED_FOR", ""))


def scope_address(scope: dict[str, Any]) -> str:
    """As `client_address`, of a connection of ASGI."""
    forwarded = [value.decode("latin-1") for name, value in scope.get("headers", []) if name == b"x-forwarded-for"]
    return client_address(str((scope.get("client") or [""])[0]), ",".join(forwarded))


@lru_cache(maxsize=1024)
def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or a /64, of which an IPv6 host has all (RFC 6177)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4 or parsed.ipv4_mapped:
        return str(getattr(parsed, "ipv4_mapped", None) or parsed)
    return str(ip_network((parsed, 64), strict=False))
