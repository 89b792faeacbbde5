"""What the pages of a session's rows share."""

import uuid
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.paginator import InfinitePaginator

from groups.admin.toolkit.bases import ReadOnlyAdmin
from sessions.models import AgentSession
from sessions.stream.markdown import visible


class SessionRowAdmin(ReadOnlyAdmin):
    """Rows of sessions: who sees the session sees them. They are found by the session's id."""

    search_help_text = "A session's id"
    search_fields = ["session__id"]  # shows the search box; get_search_results does the work
    list_select_related = ["session"]
    list_disable_select_all = True
    paginator = InfinitePaginator  # asks for no count
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def visible_rows(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """As a subquery, so that the table is read in its own order."""
        if request.user.is_superuser:
            return rows
        return rows.filter(session__in=AgentSession.objects.visible_to(request.user).order_by().values("pk"))

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """All of one session, found through its index."""
        if not search_term.strip():
            return queryset, False
        pk = parse_uuid(search_term)
        return (queryset.none() if pk is None else queryset.filter(session_id=pk)), False


def parse_uuid(text: str) -> uuid.UUID | None:
    """The id that `text` is, if it is one."""
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


def truncate(text: str, length: int = 100) -> str:
    """The first characters of `text`, on one line, with what is unseen written out."""
    line = visible(" ".join(text[: length * 2].split()))
    return line if len(line) <= length else f"{line[:length]}…"
