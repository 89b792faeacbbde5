"""What the list of groups gets from here: deleting a group stops its sessions, so `groups` can't know how."""

from typing import Any

from django.conf import settings

from groups import deletion
from groups.admin.toolkit import extensions
from groups.admin.toolkit.bulk_actions import Confirmation, bulk_action
from groups.deletion import TooLate
from groups.models import AgentGroup
from sessions.cleanup.deleted_groups import delete_group


def delete(group: AgentGroup, *, actor: Any, by: str) -> bool:
    """Mark the group as deleted and stop what runs; False if it was deleted before."""
    if group.deleted_at:
        return False
    delete_group(group, actor=actor, by=by)
    return True


def restore(group: AgentGroup, *, actor: Any, by: str) -> bool | str:
    """Take a deletion back, as long as nothing was removed; False if there is none."""
    try:
        return deletion.restore(group, actor=actor, by=by)
    except TooLate:
        return "too late"


extensions.add_action(
    AgentGroup,
    bulk_action(
        name="delete_groups",
        description=f"Delete: everything is kept for {settings.GROUP_GRACE_DAYS} days",
        work=delete,
        allowed=AgentGroup.objects.operable_by,
        done="deleted",
        unchanged="deleted before",
        permissions=["remove"],
        confirmation=Confirmation(
            "Delete these groups?",
            "What runs in them is stopped, and nothing starts any more. Everything is kept for "
            f"{settings.GROUP_GRACE_DAYS} days, in which they can be restored; then workspaces and transcripts are "
            "removed for good.",
            "Delete",
            danger=True,
        ),
    ),
)
extensions.add_action(
    AgentGroup,
    bulk_action(
        name="restore_groups",
        description="Restore: take a deletion back",
        work=restore,
        allowed=AgentGroup.objects.operable_by,
        done="restored",
        unchanged="not deleted",
        permissions=["remove"],
    ),
)
