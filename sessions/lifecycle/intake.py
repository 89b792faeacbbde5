"""What people and programs ask of a session: a first message, a follow-up, a close, a stop, a retry, a take-back.

Accepted means stored: the message, its event and the task that acts on it are written in one transaction.
"""

from typing import Any

from django.conf import settings
from django.db import transaction

from groups import audit
from groups.models import AgentGroup, AgentProfile
from groups.permissions import Person
from groups.texts import storable
from sessions import work_queue
from sessions.choices import EventKind, Intent, MessageState, RunState
from sessions.events import event_log, notify
from sessions.lifecycle import transitions
from sessions.models import AgentSession, Message, Run
from sessions.work_queue import FIRST, RECONCILE

SCHEDULED = "schedule:"  # how the keys of messages begin that a scheduled task sends


class InvalidRequest(Exception):
    """What was asked can't be: `field` names the input, `str()` says what to do instead."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def open_session(
    *, group: AgentGroup, profile: AgentProfile, text: str, sender: Person | None, title: str = "", key: str = ""
) -> AgentSession:
    """Start a conversation with its first message. Raises InvalidRequest."""
    if not profile.active:
        raise InvalidRequest("profile", f"The profile {profile.slug} is switched off. Choose another one.")
    _runnable(group, profile)
    text, title = storable(text), storable(title)
    with transaction.atomic():
        session = AgentSession.objects.create(
            group=group,
            profile=profile,
            title=(title or text.strip().partition("\n")[0])[:80],
            created_by_id=sender.pk if sender else None,
        )
        post_message(session, text, sender=sender, key=key)
    session.refresh_from_db()
    return session


def post_message(session: AgentSession, text: str, *, sender: Person | None, key: str = "", by: str = "") -> Message:
    """Accept a message; `by` names who sends it where there is no user. Raises InvalidRequest.

    The same `key` again returns the message that it made, and makes no second. Keys are Berth's own alone: what people
    and programs send comes through `sessions.lifecycle.idempotency`.
    """
    text = storable(text)
    if not text.strip():
        raise InvalidRequest("text", "Write a message first.")
    if len(text.encode()) > settings.MESSAGE_MAX_KIB * 1024:
        raise InvalidRequest("text", f"A message holds at most {settings.MESSAGE_MAX_KIB} KiB. Put more into a file.")
    _runnable(session.group, session.profile)
    with transaction.atomic():
        locked = event_log.lock_session(session.pk)
        if key and (earlier := Message.objects.filter(session=locked, idempotency_key=key).first()):
            return earlier
        locked.last_message += 1
        locked.save(update_fields=["last_message"])
        message = Message.objects.create(
            session=locked,
            number=locked.last_message,
            text=text,
            sender_id=sender.pk if sender else None,
            idempotency_key=key or None,
        )
        if getattr(sender, "via", ""):
            audit.record("message.send", actor=sender, target=session.pk, group=session.group, number=message.number)
        name = sender.get_username() if sender else by or "Berth"
        event_log.append_event(locked, EventKind.MESSAGE, text, {"number": message.number, "sender": name})
        if locked.queued_at is None and not locked.runs.active().exists():
            transitions.enqueue_first_try(locked)
            work_queue.request(RECONCILE, session.pk, priority=FIRST)
        transitions.refresh(locked)
        notify.publish_on_commit(session.pk)
    return message


def _runnable(group: AgentGroup, profile: AgentProfile) -> None:
    """Refuse now what could never start."""
    if group.deleted_at:
        raise InvalidRequest("group", f"The group {group.slug} was deleted. An operator can restore it for some days.")
    if settings.RUNTIME == "kubernetes" and not profile.image:
        raise InvalidRequest(
            "profile", f"The profile {profile.slug} has no image, which Kubernetes needs. Ask an operator."
        )


def stop(session: AgentSession, *, by: str, actor: Person | None = None) -> bool:
    """End now: the running agent is told to end and is killed soon after; messages that wait are cancelled.

    True if there was something to stop.
    """
    with transaction.atomic():
        locked = event_log.lock_session(session.pk)
        run = locked.runs.active().first()
        if run:
            return _ask(locked, run, Intent.STOP, by, actor)
        waiting = Message.objects.filter(session=locked, state=MessageState.QUEUED)
        count = waiting.move(MessageState.CANCELLED, reason=f"Stopped by {by}.")
        if not count:
            return False
        transitions.dequeue(locked)
        _say(locked, f"Stopped by {by}: {count} waiting message(s) cancelled.", "session.stop", by, actor)
    return True


def close(session: AgentSession, *, by: str, actor: Person | None = None) -> bool:
    """End gracefully: the agent finishes its turn, then ends. The conversation can go on in a later run.

    True if there was something to close.
    """
    with transaction.atomic():
        locked = event_log.lock_session(session.pk)
        run = locked.runs.active().first()
        return run is not None and _ask(locked, run, Intent.CLOSE, by, actor)


def retry(session: AgentSession, *, by: str, actor: Person | None = None) -> int:
    """Try again at once what failed or waits for its next try; return how many messages that gives back to the queue.

    A failed message goes back only while no later one was handed over: messages are never reordered.
    Raises InvalidRequest.
    """
    with transaction.atomic():
        locked = event_log.lock_session(session.pk)
        _runnable(locked.group, locked.profile)
        if locked.runs.active().exists():
            raise InvalidRequest("session", "It has a run already. Wait for its end, or stop it.")
        sent = locked.messages.filter(state__in=[MessageState.DELIVERED, MessageState.ANSWERED])
        last = sent.order_by("-number").values_list("number", flat=True).first() or 0
        count = locked.messages.filter(state=MessageState.FAILED, number__gt=last).move(
            MessageState.QUEUED, run=None, delivered_at=None, reason=""
        )
        if not locked.messages.filter(state=MessageState.QUEUED).exists():
            failed = locked.messages.filter(state=MessageState.FAILED).exists()
            message = (
                "a later message was answered since; send it anew" if failed else "nothing failed and nothing waits"
            )
            raise InvalidRequest("session", f"There is nothing to retry: {message}.")
        transitions.enqueue_first_try(locked)
        work_queue.request(RECONCILE, session.pk, priority=FIRST)
        _say(locked, f"Retry asked by {by}.", "session.retry", by, actor)
    return count


def cancel(session: AgentSession, number: int, *, by: str, actor: Person | None = None) -> Message:
    """Take back a message that no agent has yet, or discard one that failed. Raises InvalidRequest."""
    with transaction.atomic():
        locked = event_log.lock_session(session.pk)
        message = Message.objects.filter(session=locked, number=number).first()
        if message is None:
            raise InvalidRequest("number", f"There is no message {number} in this session.")
        verb = "discarded" if message.state == MessageState.FAILED else "taken back"
        one = Message.objects.filter(pk=message.pk, state__in=[MessageState.QUEUED, MessageState.FAILED])
        if not one.move(MessageState.CANCELLED, reason=f"It was {verb} by {by}."):
            raise InvalidRequest("number", f"Message {number} is {message.get_state_display().lower()} already.")
        transitions.drop_needless_start(locked)
        _say(locked, f"Message {number} was {verb} by {by}.", "message.cancel", by, actor, number=number)
    message.refresh_from_db()
    return message


def _ask(session: AgentSession, run: Run, intent: Intent, by: str, actor: Person | None) -> bool:
    """Ask a run to end and say so in the transcript. The session's row is locked."""
    if not transitions.request_end(run.pk, intent, by):
        return False
    work_queue.request(RECONCILE, session.pk, priority=FIRST)
    word = "Stop" if intent is Intent.STOP else "Close"
    _say(session, f"{word} asked by {by}.", f"session.{intent}", by, actor, run, run=run.number)
    return True


def _say(
    session: AgentSession,
    message: str,
    action: str,
    by: str,
    actor: Person | None,
    of: Run | None = None,
    **more: Any,
) -> None:
    """Tell what somebody did: in the transcript, in the audit log, on the pages."""
    data = {"state": RunState.ENDING} if of else {}
    event_log.append_event(session, EventKind.STATE, message, data, of)
    audit.record(action, actor=actor, by=by, target=session.pk, group=session.group, **more)
    transitions.refresh(session)
    notify.publish_on_commit(session.pk)
