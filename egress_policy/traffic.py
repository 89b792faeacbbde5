"""What was reached: kept as the proxies tell it, shown by host."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Max, Min, Q, Sum

from egress_policy import policy_revision
from egress_policy.models import EgressUse
from egress_policy.reports import ToldUse
from sessions.choices import RunState
from sessions.models import Run

MOST = 500  # hosts of one run that are shown


def store(told: Sequence[ToldUse]) -> None:
    """Keep tunnels. They may be told again, and out of order: counters only grow, and an end stays."""
    runs = set(Run.objects.filter(pk__in={use.run for use in told}).values_list("pk", flat=True))
    wanted = {use.id: use for use in sorted(told, key=lambda use: use.id) if use.run in runs}
    with transaction.atomic():
        # First the new ones, so that all are there to be locked: two reports of one tunnel may come at the same time.
        EgressUse.objects.bulk_create([_begun(use) for use in wanted.values()], ignore_conflicts=True)
        known = EgressUse.objects.select_for_update().filter(pk__in=wanted).order_by("pk").in_bulk()
        rows = [_merged(known[key], use) for key, use in wanted.items() if key in known]
        EgressUse.objects.bulk_update(rows, ["sent", "received", "ended_at", "cause"])
        still = {row.run_id for row in rows if row.ended_at is None}
        transaction.on_commit(lambda: _cut_late(still))


def _cut_late(runs: set[uuid.UUID]) -> None:
    """What was opened in the moment in which its run ended: each side commits first, and then looks at the other."""
    if Run.objects.filter(pk__in=runs, state=RunState.ENDED).exists():
        policy_revision.bump()


def _begun(told: ToldUse) -> EgressUse:
    return EgressUse(id=told.id, run_id=told.run, host=told.host, port=told.port, opened_at=told.opened)


def _merged(row: EgressUse, told: ToldUse) -> EgressUse:
    row.sent, row.received = max(row.sent, told.sent), max(row.received, told.received)
    row.ended_at, row.cause = row.ended_at or told.ended, row.cause or told.cause
    return row


@dataclass(frozen=True, slots=True)
class Reached:
    """All that a run had to do with one host and port. Sizes are in bytes."""

    host: str
    port: int
    connections: int
    open: int
    sent: int
    received: int
    first_at: datetime
    last_at: datetime | None  # None: nothing has ended yet


def reached(run_id: uuid.UUID) -> list[Reached]:
    """What a run reached, by host: the `MOST` that it turned to last, since an agent may make up names without end."""
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
        Reached(
            row["host"], row["port"], row["connections"], row["open"], row["sent_all"], row["received_all"],
            row["first_at"], row["last_at"],
        )
        for row in sorted(counted.order_by("-first_at")[:MOST], key=lambda row: (row["host"], row["port"]))
    ]  # fmt: skip
