"""The proxy's environment variables (docs/egress.md): the one place that reads them."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from egress import hosts
from egress.addresses import Address, Network


class Settings(NamedTuple):
    """The environment of one proxy. Times are in seconds, sizes in bytes; a limit of 0 is none."""

    url: str
    token_file: Path
    listen: tuple[str, int] = ("0.0.0.0", 3128)
    health: int = 3129
    exceptions: Mapping[str, frozenset[Address]] = {}
    refused: tuple[Network, ...] = ()
    tunnels: int = 64  # open at a time, of one run
    connects: int = 600  # a minute, of one run
    bytes: int = 0  # both ways, of one run
    head_seconds: float = 10
    hello_seconds: float = 10
    decide_seconds: float = 5
    dial_seconds: float = 10
    idle_seconds: float = 900
    half_seconds: float = 60
    away_seconds: float = 30
    drain_seconds: float = 20


def read_settings(env: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in `env`. Raises KeyError that names a missing variable, ValueError for a wrong value."""
    default = Settings._field_defaults
    host, _, port = (env.get("EGRESS_LISTEN") or "0.0.0.0:3128").rpartition(":")
    seconds = {name: _number(env, name, default[name]) for name in Settings._fields if name.endswith("_seconds")}
    return Settings(
        url=env["BERTH_URL"],
        token_file=Path(env["EGRESS_TOKEN_FILE"]),
        listen=(host.strip("[]"), int(port)),
        exceptions=_exceptions(env.get("EGRESS_EXCEPTIONS", "")),
        refused=tuple(ipaddress.ip_network(text) for text in _list(env.get("EGRESS_REFUSED", ""))),
        health=int(_number(env, "health", default["health"])),
        tunnels=int(_number(env, "tunnels", default["tunnels"])),
        connects=int(_number(env, "connects", default["connects"])),
        bytes=int(_number(env, "bytes", default["bytes"])),
        **seconds,
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    variable = f"EGRESS_{name.upper()}"
    try:
        value = float(env.get(variable) or default)
    except ValueError:
        raise ValueError(f"{variable} is no number") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"{variable} is below 0, or infinite")
    return value


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _exceptions(text: str) -> dict[str, frozenset[Address]]:
    """Read `host=address,…`; a host may stand there more than once."""
    exceptions: dict[str, frozenset[Address]] = {}
    for item in _list(text):
        host, equals, address = item.partition("=")
        if not equals:
            raise ValueError(f"EGRESS_EXCEPTIONS: {item} is not host=address")
        name = hosts.normalize(host.strip())
        exceptions[name] = exceptions.get(name, frozenset()) | {ipaddress.ip_address(address.strip())}
    return exceptions
