"""What a request to a proxy is for (RFC 9110, 9112): host and port from its target, or why it is none. Pure."""

import re
from typing import NamedTuple

from egress import hosts
from egress.responses import Refusal

AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]:@%\\/?#\s]*)(:(?P<port>[0-9]{0,5}))?")
ABSOLUTE = re.compile(r"(?i:http)://(?P<authority>[^/?#\\]*)(?P<path>(/[^?#]*)?(\?[^#]*)?)")
PLAIN_PORT = 80


class Target(NamedTuple):
    """Where a request wants to go. `host` is in A-label form, or an IP literal; `path` is None for CONNECT."""

    host: str
    port: int
    path: str | None = None

    @property
    def authority(self) -> str:
        """What the Host header of a plain request has to say."""
        return self.host if self.port == PLAIN_PORT else f"{self.host}:{self.port}"

    @property
    def literal(self) -> bool:
        """The host is an IP address."""
        return hosts.is_literal(self.host)


def parse(method: str, target: str) -> Target:
    """Return what a request is for. Raises Refusal (400, 405) for what a proxy does not serve."""
    if method == "CONNECT":
        return Target(*split(target, None))
    if method == "TRACE":
        raise Refusal(405, "no TRACE through this proxy")
    found = ABSOLUTE.fullmatch(target)
    if found is None:
        raise Refusal(400, "a proxy takes CONNECT host:port, or METHOD http://host/path; for https use CONNECT")
    path = found["path"]
    return Target(*split(found["authority"], PLAIN_PORT), path if path.startswith("/") else "/" + path)


def split(authority: str, default: int | None) -> tuple[str, int]:
    """Return host and port; `default` is the port where none is written (None: it must be). Raises Refusal (400)."""
    found = AUTHORITY.fullmatch(authority)
    if found is None or not found["host"]:
        raise Refusal(400, "not host:port")
    port = int(found["port"]) if found["port"] else default
    if port is None or not 0 < port < 65536:
        raise Refusal(400, "a port is missing, or is none")
    host = found["host"]
    if host.startswith("["):
        return host[1:-1].lower(), port
    try:
        return hosts.normal(host), port
    except ValueError as error:
        raise Refusal(400, str(error)) from None
