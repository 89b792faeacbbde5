"""Mounts of a run on a cluster: volumes, where the agent sees them, and the container that checks them before."""

import json
import re
from pathlib import Path
from typing import Any

from k8s_adapter import names
from k8s_adapter.config import KubernetesConfig
from runtimes.base import ClaimSource, FolderSource, Mount, MountSource, NfsSource, RunSpec

Manifest = dict[str, Any]

EXTRA = "/workspace/extra"
PROJECT = "/workspace/project"
ROOTS = "/mounts"  # where the check sees whole volumes
SCRIPT = Path(__file__).with_name("check_mounts.py").read_text()
# Parts of a path below /workspace/extra or of a volume.
PART = re.compile(r"[^/\0]+")


def problems(spec: RunSpec) -> list[str]:
    """Why the mounts of a run can't be made, each with its name; empty if they can, as far as is known before."""
    found, seen = [], list[Mount]()
    for mount in (*spec.mounts, *_project(spec)):
        found += [f"mount {mount.name!r}: {message}" for message in _problems(mount)]
        for other in seen:
            if f"{mount.path}/".startswith(f"{other.path}/") or f"{other.path}/".startswith(f"{mount.path}/"):
                found.append(f"mount {mount.name!r}: {mount.path} and {other.path} of {other.name!r} are in each other")
        seen.append(mount)
    return found


def volumes(spec: RunSpec, config: KubernetesConfig) -> list[Manifest]:
    """A volume for each claim that is used; read-only if nobody may write to it."""
    every = [*spec.mounts, *_project(spec)]
    made = []
    for claim, name in _volume_names(spec, config).items():
        source: Manifest = {"claimName": claim}
        if all(mount.read_only for mount in every if _claim(mount.source, spec, config) == claim):
            source["readOnly"] = True
        made.append({"name": name, "persistentVolumeClaim": source})
    return made


def agent_mounts(spec: RunSpec, config: KubernetesConfig) -> list[Manifest]:
    """Where the agent sees its mounts. The kubelet, too, refuses a subPath that leads out of its volume."""
    volume = _volume_names(spec, config)
    made = []
    for mount in (*spec.mounts, *_project(spec)):
        one: Manifest = {
            "name": volume[_claim(mount.source, spec, config)],
            "mountPath": mount.path if mount.path.startswith("/") else f"{EXTRA}/{mount.path}",
        }
        if mount.source.subpath:
            one["subPath"] = mount.source.subpath
        if mount.read_only:
            one["readOnly"] = True
        made.append(one)
    return made


def check_container(spec: RunSpec, config: KubernetesConfig, security: Manifest) -> list[Manifest]:
    """An init container that checks the real paths (`check_mounts`), as the agent's user; none without mounts.

    It comes before the kubelet prepares the agent's own mounts, which would make a folder that is missing.
    """
    every = [*spec.mounts, *_project(spec)]
    if not every:
        return []
    volume = _volume_names(spec, config)
    request = [
        {
            "name": mount.name,
            "root": f"{ROOTS}/{volume[_claim(mount.source, spec, config)]}",
            "subpath": mount.source.subpath,
            "blocked": mount.blocked,
            "base": mount.base,
        }
        for mount in every
    ]
    return [
        {
            "name": names.MOUNTS,
            "image": config.courier_image,
            "imagePullPolicy": config.image_pull_policy,
            "command": ["python3", "-IS", "-c", SCRIPT.replace("$", "$$")],
            "env": [{"name": "BERTH_MOUNTS", "value": json.dumps(request).replace("$", "$$")}],
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "16Mi"},
                "limits": {"memory": "64Mi", "ephemeral-storage": "16Mi"},
            },
            "securityContext": security,
            "volumeMounts": [
                {"name": name, "mountPath": f"{ROOTS}/{name}", "readOnly": True} for name in volume.values()
            ],
        }
    ]


def _project(spec: RunSpec) -> tuple[Mount, ...]:
    """The project folder, for the main group alone."""
    return (Mount("project", PROJECT, spec.project),) if spec.main and spec.project else ()


def _claim(source: MountSource, spec: RunSpec, config: KubernetesConfig) -> str:
    if isinstance(source, NfsSource):
        return names.nfs(config.installation, spec.ref.group, source.server, source.path)
    return source.claim if isinstance(source, ClaimSource) else ""


def _volume_names(spec: RunSpec, config: KubernetesConfig) -> dict[str, str]:
    """Claim → the name of its volume in the pod."""
    claims = (_claim(mount.source, spec, config) for mount in (*spec.mounts, *_project(spec)))
    return {claim: f"mount-{number}" for number, claim in enumerate(dict.fromkeys(claims), 1)}


def _problems(mount: Mount) -> list[str]:
    found = []
    if isinstance(mount.source, FolderSource):
        found.append("it is a folder of a machine, which pods may not mount; make a PersistentVolumeClaim of it")
    if isinstance(mount.source, ClaimSource) and (not mount.source.claim or mount.source.claim.startswith("berth-")):
        found.append(f"claim {mount.source.claim!r}: claims named berth-… are Berth's own")
    if isinstance(mount.source, NfsSource) and not (mount.source.server and mount.source.path.startswith("/")):
        found.append("an NFS export has a server and an absolute path")
    if mount.source.subpath and not _relative(mount.source.subpath):
        found.append(f"{mount.source.subpath!r} is no relative path without '.' and '..'")
    if mount.path != PROJECT and not _relative(mount.path):
        found.append(f"{mount.path!r} is no relative path without '.' and '..'")
    return found


def _relative(path: str) -> bool:
    return all(PART.fullmatch(part) and part not in (".", "..") for part in path.split("/"))
