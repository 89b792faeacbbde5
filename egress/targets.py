"""What a request to a proxy is for (RFC 9110, 9112): host and port from its target, or why it is none. Pure."""

import re
from typing import NamedTuple

from egress import hosts
from egress.responses import ErrorResponse

AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]:@%\\/?#\s]*)(:(?P<port>[0-9]{0,5}))?")
ABSOLUTE = re.compile(r"(?i:http)://(?P<authority>[^/?#\\]*)(?P<path>(/[^?#]*)?(\?[^#]*)?)")
HTTP_PORT = 80


class Target(NamedTuple):
    """Where a request wants to go. `host` is in A-label form, or an IP literal; `path` is None for CONNECT."""

    host: str
    port: int
    path: str | None = None

    @property
    def authority(self) -> str:
        """What the Host header of a plain request has to say."""
        return self.host if self.port == HTTP_PORT else f"{self.host}:{self.port}"


def parse_target(method: str, target: str) -> Target:
    """Return what a request is for. Raises ErrorResponse (400, 405) for what a proxy does not serve."""
    if method == "CONNECT":
        return Target(*split_authority(target, None))
    if method == "TRACE":
        raise ErrorResponse(405, "no TRACE through this proxy")
    match = ABSOLUTE.fullmatch(target)
    if match is None:
        raise ErrorResponse(400, "a proxy takes CONNECT host:port, or METHOD http://host/path; for https use CONNECT")
    path = match["path"]
    return Target(*split_authority(match["authority"], HTTP_PORT), path if path.startswith("/") else "/" + path)


def split_authority(authority: str, default: int | None) -> tuple[str, int]:
    """Return host and port; `default` is the port where none is written, None if it must be. Raises ErrorResponse."""
    match = AUTHORITY.fullmatch(authority)
    if match is None or not match["host"]:
        raise ErrorResponse(400, "not host:port")
    port = int(match["port"]) if match["port"] else default
    if port is None or not 0 < port < 65536:
        raise ErrorResponse(400, "a port is missing, or is none")
    host = match["host"]
    if host.startswith("["):
        return host[1:-1].lower(), port
    try:
        return hosts.normalize(host), port
    except ValueError as error:
        raise ErrorResponse(400, str(error)) from None
