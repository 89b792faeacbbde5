"""The audit log as CSV, for the admin and for `manage.py export_audit`."""

import csv
import json
from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from groups.models import AuditEntry

COLUMNS = ["at", "by", "action", "target", "group", "details"]
# A spreadsheet takes a cell that begins with one of these for a formula:
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Echo:
    """A file that gives back what is written to it."""

    def write(self, text: str) -> str:
        """Return `text`."""
        return text


def lines(entries: QuerySet[AuditEntry]) -> Iterator[str]:
    """The entries as lines of CSV, with a line of titles."""
    writer: Any = csv.writer(Echo())
    yield writer.writerow(COLUMNS)
    for entry in entries.iterator(chunk_size=1000):
        group = entry.group.slug if entry.group else str(entry.group_id or "")
        details = json.dumps(entry.details) if entry.details else ""
        cells = [entry.at.isoformat(), entry.by, entry.action, entry.target, group, details]
        yield writer.writerow([_harmless(cell) for cell in cells])


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
