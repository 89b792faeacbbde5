"""What a hostile agent asks of the egress proxy. Pure."""

import ipaddress
from collections.abc import Iterator
from typing import Any

from isolation.choices import Expected
from isolation.environment import Surroundings

Fields = dict[str, Any]
NO_PROXY = "there is no egress proxy (EGRESS_PROXY_URL)"
NO_HOST = "no host to allow was named (--allowed-host)"
STRANGER = "not-allowed.example"  # a name that nobody has (RFC 2606)
TRICKS = {
    "private": "A name that resolves to a private address",
    "cname": "A name that is an alias of an internal one",
    "rebinding": "A name whose address changes from one look to the next",
}
TRIES = 6  # of a name whose address changes


def own(around: Surroundings) -> Iterator[Fields]:
    """What the proxy must let through."""
    host, port = around.allowed or ("", 0)
    yield {
        "name": "allowed-host",
        "title": f"A page of an allowed host{f', {host}:{port}' if host else ''}",
        "attack": "proxy_fetch",
        "parameters": {"host": host, "port": port},
        "expected": Expected.SUCCEEDED,
        "untested": _untested(around, True),
    }


def around_the_proxy(around: Surroundings) -> Iterator[Fields]:
    """Ways around the rules, through the proxy."""
    yield from _credentials(around)
    yield from _hosts(around)
    yield from _tunnels(around)
    yield from _names(around)


def _credentials(around: Surroundings) -> Iterator[Fields]:
    host, port = around.allowed or (STRANGER, 443)
    tries = {
        "none": "Without a credential",
        "forged": "With a forged credential",
        around.neighbour.run: "In the neighbour's name",
    }
    for number, (credential, title) in enumerate(tries.items()):
        yield {
            "name": ("proxy-anonymous", "proxy-forged", "proxy-neighbour")[number],
            "title": title,
            "attack": "proxy_connect",
            "parameters": {"hosts": [host], "port": port, "credential": credential},
            "untested": _untested(around),
        }


def _hosts(around: Surroundings) -> Iterator[Fields]:
    canary = around.canary
    yield {
        "name": "proxy-stranger",
        "title": "A host that no rule allows",
        "attack": "proxy_connect",
        "parameters": {"hosts": [STRANGER], "port": 443},
        "untested": _untested(around),
    }
    yield {
        "name": "proxy-literal",
        "title": "Addresses instead of names, in every spelling",
        "attack": "proxy_connect",
        "parameters": {"hosts": spellings(canary.address), "port": canary.port},
        "untested": _untested(around),
    }
    host, _ = around.allowed or ("", 0)
    yield {
        "name": "proxy-port",
        "title": "An allowed host on a port that is not",
        "attack": "proxy_connect",
        "parameters": {"hosts": [host], "port": 22},
        "untested": _untested(around, True),
    }
    url = f"http://{canary.address}:{canary.port}/"
    for name, hosts, title in (
        ("proxy-forged-host", [host], "Plain HTTP with the Host of an allowed one"),
        ("proxy-double-host", [host, canary.address], "Plain HTTP with two Hosts"),
    ):
        yield {
            "name": name,
            "title": title,
            "attack": "proxy_plain",
            "parameters": {"urls": [url, f"http://{STRANGER}/"], "hosts": hosts},
            "untested": _untested(around, True),
        }


def _tunnels(around: Surroundings) -> Iterator[Fields]:
    host, port = around.allowed or ("", 0)
    place, untested = {"host": host, "port": port}, _untested(around, True)
    tries: dict[str, tuple[str, str, Fields]] = {
        "proxy-other-name": ("A tunnel to an allowed host, as another", "proxy_fetch", {"name": STRANGER}),
        "proxy-no-name": ("A tunnel to an allowed host, without a name", "proxy_fetch", {"name": "-"}),
        "proxy-plain-tunnel": ("Plain HTTP in a tunnel", "proxy_raw", {"text": "GET / HTTP/1.1\r\nHost: x\r\n\r\n"}),
        "proxy-ssh": ("SSH in a tunnel", "proxy_raw", {"text": "SSH-2.0-proof\r\n"}),
        "proxy-redirect": (
            "A redirect of an allowed host to one that is not",
            "proxy_redirect",
            {"path": "/redirect", "to": [around.canary.address, around.canary.port]},
        ),
    }
    for name, (title, attack, more) in tries.items():
        yield {
            "name": name,
            "title": title,
            "attack": attack,
            "parameters": place | more,
            "untested": untested,
        }


def _names(around: Surroundings) -> Iterator[Fields]:
    for kind, title in TRICKS.items():
        host = around.tricks.get(kind, "")
        yield {
            "name": f"proxy-{kind}",
            "title": title,
            "attack": "proxy_connect",
            "parameters": {"hosts": [host] * TRIES, "port": around.canary.port},
            "untested": _untested(around) or ("" if host else f"no such name was given (--trick {kind}=HOST)"),
        }


def spellings(address: str) -> list[str]:
    """An address, and 127.0.0.1, as resolvers and programs may take them."""
    found = [address, "127.0.0.1", "127.1", "::1", "::ffff:127.0.0.1", "169.254.169.254"]
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        number = int(parsed)
        found += [
            str(number),
            hex(number),
            f"::ffff:{address}",
            ".".join(f"0{int(part):o}" for part in address.split(".")),
        ]
    return found


def _untested(around: Surroundings, host: bool = False) -> str:
    if not around.proxy:
        return NO_PROXY
    return NO_HOST if host and not around.allowed else ""
