"""The admin of what agents asked for: owners propose, operators decide, many at a time."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesCheckboxFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from egress_policy import access_requests
from egress_policy.choices import REQUEST_COLOURS, Term, Whose
from egress_policy.models import EgressRequest
from groups.admin.toolkit import bulk_actions as confirm
from groups.admin.toolkit.bases import ReadOnlyAdmin, VisibleSelectFilter
from groups.admin.toolkit.bulk_actions import Question
from groups.models import AgentGroup
from groups.permissions import scoped
from sessions.lifecycle.intake import Refused


class WantForm(forms.Form):
    """Why an owner wants it."""

    reason = forms.CharField(
        label="What it is needed for", max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Operators read it."
    )


class AnswerForm(forms.Form):
    """What is said to a refusal."""

    answer = forms.CharField(
        label="Why not",
        max_length=200,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Owners read it, and the agent when it tries again.",
    )


class ApproveForm(forms.Form):
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

    def __init__(self, user: Any, data: Any = None) -> None:
        """`user` decides; who operates some groups only decides for these."""
        super().__init__(data)
        if scoped(user):
            shared = {str(Whose.PROFILE)}
            self.fields["whose"].choices = [each for each in Whose.choices if each[0] not in shared]  # type: ignore[attr-defined]


@admin.register(EgressRequest)
class EgressRequestAdmin(ReadOnlyAdmin):
    """Hosts that were refused, one row for each with its group and profile."""

    list_display = ["place", "group", "profile", "state_shown", "count", "last_shown", "wanted", "decided"]
    list_filter = [("state", ChoicesCheckboxFilter), ("group", VisibleSelectFilter)]
    list_filter_submit = True
    list_select_related = ["group", "profile", "last_session"]
    search_fields = ["host", "group__slug", "group__name", "reason"]
    ordering = ["-last_at"]
    actions = ["propose_selected", "approve_selected", "refuse_selected", "reopen_selected"]
    fields = [
        "place", "group", "profile", "state_shown", "count", "first_at", "last_at", "last_shown", "wanted", "decided",
        "rule",
    ]  # fmt: skip
    readonly_fields = fields

    def has_propose_permission(self, request: HttpRequest) -> bool:
        """Whoever owns a group."""
        return AgentGroup.objects.ownable_by(request.user).exists()

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Whoever may make rules."""
        return bool(request.user.has_perm("reach.add_egressrule"))

    @action(description="Propose: an operator decides", permissions=["propose"])
    def propose_selected(self, request: HttpRequest, queryset: QuerySet[EgressRequest]) -> HttpResponse | None:
        """Asks what it is needed for."""
        form = WantForm(request.POST if confirm.confirmed(request) else None)
        if not form.is_valid():
            words = "Operators see your words next to what the agents tried to reach, and allow it or not."
            return self._ask(request, queryset, Question("propose_selected", "Propose these?", words, "Propose"), form)
        rows = EgressRequest.objects.ownable_by(request.user)
        self._each(request, queryset, rows, "proposed", access_requests.propose, form.cleaned_data["reason"])
        return None

    @action(description="Approve", permissions=["decide"])
    def approve_selected(self, request: HttpRequest, queryset: QuerySet[EgressRequest]) -> HttpResponse | None:
        """Asks for how long, and for whom."""
        form = ApproveForm(request.user, request.POST if confirm.confirmed(request) else None)
        if not form.is_valid():
            words = "The agents' next try goes through: nothing has to be restarted. Withdraw the rule to take it back."
            return self._ask(request, queryset, Question("approve_selected", "Allow these?", words, "Approve"), form)
        said = form.cleaned_data
        rows = EgressRequest.objects.operable_by(request.user)
        terms = (Term(said["term"]), Whose(said["whose"]), said["answer"])
        self._each(request, queryset, rows, "approved", access_requests.approve, *terms)
        return None

    @action(description="Refuse: they are not asked for again", permissions=["decide"])
    def refuse_selected(self, request: HttpRequest, queryset: QuerySet[EgressRequest]) -> HttpResponse | None:
        """Asks for a word about it."""
        form = AnswerForm(request.POST if confirm.confirmed(request) else None)
        if not form.is_valid():
            words = "Agents go on being refused, and nobody is asked again until somebody reopens it."
            question = Question("refuse_selected", "Refuse these?", words, "Refuse", danger=True)
            return self._ask(request, queryset, question, form)
        rows = EgressRequest.objects.operable_by(request.user)
        self._each(request, queryset, rows, "refused", access_requests.refuse, form.cleaned_data["answer"])
        return None

    @action(description="Reopen what was refused", permissions=["decide"])
    def reopen_selected(self, request: HttpRequest, queryset: QuerySet[EgressRequest]) -> None:
        """No question: nothing is allowed by it."""
        rows = EgressRequest.objects.operable_by(request.user)
        self._each(request, queryset, rows, "reopened", access_requests.reopen)

    def _ask(
        self, request: HttpRequest, queryset: QuerySet[EgressRequest], question: Question, form: forms.Form
    ) -> HttpResponse | None:
        return None if confirm.too_many(request, queryset) else confirm.ask(self, request, queryset, question, form)

    def _each(
        self, request: HttpRequest, chosen: Any, allowed: Any, done: str, do: Callable[..., Any], *said: Any
    ) -> None:
        """Do it to those that the person may decide, and tell what happened."""
        user, rows = request.user, list(chosen)
        mine = set(allowed.filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
        count = 0
        for row in rows:
            if row.pk not in mine:
                messages.error(request, f"{row}: you may read it only.")
                continue
            try:
                do(row, *said, actor=user, by=user.get_username())
                count += 1
            except Refused as refused:
                messages.error(request, str(refused))
        messages.info(request, f"{count} of {len(rows)} {done}.")

    @display(description="host", ordering="host")
    def place(self, row: EgressRequest) -> str:
        """Host and port."""
        return f"{row.host}:{row.port}"

    @display(description="state", ordering="state", label=REQUEST_COLOURS)
    def state_shown(self, row: EgressRequest) -> tuple[str, str]:
        """The state as a label."""
        return row.state, row.get_state_display()

    @display(description="last try", ordering="last_at")
    def last_shown(self, row: EgressRequest) -> str:
        """When, and the session in which."""
        at = f"{row.last_at:%Y-%m-%d %H:%M}"
        if row.last_session is None:
            return at
        page = reverse("admin:agent_sessions_agentsession_change", args=[row.last_session_id])
        return format_html('{} in <a href="{}">{}</a>', at, page, row.last_session)

    @display(description="wanted")
    def wanted(self, row: EgressRequest) -> str:
        """The owner's words."""
        return f"{row.reason} ({row.proposed_by})" if row.proposed_by else ""

    @display(description="decided")
    def decided(self, row: EgressRequest) -> str:
        """By whom, and their words."""
        return f"by {row.decided_by}: {row.answer}".removesuffix(": ") if row.decided_by else ""
