"""`manage.py check_mounts`: evaluate every mount, as the next start would."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from groups.choices import MountState
from groups.models import AgentGroup, GroupMount


class Command(BaseCommand):
    """Exits with status 1 if an approved mount would stop a start."""

    help = "Judge every mount as the next start would. Ends with status 1 if one that is approved would be refused."

    def add_arguments(self, parser: CommandParser) -> None:
        """--group, --json."""
        parser.add_argument("--group", default="", metavar="SLUG", help="the mounts of this group alone")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Judge and print."""
        groups = AgentGroup.objects.filter(deleted_at=None)
        if options["group"]:
            groups = groups.filter(slug=options["group"])
            if not groups.exists():
                raise CommandError(f"There is no group {options['group']!r}.")
        mounts = GroupMount.objects.filter(group__in=groups).select_related("group", "root")
        reports = [report(mount) for mount in mounts.prefetch_related("group__mounts").order_by("group__slug", "name")]
        if options["json"]:
            self.stdout.write(json.dumps(reports, indent=2))
        else:
            self._print(reports)
        if any(not each["ok"] and each["state"] == MountState.APPROVED for each in reports):
            raise SystemExit(1)

    def _print(self, reports: list[dict[str, Any]]) -> None:
        for each in reports:
            result = "ok" if each["ok"] else "REFUSED"
            self.stdout.write(f"{each['group']} {each['name']} ({each['state']}): {result}: {each['reason']}")
        refused = sum(not each["ok"] for each in reports)
        self.stdout.write(f"{len(reports)} mounts, {refused} of them would be refused.")


def report(mount: GroupMount) -> dict[str, Any]:
    """The mount and what would become of it, as the command prints it."""
    verdict = mount.evaluate()
    return {
        "group": mount.group.slug,
        "name": mount.name,
        "root": mount.root.name,
        "path": mount.path,
        "read_write": mount.read_write,
        "state": mount.state,
        "ok": verdict.ok,
        "reason": verdict.reason,
    }
