"""What an operator does to many sessions at once; each person on those they may write to."""

from typing import Any

from groups.admin.toolkit.bulk_actions import Confirmation, bulk_action
from sessions.lifecycle import intake
from sessions.models import AgentSession


def retry(session: AgentSession, *, by: str, actor: Any) -> bool:
    """`intake.retry`, which refuses where the others say that there was nothing to do."""
    try:
        intake.retry(session, by=by, actor=actor)
    except intake.InvalidRequest:
        return False
    return True


SESSION_ACTIONS = [
    bulk_action(
        name="stop_sessions",
        description="Stop: end now, cancel what waits",
        work=intake.stop,
        allowed=AgentSession.objects.writable_by,
        done="stopped",
        unchanged="had nothing to stop",
        confirmation=Confirmation(
            "Stop these sessions?",
            "Their agents are ended at once, in the middle of what they do, and messages that wait are cancelled. "
            "What they have said stays.",
            "Stop",
            danger=True,
        ),
    ),
    # The others are not asked about: nothing is lost by closing, and a person who looks at a failure decides to retry.
    bulk_action(
        name="close_sessions",
        description="Close: let them finish their turn",
        work=intake.close,
        allowed=AgentSession.objects.writable_by,
        done="closed",
        unchanged="had nothing to close",
    ),
    bulk_action(
        name="retry_sessions",
        description="Retry: try again what failed, now",
        work=retry,
        allowed=AgentSession.objects.writable_by,
        done="queued again",
        unchanged="had nothing to retry",
    ),
]
