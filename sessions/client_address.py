"""Who may say on whose behalf a request comes: the proxies in front of `web` (PROXIES, PROXY_NETWORKS)."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings


def is_proxy(address: str) -> bool:
    """Whether what this address says in X-Forwarded-… is believed. Without PROXY_NETWORKS everybody's is."""
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


@lru_cache(maxsize=1024)
def client(address: str) -> str:
    """What counts as one client: an IPv4 address, or a /64, of which an IPv6 host has all (RFC 6177)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4 or parsed.ipv4_mapped:
        return str(getattr(parsed, "ipv4_mapped", None) or parsed)
    return str(ip_network((parsed, 64), strict=False))
