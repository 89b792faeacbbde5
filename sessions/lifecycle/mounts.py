"""What a run mounts: the approved mounts of its group, checked anew at every start."""

from groups import mounts
from groups.choices import MountKind, MountState
from groups.models import GroupMount
from runtimes.base import Cause, ClaimSource, FolderSource, Mount, MountSource, NfsSource, PermanentFault
from sessions.models import Run


def of_run(run: Run) -> tuple[Mount, ...]:
    """The mounts of a run. Raises PermanentFault MOUNT, which names the mount that is refused.

    A mount is never left out in silence: the agent would take what is missing for what there is.
    """
    approved = GroupMount.objects.filter(group=run.session.group_id, state=MountState.APPROVED)
    return tuple(_mount(each, run.runtime) for each in approved.select_related("root", "group").order_by("name"))


def _mount(mount: GroupMount, runtime: str) -> Mount:
    # A cluster's paths can't be seen from here; there a container checks them before the agent starts.
    verdict = mount.evaluate(runtime=runtime)
    if not verdict.ok:
        raise PermanentFault(Cause.MOUNT, f"mount {mount.name!r}: {verdict.reason}")
    _check_not_writable(mount, verdict.path)
    rule = mount.root.rule
    base = "/".join(mounts.parts_of(rule.base or "."))
    return Mount(
        name=mount.name,
        path=mount.name,
        source=_source(rule, base, verdict.path),
        read_only=verdict.read_only,
        blocked=tuple(sorted(mounts.BLOCKED | set(rule.blocked))),
        base="" if rule.kind is MountKind.FOLDER else base,
    )


def _check_not_writable(mount: GroupMount, path: str) -> None:
    """Refuse what lies in a folder that agents may write to: they could put a link to another tenant's in its place."""
    whole = _place(mount, path)
    writable = GroupMount.objects.filter(state=MountState.APPROVED, read_write=True, root__read_write=True)
    for other in writable.filter(root__kind=mount.root.kind).select_related("root").exclude(pk=mount.pk):
        above = _place(other, "/".join(mounts.parts_of(other.path)))
        if mounts.is_inside(mount.root.rule.kind, whole, above):
            message = (
                f"it lies in {other.path!r} of {other.root.name!r}, which agents may write to. Mount that as a whole"
            )
            raise PermanentFault(Cause.MOUNT, f"mount {mount.name!r}: {message}")


def _place(mount: GroupMount, path: str) -> str:
    """Where a mount is: its root's place, and what is in that."""
    rule = mount.root.rule
    return "/".join(filter(None, (rule.place.rstrip("/"), "/".join(mounts.parts_of(rule.base or ".")), path)))


def _source(rule: mounts.Root, base: str, path: str) -> MountSource:
    """Where a runtime finds the mount. A folder's root is what it must stay under; a volume is there as a whole."""
    inside = "/".join(filter(None, (base, path)))
    match rule.kind:
        case MountKind.FOLDER:
            return FolderSource("/".join(filter(None, (rule.place.rstrip("/"), base))), path)
        case MountKind.NFS:
            server, _, export = rule.place.partition(":")
            return NfsSource(server, export, inside)
        case MountKind.CLAIM:
            return ClaimSource(rule.place, inside)
