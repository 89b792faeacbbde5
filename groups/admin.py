"""The admin of tenants, and what all of Berth's admin pages share: who sees what."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Count, ForeignKey, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, ApiToken, Membership

ROLE_COLOURS = {Role.VIEWER: "", Role.MEMBER: "info", Role.OWNER: "primary"}


class VisibleAdmin(ModelAdmin):
    """Pages of rows that people see by their membership of a group; what one may not see is not there (404).

    Whoever may use the admin at all may look. Changing asks for Django's permissions as well.
    """

    list_per_page = 50

    def visible(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Those of `rows` that the request's user may see."""
        return rows.visible_to(request.user)  # type: ignore[attr-defined]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """What every page, search and filter starts from."""
        return self.visible(request, super().get_queryset(request))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """The app stands in everybody's menu."""
        return True

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """The queryset has decided already."""
        return True

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        raise Http404

    def formfield_for_foreignkey(self, db_field: "ForeignKey[Any]", request: HttpRequest, **kwargs: Any) -> Any:
        """Offer only groups that the person may see."""
        if db_field.remote_field.model is AgentGroup:
            kwargs["queryset"] = AgentGroup.objects.visible_to(request.user)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


class ReadOnlyAdmin(VisibleAdmin):
    """Rows that only Berth writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False


class MembershipInline(TabularInline):
    """The people of a group, on the group's page."""

    model = Membership
    fields = ["user", "role"]
    autocomplete_fields = ["user"]
    extra = 0

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whoever sees the group sees its people."""
        return True


@admin.register(AgentGroup)
class AgentGroupAdmin(VisibleAdmin):
    """Tenants."""

    list_display = ["name", "slug", "people", "sessions_held", "slots_shown", "weight", "storage_gib", "is_main"]
    list_filter = ["is_main"]
    search_fields = ["name", "slug"]
    inlines = [MembershipInline]
    prepopulated_fields = {"slug": ["name"]}
    fields = ["name", "slug", "is_main", "max_runs", "weight", "storage_gib"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[AgentGroup]:
        """With the counts of the list."""
        return super().get_queryset(request).annotate(
            people_count=Count("memberships", distinct=True), session_count=Count("sessions", distinct=True)
        )  # fmt: skip

    def visible(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """As a subquery, so that the join of the visibility does not narrow the counts."""
        return rows.filter(pk__in=AgentGroup.objects.visible_to(request.user).order_by().values("pk"))

    def get_prepopulated_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """The slug follows the name only before it is in use."""
        return self.prepopulated_fields if obj is None else {}

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Names in the cluster are made of the slug, so it stays."""
        return ["slug"] if obj else []

    @display(description="members", ordering="people_count")
    def people(self, group: Any) -> int:
        """How many people are in it."""
        return int(group.people_count)

    @display(description="sessions", ordering="session_count")
    def sessions_held(self, group: Any) -> int:
        """How many sessions it has."""
        return int(group.session_count)

    @display(description="runs at a time")
    def slots_shown(self, group: AgentGroup) -> str:
        """Its limit, and whether that is the installation's."""
        return str(group.max_runs) if group.max_runs else f"{group.slots} (default)"


@admin.register(Membership)
class MembershipAdmin(VisibleAdmin):
    """Who is in which group."""

    list_display = ["user", "group", "role_shown", "created_at"]
    list_filter = ["role"]
    list_select_related = ["user", "group"]
    search_fields = ["user__username", "user__email", "group__name", "group__slug"]
    autocomplete_fields = ["user"]

    def visible(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Those of the groups that the person sees."""
        return rows.filter(group__in=AgentGroup.objects.visible_to(request.user))

    @display(description="role", ordering="role", label=ROLE_COLOURS)
    def role_shown(self, membership: Membership) -> tuple[str, str]:
        """The role as a label."""
        return membership.role, membership.get_role_display()


@admin.register(AgentProfile)
class AgentProfileAdmin(ModelAdmin):
    """What runs. Operators write it, so it follows Django's permissions alone."""

    list_display = ["slug", "description", "contract_shown", "image", "cpu_millis", "memory_mib", "active"]
    list_filter = ["contract", "active"]
    search_fields = ["slug", "description", "image"]
    fieldsets = [
        (None, {"fields": ["slug", "description", "active"]}),
        ("What runs", {"fields": ["contract", "image", "command", "environment", "secrets", "state_folder"]}),
        ("Resources", {"fields": [("cpu_millis", "memory_mib")]}),
        ("Time limits", {"fields": [("idle_seconds", "deadline_seconds", "start_seconds")]}),
    ]

    @display(description="contract", ordering="contract")
    def contract_shown(self, profile: AgentProfile) -> str:
        """The contract's name in words."""
        return profile.get_contract_display()


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """Keys of programs. A token is shown once, by `manage.py create_token`; here it can only be revoked."""

    list_display = ["name_shown", "user", "created_at"]
    list_select_related = ["user"]
    search_fields = ["name", "user__username"]
    fields = ["name", "user", "created_at"]

    def visible(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """One's own; all of them for a superuser."""
        return rows if request.user.is_superuser else rows.filter(user_id=request.user.pk)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whoever sees a token may revoke it."""
        return True

    @display(description="name", ordering="name")
    def name_shown(self, token: ApiToken) -> str:
        """Its name, or whose it is."""
        return str(token)


admin.site.unregister([User, Group])


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):
    """Django's own page of people, in the look of the others."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    """Django's sets of permissions, in the look of the others."""
