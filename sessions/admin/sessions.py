"""The admin of sessions: the list with everything that tells how they are, starting one, its live page."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import (
    ChoicesCheckboxFilter,
    DropdownFilter,
    RelatedDropdownFilter,
)
from unfold.decorators import display
from unfold.views import ChangeList
from unfold.widgets import UnfoldAdminTextareaWidget

from groups.admin.toolkit.bases import VisibleAdmin, VisibleSelectFilter
from groups.admin.toolkit.columns import choice_column
from groups.admin.toolkit.pages import FixedFields, OneSaveButton
from groups.models import AgentGroup, AgentProfile
from sessions.admin.actions import SESSION_ACTIONS
from sessions.admin.bases import parse_uuid
from sessions.admin.changelist import SessionChangeList
from sessions.admin.live_view import LivePage
from sessions.choices import SessionState
from sessions.durations import age
from sessions.lifecycle import intake
from sessions.models import AgentSession

AGES = {
    "hour": ("In the last hour", timedelta(hours=1)),
    "day": ("In the last day", timedelta(days=1)),
    "week": ("In the last week", timedelta(weeks=1)),
    "month": ("In the last 30 days", timedelta(days=30)),
}


def active_profiles() -> QuerySet[AgentProfile]:
    """What new sessions may run."""
    return AgentProfile.objects.filter(active=True)


def open_groups(request: HttpRequest) -> QuerySet[AgentGroup]:
    """The groups in which the person may start sessions."""
    return AgentGroup.objects.writable_by(request.user).filter(deleted_at__isnull=True)


class NewSessionForm(forms.ModelForm):
    """A session starts with its first message."""

    text = forms.CharField(label="First message", widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}), strip=False)
    request: HttpRequest

    class Meta:
        model = AgentSession
        fields = ["group", "profile", "title"]

    def _post_clean(self) -> None:
        """Opening is the last step of checking, so that what intake refuses stands at its field."""
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        wanted = self.cleaned_data
        try:
            self.instance = intake.open_session(
                group=wanted["group"],
                profile=wanted["profile"],
                title=wanted["title"],
                text=wanted["text"],
                sender=self.request.user,
            )
        except intake.InvalidRequest as error:
            self.add_error(error.field if error.field in self.fields else None, ValidationError(str(error)))


class ActiveFilter(DropdownFilter):
    """By when something last happened."""

    title = "activity"
    parameter_name = "active"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The spans of time."""
        return [*((key, words) for key, (words, _) in AGES.items()), ("before", "Not in the last 30 days")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The sessions of the choice."""
        if self.value() == "before":
            return queryset.filter(updated_at__lt=timezone.now() - AGES["month"][1])
        if self.value() in AGES:
            return queryset.filter(updated_at__gte=timezone.now() - AGES[self.value()][1])
        return queryset


@admin.register(AgentSession)
class AgentSessionAdmin(LivePage, OneSaveButton, FixedFields, VisibleAdmin):
    """Sessions. The change page is the live page; a person changes only title and priority."""

    state_shown = choice_column("state", SessionState)
    list_display = [
        "title_shown",
        "state_shown",
        "reason_shown",
        "last_event",
        "place",
        "runs_shown",
        "age_shown",
        "active_shown",
    ]
    list_filter = [
        ("state", ChoicesCheckboxFilter),
        ("group", VisibleSelectFilter),
        ("profile", RelatedDropdownFilter),
        ActiveFilter,
    ]
    actions = SESSION_ACTIONS
    add_form = NewSessionForm
    list_filter_submit = True
    list_fullwidth = True
    list_select_related = ["group", "profile"]
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    search_fields = ["title"]  # shows the search box; get_search_results does the work
    search_help_text = "Title, group, profile, or a session's id"
    # The app's own change_form.html is the live page.
    add_form_template = change_form_template = "admin/change_form.html"

    class Media:
        css = {"all": ["berth/admin.css"]}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list with reasons and last events."""
        return SessionChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """By words, or by the whole id. Groups and profiles are looked up first: they are few, and sessions many."""
        if (pk := parse_uuid(search_term)) is not None:
            return queryset.filter(pk=pk), False
        for word in search_term.split():
            groups = AgentGroup.objects.filter(Q(slug__icontains=word) | Q(name__icontains=word))
            profiles = AgentProfile.objects.filter(slug__icontains=word)
            of_them = Q(group__in=groups.order_by().values("pk")) | Q(profile__in=profiles.order_by().values("pk"))
            queryset = queryset.filter(Q(title__icontains=word) | of_them)
        return queryset, False

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """What a person decides."""
        return ["title", "priority"] if obj else ["group", "profile", "text", "title"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What can be chosen in one way only is chosen already."""
        initial: dict[str, Any] = dict(super().get_changeform_initial_data(request))
        for name, rows in {"group": open_groups(request), "profile": active_profiles()}.items():
            only = list(rows[:2])
            if len(only) == 1:
                initial.setdefault(name, only[0].pk)
        return initial

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Groups in which the person may write, profiles that are switched on."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None and db_field.name == "group":
            field.queryset = open_groups(request)
        elif field is not None and db_field.name == "profile":
            field.queryset = active_profiles()
        return field

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """A new session was stored by intake; of an old one, only what was edited is written."""
        if change:
            obj.save(update_fields=["title", "priority"])

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Whoever is member or owner of a group."""
        return bool(request.user.is_superuser or AgentGroup.objects.writable_by(request.user).exists())

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may write to it."""
        return obj is not None and AgentSession.objects.writable_by(request.user).filter(pk=obj.pk).exists()

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Not here: a session's runs may still have traces in the runtime."""
        return False

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """To the live page, where the answer comes."""
        return HttpResponseRedirect(reverse("admin:agent_sessions_agentsession_change", args=[obj.pk]))

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Back to the live page."""
        return HttpResponseRedirect(reverse("admin:agent_sessions_agentsession_change", args=[obj.pk]))

    @display(description="session", ordering="title")
    def title_shown(self, session: AgentSession) -> SafeString:
        """The title, or the start of the id."""
        return format_html('<span class="berth-cell berth-title">{}</span>', str(session))

    @display(description="why")
    def reason_shown(self, session: Any) -> Any:
        """Why it is in its state; for a queued one, its place."""
        return session.reason_cell

    @display(description="last event")
    def last_event(self, session: Any) -> Any:
        """What came last: its kind and its beginning."""
        return session.last_event

    @display(description="group / profile", ordering="group__slug")
    def place(self, session: AgentSession) -> SafeString:
        """Whose it is, and what runs."""
        return format_html('{} <span class="berth-soft">/ {}</span>', session.group, session.profile)

    @display(description="runs", ordering="last_run")
    def runs_shown(self, session: AgentSession) -> int:
        """How many runs it has had."""
        return session.last_run

    @display(description="age", ordering="-created_at")
    def age_shown(self, session: AgentSession) -> SafeString:
        """How long ago it was opened."""
        return ago(session.created_at)

    @display(description="active", ordering="updated_at")
    def active_shown(self, session: AgentSession) -> SafeString:
        """How long ago something last happened."""
        return ago(session.updated_at)


def ago(at: datetime) -> SafeString:
    """How long ago `at` was; the time itself on hovering."""
    return format_html(
        '<time class="berth-number" datetime="{}" title="{}">{}</time>',
        at.isoformat(),
        f"{at:%Y-%m-%d %H:%M:%S} UTC",
        age(timezone.now() - at),
    )
