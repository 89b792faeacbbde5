"""Every name, label and annotation that Berth gives to objects of a cluster, and how to read them back.

Names are derived from ids, so whoever repeats a step finds what was made before instead of making a second one.
"""

import hashlib
from collections.abc import Mapping

from runtimes.base import GroupRef, RunRef
from runtimes.names import dns_label

MANAGED_BY = "app.kubernetes.io/managed-by"
INSTALLATION = "berth/installation"
GROUP = "berth/group"
SLUG = "berth/slug"
SESSION = "berth/session"
RUN = "berth/run"
SPEC_HASH = "berth/spec-hash"  # annotation

BERTH = "berth"  # the value of MANAGED_BY
AGENT = "agent"  # the containers of a pod
COURIER = "courier"
MOUNTS = "mounts"  # checks what is to be mounted, before the others start
DNS = "berth/dns"  # label of pods that may ask the cluster's DNS
OPEN = "open"  # its value
MANAGER = "berth"  # of the fields that server-side apply owns
EGRESS_KEY = "egress"  # in a run's Secret: the egress proxy's address, with the run's credential
QUOTA = "berth"  # a group's ResourceQuota and LimitRange
TOKEN_KEY = "token"  # in a run's Secret
FILE_KEY_PREFIX = "file."  # in a run's Secret: values of secrets that the control plane read for the agent


def namespace(slug: str, shared: str = "") -> str:
    """The namespace of a group: its own, or the one that all share."""
    return shared or dns_label(f"berth-{slug}")


def claim(slug: str) -> str:
    """The group's PersistentVolumeClaim."""
    return dns_label(f"berth-workspace-{slug}")


def policy(kind: str, slug: str, shared: str = "") -> str:
    """A NetworkPolicy of a group: `deny`, `out` or `dns`."""
    return dns_label(f"berth-{kind}-{slug}" if shared else f"berth-{kind}")


def nfs(installation: str, group: str, server: str, path: str) -> str:
    """The PersistentVolume of an NFS export for a group, and the claim on it."""
    digest = hashlib.sha256("\n".join((installation, group, server, path)).encode()).hexdigest()
    return f"berth-nfs-{digest[:16]}"


def job(run: str) -> str:
    """The run's Job. Short enough for the suffix that the Job controller adds for its pod."""
    return dns_label(f"berth-run-{run}")


def secret(run: str) -> str:
    """The run's Secret: the courier's token and the files read for the agent."""
    return dns_label(f"berth-run-{run}")


def group_labels(ref: RunRef | GroupRef, installation: str) -> dict[str, str]:
    """Labels of what belongs to a group: its namespace and its volume."""
    return {MANAGED_BY: BERTH, INSTALLATION: installation, GROUP: ref.group, SLUG: ref.slug}


def run_labels(ref: RunRef, installation: str) -> dict[str, str]:
    """Labels of what belongs to a run: its Job, pod and Secret."""
    return group_labels(ref, installation) | {SESSION: ref.session, RUN: ref.run}


def ref_of(labels: object) -> RunRef | None:
    """Read a run back from the labels of one of its objects; None if they name none."""
    found = _texts(labels, RUN, SESSION, GROUP, SLUG)
    return RunRef(*found) if found else None


def group_of(labels: object) -> GroupRef | None:
    """Read a group back from the labels of its namespace or volume; None if they name none."""
    found = _texts(labels, GROUP, SLUG)
    return GroupRef(*found) if found else None


def _texts(labels: object, *keys: str) -> list[str]:
    """The values of these labels; none at all if one is missing, or is no text."""
    values = [labels.get(key) for key in keys] if isinstance(labels, Mapping) else []
    texts = [value for value in values if isinstance(value, str)]
    return texts if len(texts) == len(keys) else []


def group_selector(installation: str) -> str:
    """The label selector for what belongs to the groups of an installation, and to no run."""
    return f"{MANAGED_BY}={BERTH},{INSTALLATION}={installation},{GROUP},!{RUN}"


def group_runs_selector(installation: str, group: str) -> str:
    """The label selector for what belongs to the runs of one group."""
    return f"{selector(installation)},{GROUP}={group}"


def foreign_selector(installation: str) -> str:
    """The label selector for what belongs to any other installation."""
    return f"{INSTALLATION},{INSTALLATION}!={installation}"


def selector(installation: str, run: str = "") -> str:
    """The label selector for the objects of one run, or of every run of an installation."""
    which = f"{RUN}={run}" if run else RUN
    return f"{MANAGED_BY}={BERTH},{INSTALLATION}={installation},{which}"
