"""The rows of a page of sessions: what each waits for, and what was last said, with one query for all of them."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Q
from django.db.models.functions import Left
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from groups.admin.toolkit.bases import SingleCountChangeList
from sessions.admin.bases import truncate
from sessions.choices import EventKind, SessionState
from sessions.models import AgentSession, Event
from sessions.scheduling import admission
from sessions.scheduling.plan import Position
from sessions.stream import serializers

WAITING = (SessionState.QUEUED, SessionState.RETRYING)
EVENT_LENGTH = 80  # characters of the last event


class SessionChangeList(SingleCountChangeList):
    """A page of sessions: one look at the queue, and one at the last events, for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        """The rows of this page, each with `reason_cell` and `last_event`."""
        super().get_results(request)
        rows: list[Any] = list(self.result_list)  # type: ignore[has-type]
        places = admission.current_plan().positions if any(row.state in WAITING for row in rows) else {}
        events = last_events(rows)
        for session in rows:
            text = reason(session, places.get(session.pk))
            session.reason_cell = format_html('<span class="berth-cell berth-why" title="{}">{}</span>', text, text)
            session.last_event = events.get(session.pk, "")
        self.result_list = rows


def reason(session: AgentSession, place: Position | None) -> str:
    """Why a session is in its state, from what was read for the whole page."""
    if place is not None:
        return serializers.reason(session, place)
    later = session.retry_at and session.retry_at > timezone.now()
    if session.state in WAITING and not later:
        return "A slot is free: it starts at once."
    return session.reason


def last_events(sessions: Sequence[AgentSession]) -> dict[Any, str]:
    """The last event of each session, its kind and beginning, by the session's id."""
    of_them = Q(pk__in=[])
    for session in sessions:
        if session.last_seq:
            of_them |= Q(session_id=session.pk, seq=session.last_seq)
    rows = Event.objects.filter(of_them).annotate(begin=Left("text", EVENT_LENGTH * 2)).order_by()
    return {
        session: format_html(
            '<span class="berth-cell berth-said"><b>{}</b> {}</span>',
            EventKind(kind).label,
            truncate(begin, EVENT_LENGTH),
        )
        for session, kind, begin in rows.values_list("session_id", "kind", "begin")
    }
