"""What was reached: stored as the proxies report it, shown by host."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Max, Min, Q, Sum

from egress_policy import policy_revision
from egress_policy.models import EgressUse
from egress_policy.reports import ReportedTunnel
from sessions.choices import RunState
from sessions.models import Run

HOSTS_MAX = 500  # hosts of one run that are shown


def store(reported: Sequence[ReportedTunnel]) -> None:
    """Store tunnels. They may be reported again, and out of order: counters only grow, and an end stays."""
    runs = set(Run.objects.filter(pk__in={use.run for use in reported}).values_list("pk", flat=True))
    wanted = {use.id: use for use in sorted(reported, key=lambda use: use.id) if use.run in runs}
    with transaction.atomic():
        # First the new ones, so that all are there to be locked: two reports of one tunnel may come at the same time.
        EgressUse.objects.bulk_create([_new_row(use) for use in wanted.values()], ignore_conflicts=True)
        known = EgressUse.objects.select_for_update().filter(pk__in=wanted).order_by("pk").in_bulk()
        rows = [_updated(known[key], use) for key, use in wanted.items() if key in known]
        EgressUse.objects.bulk_update(rows, ["sent", "received", "ended_at", "cause"])
        still = {row.run_id for row in rows if row.ended_at is None}
        transaction.on_commit(lambda: _close_late(still))


def _close_late(runs: set[uuid.UUID]) -> None:
    """What was opened in the moment in which its run ended: each side commits first, and then looks at the other."""
    if Run.objects.filter(pk__in=runs, state=RunState.ENDED).exists():
        policy_revision.bump()


def _new_row(reported: ReportedTunnel) -> EgressUse:
    return EgressUse(
        id=reported.id, run_id=reported.run, host=reported.host, port=reported.port, opened_at=reported.opened
    )


def _updated(row: EgressUse, reported: ReportedTunnel) -> EgressUse:
    row.sent, row.received = max(row.sent, reported.sent), max(row.received, reported.received)
    row.ended_at, row.cause = row.ended_at or reported.ended, row.cause or reported.cause
    return row


@dataclass(frozen=True, slots=True)
class HostTraffic:
    """All that a run had to do with one host and port. Sizes are in bytes."""

    host: str
    port: int
    connections: int
    open: int
    sent: int
    received: int
    first_at: datetime
    last_at: datetime | None  # None: nothing has ended yet


def by_host(run_id: uuid.UUID) -> list[HostTraffic]:
    """What a run reached, by host: the last `HOSTS_MAX`, since an agent may make up names without end."""
    rows = EgressUse.objects.filter(run=run_id).values("host", "port").order_by("host", "port")
    counted = rows.annotate(
        connections=Count("pk"),
        open=Count("pk", filter=Q(ended_at=None)),
        sent_all=Sum("sent"),
        received_all=Sum("received"),
        first_at=Min("opened_at"),
        last_at=Max("ended_at"),
    )
    return [
        HostTraffic(
            row["host"], row["port"], row["connections"], row["open"], row["sent_all"], row["received_all"],
            row["first_at"], row["last_at"],
        )
        for row in sorted(counted.order_by("-first_at")[:HOSTS_MAX], key=lambda row: (row["host"], row["port"]))
    ]  # fmt: skip
