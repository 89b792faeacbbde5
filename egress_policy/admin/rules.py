"""The admin of egress rules: operators write them, everybody sees those that count for their groups."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import RadioFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from egress_policy import host_patterns, rules
from egress_policy.choices import RuleState
from egress_policy.models import EgressRule
from groups.admin.toolkit.bases import HistoryAdmin, VisibleAdmin
from groups.admin.toolkit.bulk_actions import bulk_action
from groups.admin.toolkit.columns import colours
from groups.admin.toolkit.pages import FixedFields
from groups.models import AgentGroup, AgentProfile
from groups.permissions import is_scoped_operator


class Ports(forms.CharField):
    """Ports as people write them: 443, 8443."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs |= {"widget": UnfoldAdminTextInputWidget, "initial": "443"}
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        """A list as text."""
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        """Text as a list of numbers."""
        words = str(super().clean(value)).replace(",", " ").split()
        try:
            return host_patterns.check_ports([int(word) if word.isdecimal() else word for word in words])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class RuleForm(forms.ModelForm):
    """A rule as operators edit it."""

    request: HttpRequest
    ports = Ports(help_text="443 is HTTPS, 80 is plain HTTP. Separated by commas.")

    def clean(self) -> dict[str, Any] | None:
        """Who operates some groups only makes rules for these."""
        cleaned = super().clean()
        if "group" in self.fields and is_scoped_operator(self.request.user) and not self.cleaned_data.get("group"):
            self.add_error("group", "Choose a group: rules for every group are not yours to make.")
        return cleaned

    class Meta:
        model = EgressRule
        fields = ["host", "ports", "group", "profile", "until", "reason"]


class LivingFilter(RadioFilter):
    """Rules whose time is up are out of the way, unless one asks for them."""

    title = "time"
    parameter_name = "time"
    all_option = ["", "In force"]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """What one may ask for."""
        return [("over", "Over"), ("all", "All")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rules of the choice."""
        over = queryset.filter(until__lte=timezone.now())
        if self.value() == "all":
            return queryset
        return over if self.value() == "over" else queryset.exclude(pk__in=over.values("pk"))


@admin.register(EgressRule)
class EgressRuleAdmin(FixedFields, HistoryAdmin, VisibleAdmin):
    """What agents may reach. A rule counts where all of group and profile that it names are the agent's own."""

    form = RuleForm
    list_display = ["host", "ports_shown", "whose_shown", "until_shown", "reason", "created_by", "created_at"]
    list_filter = [LivingFilter, "profile"]
    list_select_related = ["group", "profile", "created_by"]
    search_fields = ["host", "reason", "group__slug", "group__name"]
    fields = ["host", "ports", "group", "profile", "until", "reason"]
    actions = [
        bulk_action(
            name="withdraw_selected",
            description="Withdraw: what is open by them ends at once",
            permissions=["delete"],
            work=rules.withdraw,
            allowed=EgressRule.objects.operable_by,
            done="withdrawn",
        )
    ]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Groups that the person operates, and what stands for none of them."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None and db_field.name == "group":
            field.queryset = AgentGroup.objects.operable_by(request.user).filter(deleted_at=None)
            field.empty_label = "every group"
        elif field is not None and db_field.name == "profile":
            field.queryset = AgentProfile.objects.all()
            field.empty_label = "every profile"
        return field

    def get_actions(self, request: HttpRequest) -> Any:
        """Rules are withdrawn, each with its entry in the audit log."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Django's permission, and something to use it on."""
        user = request.user
        somewhere = not is_scoped_operator(user) or AgentGroup.objects.operable_by(user).exists()
        return bool(user.has_perm("reach.add_egressrule") and somewhere)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Django's permission, on rules that the person operates. A run's own rule is as it was approved."""
        allowed = request.user.has_perm("reach.change_egressrule")
        return bool(allowed and (obj is None or (obj.run_id is None and self._operates(request, obj))))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Django's permission, on rules that the person operates."""
        allowed = request.user.has_perm("reach.delete_egressrule")
        return bool(allowed and (obj is None or self._operates(request, obj)))

    def _operates(self, request: HttpRequest, rule: Model) -> bool:
        return EgressRule.objects.operable_by(request.user).filter(pk=rule.pk).exists()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """As any other change: the proxies are told, and the audit log knows."""
        if not change:
            obj.created_by = request.user
        rules.store(obj, actor=request.user, by=request.user.get_username())
        for warning in host_patterns.warnings(obj.host):
            messages.warning(request, warning)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """As any other withdrawal."""
        rules.withdraw(obj, actor=request.user, by=request.user.get_username())

    @display(description="ports")
    def ports_shown(self, rule: EgressRule) -> str:
        """The ports, as people write them."""
        return rule.ports_text

    @display(description="for", ordering="group")
    def whose_shown(self, rule: EgressRule) -> str:
        """Whom it counts for."""
        return rule.whose

    @display(description="until", ordering="until", label=colours(RuleState))
    def until_shown(self, rule: EgressRule) -> tuple[str, str]:
        """How long it holds."""
        if rule.run_id:
            return RuleState.TIME, "the run's end"
        if rule.until is None:
            return RuleState.GOOD, RuleState.GOOD.label
        return (RuleState.OVER if rule.expired() else RuleState.TIME), f"{rule.until:%Y-%m-%d %H:%M} UTC"
