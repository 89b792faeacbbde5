"""The admin of people, their roles and keys, and of what they may run."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesRadioFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from groups.admin.shared import HistoryAdmin, ReadOnlyAdmin, VisibleAdmin
from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, ApiToken, Membership

ROLE_COLOURS = {Role.VIEWER: "", Role.MEMBER: "info", Role.OWNER: "primary"}


@admin.register(Membership)
class MembershipAdmin(HistoryAdmin, VisibleAdmin):
    """Who is in which group."""

    list_display = ["user", "group", "role_shown", "created_at"]
    list_filter = [("role", ChoicesRadioFilter), ("group", AutocompleteSelectFilter)]
    list_filter_submit = True
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
class AgentProfileAdmin(HistoryAdmin, ModelAdmin):
    """What runs. Operators write it, so it follows Django's permissions alone."""

    list_display = ["slug", "description", "contract_shown", "image", "cpu_millis", "memory_mib", "active"]
    list_filter = ["contract", "active"]
    search_fields = ["slug", "description", "image"]
    fieldsets = [
        (None, {"fields": ["slug", "description", "active"]}),
        ("What runs", {"fields": ["contract", "image", "command", "environment", "secrets", "state_folder"]}),
        ("Resources", {"fields": [("cpu_millis", "memory_mib")]}),
        ("Time limits", {"fields": [("idle_seconds", "turn_seconds"), ("deadline_seconds", "start_seconds")]}),
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
