"""The admin of messages: the list, and a page that tells to which runs a message was handed and what came of it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.contrib.filters.admin import ChoicesCheckboxFilter
from unfold.decorators import action, display

from groups.admin.toolkit import bulk_actions as confirm
from groups.admin.toolkit.bulk_actions import Question
from sessions.admin.actions import NOT_ALLOWED
from sessions.admin.shared import MESSAGE_COLOURS, OfSessionAdmin, shortened
from sessions.choices import EventKind, MessageState
from sessions.lifecycle import intake
from sessions.models import AgentSession, Event, Message

NOTHING = "left as they are"
Work = Callable[[Message, Any], Any]


def take_back(message: Message, user: Any) -> None:
    """Take back what waits, discard what failed. Raises Refused."""
    intake.cancel(message.session, message.number, by=user.get_username(), actor=user)


def retry(message: Message, user: Any) -> None:
    """Queue the failed messages of its session again. Raises Refused."""
    intake.retry(message.session, by=user.get_username(), actor=user)


@admin.register(Message)
class MessageAdmin(OfSessionAdmin):
    """What went in."""

    list_display = [
        "__str__", "sender", "state_shown", "text_shown", "attempts", "reason_shown", "created_at", "answered_at",
    ]  # fmt: skip
    list_filter = [("state", ChoicesCheckboxFilter)]
    list_filter_submit = True
    list_fullwidth = True
    list_select_related = ["session", "sender"]
    ordering = ["-pk"]
    actions = ["retry_messages", "take_back_messages"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        """With the beginnings of long texts alone."""
        rows = super().get_queryset(request).annotate(begin=Left("text", 200), why=Left("reason", 200))
        return rows.defer("text", "reason")

    def get_urls(self) -> list[URLPattern]:
        """The page's own addresses, before Django's."""
        views = {"retry": self.retry_view, "cancel": self.cancel_view}
        own = [
            path(f"<int:pk>/{name}/", self.admin_site.admin_view(view), name=f"agent_sessions_message_{name}")
            for name, view in views.items()
        ]
        return [*own, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The message's page."""
        message: Any = self.get_object(request, object_id)
        if message is None:
            raise Http404
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        can_write = AgentSession.objects.writable_by(request.user).filter(pk=message.session_id).exists()
        context = {
            **self.admin_site.each_context(request),
            "title": str(message),
            "opts": self.opts,
            "original": message,
            "object_id": object_id,
            "media": self.media,
            "message": message,
            "colour": MESSAGE_COLOURS[MessageState(message.state)],
            "deliveries": deliveries(message),
            "can_retry": can_write and message.state == MessageState.FAILED,
            "can_cancel": can_write and message.state in (MessageState.QUEUED, MessageState.FAILED),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/agent_sessions/message/change_form.html", context)

    def retry_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: queue it again."""
        return self._act(request, pk, retry, "It is queued again.")

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: take it back, or discard it."""
        return self._act(request, pk, take_back, "It is cancelled.")

    def _act(self, request: HttpRequest, pk: int, work: Work, done: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        message: Any = self.get_object(request, str(pk))
        if message is None:
            raise Http404
        if not AgentSession.objects.writable_by(request.user).filter(pk=message.session_id).exists():
            messages.error(request, "You may read this session. Only members and owners of its group may do this.")
        else:
            try:
                work(message, request.user)
                messages.success(request, done)
            except intake.Refused as refused:
                messages.error(request, str(refused))
        return HttpResponseRedirect(reverse("admin:agent_sessions_message_change", args=[pk]))

    @action(description="Retry: queue what failed again")
    def retry_messages(self, request: HttpRequest, queryset: QuerySet[Message]) -> None:
        """All that failed in a session goes together, so that messages keep their order."""
        if confirm.too_many(request, queryset):
            return
        failed = queryset.filter(state=MessageState.FAILED).order_by("session", "number")
        of_sessions = {message.session_id: message for message in failed.select_related("session")}
        confirm.tell(request, self._do(request, of_sessions.values(), retry, "session(s) queued again"))

    @action(description="Cancel: take back what waits, discard what failed")
    def take_back_messages(self, request: HttpRequest, queryset: QuerySet[Message]) -> HttpResponse | None:
        """Asks first: no agent will ever see them."""
        if confirm.too_many(request, queryset):
            return None
        if not confirm.confirmed(request):
            words = "Those that wait are taken back, those that failed are discarded; the others are left as they are."
            question = Question("take_back_messages", "Cancel these messages?", words, "Cancel messages", danger=True)
            return confirm.ask(self, request, queryset, question)
        confirm.tell(request, self._do(request, queryset.select_related("session"), take_back, "cancelled"))
        return None

    def _do(self, request: HttpRequest, rows: Any, work: Work, done: str) -> dict[str, int]:
        chosen = list(rows)
        ids = {message.session_id for message in chosen}
        allowed = set(AgentSession.objects.writable_by(request.user).filter(pk__in=ids).values_list("pk", flat=True))
        counts = Counter({done: 0, NOTHING: 0, NOT_ALLOWED: 0})
        for message in chosen:
            if message.session_id not in allowed:
                counts[NOT_ALLOWED] += 1
                continue
            try:
                work(message, request.user)
                counts[done] += 1
            except intake.Refused:
                counts[NOTHING] += 1
        return dict(counts)

    @display(description="state", ordering="state", label=MESSAGE_COLOURS)
    def state_shown(self, message: Message) -> tuple[str, str]:
        """The state as a label."""
        return message.state, message.get_state_display()

    @display(description="text")
    def text_shown(self, message: Any) -> str:
        """Its beginning."""
        return shortened(message.begin, 80)

    @display(description="why")
    def reason_shown(self, message: Any) -> str:
        """Why it failed or was cancelled, or what became of the last try."""
        return shortened(message.why, 80)


def deliveries(message: Message) -> QuerySet[Event]:
    """Each time that a run was handed the message, oldest first; `event.run` has the verdict."""
    of_session = Event.objects.filter(session=message.session_id, kind=EventKind.DELIVERED)
    return of_session.filter(data__number=message.number).select_related("run").order_by("seq")
