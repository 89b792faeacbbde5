"""Which addresses may be dialled: those of the public internet, and the exceptions that an operator names. Pure."""

import ipaddress
from collections.abc import Collection, Iterable, Mapping

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Exceptions = Mapping[str, Collection[Address]]

# `is_global` is asked as well. What stands here is refused by every version of Python, whatever its own list says.
NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers, and clusters of some clouds
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: the clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/8",  # unspecified, loopback, IPv4-compatible, and 64:ff9b::/96 (IPv4 behind a NAT64)
        "2001::/23",  # Teredo and other tunnels
        "2002::/16",  # 6to4
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is given out of IPv6


def parse(text: str) -> Address | None:
    """Return the address that a resolver wrote, an IPv4-mapped one as its IPv4; None for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_public(address: Address, refused: Collection[Network] = ()) -> bool:
    """Tell whether an address belongs to the public internet, and to none of the `refused` networks."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return is_public(mapped, refused)
    if not address.is_global or any(address in network for network in (*NOT_PUBLIC, *refused)):
        return False
    return address.version == 4 or address in UNICAST


def allowed_addresses(
    host: str, resolved: Iterable[str], exceptions: Exceptions, refused: Collection[Network] = ()
) -> list[str]:
    """Return the addresses to dial for a host (A-label form), in the resolver's order.

    Every one must be public or an exception for that very host: raises NotPublic for the first that is not.
    """
    allowed = []
    for text in resolved:
        address = parse(text)
        if address is None or not (address in exceptions.get(host, ()) or is_public(address, refused)):
            raise NotPublic(text)
        if str(address) not in allowed:
            allowed.append(str(address))
    return allowed


class NotPublic(Exception):
    """A name has an address that is not public; the message is that address."""
