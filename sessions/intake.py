"""What people and programs ask of a session: a first message, a follow-up, a close, a stop.

Accepted means stored: the message, its event and the task that acts on it are written in one transaction.
"""

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django_q.tasks import async_task

from groups.models import AgentGroup, AgentProfile
from sessions import doorbell, events, lifecycle
from sessions.models import AgentSession, Message, Run
from sessions.states import EventKind, Intent, MessageState, RunState

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

    Person = AbstractBaseUser | AnonymousUser


class Refused(Exception):
    """What was asked can't be: `field` names the input, `str()` says what to do instead."""

    def __init__(self, field: str, words: str) -> None:
        super().__init__(words)
        self.field = field


def open_session(
    *, group: AgentGroup, profile: AgentProfile, text: str, sender: "Person | None", title: str = "", key: str = ""
) -> AgentSession:
    """Start a conversation with its first message. Raises Refused."""
    if not profile.active:
        raise Refused("profile", f"The profile {profile.slug} is switched off. Choose another one.")
    _runnable(profile)
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


def post_message(session: AgentSession, text: str, *, sender: "Person | None", key: str = "") -> Message:
    """Accept a message. The same `key` again returns the message it made, and makes no second. Raises Refused."""
    if not text.strip():
        raise Refused("text", "Write a message first.")
    if len(text.encode("utf-8", "replace")) > settings.MESSAGE_MAX_KIB * 1024:
        raise Refused("text", f"A message holds at most {settings.MESSAGE_MAX_KIB} KiB. Put more into a file.")
    _runnable(session.profile)
    text = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    with transaction.atomic():
        locked = events.locked(session.pk)
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
        name = sender.get_username() if sender else "Berth"
        events.say(locked, EventKind.MESSAGE, text, {"number": message.number, "sender": name})
        if not locked.runs.active().exists():
            lifecycle.queue(locked)
            async_task("sessions.tasks.start", str(session.pk))
        lifecycle.refresh(locked)
        doorbell.ring_on_commit(session.pk)
    return message


def _runnable(profile: AgentProfile) -> None:
    """Refuse now what could never start."""
    if settings.RUNTIME == "kubernetes" and not profile.image:
        raise Refused("profile", f"The profile {profile.slug} has no image, which Kubernetes needs. Ask an operator.")


def stop(session: AgentSession, *, by: str) -> None:
    """End now: the running agent is told to end and is killed soon after; messages that wait are cancelled."""
    with transaction.atomic():
        locked = events.locked(session.pk)
        run = locked.runs.active().first()
        waiting = Message.objects.filter(session=locked, state=MessageState.QUEUED)
        if run is None and waiting.exists():
            count = waiting.move(MessageState.CANCELLED)
            locked.queued_at = None
            locked.save(update_fields=["queued_at"])
            events.say(locked, EventKind.STATE, f"Stopped by {by}: {count} waiting message(s) cancelled.")
            lifecycle.refresh(locked)
            doorbell.ring_on_commit(session.pk)
        elif run:
            _ask(run, Intent.STOP, by)


def close(session: AgentSession, *, by: str) -> None:
    """End gracefully: the agent finishes its turn, then ends. The conversation can go on in a later run."""
    run = session.runs.active().first()
    if run:
        _ask(run, Intent.CLOSE, by)


def _ask(run: Run, intent: Intent, by: str) -> None:
    """Ask a run to end and say so in the transcript."""
    with transaction.atomic():
        if lifecycle.ask(run.pk, intent, by):
            words = "Stop" if intent is Intent.STOP else "Close"
            events.say(
                events.locked(run.session_id),
                EventKind.STATE,
                f"{words} asked by {by}.",
                {"state": RunState.ENDING},
                run,
            )
            async_task("sessions.tasks.reconcile", str(run.session_id))
