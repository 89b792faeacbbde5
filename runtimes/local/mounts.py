"""Mounts of the local runtime: links in the run's folder, to folders whose real path was checked when the run started.

A link isolates nothing: the agent is the same user as the control plane, so it reads what that user reads, and a
read-only mount can be written. For a laptop and for tests.
"""

from pathlib import Path

from runtimes.base import Cause, FolderSource, Mount, MountSource, PermanentFault, RunSpec

PROJECT = "project"


def real_folders(spec: RunSpec) -> tuple[dict[str, Path], Path | None]:
    """Where the links of a run lead: relative path under `extra` → real folder; and the project's, if it sees that.

    Raises PermanentFault MOUNT, which names the mount, for one that is not there, leads out of its root, lies in a
    blocked name, or is of a kind that this runtime has not.
    """
    links = {mount.path: _real(mount) for mount in spec.mounts}
    project = _real(Mount(PROJECT, PROJECT, spec.project)) if spec.main and spec.project else None
    return links, project


def _real(mount: Mount) -> Path:
    source: MountSource = mount.source
    if not isinstance(source, FolderSource):
        raise _fault(mount, "this runtime mounts folders of its machine alone")
    try:
        root = Path(source.root).resolve(strict=True)
        real = (root / source.subpath).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError in older Pythons
        raise _fault(mount, f"{source.subpath or source.root} is not there") from error
    if not real.is_relative_to(root):
        raise _fault(mount, f"{source.subpath} leads out of its root, by a symlink")
    if not real.is_dir():
        raise _fault(mount, f"{source.subpath} is no folder")
    blocked = {name.casefold() for name in mount.blocked}
    if part := next((part for part in real.parts if part.casefold() in blocked), ""):
        raise _fault(mount, f"it lies in {part}, which is a blocked name")
    return real


def _fault(mount: Mount, message: str) -> PermanentFault:
    return PermanentFault(Cause.MOUNT, f"mount {mount.name!r}: {message}")
