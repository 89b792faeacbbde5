"""What is shown of a session wherever it is shown: its state, the reason in words, and its run."""

from datetime import timedelta
from typing import Any

from django.core.cache import cache
from django.utils import timezone

from sessions.choices import MessageState, RunState, SessionState
from sessions.lifecycle import run_spec
from sessions.models import AgentSession, Run
from sessions.scheduling import admission
from sessions.scheduling.plan import Position

CHANGED_EVERY = 5  # seconds between two looks at what was changed beside a run
SHOWN_MESSAGES = 50  # how many messages a page gets the states of


def reason(session: AgentSession, position: Position | None = None) -> str:
    """Why the session is in its state; for a queued one, its position and what it waits for.

    A list of many looks at the queue once (`admission.current_plan`) and gives each session its `position`.
    """
    if session.state not in (SessionState.QUEUED, SessionState.RETRYING):
        return session.reason
    if session.retry_at and session.retry_at > timezone.now():
        return session.reason
    position = position or admission.position(session)
    if position is None:
        return "A slot is free: it starts at once."
    text = f"{ordinal(position.number)} of {position.of} in the queue: {position.message}."
    return (
        f"{text} About {duration_words(wait)}, by the last runs."
        if (wait := admission.estimated_wait(position))
        else text
    )


def duration_words(time: timedelta) -> str:
    """A time to wait, in words that promise no more than is known: "10 s", "4 min", "3 h"."""
    seconds = time.total_seconds()
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def ordinal(number: int) -> str:
    """1 → 1st."""
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def of_run(run: Run) -> dict[str, Any]:
    """A run as the API and the pages tell it."""
    return {
        "number": run.number,
        "state": run.state,
        "verdict": run.verdict or None,
        "verdict_words": run.verdict_words,
        "exit_code": run.exit_code,
        "started_at": run.started_at,
        "first_output_at": run.first_output_at,
        "ended_at": run.ended_at,
    }


def of_session(session: AgentSession) -> dict[str, Any]:
    """A session as the API and the pages tell it, without its runs."""
    return {
        "id": str(session.pk),
        "title": str(session),
        "group": session.group.slug,
        "profile": session.profile.slug,
        "state": session.state,
        "reason": reason(session),
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "last_seq": session.last_seq,
    }


def warning(run: Run) -> str:
    """What people should know of a run that goes on; empty if there is nothing, or it is over."""
    if run.state == RunState.ENDED:
        return ""
    changed = cache.get_or_set(f"berth.changed.{run.pk}", lambda: run_spec.changes_since_start(run), CHANGED_EVERY)
    return " ".join(filter(None, (run.warning, changed)))


def for_page(session: AgentSession) -> dict[str, Any]:
    """What the live page's header needs, but for what depends on the person."""
    run = session.runs.first()
    active = run is not None and run.state != RunState.ENDED
    recent = session.messages.order_by("-number").values_list("number", "state", "attempts", "reason")[:SHOWN_MESSAGES]
    messages = {number: [state, attempts, why] for number, state, attempts, why in recent}
    queued = session.messages.filter(state=MessageState.QUEUED).count()
    broken = session.state in (SessionState.FAILED, SessionState.RETRYING)
    values = of_session(session)
    del values["created_at"], values["updated_at"]
    return values | {
        "state_label": session.get_state_display(),
        "colour": SessionState(session.state).colour,
        "run": {key: of_run(run)[key] for key in ("number", "state", "verdict", "verdict_words")} if run else None,
        "warning": warning(run) if run else "",
        "queued": queued,
        "messages": messages,
        "can_stop": active or bool(queued),
        "can_retry": broken and not active,
        "can_close": active and run is not None and run.state != RunState.ENDING,
    }
