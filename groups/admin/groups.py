"""The admin of groups: who may start what, holds, and groups that were deleted."""

from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import Count, Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import ChoicesRadioFilter, RadioFilter
from unfold.decorators import display

from groups import permissions
from groups.admin.toolkit.bases import HistoryAdmin, VisibleAdmin
from groups.admin.toolkit.bulk_actions import Confirmation, ReasonForm, bulk_action
from groups.admin.toolkit.columns import colours
from groups.choices import Hold
from groups.models import AgentGroup, Limits, Membership

DELETED = "deleted"


class MembershipInline(TabularInline):
    """The people of a group, on the group's page."""

    model = Membership
    fields = ["user", "role"]
    autocomplete_fields = ["user"]
    extra = 0

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whoever sees the group sees its people."""
        return True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may change the group's page at all, and decides on its people."""
        return obj is None or AgentGroup.objects.ownable_by(request.user).filter(pk=obj.pk).exists()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for adding."""
        return self.has_add_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for adding."""
        return self.has_add_permission(request, obj)


class DeletedFilter(RadioFilter):
    """Groups that were deleted are out of the way, unless one asks for them."""

    title = "presence"
    parameter_name = "presence"
    all_option = ["", "In use"]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """What one may ask for."""
        return [("deleted", "Deleted"), ("all", "All")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The groups of the choice."""
        if self.value() == "all":
            return queryset
        return queryset.filter(deleted_at__isnull=self.value() != "deleted")


def set_hold(group: AgentGroup, *, hold: Hold, reason: str = "", **_: Any) -> bool:
    """Hold a group or open it; False if it is deleted. Saved alone, so that it is in the group's history."""
    if group.deleted_at:
        return False
    group.hold, group.hold_reason = hold, reason
    group.save(update_fields=["hold", "hold_reason"])
    return True


HOLDING: dict[str, Any] = {
    "allowed": AgentGroup.objects.operable_by,
    "unchanged": "deleted, so nothing was done",
    "permissions": ["change"],
}


@admin.register(AgentGroup)
class AgentGroupAdmin(HistoryAdmin, VisibleAdmin):
    """Tenants. Deleting one and taking that back are sessions' business, which adds its actions here."""

    list_display = [
        "name", "slug", "starts", "hold_reason", "member_count", "session_count_shown", "slots_shown", "weight",
        "storage", "is_main",
    ]  # fmt: skip
    list_filter = [DeletedFilter, ("hold", ChoicesRadioFilter), "is_main"]
    list_filter_submit = True
    search_fields = ["name", "slug"]
    inlines = [MembershipInline]
    fieldsets = [
        (None, {"fields": ["name", "slug", "is_main", ("max_runs", "weight"), "storage_gib", ("hold", "hold_reason")]}),
        (
            "Quota",
            {
                "fields": [("quota_cpu_millis", "quota_memory_mib", "quota_pods")],
                "description": "What all of its runs may use together on a cluster. A start that would go beyond it "
                "waits until another run has ended; one that alone asks for more is refused.",
            },
        ),
        ("Mounts", {"fields": ["writes_mounts"]}),
        (
            "Models",
            {
                "fields": [("broker_requests", "broker_tokens")],
                "description": "What its agents may ask of models through the credential broker, each day (UTC).",
            },
        ),
    ]
    actions = [
        bulk_action(
            name="pause",
            description="Pause: nothing new starts",
            work=partial(set_hold, hold=Hold.PAUSED),
            done="paused",
            confirmation=Confirmation(
                "Pause groups?",
                "Nothing of theirs starts until they are opened again. What runs goes on, and what waits keeps its "
                "place.",
                "Pause",
                form=ReasonForm,
            ),
            **HOLDING,
        ),
        bulk_action(
            name="drain",
            description="Drain: nothing new starts, runs close after their turn",
            work=partial(set_hold, hold=Hold.DRAINING),
            done="draining",
            confirmation=Confirmation(
                "Drain groups?",
                "Nothing of theirs starts until they are opened again, and what runs is closed when its turn ends.",
                "Drain",
                danger=True,
                form=ReasonForm,
            ),
            **HOLDING,
        ),
        bulk_action(
            name="open",
            description="Open: sessions start again",
            work=partial(set_hold, hold=Hold.NONE),
            done="opened",
            **HOLDING,
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AgentGroup]:
        """With the counts of the list, and what stands for a limit that is not set."""
        return super().get_queryset(request).annotate(
            members_count=_count("memberships"),
            session_count=_count("sessions"),
            default_runs=Subquery(Limits.objects.filter(pk=1).values("max_runs_per_group")),
        )  # fmt: skip

    def visible_rows(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """As a subquery, so that a group stands here once."""
        return rows.filter(pk__in=AgentGroup.objects.visible_to(request.user).order_by().values("pk"))

    def get_prepopulated_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """The slug follows the name only before it is in use."""
        return {"slug": ["name"]} if obj is None else {}

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Names in the cluster are made of the slug, so it stays. The main group's agents reach the others' tasks."""
        everything = [] if request.user.is_superuser else ["is_main"]
        return [*(["slug"] if obj else []), *everything]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Django's permission, but not for those who operate some groups only."""
        return super().has_add_permission(request) and not permissions.is_scoped_operator(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was deleted is restored before it is changed."""
        return super().has_change_permission(request, obj) and (obj is None or obj.deleted_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never at once and for good: see the actions."""
        return False

    def has_remove_permission(self, request: HttpRequest) -> bool:
        """Deleting with a way back, and going it: who has Django's permission to delete."""
        return bool(request.user.has_perm("groups.delete_agentgroup"))

    @display(description="starts", ordering="hold", label=colours(Hold) | {DELETED: "danger"})
    def starts(self, group: AgentGroup) -> tuple[str, str]:
        """Whether its sessions may start."""
        return (DELETED, "Deleted") if group.deleted_at else (group.hold, group.get_hold_display())

    @display(description="members", ordering="members_count")
    def member_count(self, group: Any) -> int:
        """How many people are in it."""
        return int(group.members_count)

    @display(description="sessions", ordering="session_count")
    def session_count_shown(self, group: Any) -> int:
        """How many sessions it has."""
        return int(group.session_count)

    @display(description="runs at a time")
    def slots_shown(self, group: Any) -> str:
        """Its limit, and whether that is the installation's."""
        if group.max_runs:
            return str(group.max_runs)
        return f"{Limits(max_runs_per_group=group.default_runs).runs_per_group} (default)"

    @display(description="storage", ordering="storage_gib")
    def storage(self, group: AgentGroup) -> str:
        """The size of its volume."""
        return f"{group.storage_gib} GiB"


def _count(relation: str) -> Subquery:
    """How many rows of a relation a group has. Two joins at once would count their product."""
    groups = AgentGroup.objects.filter(pk=OuterRef("pk")).order_by()
    return Subquery(groups.values("pk").annotate(total=Count(relation)).values("total"))
