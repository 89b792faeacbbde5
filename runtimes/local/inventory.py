"""What exists on this machine for runs and groups: folders, and processes whose folder is gone."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.base import Cause, GroupRef, OwnedResource, RunRef, TransientFault
from runtimes.local import processes
from runtimes.local.paths import DataFolder


def run_resources(data: DataFolder) -> Iterator[OwnedResource]:
    """See `Runtime.run_resources`. The folder of a run that was only half made names no owner."""
    known = set()
    for run in data.run_ids():
        known.add(run)
        folder = data.run(run)
        yield OwnedResource(folder.ref() or RunRef(run, "", "", ""), "run folder", str(folder.path))
    for ref in sorted(runs_with_processes(data), key=lambda ref: ref.run):
        if ref.run not in known:
            yield OwnedResource(ref, "processes", f"of run {ref.run}")


def group_resources(data: DataFolder) -> Iterator[OwnedResource]:
    """See `Runtime.group_resources`."""
    for path, ref in data.group_folders():
        yield OwnedResource(ref, "group folder", str(path))


def remove_group(data: DataFolder, resource: OwnedResource, ref: GroupRef) -> None:
    """Remove a group's folder. Raises TransientFault while something of one of its runs is there."""
    if (Path(resource.name), ref) not in data.group_folders():
        return
    for other in run_resources(data):
        if isinstance(other.owner, RunRef) and other.owner.slug == ref.slug:
            raise TransientFault(Cause.REJECTED, f"run {other.owner.run} of its group is still there", retry_after=5.0)
    data.remove_group(Path(resource.name))


def runs_with_processes(data: DataFolder) -> set[RunRef]:
    """The runs of all living processes, whether they have a folder or not."""
    return {ref for _, each in processes.iter_marked(f"{data.runs}/") if (ref := _ref(each))}


def _ref(environment: Mapping[str, str]) -> RunRef | None:
    """The run that a marked process belongs to; None if it changed its own environment."""
    try:
        keys = ("BERTH_RUN", "BERTH_SESSION", "BERTH_GROUP_ID", "BERTH_GROUP")
        run, session, group, slug = (environment[key] for key in keys)
    except KeyError:
        return None
    return RunRef(run, session, group, slug)
