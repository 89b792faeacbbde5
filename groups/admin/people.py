"""The admin of people, their roles and keys, and of what they may run."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminTextInputWidget

from groups.admin.toolkit.bases import (
    GlobalAdmin,
    HistoryAdmin,
    SuperusersAdmin,
    VisibleAdmin,
    VisibleSelectFilter,
)
from groups.admin.toolkit.columns import choice_column
from groups.admin.toolkit.pages import FixedFields
from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, Membership, OperatorScope


class MembershipForm(forms.ModelForm):
    """A new membership. The person is typed, so that an owner needs no list of all people."""

    person = forms.CharField(
        label="Username", max_length=150, widget=UnfoldAdminTextInputWidget, help_text="As they log in."
    )

    class Meta:
        model = Membership
        fields = ["group", "role"]

    def clean_person(self) -> User:
        """The user of that name."""
        name = self.cleaned_data["person"]
        user = User.objects.filter(username=name, is_active=True).first()
        if user is None:
            raise forms.ValidationError(f"There is nobody with the username {name!r}. An operator can make one.")
        self.instance.user = user
        return user


@admin.register(Membership)
class MembershipAdmin(FixedFields, HistoryAdmin, VisibleAdmin):
    """Who is in which group: seen by all who are in it, changed by its owners and operators."""

    add_form = MembershipForm
    fixed_fields = ["user", "group"]
    role_shown = choice_column("role", Role)
    list_display = ["user", "group", "role_shown", "created_at"]
    list_filter = [("role", ChoicesRadioFilter), ("group", VisibleSelectFilter)]
    list_filter_submit = True
    list_select_related = ["user", "group"]
    search_fields = ["user__username", "group__name", "group__slug"]

    def get_search_fields(self, request: HttpRequest) -> Any:
        """People's addresses are for those who see people's pages: others could guess them, letter by letter."""
        return [*self.search_fields, *(["user__email"] if request.user.has_perm("auth.view_user") else [])]

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """A membership stays that of its person in its group; the role changes."""
        return ["user", "group", "role"] if obj else ["group", "person", "role"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Groups that the person decides on."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None and db_field.name == "group":
            field.queryset = AgentGroup.objects.ownable_by(request.user).filter(deleted_at=None)
        return field

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Whoever owns or operates a group."""
        return AgentGroup.objects.ownable_by(request.user).exists()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Owners and operators of its group."""
        if obj is None:
            return self.has_add_permission(request)
        return Membership.objects.ownable_by(request.user).filter(pk=obj.pk).exists()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for changing."""
        return self.has_change_permission(request, obj)


@admin.register(OperatorScope)
class OperatorScopeAdmin(HistoryAdmin, SuperusersAdmin):
    """Who operates which group."""

    list_display = ["user", "group", "created_at"]
    list_filter = [("group", VisibleSelectFilter)]
    list_filter_submit = True
    list_select_related = ["user", "group"]
    search_fields = ["user__username", "group__name", "group__slug"]
    autocomplete_fields = ["user", "group"]


@admin.register(AgentProfile)
class AgentProfileAdmin(HistoryAdmin, GlobalAdmin):
    """What runs. Operators write it, so it follows Django's permissions alone."""

    list_display = ["slug", "description", "contract_shown", "image", "cpu_millis", "memory_mib", "active"]
    list_filter = ["contract", "active"]
    search_fields = ["slug", "description", "image"]
    fieldsets = [
        (None, {"fields": ["slug", "description", "active"]}),
        ("What runs", {"fields": ["contract", "image", "command", "environment", "secrets", "state_folder"]}),
        ("Resources", {"fields": [("cpu_millis", "memory_mib")]}),
        (
            "On a cluster",
            {"fields": ["runtime_class", "node_selector", "tolerations", "pod_patch", "dns"], "classes": ["collapse"]},
        ),
        ("Time limits", {"fields": [("idle_seconds", "turn_seconds"), ("deadline_seconds", "start_seconds")]}),
    ]

    @display(description="contract", ordering="contract")
    def contract_shown(self, profile: AgentProfile) -> str:
        """The contract's name in words."""
        return profile.get_contract_display()


admin.site.unregister([User, Group])


@admin.register(User)
class UserAdmin(DjangoUserAdmin, GlobalAdmin):  # type: ignore[misc]
    """Django's own page of people, in the look of the others. Nobody but a superuser decides on anybody's power."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Who may change people could else make themselves a superuser."""
        power = ["is_staff", "is_superuser", "groups", "user_permissions"]
        return [*super().get_readonly_fields(request, obj), *([] if request.user.is_superuser else power)]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Also of passwords: who sets somebody's can be them."""
        allowed = request.user.is_superuser or obj is None or not (obj.is_superuser or obj.is_staff)
        return allowed and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for changing."""
        allowed = request.user.is_superuser or obj is None or not (obj.is_superuser or obj.is_staff)
        return allowed and super().has_delete_permission(request, obj)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, SuperusersAdmin):  # type: ignore[misc]
    """Django's sets of permissions, in the look of the others."""
