"""What an operator does to many sessions at once, and the count of what came of it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin
from unfold.decorators import action

from groups.admin.toolkit import bulk_actions as confirm
from groups.admin.toolkit.bulk_actions import Question
from sessions.lifecycle import intake
from sessions.models import AgentSession

NOT_ALLOWED = "not allowed"


class BulkActions(ModelAdmin):
    """Stop, close and retry for the sessions chosen in the list; each person on those they may write to."""

    actions = ["stop_sessions", "close_sessions", "retry_sessions"]

    @action(description="Stop: end now, cancel what waits")
    def stop_sessions(self, request: HttpRequest, queryset: QuerySet[AgentSession]) -> HttpResponse | None:
        """Asks first: an agent is ended in the middle of what it does."""
        if confirm.too_many(request, queryset):
            return None
        if not confirm.confirmed(request):
            words = (
                "Their agents are ended at once, in the middle of what they do, and messages that wait are cancelled. "
                "What they have said stays."
            )
            question = Question("stop_sessions", "Stop these sessions?", words, "Stop", danger=True)
            return confirm.ask(self, request, queryset, question)
        confirm.tell(request, do(request, queryset, intake.stop, "stopped", "had nothing to stop"))
        return None

    @action(description="Close: let them finish their turn")
    def close_sessions(self, request: HttpRequest, queryset: QuerySet[AgentSession]) -> None:
        """No question: nothing is lost."""
        if not confirm.too_many(request, queryset):
            confirm.tell(request, do(request, queryset, intake.close, "closed", "had nothing to close"))

    @action(description="Retry: try again what failed, now")
    def retry_sessions(self, request: HttpRequest, queryset: QuerySet[AgentSession]) -> None:
        """No question: a person who looks at a failure decides it."""
        if not confirm.too_many(request, queryset):
            confirm.tell(request, do(request, queryset, retry, "queued again", "had nothing to retry"))


def retry(session: AgentSession, *, by: str, actor: Any) -> bool:
    """`intake.retry`, which refuses where the others say that there was nothing to do."""
    try:
        intake.retry(session, by=by, actor=actor)
    except intake.Refused:
        return False
    return True


def do(
    request: HttpRequest,
    rows: QuerySet[AgentSession],
    work: Callable[..., bool],
    done: str,
    nothing: str,
) -> dict[str, int]:
    """Do `work` to each session that the person may write to; return how often what happened, `done` first.

    Each is a transaction of its own, so that one that fails leaves the others done.
    """
    writable = AgentSession.objects.writable_by(request.user)
    allowed = set(writable.filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
    counts = Counter({done: 0, nothing: 0, NOT_ALLOWED: 0})
    for session in rows:
        if session.pk not in allowed:
            counts[NOT_ALLOWED] += 1
        else:
            asked = work(session, by=request.user.get_username(), actor=request.user)
            counts[done if asked else nothing] += 1
    return dict(counts)
