"""What a run is given besides its command: mounts, a way out, a place on a cluster, a share of it. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """A PersistentVolumeClaim in the group's namespace, or a folder of it."""

    claim: str
    subpath: str = ""  # relative, without ".."; empty for all of it


@dataclass(frozen=True, slots=True)
class NfsSource:
    """An NFS export, or a folder of it. On a cluster it comes as a PersistentVolume that is made for the group."""

    server: str
    path: str  # of the export, absolute
    subpath: str = ""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder of this machine, for the local runtime. A cluster refuses it: Pod Security allows no hostPath."""

    root: str  # absolute
    subpath: str = ""


MountSource = ClaimSource | NfsSource | FolderSource


@dataclass(frozen=True, slots=True)
class Mount:
    """What a run sees at `/workspace/extra/<path>`, judged by the control plane and again where the run starts."""

    name: str  # for people: a refusal names it
    path: str  # relative, such as "data/reference"
    source: MountSource
    read_only: bool = True
    blocked: tuple[str, ...] = ()  # names that no part of the real path may have, once symlinks are resolved
    base: str = ""  # a folder of the claim or export that the real path must stay under; empty for all of it


@dataclass(frozen=True, slots=True)
class EgressAccess:
    """The way out of a run: the egress proxy, and what it knows the run by. Not the courier's token."""

    proxy: str  # http://HOST:PORT, without credentials
    credential: str = field(repr=False)  # the password; the user is the run's id


@dataclass(frozen=True, slots=True)
class PodOptions:
    """What a profile says of its pods' surroundings. The local runtime ignores it."""

    runtime_class: str = ""  # such as gvisor or kata; empty for the cluster's default
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()  # as in a pod's spec
    patch: Mapping[str, Any] = field(default_factory=dict)  # see `k8s_adapter.patches`
    dns: bool = False  # names are resolved by the cluster's DNS, which opens a way out


@dataclass(frozen=True, slots=True)
class Quota:
    """What the runs of a group may use together. 0 sets no limit."""

    cpu_millis: int = 0  # the sum of the agents' limits; what couriers need comes on top
    memory_mib: int = 0  # likewise
    pods: int = 0
    storage_gib: int = 0  # of all volumes of the group; its own always has room
