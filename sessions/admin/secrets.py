"""What the list of secrets gets from here: looking whether they can be read, which only a runtime knows."""

from collections.abc import Iterable

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import action

from groups.admin.toolkit import extensions
from groups.choices import SecretKind
from groups.models import AgentGroup, SecretReference
from sessions.lifecycle import secrets

MOST = 20  # looks at a time: each may be a call to a cluster


@action(description="Look whether they can be read now", permissions=["view"])
def check_secrets(
    model_admin: "ModelAdmin[SecretReference]", request: HttpRequest, queryset: QuerySet[SecretReference]
) -> None:
    """Say of each whether it can be read. Why not, and where it would be, is for operators."""
    operator = SecretReference.editable_by(request.user)
    looks = [(each, group) for each in queryset for group in _groups(each, request, operator)]
    for reference, group in looks[:MOST]:
        what = f"{reference.name} for {group}" if reference.kind == SecretKind.KUBERNETES else reference.name
        if problem := secrets.unreadable_reason(reference, group):
            messages.error(request, f"{what}: {problem}" if operator else f"{what} can't be read. Ask an operator.")
        else:
            messages.success(request, f"{what} can be read.")
    if len(looks) > MOST:
        messages.warning(request, f"The first {MOST} were looked at. Choose fewer.")


def _groups(reference: SecretReference, request: HttpRequest, operator: bool) -> Iterable[AgentGroup]:
    """The groups for which to look: a Secret in their own namespace is another one for each."""
    groups = AgentGroup.objects.filter(deleted_at=None)
    groups = groups.visible_to(request.user) if operator else groups.ownable_by(request.user)
    if not reference.every_group:
        groups = groups.filter(secret_references=reference)
    if reference.kind == SecretKind.KUBERNETES:
        return groups
    # All others are the same for every group, and may be looked at before any has them.
    return [groups.first() or AgentGroup(slug="none")]


extensions.add_action(SecretReference, check_secrets)
