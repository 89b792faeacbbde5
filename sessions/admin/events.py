"""The admin of events, to read."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest
from unfold.decorators import display

from groups.admin.toolkit.columns import choice_column
from sessions.admin.bases import SessionRowAdmin, truncate
from sessions.choices import EventKind
from sessions.models import Event

SHOWN = 200  # characters of a text that the list reads


@admin.register(Event)
class EventAdmin(SessionRowAdmin):
    """What came out. The table may hold hundreds of millions of rows, so nothing here counts or sorts them.

    The primary key's order is the order of arrival.
    """

    kind_shown = choice_column("kind", EventKind)
    list_display = ["seq", "kind_shown", "session", "run_number", "text_shown", "at"]
    list_display_links = ["seq"]
    list_filter = ["kind"]
    list_select_related = ["session", "run"]
    ordering = ["-pk"]
    # A row's text and data may have 256 KiB each: the list reads the text's beginning alone.
    sortable_by: list[str] = []

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        """What may be seen, without what is long; a page of one event reads that when it is asked for."""
        rows = super().get_queryset(request)
        return rows.defer("text", "data", "run__last_lines").annotate(begin=Left("text", SHOWN))

    @display(description="run")
    def run_number(self, event: Event) -> int | None:
        """The run's number within the session."""
        return event.run.number if event.run else None

    @display(description="text")
    def text_shown(self, event: Any) -> str:
        """Its beginning."""
        return truncate(event.begin)
