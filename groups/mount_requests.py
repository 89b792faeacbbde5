"""Asking for a mount, and deciding on it. Both are noted in the audit log."""

from typing import Any

from django.db import transaction
from django.utils import timezone

from groups import audit
from groups.choices import MountState
from groups.models import GroupMount
from groups.permissions import Person


@transaction.atomic
def request(mount: GroupMount, actor: Person) -> None:
    """Save what an owner wants. Whatever was decided of it before counts no more."""
    mount.state, mount.requested_by_id, mount.requested_at = MountState.REQUESTED, actor.pk, timezone.now()
    mount.decided_by, mount.decided_at, mount.decision = None, None, ""
    mount.save()
    audit.record("mount.request", actor=actor, target=mount.pk, group=mount.group, **_details(mount))


@transaction.atomic
def decide(mount: GroupMount, state: MountState, actor: Person, reason: str = "") -> bool:
    """Approve or refuse `mount` as it is in memory; False if its row was changed or removed since it was read."""
    rows = GroupMount.objects.select_for_update().filter(pk=mount.pk, requested_at=mount.requested_at)
    row = rows.filter(root=mount.root_id, path=mount.path, name=mount.name, read_write=mount.read_write).first()
    if row is None or row.state == state:
        return False
    mount.state, mount.decided_by_id, mount.decided_at = state, actor.pk, timezone.now()
    mount.decision = reason
    mount.save(update_fields=["state", "decided_by", "decided_at", "decision"])
    verb = "approve" if state == MountState.APPROVED else "refuse"
    audit.record(f"mount.{verb}", actor=actor, target=mount.pk, group=mount.group, why=reason, **_details(mount))
    return True


def _details(mount: GroupMount) -> dict[str, Any]:
    return {"name": mount.name, "root": mount.root.name, "path": mount.path, "read_write": mount.read_write}
