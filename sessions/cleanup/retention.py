"""What is finished goes after its retention: events, runs, settled messages, and what Django and Django-Q pile up.

Each batch is one short transaction, so a page that reads or a courier that posts never waits for long, and a process
killed between two leaves nothing half done.
"""

import itertools
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, Subquery
from django_q.models import Task

from sessions.choices import ACTIVE, MessageState, RunState
from sessions.cleanup.actions import CleanupAction, Outcome, Scope
from sessions.events import event_log, stored_bytes
from sessions.lifecycle import idempotency
from sessions.models import AgentSession, Event, IdempotencyKey, Message, Run

BATCH = 1000  # rows in a transaction
STRETCH = 20  # batches of one session's events between two lines of the report
SESSIONS = 200  # looked at in one query
RESULTS_KEPT = timedelta(days=7)  # of the task queue: for looking into a fault, not a record
SETTLED = (MessageState.ANSWERED, MessageState.FAILED, MessageState.CANCELLED)

Row = tuple[int, datetime, uuid.UUID | None]  # an event's number, time and run


def count_old(rows: Sequence[Row], cutoff: datetime, active: set[uuid.UUID]) -> int:
    """How many of these rows, from the first on, are older than the cutoff and of no active run."""
    for count, (_, at, run) in enumerate(rows):
        if at >= cutoff or run in active:
            return count
    return len(rows)


def delete_old_events(scope: Scope) -> Iterator[CleanupAction]:
    """Delete each session's events from its start up to the first one that is younger than the cutoff."""
    cutoff, last = scope.cutoff, uuid.UUID(int=0)
    while cutoff:
        # Numbers have no holes, so a session's first event is the one after those removed: one look into the index.
        oldest = Event.objects.filter(session=OuterRef("pk"), seq=OuterRef("pruned_seq") + 1).values("at")
        found = AgentSession.objects.filter(pk__gt=last, created_at__lt=cutoff, pruned_seq__lt=F("last_seq"))
        if scope.group:
            found = found.filter(group__slug=scope.group)
        found = found.annotate(first_at=Subquery(oldest[:1])).filter(first_at__lt=cutoff).order_by("pk")
        page = list(found.values_list("pk", "pruned_seq")[:SESSIONS])
        for session, pruned in page:
            for first, through in _stretches(session, pruned, cutoff, scope.dry_run):
                yield CleanupAction(
                    Outcome.DELETED, "events", f"{first}-{through} of session {session}", _retention_reason(scope)
                )
        if len(page) < SESSIONS:
            return
        last = page[-1][0]


def _stretches(session: uuid.UUID, pruned: int, cutoff: datetime, dry_run: bool) -> Iterator[tuple[int, int]]:
    """Delete a session's old events; yields the first and last number of each stretch of STRETCH batches."""
    first = pruned + 1
    for count in itertools.count(1):
        through, more = _batch(session, pruned, cutoff, dry_run)
        if through >= first and (not more or count % STRETCH == 0):
            yield first, through
            first = through + 1
        if not more:
            return
        pruned = through


@transaction.atomic
def _batch(session: uuid.UUID, pruned: int, cutoff: datetime, dry_run: bool) -> tuple[int, bool]:
    """Delete one batch of a session's old events; the highest number that is gone, and whether more may go."""
    locked = event_log.lock_session(session)
    active = set(locked.runs.active().values_list("pk", flat=True))
    after = Event.objects.filter(session=session, seq__gt=pruned).order_by("seq")
    rows = list(after.values_list("seq", "at", "run_id")[:BATCH])
    count = count_old(rows, cutoff, active)
    if count:
        pruned = rows[count - 1][0]
        if not dry_run:
            gone = Event.objects.filter(session=session, seq__lte=pruned)
            left = max(0, locked.event_bytes - stored_bytes.size_of(gone)) if pruned < locked.last_seq else 0
            gone.delete()
            AgentSession.objects.filter(pk=session).update(pruned_seq=pruned, event_bytes=left)
    return pruned, count == BATCH


def delete_old_runs(scope: Scope) -> Iterator[CleanupAction]:
    """Delete runs without events that ended before the cutoff. The last run of a session stays: its state shows it."""
    left = Event.objects.filter(session=OuterRef("session"), run=OuterRef("pk"))
    runs = Run.objects.filter(state=RunState.ENDED, removed_at__isnull=False, number__lt=F("session__last_run"))
    if scope.cutoff:
        yield from _delete_batches(
            _of_group(runs.filter(~Exists(left), ended_at__lt=scope.cutoff), scope), "runs", scope
        )


def delete_old_messages(scope: Scope) -> Iterator[CleanupAction]:
    """Delete settled messages that came, and were answered, before the cutoff."""
    if not scope.cutoff:
        return
    answered = Q(answered_at__isnull=True) | Q(answered_at__lt=scope.cutoff)
    messages = Message.objects.filter(answered, state__in=SETTLED, created_at__lt=scope.cutoff)
    messages = messages.exclude(run__state__in=ACTIVE)
    yield from _delete_batches(_of_group(messages, scope), "messages", scope)


def housekeeping(scope: Scope) -> Iterator[CleanupAction]:
    """Delete the task queue's old results, and the sessions of browsers that are over."""
    if scope.group:
        return
    results = Task.objects.filter(stopped__lt=scope.now - RESULTS_KEPT)
    yield from _delete_batches(results, "task results", scope, f"older than {RESULTS_KEPT.days} days")
    keys = IdempotencyKey.objects.filter(created_at__lt=scope.now - idempotency.KEPT)
    yield from _delete_batches(keys, "idempotency keys", scope, f"older than {idempotency.KEPT.days} days")
    over = Session.objects.filter(expire_date__lt=scope.now).count()
    if over:
        if not scope.dry_run:
            import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
        yield CleanupAction(Outcome.DELETED, "browser sessions", str(over), "expired")


def _of_group(rows: Any, scope: Scope) -> Any:
    """The rows of the scope's group, if there is one."""
    return rows.filter(session__group__slug=scope.group) if scope.group else rows


def _retention_reason(scope: Scope) -> str:
    return f"older than {scope.days} days"


def _delete_batches(rows: Any, kind: str, scope: Scope, reason: str = "") -> Iterator[CleanupAction]:
    """Delete the rows of a queryset, batch by batch."""
    reason = reason or _retention_reason(scope)
    if scope.dry_run:
        count = rows.count()
        if count:
            yield CleanupAction(Outcome.DELETED, kind, str(count), reason)
        return
    while keys := list(rows.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        with transaction.atomic():
            rows.model.objects.filter(pk__in=keys).delete()
        yield CleanupAction(Outcome.DELETED, kind, str(len(keys)), reason)
