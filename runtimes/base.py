"""What Berth expects of a place where runs execute, in plain data.

A runtime knows nothing of sessions, queues or databases: it gets a `RunSpec`, makes it true, and reports what it
sees. `runtimes.local.runtime` and `k8s_adapter.runtime` implement `Runtime`; `tests/runtime` holds the contract that
both must pass.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


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
    """What a run sees at `/workspace/extra/<path>`, checked by the control plane and again where the run starts."""

    name: str  # for people: errors name it
    path: str  # relative, such as "data/reference"
    source: MountSource
    read_only: bool = True
    blocked: tuple[str, ...] = ()  # names that no part of the real path may have, once symlinks are resolved
    base: str = ""  # a folder of the claim or export that the real path must stay under; empty for all of it


@dataclass(frozen=True, slots=True)
class EgressAccess:
    """How a run reaches the network: the egress proxy, and the run's credential there. Not the courier's token."""

    proxy: str  # http://HOST:PORT, without credentials
    credential: str = field(repr=False)  # the password; the user is the run's id


@dataclass(frozen=True, slots=True)
class PodOptions:
    """What a profile says of its pods and their nodes. The local runtime ignores it."""

    runtime_class: str = ""  # such as gvisor or kata; empty for the cluster's default
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()  # as in a pod's spec
    patch: Mapping[str, Any] = field(default_factory=dict)  # see `k8s_adapter.pod_overrides`
    dns: bool = False  # names are resolved by the cluster's DNS, which lets data out past the proxy


@dataclass(frozen=True, slots=True)
class Quota:
    """What the runs of a group may use together. 0 sets no limit."""

    cpu_millis: int = 0  # the sum of the agents' limits; what couriers need comes on top
    memory_mib: int = 0  # the same, of memory
    pods: int = 0
    storage_gib: int = 0  # of all volumes of the group; its own always has room


@dataclass(frozen=True, slots=True)
class RunRef:
    """Names one run to a runtime. All of it can be read back from the labels of what the runtime made."""

    run: str  # UUID, as text with hyphens
    session: str
    group: str
    slug: str  # the group's slug: names its namespace or folder


@dataclass(frozen=True, slots=True)
class GroupRef:
    """Names a group to a runtime."""

    group: str  # UUID; empty if only the slug could be read back
    slug: str


@dataclass(frozen=True, slots=True)
class OwnedResource:
    """What exists in a runtime for a run or a group: an object of a cluster, a folder, processes."""

    owner: RunRef | GroupRef
    kind: str  # Job, Pod, Secret, PersistentVolumeClaim, Namespace; run folder, processes, group folder
    name: str
    namespace: str = ""  # that it is in; empty for what is in none


@dataclass(frozen=True, slots=True)
class Resources:
    """What an agent's container asks for and may not exceed."""

    cpu_millis: int = 1000  # the limit; a tenth of it is reserved
    memory_mib: int = 1024
    scratch_mib: int = 512  # for each of /tmp, /dev/shm and the home, which live in memory


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret by reference, delivered as the file `/var/secrets/<name>`.

    `source` is `kubernetes:SECRET/KEY` (in the group's namespace), `operators:NAMESPACE/SECRET/KEY`, `file:PATH` or
    `env:NAME` (of the control plane): see `runtimes.secret_sources`. With a `value` nothing is read: the control plane
    has made it for this run.
    """

    name: str
    source: str
    value: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What lasts of a group, for all of its runs."""

    ref: GroupRef
    storage_gib: int = 10  # size of its volume, when it has to be made
    quota: Quota = field(default_factory=Quota)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything a runtime needs to start one run. Two equal specs describe the same run."""

    ref: RunRef
    number: int  # of the run within its session
    image: str  # not used by the local runtime
    command: tuple[str, ...]  # the agent's argv
    contract: str  # plain, jsonl, claude, nanoclaw
    courier_url: str  # the control plane's address for couriers
    token: str = field(repr=False)  # the courier's bearer token; never shown to the agent
    environment: Mapping[str, str] = field(default_factory=dict)  # of the agent; holds no secret
    resume: str = ""  # the agent's own conversation id, if it has one
    state_folder: str = ""  # absolute path in the pod that lasts from run to run, such as /home/node/.claude
    resources: Resources = Resources()
    secrets: tuple[SecretFile, ...] = ()
    deadline_seconds: int = 4 * 3600  # hard wall clock
    stop_grace_seconds: int = 10  # between SIGTERM and SIGKILL
    storage_gib: int = 10  # size of the group's volume, when it has to be made
    main: bool = False  # the group is the installation's main group
    mounts: tuple[Mount, ...] = ()
    project: MountSource | None = None  # at /workspace/project, read-only; for the main group alone
    egress: EgressAccess | None = None  # None: no network
    pod: PodOptions = field(default_factory=PodOptions)
    quota: Quota = field(default_factory=Quota)  # the group's, which may change while the run lives

    @property
    def group(self) -> GroupSpec:
        """What has to exist for the run's group."""
        return GroupSpec(GroupRef(self.ref.group, self.ref.slug), self.storage_gib, self.quota)


class Phase(StrEnum):
    """How far a run is, as the runtime sees it."""

    ABSENT = "absent"  # nothing of it exists
    PENDING = "pending"  # made, the agent has not started
    RUNNING = "running"  # the agent's process lives
    FINISHED = "finished"  # the agent is gone and the courier has had its time


class Cause(StrEnum):
    """What a runtime can see of a run's end, or of what holds up its start.

    Why the run ended in the end (`sessions.choices.EndReason`) follows from this and from what Berth asked of the run.
    """

    COMPLETED = "completed"
    STOPPED = "stopped"
    DEADLINE = "deadline"
    AGENT_ERROR = "agent_error"
    OOM = "oom"
    IMAGE_PULL = "image_pull"
    UNSCHEDULABLE = "unschedulable"
    REJECTED = "rejected"  # by admission: Pod Security, a webhook, a validation
    QUOTA = "quota"  # waits for the namespace's quota; passes by itself
    MOUNT = "mount"  # a volume or secret can't be mounted
    EVICTED = "evicted"
    NODE_LOST = "node_lost"
    VANISHED = "vanished"  # somebody deleted it
    UNREACHABLE = "unreachable"  # the runtime itself


@dataclass(frozen=True, slots=True)
class Observed:
    """What a runtime sees of one run."""

    phase: Phase
    cause: Cause | None = None  # PENDING: what holds it up, if it is more than time; FINISHED: how it ended
    message: str = ""  # of the runtime itself, about the cause: a scheduler's message, a registry's error
    exit_code: int | None = None  # of the agent, 128 + n for signal n
    last_lines: str = ""  # the agent container's termination message, if it left one
    courier_alive: bool = True
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A run of which something may have changed, and what `observe` would return for it, if that is known already."""

    ref: RunRef
    observed: Observed | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """An event of the runtime itself about a run: `count` times, the last time `at`."""

    at: datetime | None
    reason: str  # one word, such as Scheduled
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Description:
    """What a runtime knows of a run beyond what `observe` returns: for people, nothing is decided by it."""

    # What of scheduled, pulled, courier and started was reached, and when.
    steps: Mapping[str, datetime] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()  # oldest first
    manifest: Mapping[str, Any] = field(default_factory=dict)  # what the run was made of, as JSON; secrets are masked


class RuntimeFault(Exception):
    """A runtime could not do what it was asked. `cause` is for programs, `str()` for people."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class TransientFault(RuntimeFault):
    """Passes by itself: ask again, not before `retry_after` seconds."""

    def __init__(self, cause: Cause, message: str, retry_after: float = 1.0) -> None:
        super().__init__(cause, message)
        self.retry_after = retry_after


class PermanentFault(RuntimeFault):
    """Will not pass until a person changes something."""


class Runtime(Protocol):
    """Where runs execute. Every method may be called again, by any process, after a crash at any point.

    All raise `TransientFault` or `PermanentFault`, and nothing else, for what goes wrong outside this process.
    """

    def ensure(self, spec: RunSpec) -> None:
        """Make the run exist. What an earlier call made is adopted; a dead courier beside a live agent is revived.

        Raises PermanentFault if something of the same name is not this run, or the spec can never be accepted.
        """

    def revive(self, spec: RunSpec) -> None:
        """Bring back a courier that died beside a living agent; nothing where there is none, or one that was stopped.

        `spec` is what the run was started with. Nothing of it is checked or read anew, since nothing is started.
        """

    def sync_namespace(self, group: GroupSpec) -> None:
        """Make what lasts of a group, and repair what somebody changed or deleted of it.

        Raises PermanentFault if something of the same name is not this group's.
        """

    def renew(self, ref: RunRef, secrets: tuple[SecretFile, ...]) -> bool:
        """Deliver anew what changed of a living run's secrets; whether anything had. Cheap when nothing did.

        Raises PermanentFault MOUNT if one can't be read; all of them stay as they are then.
        """

    def secret(self, group: GroupRef, secret: SecretFile) -> bytes:
        """Read one secret as a run of the group would get it. Raises PermanentFault MOUNT, without its value."""

    def observe(self, ref: RunRef) -> Observed:
        """The run's present state. A run that never was, or was destroyed, is ABSENT."""

    def describe(self, ref: RunRef) -> Description:
        """How the run started, the runtime's notices about it, and its manifest. All empty for an ABSENT run."""

    def ping(self) -> None:
        """Return if runs could be made and seen now, else raise. Costs one small call."""

    def stop(self, ref: RunRef) -> None:
        """End the run's processes (SIGTERM, SIGKILL after the grace) without waiting. It stays observable."""

    def destroy(self, ref: RunRef) -> None:
        """Remove all of the run, living or not, but nothing of its group: the workspace and journals stay."""

    def runs(self) -> Iterator[RunRef]:
        """Every run of this installation of which anything exists."""

    def run_resources(self) -> Iterator[OwnedResource]:
        """All that exists for runs of this installation. What is being removed already is left out."""

    def group_resources(self) -> Iterator[OwnedResource]:
        """All that lasts of groups of this installation: volumes and namespaces, or folders, in the order to remove."""

    def remove(self, resource: OwnedResource) -> None:
        """Remove a resource, if it still is the one that was listed; that it is gone is success.

        What a group's runs still use is refused with TransientFault; what holds something of another installation,
        with PermanentFault.
        """

    def watch(self, until: threading.Event) -> Iterator[WatchEvent | None]:
        """Yield a run whenever what `observe` would return may have changed, and None at least every 5 s.

        None is a heartbeat. Starts with every run that exists. Ends soon after `until` is set. Raises when it can't
        go on: never goes quiet.
        """
