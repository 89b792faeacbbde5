"""The admin of mounts: roots, which operators write; and what groups want under them, which owners ask for."""

import json
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import ForeignKey, Model, QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from groups import audit, mount_requests
from groups.admin.toolkit.bases import GlobalAdmin, HistoryAdmin, VisibleAdmin, VisibleSelectFilter
from groups.admin.toolkit.bulk_actions import Confirmation, ReasonForm, bulk_action
from groups.admin.toolkit.columns import choice_column
from groups.admin.toolkit.pages import render
from groups.choices import MountState
from groups.models import AgentGroup, GroupMount, MountRoot
from groups.permissions import Person

WISH = ["group", "root", "path", "name", "read_write"]


@admin.register(MountRoot)
class MountRootAdmin(HistoryAdmin, GlobalAdmin):
    """What groups may mount under."""

    list_display = ["name", "description", "kind", "place", "base", "read_write"]
    list_filter = [("kind", ChoicesRadioFilter), "read_write"]
    list_filter_submit = True
    search_fields = ["name", "description", "place"]
    fieldsets = [
        (None, {"fields": ["name", "description"]}),
        ("Where it is", {"fields": ["kind", "place", "base"]}),
        ("What is allowed", {"fields": ["read_write", "blocked"]}),
    ]


class DecisionForm(ReasonForm):
    """Why a mount is approved or refused, and what was on the page when it was: somebody may change it meanwhile."""

    seen = forms.CharField(widget=forms.HiddenInput)

    def prepare(self, request: HttpRequest, rows: list[GroupMount]) -> None:
        """Put what is shown into the page."""
        self.initial["seen"] = json.dumps({str(row.pk): row.version for row in rows})

    def clean_seen(self) -> dict[str, str]:
        """Primary key → the version that was shown."""
        try:
            seen = json.loads(self.cleaned_data["seen"])
        except ValueError:
            return {}
        return seen if isinstance(seen, dict) else {}


def decide(
    state: MountState, row: GroupMount, *, reason: str, seen: dict[str, str], actor: Person, by: str
) -> bool | str:
    """Decide on one mount; False if it is decided so already, a text if it can't be."""
    if seen.get(str(row.pk)) != row.version:
        return "changed meanwhile, so nothing was done"
    if state == MountState.APPROVED and not (verdict := row.evaluate()).ok:
        return f"can't be approved ({row.name}: {verdict.reason})"
    return mount_requests.decide(row, state, actor, reason)


DECIDING: dict[str, Any] = {
    "allowed": GroupMount.objects.operable_by,
    "unchanged": "were so already",
    "permissions": ["approve"],
    "select": lambda rows: rows.select_related("group", "root"),
}


class DryRunForm(forms.Form):
    """A mount that nobody has asked for yet."""

    group = forms.ModelChoiceField(AgentGroup.objects.none(), widget=UnfoldAdminSelectWidget)
    root = forms.ModelChoiceField(MountRoot.objects.all(), widget=UnfoldAdminSelectWidget)
    path = forms.CharField(
        max_length=1000, widget=UnfoldAdminTextInputWidget, help_text="As seen from the root; . for all of it."
    )
    name = forms.CharField(
        max_length=200, initial="data", widget=UnfoldAdminTextInputWidget, help_text="/workspace/extra/NAME"
    )
    read_write = forms.BooleanField(label="to be written", required=False, widget=UnfoldBooleanSwitchWidget)


@admin.register(GroupMount)
class GroupMountAdmin(HistoryAdmin, VisibleAdmin):
    """What groups want to mount. Members look, owners ask, operators decide."""

    state_shown = choice_column("state", MountState)
    list_display = ["name", "group", "root", "path", "read_write", "state_shown", "verdict_shown", "requested_by"]
    list_filter = [("state", ChoicesRadioFilter), ("group", VisibleSelectFilter), "read_write"]
    list_filter_submit = True
    list_select_related = ["group", "root", "requested_by"]
    search_fields = ["name", "path", "group__name", "group__slug", "root__name"]
    fieldsets = [
        (None, {"fields": ["group", "root", "path", "name", "read_write", "reason"]}),
        (
            "What became of it",
            {
                "fields": [
                    "state_shown", "verdict_shown", ("requested_by", "requested_at"), ("decided_by", "decided_at"),
                    "decision",
                ]
            },
        ),
    ]  # fmt: skip
    actions = [
        bulk_action(
            name="approve",
            description="Approve: runs mount it from their next start on",
            work=partial(decide, MountState.APPROVED),
            done="approved",
            confirmation=Confirmation(
                "Approve these mounts?",
                "Agents of these groups see what is in these folders, from their next start on.",
                "Approve",
                form=DecisionForm,
            ),
            **DECIDING,
        ),
        bulk_action(
            name="refuse",
            description="Refuse: runs that start do without it",
            work=partial(decide, MountState.REFUSED),
            done="refused",
            confirmation=Confirmation(
                "Refuse these mounts?",
                "Runs that start do without them. What runs now keeps what it has mounted until it ends.",
                "Refuse",
                danger=True,
                form=DecisionForm,
            ),
            **DECIDING,
        ),
    ]
    actions_list = ["dry_run"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[GroupMount]:
        """With the mounts beside each, which the verdict asks for."""
        return super().get_queryset(request).prefetch_related("group__mounts")

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """A mount stays with its group, and what became of it is not typed."""
        told = ["state_shown", "verdict_shown", "requested_by", "requested_at", "decided_by", "decided_at", "decision"]
        return [*told, "group"] if obj else told

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Nothing has become of a new one."""
        return self.fieldsets if obj else self.fieldsets[:1]

    def formfield_for_foreignkey(self, db_field: "ForeignKey[Any]", request: HttpRequest, **kwargs: Any) -> Any:
        """Offer the groups for which the person may ask."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.remote_field.model is AgentGroup:
            field.queryset = AgentGroup.objects.ownable_by(request.user).filter(deleted_at=None)
        return field

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Owners ask."""
        return AgentGroup.objects.ownable_by(request.user).exists()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Owners ask for something else."""
        owned = AgentGroup.objects.ownable_by(request.user)
        return owned.filter(pk=obj.group_id).exists() if obj else owned.exists()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Owners do without."""
        return self.has_change_permission(request, obj)

    def has_approve_permission(self, request: HttpRequest) -> bool:
        """Operators decide; of which groups, the action looks at."""
        return bool(request.user.has_perm("groups.approve_groupmount"))

    def save_model(self, request: HttpRequest, obj: GroupMount, form: Any, change: bool) -> None:
        """What changes is asked for anew. Who may approve it has approved it by asking."""
        if change and not set(form.changed_data) & set(WISH):
            obj.save()
            return
        mount_requests.request(obj, request.user)
        operable = GroupMount.objects.operable_by(request.user).filter(pk=obj.pk)
        if self.has_approve_permission(request) and operable.exists():
            mount_requests.decide(obj, MountState.APPROVED, request.user, "asked for by an operator")
        else:
            messages.info(request, "An operator has to approve it before runs mount it.")

    def delete_model(self, request: HttpRequest, obj: GroupMount) -> None:
        """Note who did it."""
        audit.record("mount.remove", actor=request.user, target=obj.pk, group=obj.group, name=obj.name)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[GroupMount]) -> None:
        """Note each."""
        for each in queryset.select_related("group"):
            self.delete_model(request, each)

    @action(description="Try a path", url_path="try", permissions=["add"], icon="rule")
    def dry_run(self, request: HttpRequest) -> HttpResponse:
        """The verdict on any path, before anybody asks for it. Nothing is saved."""
        form = DryRunForm(request.POST or None)
        form.fields["group"].queryset = AgentGroup.objects.ownable_by(request.user)  # type: ignore[attr-defined]
        verdict = None
        if form.is_valid():
            verdict = GroupMount(**form.cleaned_data).evaluate()
        context = {"form": form, "verdict": verdict}
        return render(self, request, "admin/berth/dry_run.html", "Try a path", context)

    @display(description="if a run started now")
    def verdict_shown(self, mount: GroupMount) -> str:
        """What would become of it, and why."""
        verdict = mount.evaluate()
        return verdict.reason if verdict.ok else f"Refused: {verdict.reason}"
