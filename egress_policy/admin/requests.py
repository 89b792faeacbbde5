"""The admin of what agents asked for: owners propose, operators decide, many at a time."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesCheckboxFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from egress_policy import access_requests
from egress_policy.choices import RequestState, Term, Whose
from egress_policy.models import EgressRequest
from groups.admin.toolkit.bases import ReadOnlyAdmin, VisibleSelectFilter
from groups.admin.toolkit.bulk_actions import ActionForm, Confirmation, bulk_action
from groups.admin.toolkit.columns import choice_column
from groups.models import AgentGroup
from groups.permissions import is_scoped_operator
from sessions.lifecycle.intake import InvalidRequest


class ProposeForm(ActionForm):
    """Why an owner wants it."""

    reason = forms.CharField(
        label="What it is needed for", max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Operators read it."
    )


class RefuseForm(ActionForm):
    """What is said to a refusal."""

    answer = forms.CharField(
        label="Why not",
        max_length=200,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Owners read it, and the agent when it tries again.",
    )


class ApproveForm(ActionForm):
    """For how long, and for whom."""

    term = forms.ChoiceField(label="How long", choices=Term.choices, initial=Term.WEEK, widget=UnfoldAdminSelectWidget)
    whose = forms.ChoiceField(label="For whom", choices=Whose.choices, widget=UnfoldAdminSelectWidget)
    answer = forms.CharField(
        label="Why",
        max_length=200,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Stands with the rule. Empty: the owner's words.",
    )

    def clean_term(self) -> Term:
        """One of them."""
        return Term(self.cleaned_data["term"])

    def clean_whose(self) -> Whose:
        """One of them."""
        return Whose(self.cleaned_data["whose"])

    def prepare(self, request: HttpRequest, rows: list[EgressRequest]) -> None:
        """Who operates some groups only decides for these."""
        if is_scoped_operator(request.user):
            allowed = [each for each in Whose.choices if each[0] != Whose.PROFILE]
            self.fields["whose"].choices = allowed  # type: ignore[attr-defined]


DECIDING: dict[str, Any] = {
    "allowed": EgressRequest.objects.operable_by,
    "permissions": ["decide"],
    "refusals": (InvalidRequest,),
}


@admin.register(EgressRequest)
class EgressRequestAdmin(ReadOnlyAdmin):
    """Hosts that were refused, one row for each with its group and profile."""

    state_shown = choice_column("state", RequestState)
    list_display = ["address", "group", "profile", "state_shown", "count", "last_shown", "proposal", "decision"]
    list_filter = [("state", ChoicesCheckboxFilter), ("group", VisibleSelectFilter)]
    list_filter_submit = True
    list_select_related = ["group", "profile", "last_session"]
    search_fields = ["host", "group__slug", "group__name", "reason"]
    ordering = ["-last_at"]
    actions = [
        bulk_action(
            name="propose_selected",
            description="Propose: an operator decides",
            permissions=["propose"],
            work=access_requests.propose,
            allowed=EgressRequest.objects.ownable_by,
            done="proposed",
            refusals=(InvalidRequest,),
            confirmation=Confirmation(
                "Propose these?",
                "Operators see your words next to what the agents tried to reach, and allow it or not.",
                "Propose",
                form=ProposeForm,
            ),
        ),
        bulk_action(
            name="approve_selected",
            description="Approve",
            work=access_requests.approve,
            done="approved",
            confirmation=Confirmation(
                "Allow these?",
                "The agents' next try goes through: nothing has to be restarted. Withdraw the rule to take it back.",
                "Approve",
                form=ApproveForm,
            ),
            **DECIDING,
        ),
        bulk_action(
            name="refuse_selected",
            description="Refuse: they are not asked for again",
            work=access_requests.refuse,
            done="refused",
            confirmation=Confirmation(
                "Refuse these?",
                "Agents go on being refused, and nobody is asked again until somebody reopens it.",
                "Refuse",
                danger=True,
                form=RefuseForm,
            ),
            **DECIDING,
        ),
        bulk_action(
            name="reopen_selected",
            description="Reopen what was refused",
            work=access_requests.reopen,
            done="reopened",
            **DECIDING,
        ),
    ]
    fields = [
        "address", "group", "profile", "state_shown", "count", "first_at", "last_at", "last_shown", "proposal",
        "decision", "rule",
    ]  # fmt: skip
    readonly_fields = fields

    def has_propose_permission(self, request: HttpRequest) -> bool:
        """Whoever owns a group."""
        return AgentGroup.objects.ownable_by(request.user).exists()

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Whoever may make rules."""
        return bool(request.user.has_perm("reach.add_egressrule"))

    @display(description="host", ordering="host")
    def address(self, row: EgressRequest) -> str:
        """Host and port."""
        return f"{row.host}:{row.port}"

    @display(description="last try", ordering="last_at")
    def last_shown(self, row: EgressRequest) -> str:
        """When, and the session in which."""
        at = f"{row.last_at:%Y-%m-%d %H:%M}"
        if row.last_session is None:
            return at
        page = reverse("admin:agent_sessions_agentsession_change", args=[row.last_session_id])
        return format_html('{} in <a href="{}">{}</a>', at, page, row.last_session)

    @display(description="wanted")
    def proposal(self, row: EgressRequest) -> str:
        """The owner's words."""
        return f"{row.reason} ({row.proposed_by})" if row.proposed_by else ""

    @display(description="decided")
    def decision(self, row: EgressRequest) -> str:
        """By whom, and their words."""
        return f"by {row.decided_by}: {row.answer}".removesuffix(": ") if row.decided_by else ""
