"""Pages of rows with long texts: so many rows, and so many bytes, which the database counts before anything is read."""

from typing import Any, TypeVar

from django.db.models import F, Func, IntegerField, Model, QuerySet

M = TypeVar("M", bound=Model)

# With JSON's escapes it stays well under the frames that `web` may send (SENT_FRAME_MAX of controlplane/server.py).
PAGE_BYTES = 1024 * 1024


class Bytes(Func):
    """How many bytes a text or JSON column has; PostgreSQL need not unpack a text for it."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        """SQLite has OCTET_LENGTH from 3.43 on; of a BLOB, LENGTH is the same."""
        return self.as_sql(compiler, connection, template="LENGTH(CAST(%(expressions)s AS BLOB))", **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        """JSON has no length of its own."""
        return self.as_sql(compiler, connection, template="OCTET_LENGTH((%(expressions)s)::text)", **extra)


def page_size(rows: QuerySet[Any], limit: int, *long: str) -> tuple[int, bool]:
    """How many of the first `limit` rows fit on a page by the sum of their `long` columns, and whether more follow.

    One row always fits, so that a cursor goes on.
    """
    sizes = rows.values_list(*(Bytes(F(name)) for name in long))[: limit + 1]
    total = 0
    for count, row in enumerate(sizes):
        total += sum(size or 0 for size in row)
        if count == limit or (count and total > PAGE_BYTES):
            return count, True
    return len(sizes), False


def page(rows: QuerySet[M], limit: int, *long: str) -> tuple[list[M], bool]:
    """The rows of such a page, and whether more follow."""
    count, more = page_size(rows, limit, *long)
    return list(rows[:count]), more
