"""Deleting a group in two steps: it is marked, and all of it stays for GROUP_GRACE_DAYS, in which it can be restored.

What stops its sessions, and what removes its data in the end, is in `sessions.cleanup.deleted_groups`.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from groups import audit
from groups.models import AgentGroup
from groups.permissions import Person


class TooLate(Exception):
    """The group can't be restored any more; `str()` says why."""


def removal_at(deleted_at: datetime) -> datetime:
    """From when on the data of a group that was deleted then may be removed."""
    return deleted_at + timedelta(days=settings.GROUP_GRACE_DAYS)


@transaction.atomic
def mark_deleted(group: AgentGroup, *, actor: Person | None = None, by: str = "") -> bool:
    """Mark a group as deleted; False if it was. Nothing of it starts from then on."""
    locked = AgentGroup.objects.select_for_update().get(pk=group.pk)
    if locked.deleted_at:
        return False
    locked.deleted_at = timezone.now()
    locked.save(update_fields=["deleted_at"])
    until = removal_at(locked.deleted_at).isoformat(timespec="seconds")
    audit.record("group.delete", actor=actor, by=by, target=group.pk, group=locked, kept_until=until)
    group.deleted_at = locked.deleted_at
    return True


@transaction.atomic
def restore(group: AgentGroup, *, actor: Person | None = None, by: str = "") -> bool:
    """Take a deletion back; False if there is none. Raises TooLate after the grace: the removal may be under way."""
    locked = AgentGroup.objects.select_for_update().get(pk=group.pk)
    if locked.deleted_at is None:
        return False
    if removal_at(locked.deleted_at) <= timezone.now():
        raise TooLate(f"{locked.slug} was deleted more than {settings.GROUP_GRACE_DAYS} days ago: it is being removed.")
    locked.deleted_at = None
    locked.save(update_fields=["deleted_at"])
    audit.record("group.restore", actor=actor, by=by, target=group.pk, group=locked)
    group.deleted_at = None
    return True
