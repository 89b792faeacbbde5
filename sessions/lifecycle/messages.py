"""What becomes of messages: taken back, handed over again, answered, given up. The caller holds the session's lock.

A message is answered when its turn ended or its answer was stored: then it is never handed over again.
"""

from datetime import datetime
from typing import Any

from django.db.models import F
from django.utils import timezone

from groups.choices import Contract
from sessions import pagination
from sessions.choices import EndReason, EventKind, Intent, MessageState
from sessions.lifecycle.end_reasons import Verdict
from sessions.models import AgentSession, Event, Message, MessageQuerySet, Run

# Whose answer may yet be found in a journal.
UNANSWERED = (MessageState.DELIVERED, MessageState.QUEUED, MessageState.CANCELLED)


def read_page(session: AgentSession, after: int, limit: int) -> tuple[list[Message], bool]:
    """The messages after a number, in order, as many as fit on a page; and whether more follow."""
    rows = Message.objects.filter(session=session, number__gt=after).order_by("number")
    return pagination.page(rows, limit, "text", "reason")


def unanswered(run: Run) -> MessageQuerySet:
    """The messages that a run was handed and whose turn has not ended."""
    return Message.objects.filter(run=run, state=MessageState.DELIVERED)


def mark_delivered(session: AgentSession, run: Run, number: int, at: datetime | None) -> None:
    """A run was handed a message. One that was taken back on its way stays so, with the run that may answer it."""
    one = Message.objects.filter(session=session, number=number)
    handed: dict[str, Any] = {"run": run, "delivered_at": at, "attempts": F("attempts") + 1}
    if not one.move(MessageState.DELIVERED, reason="", **handed):
        one.filter(state=MessageState.CANCELLED).update(**handed)


def mark_answered(run: Run, at: datetime | None) -> int:
    """A run's turn ended; return how many messages that answered. It may be heard after they were given up."""
    return Message.objects.filter(run=run).move(MessageState.ANSWERED, answered_at=at, reason="")


def none_taken(run: Run) -> bool:
    """Whether a run took none of the messages that wait for it: the next run would not either.

    With the contract `plain` a run is one message's, and exit 0 is success, whether the program has read it or not.
    """
    return (
        run.contract != Contract.PLAIN
        and Message.objects.filter(session=run.session_id, state=MessageState.QUEUED).exists()
        and not Message.objects.filter(run=run).exists()
    )


def settle(session: AgentSession, run: Run, verdict: Verdict, *, again: bool) -> datetime | None:
    """Settle the messages of a run that ended; `again` if there will be another try. Since when the oldest waits."""
    handed = unanswered(run)
    if not verdict.failure and run.intent not in (Intent.STOP, Intent.SHUTDOWN):
        if verdict.reason is EndReason.COMPLETED and run.contract == Contract.PLAIN:
            _deliver_unread(run)
        handed.move(MessageState.ANSWERED, answered_at=timezone.now(), reason="")
    _mark_answered_by_result(run)
    if again or run.intent == Intent.SHUTDOWN:
        handed.move(
            MessageState.QUEUED, reason=verdict.message
        )  # keeps its run, whose journal may yet tell of an answer
    else:
        handed.move(MessageState.FAILED, reason=verdict.message)
    left = Message.objects.filter(session=session, state=MessageState.QUEUED)
    if run.intent == Intent.STOP and run.intent_at:
        left.filter(created_at__lte=run.intent_at).move(MessageState.CANCELLED, reason=verdict.message)
    return left.order_by("number").values_list("created_at", flat=True).first()


def _deliver_unread(run: Run) -> None:
    """The message of a `plain` run whose program ended well before it was handed over: it was for this run."""
    if not Message.objects.filter(run=run).exists():
        waiting = Message.objects.filter(session=run.session_id, state=MessageState.QUEUED)
        first = waiting.order_by("number").values_list("pk", flat=True).first()
        if first is not None:
            waiting.filter(pk=first).move(MessageState.DELIVERED, run=run, delivered_at=timezone.now())


def settle_late(session: AgentSession, run: Run) -> None:
    """A journal that was found after its run had ended told of messages: whoever has no answer there waits again."""
    _mark_answered_by_result(run)
    unanswered(run).move(MessageState.QUEUED)


def _mark_answered_by_result(run: Run) -> None:
    """An answer that was stored has reached its reader, though the turn's end may be missing.

    Several messages may have been handed over at once: each answer is that of the oldest one that has none.
    """
    open_still = Message.objects.filter(run=run, state__in=UNANSWERED)
    if not open_still.exists():
        return
    events = Event.objects.filter(run=run, kind__in=[EventKind.DELIVERED, EventKind.TURN, EventKind.RESULT])
    handed: list[Any] = []
    answers: list[int] = []
    for kind, data in events.order_by("seq").values_list("kind", "data"):
        if kind == EventKind.DELIVERED:
            handed.append(data.get("number"))
        elif kind == EventKind.TURN and data.get("state") == "idle":
            handed.clear()
        elif kind == EventKind.RESULT and handed and _is_whole(data) and type(number := handed.pop(0)) is int:
            answers.append(number)
    open_still.filter(number__in=answers).move(MessageState.ANSWERED, answered_at=timezone.now(), reason="")


def _is_whole(result: dict[str, Any]) -> bool:
    """Whether a result ends an answer: the last of its parts, and no file that the agent left on the way."""
    return result.get("part") == result.get("parts") and result.get("source") != "ipc"
