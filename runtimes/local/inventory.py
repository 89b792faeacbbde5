"""What is on this machine for runs and groups of the local runtime: folders, and processes whose folder is gone."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.base import Cause, GroupRef, OwnedResource, RunRef, TransientFault
from runtimes.local import processes
from runtimes.local.paths import Folders


def of_runs(folders: Folders) -> Iterator[OwnedResource]:
    """See `Runtime.run_resources`. A run that was only half made has a folder that doesn't tell whose it is."""
    known = set()
    for run in folders.remnants():
        known.add(run)
        folder = folders.run(run)
        yield OwnedResource(folder.ref() or RunRef(run, "", "", ""), "run folder", str(folder.path))
    for ref in sorted(strays(folders), key=lambda ref: ref.run):
        if ref.run not in known:
            yield OwnedResource(ref, "processes", f"of run {ref.run}")


def of_groups(folders: Folders) -> Iterator[OwnedResource]:
    """See `Runtime.group_resources`."""
    for path, ref in folders.every_group():
        yield OwnedResource(ref, "group folder", str(path))


def remove_group(folders: Folders, resource: OwnedResource, ref: GroupRef) -> None:
    """Remove a group's folder. Raises TransientFault while something of one of its runs is there."""
    if (Path(resource.name), ref) not in folders.every_group():
        return
    for other in of_runs(folders):
        if isinstance(other.owner, RunRef) and other.owner.slug == ref.slug:
            raise TransientFault(Cause.REJECTED, f"run {other.owner.run} of its group is still there", retry_after=5.0)
    folders.remove_group(Path(resource.name))


def strays(folders: Folders) -> set[RunRef]:
    """The runs of all living processes, whether they have a folder or not."""
    return {ref for _, each in processes.marked(f"{folders.runs}/") if (ref := _ref(each))}


def _ref(environment: Mapping[str, str]) -> RunRef | None:
    """The run that a marked process belongs to; None if it changed its own environment."""
    try:
        keys = ("BERTH_RUN", "BERTH_SESSION", "BERTH_GROUP_ID", "BERTH_GROUP")
        run, session, group, slug = (environment[key] for key in keys)
    except KeyError:
        return None
    return RunRef(run, session, group, slug)
