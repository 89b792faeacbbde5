"""What a courier reports becomes events, and moves the run and its messages.

One transaction for a batch: pass over what is stored, refuse a hole, insert, apply what the events mean.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from courier.bounds import fit, shorten, storable
from redaction.json_strings import json_strings, map_strings
from redaction.pattern_search import may_contain_key, redact_keys
from sessions import signals
from sessions.choices import COURIERS, OUTPUT, EventKind, RunState
from sessions.events import event_log, notify, stored_bytes
from sessions.events.event_log import NewEvent, RunProgress
from sessions.lifecycle import messages, redact, run_tokens, transitions
from sessions.machine_api import InvalidPayload
from sessions.models import AgentSession, Event, Run

MAX_TEXT = 256 * 1024  # bytes of UTF-8; the protocol's limit
MEANINGFUL = frozenset({EventKind.DELIVERED, EventKind.TURN, EventKind.SESSION, EventKind.TASK, EventKind.EXIT})


class RunEnded(Exception):
    """The run has ended; its courier has nothing more to say."""


class MissingEvents(Exception):
    """Numbers are missing before this batch; `stored` is the highest that is there."""

    def __init__(self, stored: int) -> None:
        super().__init__(f"continue at {stored + 1}")
        self.stored = stored


def parse(batch: Any) -> list[NewEvent]:
    """Check a batch as it came and give it types. Raises InvalidPayload."""
    if not isinstance(batch, list) or len(batch) > 2000:
        raise InvalidPayload("events: a list of at most 2000")
    parsed: list[NewEvent] = []
    for item in batch:
        if not isinstance(item, dict) or not {"n", "kind", "at"} <= item.keys():
            raise InvalidPayload(f"event {len(parsed)}: an object with n, kind and at")
        number, kind, text, data = item["n"], item["kind"], item.get("text", ""), item.get("data", {})
        if type(number) is not int or number < 1:
            raise InvalidPayload(f"event {len(parsed)}: n is a whole number from 1 on")
        if not isinstance(kind, str) or kind not in COURIERS:
            raise InvalidPayload(f"event {len(parsed)}: kind is one of {', '.join(sorted(COURIERS))}")
        if not isinstance(text, str) or len(text) > MAX_TEXT or not isinstance(data, dict):
            raise InvalidPayload(
                f"event {len(parsed)}: text is a string of at most {MAX_TEXT} characters, data an object"
            )
        at = _time(item["at"])
        parsed.append(NewEvent(kind, _text(text), fit(data) if data else data, at, number))
    return _redact_known_keys(parsed)


def _redact_known_keys(parsed: list[NewEvent]) -> list[NewEvent]:
    """The events with keys of well-known kinds taken out of them; the courier did so too, if it was ours."""
    if not may_contain_key(text for event in parsed for text in (event.text, *json_strings(event.data))):
        return parsed
    return [
        replace(event, text=_text(redact_keys(event.text)), data=fit(map_strings(redact_keys, event.data)))
        for event in parsed
    ]


def _text(text: str) -> str:
    """An event's text as a database can hold it, and within the limit."""
    return storable(text) if len(text) * 4 <= MAX_TEXT else shorten(text, MAX_TEXT)


def _time(at: Any) -> datetime:
    """Seconds since the epoch as a time; ours, if a clock says something absurd."""
    if isinstance(at, int | float) and 0 < at < 4e9:  # which NaN and infinity are not
        return datetime.fromtimestamp(at, UTC)
    return timezone.now()


def ingest(run_id: uuid.UUID, batch: Sequence[NewEvent], late: bool = False) -> tuple[int, uuid.UUID]:
    """Store what is new in a batch of one run; return the highest number stored, and the session's id.

    Raises MissingEvents if the batch starts beyond the next number, RunEnded if the run has ended (unless `late`: a
    journal found afterwards). Notifies nobody: the caller does, after this returns.
    """
    credentials = run_tokens.secrets_of(run_id)
    batch = [_redacted(run_id, each) if redact.holds(credentials, each.text, each.data) else each for each in batch]
    with transaction.atomic():
        run = _lock(run_id)
        if run.state == RunState.ENDED and not late:
            raise RunEnded
        fresh = [event for event in batch if (event.number or 0) > run.last_number]
        for expected, event in enumerate(fresh, run.last_number + 1):
            if event.number != expected:
                raise MissingEvents(run.last_number)
        if not fresh:
            return run.last_number, run.session_id
        kept = stored_bytes.apply_limits(fresh, stored_bytes.usage(run.group_id, run.event_bytes, run.left_out_bytes))
        first_output = next((e.at for e in fresh if e.kind in OUTPUT), None)
        heard = RunProgress(run_id, run.last_number + len(fresh), first_output, kept.left_out)
        event_log.insert(run.session_id, run.last_seq, kept.events, run_id, kept.size, heard)
        meaningful = [event for event in fresh if event.kind in MEANINGFUL]
        if meaningful or run.state == RunState.ENDED:
            _apply(AgentSession.objects.get(pk=run.session_id), Run.objects.get(pk=run_id), meaningful)
    return heard.last_number, run.session_id


def _redacted(run_id: uuid.UUID, event: NewEvent) -> NewEvent:
    text, data = redact.redact_event(run_id, event.text, event.data)
    return replace(event, text=text, data=data)


@dataclass(frozen=True, slots=True)
class LockedRun:
    """A run and its session, whose rows are locked."""

    session_id: uuid.UUID
    group_id: uuid.UUID
    last_seq: int
    state: str
    last_number: int
    event_bytes: int  # of the run
    left_out_bytes: int


LOCK_SQL = (
    "SELECT s.id, s.group_id, s.last_seq, r.state, r.last_number, r.event_bytes, r.left_out_bytes"
    f" FROM {AgentSession._meta.db_table} s JOIN {Run._meta.db_table} r ON r.session_id = s.id WHERE r.id = %s"
)


def _lock(run_id: uuid.UUID) -> LockedRun:
    """Lock a session and its run, in this order, and read what numbering needs: one statement, for speed."""
    lock = " FOR UPDATE" if connection.features.has_select_for_update else ""
    with connection.cursor() as cursor:
        cursor.execute(LOCK_SQL + lock, [Run._meta.pk.get_db_prep_value(run_id, connection)])
        row = cursor.fetchone()
    if row is None:
        raise Run.DoesNotExist
    return LockedRun(uuid.UUID(str(row[0])), uuid.UUID(str(row[1])), *row[2:])


def _apply(session: AgentSession, run: Run, meaningful: list[NewEvent]) -> None:
    """Move the run, its messages and the session as the events say, in their order."""
    for event in meaningful:
        if event.kind == EventKind.DELIVERED:
            number = event.data.get("number")
            messages.mark_delivered(session, run, number if type(number) is int else 0, event.at)
        elif event.kind == EventKind.SESSION:
            _record_session_id(session, run, str(event.data.get("id", ""))[:200])
        elif event.kind == EventKind.TASK:
            signals.task_asked.send(None, session_id=session.pk, run_id=run.pk, text=event.text)
        elif event.kind == EventKind.EXIT:
            _record_exit(run, event.data)
        else:
            _record_turn(session, run, event)
    if run.state == RunState.ENDED:
        messages.settle_late(session, run)
        transitions.drop_needless_start(session)
    transitions.refresh(session)


def _record_session_id(session: AgentSession, run: Run, resume: str) -> None:
    """The agent reported its conversation's id. One of a journal that was found late is older than a later run's."""
    later = Event.objects.filter(kind=EventKind.SESSION, run__session=session, run__number__gt=run.number)
    if run.state != RunState.ENDED or not later.exists():
        AgentSession.objects.filter(pk=session.pk).update(resume=resume)


def _record_exit(run: Run, data: dict[str, Any]) -> None:
    """The agent's process is over."""
    code, peak = data.get("code"), data.get("peak_bytes")
    if type(code) is int and -1 <= code <= 255:
        Run.objects.filter(pk=run.pk).update(exit_code=code)
    if type(peak) is int and 0 < peak < 2**63:
        Run.objects.filter(pk=run.pk).update(peak_bytes=peak)


def _record_turn(session: AgentSession, run: Run, event: NewEvent) -> None:
    """The agent took its turn, or ended it."""
    runs = Run.objects.filter(pk=run.pk)
    if event.data.get("state") == "idle":
        now = timezone.now()
        since = min(event.at or now, now)  # the courier's clock may be ahead
        runs.move(RunState.WAITING, waiting_since=since)
        runs.filter(state=RunState.ENDING).update(waiting_since=since)  # it was its last turn: what is left is to end
        if messages.mark_answered(run, event.at):
            transitions.reset_attempts(session)
    elif event.data.get("state") == "working":
        runs.move(RunState.WORKING, waiting_since=None)
        runs.filter(state=RunState.ENDING).update(waiting_since=None)


def record(session_id: uuid.UUID, events: Sequence[tuple[str, str, dict[str, Any]]]) -> int:
    """Append events of Berth's own, `(kind, text, data)` each; return the last number."""
    with transaction.atomic():
        last = event_log.append(event_log.lock_session(session_id), [NewEvent(*each) for each in events])
        notify.publish_on_commit(session_id, notify.EVENTS)
    return last
