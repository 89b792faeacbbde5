"""Writing and reading events: the one place that numbers them.

`seq` is taken from the session's row, which the caller holds locked, and the rows are inserted in the same transaction:
so a number is never visible before a lower one, and a reader with a cursor misses nothing.
"""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import DateTimeField, F, Value
from django.db.models.functions import Coalesce, Right
from django.utils import timezone

from sessions import pagination
from sessions.choices import OUTPUT, EventKind
from sessions.models import AgentSession, Event, Run

TAIL_EVENTS = 50  # among which are the last lines of what an agent printed
PAGE_EVENTS = 500  # at most, and no more than fit (`sessions.pagination`)


@dataclass(slots=True)
class NewEvent:
    """An event before it is numbered."""

    kind: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None
    number: int | None = None


def lock_session(session_id: uuid.UUID) -> AgentSession:
    """The session's row, locked until the transaction ends. Whoever locks more than one row locks this one first."""
    return AgentSession.objects.select_for_update().get(pk=session_id)


def append(session: AgentSession, events: Iterable[NewEvent], run: Run | None = None) -> int:
    """Give `events` the next numbers of a session whose row is locked, insert them, and return the last number.

    Saves `session.last_seq` and `updated_at`. The caller publishes it (`notify`), after the commit.
    """
    new = list(events)
    session.last_seq = insert(session.pk, session.last_seq, new, run.pk if run else None, sum(map(size, new)))
    return session.last_seq


@dataclass(frozen=True, slots=True)
class RunProgress:
    """What a courier's batch changes of its run's row; `left_out` are bytes that are not stored."""

    run_id: uuid.UUID
    last_number: int
    first_output_at: datetime | None
    left_out: int = 0


ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps makes one each time
ROW = 128  # bytes that an event takes besides its text and data: columns and indexes, roughly


def size(event: NewEvent) -> int:
    """Bytes that an event takes in the database, roughly."""
    text = len(event.text) if event.text.isascii() else len(event.text.encode())
    return ROW + text + (len(ENCODER.encode(event.data).encode()) if event.data else 0)


def insert(
    session_id: uuid.UUID,
    last_seq: int,
    events: list[NewEvent],
    run_id: uuid.UUID | None,
    taken: int,
    progress: RunProgress | None = None,
) -> int:
    """Insert `events` after `last_seq` of a session whose row is locked, save the counters, return the last number.

    `taken` are the bytes that they take, see `size`.
    """
    if not events and not progress:
        return last_seq
    now = timezone.now()
    rows = [(last_seq + i, run_id, e.number, str(e.kind), e.text, e.data, e.at or now) for i, e in enumerate(events, 1)]
    last_seq += len(rows)
    insert_rows = _insert_postgresql if connection.vendor == "postgresql" and rows else _insert_portable
    insert_rows(session_id, last_seq, rows, taken, now, progress)
    return last_seq


def _insert_portable(
    session_id: uuid.UUID,
    last_seq: int,
    rows: list[tuple[Any, ...]],
    taken: int,
    now: datetime,
    progress: RunProgress | None,
) -> None:
    """On any database."""
    fields = ("seq", "run_id", "number", "kind", "text", "data", "at")
    made = [Event(session_id=session_id, **dict(zip(fields, row, strict=True))) for row in rows]
    Event.objects.bulk_create(made, batch_size=500)
    counted = F("event_bytes") + taken
    AgentSession.objects.filter(pk=session_id).update(last_seq=last_seq, updated_at=now, event_bytes=counted)
    if progress:
        first = Coalesce("first_output_at", Value(progress.first_output_at, DateTimeField()))
        Run.objects.filter(pk=progress.run_id).update(
            last_number=progress.last_number,
            seen_at=now,
            heard_at=now,
            first_output_at=first,
            event_bytes=counted,
            left_out_bytes=F("left_out_bytes") + progress.left_out,
        )


INSERT = (
    f"WITH put AS (INSERT INTO {Event._meta.db_table} (session_id, seq, run_id, number, kind, text, data, at)"
    " SELECT %s, u.* FROM unnest(%s::bigint[], %s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::jsonb[],"
    " %s::timestamptz[]) AS u)"
)
UPDATE_SESSION = (
    f"UPDATE {AgentSession._meta.db_table} SET last_seq = %s, updated_at = %s, event_bytes = event_bytes + %s"
    " WHERE id = %s"
)
UPDATE_RUN = (
    f"UPDATE {Run._meta.db_table} SET last_number = %s, seen_at = %s, heard_at = %s,"
    " first_output_at = coalesce(first_output_at, %s), event_bytes = event_bytes + %s,"
    " left_out_bytes = left_out_bytes + %s WHERE id = %s"
)


def _insert_postgresql(
    session_id: uuid.UUID,
    last_seq: int,
    rows: list[tuple[Any, ...]],
    taken: int,
    now: datetime,
    progress: RunProgress | None,
) -> None:
    """On PostgreSQL: one statement, with one array a column. A relay of 20 agents does this some 200 times a second."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[5] = [json.dumps(data) if data else "{}" for data in columns[5]]
    count: list[Any] = [last_seq, now, taken, session_id]
    with connection.cursor() as cursor:
        if progress:
            of_run: list[Any] = [
                progress.last_number,
                now,
                now,
                progress.first_output_at,
                taken,
                progress.left_out,
                progress.run_id,
            ]
            cursor.execute(
                f"{INSERT}, counted AS ({UPDATE_SESSION}) {UPDATE_RUN}", [session_id, *columns, *count, *of_run]
            )
        else:
            cursor.execute(f"{INSERT} {UPDATE_SESSION}", [session_id, *columns, *count])


def append_event(
    session: AgentSession, kind: EventKind, text: str = "", data: dict[str, Any] | None = None, run: Run | None = None
) -> int:
    """Append one event of Berth's own to a session whose row is locked."""
    return append(session, [NewEvent(kind, text, data or {})], run)


def tail(run: Run, lines: int = 12, characters: int = 2000) -> str:
    """The last lines of what a run's agent printed and said: what people look at first when it failed."""
    printed = Event.objects.filter(run=run, number__isnull=False, kind__in=OUTPUT).order_by("-number")
    ends = printed.annotate(end=Right("text", characters)).values_list("end", flat=True)[:TAIL_EVENTS]
    text = "".join(reversed(ends))
    return "\n".join(text[-characters:].splitlines()[-lines:])


def rfc3339(at: datetime) -> str:
    """A time as pages and programs get it: RFC 3339 in UTC, with milliseconds."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read(session_id: uuid.UUID, after: int, limit: int = PAGE_EVENTS) -> list[dict[str, Any]]:
    """The next page of events after a cursor, in order: at most `limit` of them."""
    return read_page(session_id, after, limit)[0]


def read_page(session_id: uuid.UUID, after: int, limit: int = PAGE_EVENTS) -> tuple[list[dict[str, Any]], bool]:
    """As `read`, and whether there may be more behind the page."""
    rows = Event.objects.filter(session_id=session_id, seq__gt=after).order_by("seq")
    count, more = pagination.page_size(rows, limit, "text", "data")
    # One query: what retention takes meanwhile is missing before the page, never within it.
    found = rows.values_list("seq", "kind", "text", "data", "run__number", "at")[:count]
    fields = ("seq", "kind", "text", "data", "run", "at")
    return [dict(zip(fields, (*rest, rfc3339(at)), strict=True)) for *rest, at in (found if count else [])], more


def removed_through(session_id: uuid.UUID, after: int, found: list[dict[str, Any]]) -> int:
    """Up to which number retention has removed what came after a cursor; 0 if nothing of it is missing.

    `found` is the page that was read there before this is asked.
    """
    if found:
        return int(found[0]["seq"]) - 1 if found[0]["seq"] > after + 1 else 0
    pruned = AgentSession.objects.filter(pk=session_id, pruned_seq__gt=after).values_list("pruned_seq", flat=True)
    return pruned.first() or 0
