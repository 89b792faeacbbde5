"""The environment of an agent: what it must not reach, and what it may have. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a TCP port."""

    address: str
    port: int

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Where a URL of HTTP leads."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The other group's run, which is alive meanwhile."""

    address: str  # of its pod
    port: int  # where it listens, TCP and UDP
    marker: str  # the name of a file in its workspace
    session: str
    run: str
    volume: str = ""  # where its volume is on a node, if the cluster tells


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that checks are made of. What is empty could not be found out, or is not there."""

    control_plane: str  # a URL, COURIER_URL
    listener: Endpoint  # a listener beside the control plane, on a port that agents have no business with
    neighbour: Neighbour
    workspace: str = "/workspace/group"
    api_service: tuple[Endpoint, ...] = ()
    api_servers: tuple[Endpoint, ...] = ()
    kubelets: tuple[Endpoint, ...] = ()
    dns: tuple[str, ...] = ()
    # Name of a store → where it is, as far as a pod may see it; empty if it is not used.
    stores: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    closed: frozenset[Endpoint] = frozenset()  # of these, where nobody answers the control plane either
    secret: str = ""  # SHA-256 of what is in the file `proof` of the agent's secrets
    mount: str = ""  # name of a read-only mount under /workspace/extra
    provider_key: str = ""  # name of the file with the stand-in for the key of a provider that the proof stands for
    proxy: bool = False  # there is an egress proxy
    allowed: tuple[str, int] | None = None  # a host behind it that speaks TLS
    tricks: Mapping[str, str] = field(default_factory=dict)  # private, cname, rebinding → a name that a rule allows
    memory_mib: int = 1024  # of the agent
    storage_gib: int = 10  # of its group's volume
