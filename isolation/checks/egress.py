"""What a hostile agent asks of the egress proxy. Pure."""

import ipaddress
from collections.abc import Iterator
from typing import Any

from isolation.choices import Expected
from isolation.environment import Environment

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


def own(environment: Environment) -> Iterator[Fields]:
    """What the proxy must let through."""
    host, port = environment.allowed or ("", 0)
    yield {
        "name": "allowed-host",
        "title": f"A page of an allowed host{f', {host}:{port}' if host else ''}",
        "attack": "proxy_fetch",
        "parameters": {"host": host, "port": port},
        "expected": Expected.SUCCEEDED,
        "untested": _untested(environment, True),
    }


def proxy_checks(environment: Environment) -> Iterator[Fields]:
    """Ways around the rules, through the proxy."""
    yield from _credentials(environment)
    yield from _hosts(environment)
    yield from _tunnels(environment)
    yield from _names(environment)


def _credentials(environment: Environment) -> Iterator[Fields]:
    host, port = environment.allowed or (STRANGER, 443)
    tries = {
        "none": "Without a credential",
        "forged": "With a forged credential",
        environment.neighbour.run: "In the neighbour's name",
    }
    for number, (credential, title) in enumerate(tries.items()):
        yield {
            "name": ("proxy-anonymous", "proxy-forged", "proxy-neighbour")[number],
            "title": title,
            "attack": "proxy_connect",
            "parameters": {"hosts": [host], "port": port, "credential": credential},
            "untested": _untested(environment),
        }


def _hosts(environment: Environment) -> Iterator[Fields]:
    listener = environment.listener
    yield {
        "name": "proxy-stranger",
        "title": "A host that no rule allows",
        "attack": "proxy_connect",
        "parameters": {"hosts": [STRANGER], "port": 443},
        "untested": _untested(environment),
    }
    yield {
        "name": "proxy-literal",
        "title": "Addresses instead of names, in every spelling",
        "attack": "proxy_connect",
        "parameters": {"hosts": spellings(listener.address), "port": listener.port},
        "untested": _untested(environment),
    }
    host, _ = environment.allowed or ("", 0)
    yield {
        "name": "proxy-port",
        "title": "An allowed host on a port that is not",
        "attack": "proxy_connect",
        "parameters": {"hosts": [host], "port": 22},
        "untested": _untested(environment, True),
    }
    url = f"http://{listener.address}:{listener.port}/"
    for name, hosts, title in (
        ("proxy-forged-host", [host], "Plain HTTP with the Host of an allowed one"),
        ("proxy-double-host", [host, listener.address], "Plain HTTP with two Hosts"),
    ):
        yield {
            "name": name,
            "title": title,
            "attack": "proxy_plain",
            "parameters": {"urls": [url, f"http://{STRANGER}/"], "hosts": hosts},
            "untested": _untested(environment, True),
        }


def _tunnels(environment: Environment) -> Iterator[Fields]:
    host, port = environment.allowed or ("", 0)
    target, untested = {"host": host, "port": port}, _untested(environment, True)
    tries: dict[str, tuple[str, str, Fields]] = {
        "proxy-other-name": ("A tunnel to an allowed host, as another", "proxy_fetch", {"name": STRANGER}),
        "proxy-no-name": ("A tunnel to an allowed host, without a name", "proxy_fetch", {"name": "-"}),
        "proxy-plain-tunnel": ("Plain HTTP in a tunnel", "proxy_raw", {"text": "GET / HTTP/1.1\r\nHost: x\r\n\r\n"}),
        "proxy-ssh": ("SSH in a tunnel", "proxy_raw", {"text": "SSH-2.0-proof\r\n"}),
        "proxy-redirect": (
            "A redirect of an allowed host to one that is not",
            "proxy_redirect",
            {"path": "/redirect", "to": [environment.listener.address, environment.listener.port]},
        ),
    }
    for name, (title, attack, more) in tries.items():
        yield {
            "name": name,
            "title": title,
            "attack": attack,
            "parameters": target | more,
            "untested": untested,
        }


def _names(environment: Environment) -> Iterator[Fields]:
    for kind, title in TRICKS.items():
        host = environment.tricks.get(kind, "")
        yield {
            "name": f"proxy-{kind}",
            "title": title,
            "attack": "proxy_connect",
            "parameters": {"hosts": [host] * TRIES, "port": environment.listener.port},
            "untested": _untested(environment) or ("" if host else f"no such name was given (--trick {kind}=HOST)"),
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


def _untested(environment: Environment, needs_host: bool = False) -> str:
    """Why a check can't be made here; empty if it can."""
    if not environment.proxy:
        return NO_PROXY
    return NO_HOST if needs_host and not environment.allowed else ""
