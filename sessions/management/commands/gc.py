"""`manage.py gc`: clean up by hand, or tell what would be cleaned up."""

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from groups.models import AgentGroup
from sessions.cleanup import engine
from sessions.cleanup.actions import CleanupAction, Outcome, Scope

MOST_DAYS = 36500  # a hundred years: what was finished before can't be


class Command(BaseCommand):
    """One line for each thing, and a summary. Ends with 1 if something could not be done."""

    help = (
        "Remove what the runtime has and the database doesn't want, what is past its retention, and deleted groups "
        "whose grace is over. May be killed at any time and run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What may be done, and how it is reported."""
        parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and do nothing")
        parser.add_argument(
            "--days",
            type=int,
            default=settings.RETENTION_DAYS,
            help="keep what finished in the last DAYS days, 0 for all of it (default: RETENTION_DAYS, %(default)s)",
        )
        parser.add_argument("--group", default="", metavar="SLUG", help="look at this group alone")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")

    def handle(self, *args: Any, **options: Any) -> None:
        """Clean up."""
        if not 0 <= options["days"] <= MOST_DAYS:
            raise CommandError(f"--days is a number of days from 0 to {MOST_DAYS}.")
        dry_run: bool = options["dry_run"]
        scope = Scope(dry_run=dry_run, days=options["days"], group=options["group"], by_hand=True)
        known = not scope.group or AgentGroup.objects.filter(slug=scope.group).exists()
        done: list[CleanupAction] = []
        for action in engine.collect(scope):
            done.append(action)
            if not options["json"]:
                self.stdout.write(action.line(dry_run))
                self.stdout.flush()
        if not known and not done:
            raise CommandError(f"There is no group {scope.group!r}, and nothing was found that bears its name.")
        counts = Counter(str(action.outcome) for action in done)
        if options["json"]:
            payload = {"dry_run": dry_run, "done": [action.as_dict() for action in done], "counts": dict(counts)}
            self.stdout.write(json.dumps(payload, indent=2, ensure_ascii=False))
        else:
            self.stdout.write(summary(counts, dry_run))
        if counts[Outcome.FAILED]:
            sys.exit(1)


def summary(counts: Counter[str], dry_run: bool) -> str:
    """The last line: how many of each action."""
    parts = [f"{counts[action]} {action}" for action in Outcome if counts[action]]
    if not parts:
        return "Nothing to clean up."
    return f"{'Dry run, nothing was done' if dry_run else 'Done'}: {', '.join(parts)}."
