"""`manage.py export_audit`: the audit log as CSV, oldest first."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from groups import times
from groups.audit_export import lines
from groups.models import AuditEntry


class Command(BaseCommand):
    """Writes to standard output, so that a script can send it where it is kept."""

    help = "Write the audit log as CSV to standard output, oldest entry first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """From when on."""
        parser.add_argument(
            "--since", default="", metavar="TIME", help="such as 2026-11-01 or 2026-11-01T12:00, in UTC"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write it."""
        entries = AuditEntry.objects.order_by("pk").select_related("group")
        if options["since"]:
            entries = entries.filter(at__gte=parse_time(options["since"]))
        for line in lines(entries):
            self.stdout.write(line, ending="")


def parse_time(text: str) -> datetime:
    """A time as somebody typed it; in UTC if it says nothing else. Raises CommandError."""
    try:
        at = times.bounded(datetime.fromisoformat(text))
    except ValueError:
        raise CommandError(
            f"--since is {text!r}. Use a date or a time, such as 2026-11-01 or 2026-11-01T12:00."
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
