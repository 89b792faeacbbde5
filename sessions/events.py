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
from django.utils import timezone

from sessions.models import AgentSession, Event, Run
from sessions.states import EventKind

# A page: at most so many events and, but for one that is larger alone, so many characters. With JSON's escapes it stays
# well under the frames that `web` may send (the Procfile's --websocket-max-frame-size).
PAGE_EVENTS, PAGE_CHARACTERS, SLICE = 500, 1024 * 1024, 50


@dataclass(slots=True)
class NewEvent:
    """An event before it has its place in the session."""

    kind: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None
    number: int | None = None


def locked(session_id: uuid.UUID) -> AgentSession:
    """The session's row, locked until the transaction ends. Whoever locks more than one row locks this one first."""
    return AgentSession.objects.select_for_update().get(pk=session_id)


def append(session: AgentSession, events: Iterable[NewEvent], run: Run | None = None) -> int:
    """Give `events` the next numbers of a session whose row is locked, insert them, and return the last number.

    Saves `session.last_seq` and `updated_at`. The doorbell is the caller's to ring, after the commit.
    """
    now = timezone.now()
    first = session.last_seq + 1
    run_id = run.pk if run else None
    rows = [(first + i, run_id, e.number, str(e.kind), e.text, e.data, e.at or now) for i, e in enumerate(events)]
    if rows:
        _insert(session.pk, rows)
        session.last_seq = rows[-1][0]
        AgentSession.objects.filter(pk=session.pk).update(last_seq=session.last_seq, updated_at=now)
    return session.last_seq


def _insert(session_id: uuid.UUID, rows: list[tuple[Any, ...]]) -> None:
    """Insert in bulk. PostgreSQL takes a batch fastest as one array per column; SQLite through Django."""
    if connection.vendor != "postgresql" or len(rows) < 5:
        fields = ("seq", "run_id", "number", "kind", "text", "data", "at")
        made = [Event(session_id=session_id, **dict(zip(fields, row, strict=True))) for row in rows]
        Event.objects.bulk_create(made, batch_size=500)
        return
    seqs, runs, numbers, kinds, texts, datas, ats = zip(*rows, strict=True)
    dumped = [json.dumps(data) if data else "{}" for data in datas]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {Event._meta.db_table} (session_id, seq, run_id, number, kind, text, data, at) "
            "SELECT %s, u.* FROM unnest(%s::bigint[], %s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::jsonb[], "
            "%s::timestamptz[]) AS u",
            [session_id, list(seqs), list(runs), list(numbers), list(kinds), list(texts), dumped, list(ats)],
        )


def say(
    session: AgentSession, kind: EventKind, text: str = "", data: dict[str, Any] | None = None, run: Run | None = None
) -> int:
    """Append one event of Berth's own to a session whose row is locked."""
    return append(session, [NewEvent(kind, text, data or {})], run)


def instant(at: datetime) -> str:
    """A time as pages and programs get it: RFC 3339 in UTC, with milliseconds."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read(session_id: uuid.UUID, after: int, limit: int = PAGE_EVENTS) -> list[dict[str, Any]]:
    """The next page of events after a cursor, in order: at most `limit` of them."""
    return read_page(session_id, after, limit)[0]


def read_page(session_id: uuid.UUID, after: int, limit: int = PAGE_EVENTS) -> tuple[list[dict[str, Any]], bool]:
    """As `read`, and whether there may be more behind the page."""
    found: list[dict[str, Any]] = []
    size = 0
    while len(found) < limit:
        rows = (
            Event.objects.filter(session_id=session_id, seq__gt=found[-1]["seq"] if found else after)
            .order_by("seq")
            .values_list("seq", "kind", "text", "data", "run__number", "at")[: min(SLICE, limit - len(found))]
        )
        for seq, kind, text, data, run, at in rows:
            size += len(text) + (len(json.dumps(data)) if data else 0)
            if found and size > PAGE_CHARACTERS:
                return found, True
            found.append({"seq": seq, "kind": kind, "text": text, "data": data, "run": run, "at": instant(at)})
        if len(rows) < SLICE:
            return found, False
    return found, True
