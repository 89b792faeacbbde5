"""What the list of groups gets from here: deleting a group stops its sessions, so `groups` can't know how."""

from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.decorators import action

from groups import deletion
from groups.admin.groups import AgentGroupAdmin
from groups.admin.toolkit import bulk_actions as confirm
from groups.admin.toolkit.bulk_actions import Question
from groups.deletion import TooLate
from groups.models import AgentGroup
from sessions.cleanup.deleted_groups import delete_group

MAY = ["remove"]


@action(description=f"Delete: everything is kept for {settings.GROUP_GRACE_DAYS} days", permissions=MAY)
def delete_groups(
    model_admin: AgentGroupAdmin, request: HttpRequest, queryset: QuerySet[AgentGroup]
) -> HttpResponse | None:
    """Stop what runs, let nothing start, and remove the groups' data when the grace is over."""
    queryset = queryset.operable_by(request.user)  # type: ignore[attr-defined]
    if not confirm.confirmed(request):
        words = (
            "What runs in them is stopped, and nothing starts any more. Everything is kept for "
            f"{settings.GROUP_GRACE_DAYS} days, in which they can be restored; then workspaces and transcripts are "
            "removed for good."
        )
        question = Question("delete_groups", "Delete these groups?", words, "Delete", danger=True)
        return confirm.ask(model_admin, request, queryset, question)
    living = [group for group in queryset if group.deleted_at is None]
    for group in living:
        delete_group(group, actor=request.user, by=request.user.get_username())
    confirm.tell(request, {"deleted": len(living), "deleted before": len(queryset) - len(living)})
    return None


@action(description="Restore: take a deletion back", permissions=MAY)
def restore_groups(model_admin: AgentGroupAdmin, request: HttpRequest, queryset: QuerySet[AgentGroup]) -> None:
    """Take deletions back, as long as nothing was removed."""
    counts = {"restored": 0, "not deleted": 0, "too late": 0}
    for group in queryset.operable_by(request.user):  # type: ignore[attr-defined]
        counts[_restore(group, request)] += 1
    confirm.tell(request, counts)


def _restore(group: AgentGroup, request: HttpRequest) -> str:
    user: Any = request.user
    try:
        return "restored" if deletion.restore(group, actor=user, by=user.get_username()) else "not deleted"
    except TooLate:
        return "too late"


AgentGroupAdmin.actions += [delete_groups, restore_groups]
