"""Sessions on a terminal's page: the list, and all about one of them."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from sessions.choices import MessageState, RunState, SessionState
from sessions.cli.transcript import Paint, clean
from sessions.durations import age
from sessions.models import AgentSession, Message, Run
from sessions.scheduling import admission
from sessions.stream import serializers

# Unfold's label colours → a terminal's.
STYLES = {"": "", "warning": "yellow", "info": "blue", "primary": "cyan", "success": "green", "danger": "bold red"}
MESSAGE_STYLES = {MessageState.QUEUED: "yellow", MessageState.DELIVERED: "cyan", MessageState.FAILED: "bold red"}
HEAD = ("ID", "GROUP", "PROFILE", "STATE", "AGE", "LAST", "REASON")
SHORT = 8  # characters of an id


def short(session: AgentSession) -> str:
    """A session's id as people read it, and may give it."""
    return str(session.pk)[:SHORT]


def session_json(session: AgentSession) -> dict[str, Any]:
    """A session for programs, without its runs: as the API tells it."""
    return serializers.of_session(session)


def session_detail_json(session: AgentSession) -> dict[str, Any]:
    """A session for programs, with its runs and messages."""
    runs = [serializers.of_run(run) | {"attempt": run.attempt} for run in session.runs.order_by("number")]
    fields = ("number", "state", "reason", "text", "sender__username", "attempts", "created_at", "answered_at")
    rows = session.messages.order_by("number").values_list(*fields)
    names = [field.replace("sender__username", "sender") for field in fields]
    messages = [dict(zip(names, row, strict=True)) for row in rows]
    return session_json(session) | {"runs": runs, "messages": messages}


def table(sessions: Sequence[AgentSession], paint: Paint, width: int | None) -> Iterator[str]:
    """The list, a line a session. Reasons are cut at `width` columns, if there is one."""
    now, places = timezone.now(), admission.current_plan().positions
    rows = []
    for session in sessions:
        reason = one_line(serializers.reason(session, places.get(session.pk)))
        ages = age(now - session.created_at), age(now - session.updated_at)
        rows.append(
            (short(session), session.group.slug, session.profile.slug, session.get_state_display(), *ages, reason)
        )
    widths = [max(len(row[column]) for row in (HEAD, *rows)) for column in range(len(HEAD) - 1)]
    for row in (HEAD, *rows):
        cells = [cell.ljust(size) for cell, size in zip(row, widths, strict=False)]
        line = "  ".join([*cells, row[-1]])
        line = line if width is None or len(line) <= width else f"{line[: width - 1]}…"
        if row is HEAD:
            yield paint(line, "bold")
        else:
            start = sum(widths[:3]) + 6
            state = line[start : start + widths[3]]
            yield line[:start] + paint(state, _style(row[3])) + line[start + widths[3] :]


def detail(session: AgentSession, paint: Paint) -> Iterator[str]:
    """All about one session: itself, its runs with their verdicts, its messages."""
    now = timezone.now()
    state = paint(session.get_state_display(), STYLES[SessionState(session.state).colour])
    who = f" by {session.created_by}" if session.created_by else ""
    pruned = f", 1 to {session.pruned_seq} were removed after their retention" if session.pruned_seq else ""
    deleted = paint(" (deleted)", "bold red") if session.group.deleted_at else ""
    yield paint(one_line(str(session)), "bold")
    yield from _pairs(
        [
            ("id", str(session.pk)),
            ("group", session.group.slug + deleted),
            ("profile", session.profile.slug),
            ("state", f"{state}: {one_line(serializers.reason(session))}"),
            ("began", f"{_time(session.created_at)}, {age(now - session.created_at)} ago{who}"),
            ("events", f"{session.last_seq}{pruned}"),
        ],
        paint,
    )
    runs, messages = list(session.runs.order_by("number")), list(session.messages.order_by("number"))
    yield from ("", paint(f"Runs ({len(runs)})", "bold"))
    for run in runs:
        yield from _run(run, now, paint)
    yield from ("", paint(f"Messages ({len(messages)})", "bold"))
    for message in messages:
        yield from _message(message, paint)


def _run(run: Run, now: datetime, paint: Paint) -> Iterator[str]:
    tries = f", try {run.attempt}" if run.attempt > 1 else ""
    if run.state == RunState.ENDED and run.ended_at:
        verdict = str(run.get_verdict_display())
        good = run.verdict in ("completed", "idle", "closed", "preempted", "stopped")
        how = paint(verdict, "green" if good else "bold red")
        lasted = f"{age(run.ended_at - run.claimed_at)} long, ended {age(now - run.ended_at)} ago"
        message = run.verdict_words
    else:
        how = paint(str(run.get_state_display()), "cyan")
        lasted, message = f"for {age(now - run.claimed_at)}", run.waits_for or run.warning
    yield f"  {run.number:>3}  {how}  {_time(run.claimed_at)}, {lasted}{tries}"
    for line in (*_lines(message), *(f"│ {line}" for line in _lines(run.last_lines)[-10:])):
        yield f"       {paint(line, 'dim')}"


def _message(message: Message, paint: Paint) -> Iterator[str]:
    state = paint(str(message.get_state_display()), MESSAGE_STYLES.get(MessageState(message.state), ""))
    sender = message.sender.get_username() if message.sender else "Berth"
    handed = f", handed over {message.attempts} times" if message.attempts > 1 else ""
    yield f"  {message.number:>3}  {state}  {_time(message.created_at)}, {clean(sender)}{handed}"
    if message.reason and message.state != MessageState.ANSWERED:
        yield f"       {paint(one_line(message.reason), 'dim')}"
    text = one_line(message.text)
    yield f"       {text if len(text) <= 200 else text[:200] + '…'}"


def _pairs(pairs: Iterable[tuple[str, str]], paint: Paint) -> Iterator[str]:
    for name, value in pairs:
        yield f"  {paint(name.ljust(8), 'dim')} {value}"


def _lines(text: str) -> list[str]:
    return clean(text).strip().splitlines()


def one_line(text: str) -> str:
    """A text's message in one line, fit for a terminal."""
    return " ".join(clean(text).split())


def _style(label: str) -> str:
    return next((STYLES[state.colour] for state in SessionState if state.label == label), "")


def _time(at: datetime) -> str:
    return (at + timedelta()).strftime("%Y-%m-%d %H:%M:%S UTC")
