"""Lists of the API in pages: a cursor in the query, and a header `Link` that says where the list goes on (RFC 8288)."""

from typing import TypeVar

from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from sessions import pagination
from sessions.lifecycle.intake import InvalidRequest

MOST_ROWS = 1000
MOST_OFFSET = 10**6
M = TypeVar("M", bound=Model)


def check(name: str, cursor: int, limit: int, most: float = float("inf")) -> None:
    """Whether a page can be had: it begins after `cursor`, the parameter `name`. Raises InvalidRequest."""
    valid = 0 <= cursor <= most
    if not valid or not 1 <= limit <= MOST_ROWS:
        raise InvalidRequest("limit" if valid else name, f"{name} is at least 0, limit 1 to {MOST_ROWS}.")


def link_next(request: HttpRequest, response: HttpResponse, name: str, cursor: int) -> None:
    """Say that there is more, after `cursor`."""
    query = request.GET.copy()
    query[name] = str(cursor)
    response["Link"] = f'<{request.path}?{query.urlencode()}>; rel="next"'


def by_offset(
    request: HttpRequest, response: HttpResponse, rows: QuerySet[M], offset: int, limit: int, *long: str
) -> list[M]:
    """A page of a list that has no numbers of its own: what fits of it after `offset` rows. Raises InvalidRequest."""
    check("offset", offset, limit, MOST_OFFSET)
    page, more = pagination.page(rows[offset:], limit, *long)
    if more:
        link_next(request, response, "offset", offset + len(page))
    return page
