"""The admin of sessions: starting one, its live page, and what Berth wrote about it, to read."""

import uuid
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.decorators import display
from unfold.paginator import InfinitePaginator
from unfold.views import ChangeList
from unfold.widgets import UnfoldAdminTextareaWidget

from groups.admin import ReadOnlyAdmin, VisibleAdmin
from groups.models import AgentGroup, AgentProfile
from sessions import admission, intake, summary
from sessions.live import LivePage
from sessions.models import AgentSession, Event, Message, Run
from sessions.render import visible
from sessions.states import COLOURS, EventKind, MessageState, RunState, SessionState

if TYPE_CHECKING:
    pass

RUN_COLOURS = {
    RunState.CLAIMED: "info",
    RunState.STARTING: "info",
    RunState.WORKING: "primary",
    RunState.WAITING: "success",
    RunState.ENDING: "warning",
    RunState.ENDED: "",
}
MESSAGE_COLOURS = {
    MessageState.QUEUED: "warning",
    MessageState.DELIVERED: "info",
    MessageState.ANSWERED: "success",
    MessageState.FAILED: "danger",
    MessageState.CANCELLED: "",
}
KIND_COLOURS = {
    EventKind.MESSAGE: "primary",
    EventKind.RESULT: "success",
    EventKind.TOOL: "info",
    EventKind.TASK: "warning",
    EventKind.ERROR: "danger",
    EventKind.GAP: "danger",
} | dict.fromkeys(["state", "delivered", "turn", "text", "usage", "session", "stdout", "stderr", "exit"], "")


def active_profiles() -> QuerySet[AgentProfile]:
    """What new sessions may run."""
    return AgentProfile.objects.filter(active=True)


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
        except intake.Refused as refused:
            self.add_error(refused.field if refused.field in self.fields else None, ValidationError(str(refused)))


class SessionList(ChangeList):
    """The list of sessions, with the places of those that are queued: one look at the queue for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        """The rows of this page, each with its reason."""
        super().get_results(request)
        rows: list[AgentSession] = list(self.result_list)  # type: ignore[has-type]
        places = admission.look().places if any(row.state == SessionState.QUEUED for row in rows) else {}
        for session in rows:
            if place := places.get(session.pk):
                session.reason = summary.reason(session, place)
        self.result_list = rows


@admin.register(AgentSession)
class AgentSessionAdmin(LivePage, VisibleAdmin):
    """Sessions. The change page is the live page; a person changes only title and priority."""

    list_display = ["title_shown", "group", "profile", "state_shown", "reason", "last_run", "updated_at"]
    list_filter = ["state", "profile", "group"]
    list_select_related = ["group", "profile"]
    search_fields = ["title", "group__slug", "group__name", "profile__slug"]
    search_help_text = "Title, group, profile, or a session's id"
    # The app's own change_form.html is the live page.
    add_form_template = change_form_template = "admin/change_form.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list with reasons."""
        return SessionList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """By words, or by the whole id."""
        if (pk := as_uuid(search_term)) is not None:
            return queryset.filter(pk=pk), False
        return super().get_search_results(request, queryset, search_term)

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Only a superuser's list of groups is not longer than what may be seen."""
        return self.list_filter if request.user.is_superuser else ["state"]

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """What a person decides."""
        return ["title", "priority"] if obj else ["group", "profile", "text", "title"]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """The form of the add page knows who asks."""
        if obj is None:
            kwargs["form"] = type("BoundNewSessionForm", (NewSessionForm,), {"request": request})
        form = super().get_form(request, obj, change=change, **kwargs)
        for name in ("group", "profile"):
            if name in form.base_fields:  # choosing one is no occasion to change it
                widget = form.base_fields[name].widget
                widget.can_add_related = widget.can_change_related = widget.can_view_related = False
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What can be chosen in one way only is chosen already."""
        initial: dict[str, Any] = dict(super().get_changeform_initial_data(request))
        for name, rows in {"group": AgentGroup.objects.writable_by(request.user), "profile": active_profiles()}.items():
            only = list(rows[:2])
            if len(only) == 1:
                initial.setdefault(name, only[0].pk)
        return initial

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Groups in which the person may write, profiles that are switched on."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None and db_field.name == "group":
            field.queryset = AgentGroup.objects.writable_by(request.user)
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

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The add page and the edit page, each with one button."""
        one_button = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().changeform_view(request, object_id, form_url, one_button | (extra_context or {}))

    @display(description="session", ordering="title")
    def title_shown(self, session: AgentSession) -> str:
        """The title, or the start of the id."""
        return str(session)

    @display(description="state", ordering="state", label=COLOURS)
    def state_shown(self, session: AgentSession) -> tuple[str, str]:
        """The state as a label."""
        return session.state, session.get_state_display()


def as_uuid(text: str) -> uuid.UUID | None:
    """The id that `text` is, if it is one."""
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


class OfSessionAdmin(ReadOnlyAdmin):
    """Rows of sessions: who sees the session sees them. They are found by the session's id."""

    search_help_text = "A session's id"
    search_fields = ["session__id"]  # shows the search box; get_search_results does the work
    list_select_related = ["session"]
    paginator = InfinitePaginator  # asks for no count
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def visible(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """As a subquery, so that the table is read in its own order."""
        if request.user.is_superuser:
            return rows
        return rows.filter(session__in=AgentSession.objects.visible_to(request.user).order_by().values("pk"))

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """All of one session, found through its index."""
        if not search_term.strip():
            return queryset, False
        pk = as_uuid(search_term)
        return (queryset.none() if pk is None else queryset.filter(session_id=pk)), False


@admin.register(Run)
class RunAdmin(OfSessionAdmin):
    """Executions, with their verdicts."""

    list_display = ["__str__", "state_shown", "verdict_shown", "verdict_words", "exit_code", "claimed_at", "ended_at"]
    list_filter = ["state", "verdict", "runtime"]
    ordering = ["-claimed_at"]

    @display(description="state", ordering="state", label=RUN_COLOURS)
    def state_shown(self, run: Run) -> tuple[str, str]:
        """The state as a label."""
        return run.state, run.get_state_display()

    @display(description="verdict", ordering="verdict")
    def verdict_shown(self, run: Run) -> str:
        """Why it ended."""
        return run.get_verdict_display()


@admin.register(Message)
class MessageAdmin(OfSessionAdmin):
    """What went in."""

    list_display = ["__str__", "sender", "state_shown", "text_shown", "created_at", "delivered_at", "answered_at"]
    list_filter = ["state"]
    list_select_related = ["session", "sender"]
    ordering = ["-pk"]
    exclude = ["idempotency_key"]

    @display(description="state", ordering="state", label=MESSAGE_COLOURS)
    def state_shown(self, message: Message) -> tuple[str, str]:
        """The state as a label."""
        return message.state, message.get_state_display()

    @display(description="text")
    def text_shown(self, message: Message) -> str:
        """Its beginning."""
        return shortened(message.text)


@admin.register(Event)
class EventAdmin(OfSessionAdmin):
    """What came out. The table may hold hundreds of millions of rows, so nothing here counts or sorts them.

    The primary key's order is the order of arrival.
    """

    list_display = ["seq", "kind_shown", "session", "run_number", "text_shown", "at"]
    list_display_links = ["seq"]
    list_filter = ["kind"]
    list_select_related = ["session", "run"]
    ordering = ["-pk"]
    sortable_by: list[str] = []

    @display(description="kind", label=KIND_COLOURS)
    def kind_shown(self, event: Event) -> tuple[str, str]:
        """The kind as a label."""
        return event.kind, event.get_kind_display()

    @display(description="run")
    def run_number(self, event: Event) -> int | None:
        """The run's number within the session."""
        return event.run.number if event.run else None

    @display(description="text")
    def text_shown(self, event: Event) -> str:
        """Its beginning."""
        return shortened(event.text)


def shortened(text: str, length: int = 100) -> str:
    """The first characters of `text`, on one line, with what is unseen written out."""
    line = visible(" ".join(text[: length * 2].split()))
    return line if len(line) <= length else f"{line[:length]}…"
