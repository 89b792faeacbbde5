"""What is shown of a session wherever it is shown: its state, the reason in words, and its run."""

from typing import Any

from sessions import admission
from sessions.models import AgentSession, Run
from sessions.queue import Place
from sessions.states import COLOURS, MessageState, RunState, SessionState


def reason(session: AgentSession, place: Place | None = None) -> str:
    """Why the session is in its state; for a queued one, its place and what it waits for.

    A list of many looks at the queue once (`admission.look`) and gives each session its `place`.
    """
    if session.state != SessionState.QUEUED:
        return session.reason
    place = place or admission.place(session)
    if place is None:
        return "A slot is free: it starts at once."
    return f"{ordinal(place.number)} of {place.of} in the queue: {place.words}."


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


def for_page(session: AgentSession) -> dict[str, Any]:
    """What the live page's header needs, but for what depends on the person."""
    run = session.runs.first()
    active = run is not None and run.state != RunState.ENDED
    queued = session.messages.filter(state=MessageState.QUEUED).count()
    told = of_session(session)
    del told["created_at"], told["updated_at"]
    return told | {
        "state_label": session.get_state_display(),
        "colour": COLOURS[SessionState(session.state)],
        "run": {key: of_run(run)[key] for key in ("number", "state", "verdict", "verdict_words")} if run else None,
        "queued": queued,
        "can_stop": active or bool(queued),
        "can_close": active and run is not None and run.state != RunState.ENDING,
    }
