"""The admin of messages: the list, and a page that tells to which runs a message was handed and what came of it."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.contrib.filters.admin import ChoicesCheckboxFilter
from unfold.decorators import display

from groups.admin.toolkit.bulk_actions import Confirmation, bulk_action
from groups.admin.toolkit.columns import choice_column
from groups.admin.toolkit.pages import ButtonViews, DetailPage
from sessions.admin import actions
from sessions.admin.bases import SessionRowAdmin, truncate
from sessions.admin.live_view import actor_of
from sessions.choices import EventKind, MessageState
from sessions.lifecycle import intake
from sessions.models import AgentSession, Event, Message


def take_back(message: Message, *, by: str, actor: Any) -> bool:
    """Take back what waits, discard what failed; False if it is neither."""
    try:
        intake.cancel(message.session, message.number, by=by, actor=actor)
    except intake.InvalidRequest:
        return False
    return True


def retry(message: Message, *, by: str, actor: Any) -> bool:
    """Queue the failed messages of its session again; False if nothing failed."""
    return actions.retry(message.session, by=by, actor=actor)


def one_failed_of_each_session(rows: QuerySet[Message]) -> list[Message]:
    """What is retried: all that failed in a session goes together, so that messages keep their order."""
    failed = rows.filter(state=MessageState.FAILED).order_by("session", "number")
    return list({message.session_id: message for message in failed.select_related("session")}.values())


def writable(user: Any) -> QuerySet[Message]:
    """The messages of sessions that a person may write to."""
    return Message.objects.filter(session__in=AgentSession.objects.writable_by(user).order_by().values("pk"))


@admin.register(Message)
class MessageAdmin(ButtonViews, DetailPage, SessionRowAdmin):
    """What went in."""

    state_shown = choice_column("state", MessageState)
    list_display = [
        "__str__", "sender", "state_shown", "text_shown", "attempts", "reason_shown", "created_at", "answered_at",
    ]  # fmt: skip
    list_filter = [("state", ChoicesCheckboxFilter)]
    list_filter_submit = True
    list_fullwidth = True
    list_select_related = ["session", "sender"]
    ordering = ["-pk"]
    detail_template = "admin/agent_sessions/message/change_form.html"
    buttons = ["retry", "cancel"]
    actions = [
        bulk_action(
            name="retry_messages",
            description="Retry: queue what failed again",
            work=retry,
            allowed=writable,
            select=one_failed_of_each_session,
            done="session(s) queued again",
        ),
        bulk_action(
            name="take_back_messages",
            description="Cancel: take back what waits, discard what failed",
            work=take_back,
            allowed=writable,
            select=lambda rows: rows.select_related("session"),
            done="cancelled",
            confirmation=Confirmation(
                "Cancel these messages?",
                "Those that wait are taken back, those that failed are discarded; the others are left as they are.",
                "Cancel messages",
                danger=True,
            ),
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        """With the beginnings of long texts alone."""
        rows = super().get_queryset(request).annotate(begin=Left("text", 200), why=Left("reason", 200))
        return rows.defer("text", "reason")

    def has_button_permission(self, request: HttpRequest, row: Message) -> bool:
        """Whoever may write to its session."""
        return AgentSession.objects.writable_by(request.user).filter(pk=row.session_id).exists()

    def get_details(self, request: HttpRequest, row: Message) -> dict[str, Any]:
        """How far it came, and which buttons do something."""
        can_write = self.has_button_permission(request, row)
        return {
            "message": row,
            "colour": MessageState(row.state).colour,
            "deliveries": deliveries(row),
            "can_retry": can_write and row.state == MessageState.FAILED,
            "can_cancel": can_write and row.state in (MessageState.QUEUED, MessageState.FAILED),
        }

    def retry_view(self, request: HttpRequest, message: Message) -> HttpResponse:
        """Queue it again."""
        return self._answer(request, message, intake.retry, (message.session,), "It is queued again.")

    def cancel_view(self, request: HttpRequest, message: Message) -> HttpResponse:
        """Take it back, or discard it."""
        return self._answer(request, message, intake.cancel, (message.session, message.number), "It is cancelled.")

    def _answer(
        self, request: HttpRequest, message: Message, work: Callable[..., Any], args: tuple[Any, ...], done: str
    ) -> HttpResponse:
        """Do it, and say on the message's page what came of it."""
        try:
            work(*args, **actor_of(request))
            messages.success(request, done)
        except intake.InvalidRequest as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(reverse("admin:agent_sessions_message_change", args=[message.pk]))

    @display(description="text")
    def text_shown(self, message: Any) -> str:
        """Its beginning."""
        return truncate(message.begin, 80)

    @display(description="why")
    def reason_shown(self, message: Any) -> str:
        """Why it failed or was cancelled, or what became of the last try."""
        return truncate(message.why, 80)


def deliveries(message: Message) -> QuerySet[Event]:
    """Each time that a run was handed the message, oldest first; `event.run` has the verdict."""
    of_session = Event.objects.filter(session=message.session_id, kind=EventKind.DELIVERED)
    return of_session.filter(data__number=message.number).select_related("run").order_by("seq")
