"""Applying the queue's plan: reads who waits and who holds a slot, under one lock, and claims runs accordingly."""

import statistics
import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from groups.choices import Hold
from groups.models import AgentGroup, Limits
from runtimes.base import Cause
from sessions.choices import BEFORE_START, Intent, MessageState, RunState
from sessions.leases import QUEUE
from sessions.lifecycle import transitions
from sessions.models import AgentSession, Lease, Message, Run, RunQuerySet
from sessions.scheduling import plan
from sessions.scheduling.plan import Holder, Plan, Position, Share, Waiter

HISTORY = 50  # runs from which the length of the next ones is guessed
AT_ONCE = 16  # starts in one transaction
ENOUGH = 5  # fewer than these say nothing
HOLD_WORDS = {Hold.PAUSED: "paused", Hold.DRAINING: "being drained"}


def admit() -> list[uuid.UUID]:
    """Start who may start and ask idle runs to give way; return the sessions that got a run.

    One process at a time: the slots are counted under the lock of the lease's row, so that there are never more runs
    than slots. At most AT_ONCE start at a time, so that the first are made while the next are chosen: if that many
    did, ask again.
    """
    Lease.objects.get_or_create(name=QUEUE)
    with transaction.atomic():
        Lease.objects.select_for_update().get(name=QUEUE)
        decision = current_plan()
        started = [session for session in decision.start[:AT_ONCE] if transitions.claim(session, settings.RUNTIME)]
    for run in decision.preempt:
        transitions.request_end(run, Intent.PREEMPT, only_idle=True)
    return started


def is_waiting(session: uuid.UUID) -> bool:
    """Whether a session waits for a slot that it may have now."""
    return _waiting(timezone.now()).filter(pk=session).exists()


def _waiting(now: datetime) -> QuerySet[AgentSession]:
    due = Q(retry_at__isnull=True) | Q(retry_at__lte=now)
    return AgentSession.objects.filter(due, queued_at__isnull=False)


def current_plan() -> Plan:
    """The plan for the rows as they are now, without doing anything."""
    now = timezone.now()
    waiting = _waiting(now)
    waiters = [
        Waiter(pk, group, since, priority)
        for pk, group, since, priority in waiting.values_list("pk", "group_id", "queued_at", "priority")
        if since
    ]
    if not waiters:
        return Plan((), (), {})
    limits = Limits.current()
    return plan.plan(waiters, _holders(), _shares(limits), limits.runs, now)


def _holders() -> list[Holder]:
    """Every run that holds a slot. One that waits, for a follow-up or for the cluster's quota, could give it away."""
    pending = Message.objects.filter(session=OuterRef("session_id"), state=MessageState.QUEUED)
    rows = Run.objects.active().annotate(more=Exists(pending))
    fields = ("pk", "session__group_id", "state", "waits_cause", "more", "waiting_since", "claimed_at")
    holders = []
    for pk, group, state, waits_cause, more, waiting_since, claimed_at in rows.values_list(*fields):
        since = waiting_since if state == RunState.WAITING and not more else None
        if state in BEFORE_START and waits_cause == Cause.QUOTA:
            since = claimed_at
        holders.append(Holder(pk, group, since, state == RunState.ENDING, claimed_at))
    return holders


def _shares(limits: Limits) -> dict[uuid.UUID, Share]:
    """What each group may have, and why nothing of it may start if that is so."""
    fields = ("pk", "max_runs", "weight", "hold", "hold_reason", "deleted_at")
    everything = hold_message("everything", limits.hold, limits.hold_reason)
    shares = {}
    for pk, max_runs, weight, hold, reason, deleted_at in AgentGroup.objects.values_list(*fields):
        own = "the group was deleted" if deleted_at else hold_message("the group", hold, reason)
        shares[pk] = Share(max_runs or limits.runs_per_group, weight, everything or own)
    return shares


def hold_message(what: str, hold: str, reason: str) -> str:
    """Why nothing may start, in words; empty if it may."""
    if not hold:
        return ""
    return f"{what} is {HOLD_WORDS[Hold(hold)]} by an operator" + (f" ({reason})" if reason else "")


def runs_to_drain() -> RunQuerySet:
    """The runs of groups that are being drained, as far as they were not asked to close yet."""
    runs = Run.objects.active().filter(intent="")
    return runs if Limits.current().hold == Hold.DRAINING else runs.filter(session__group__hold=Hold.DRAINING)


def drain() -> None:
    """Ask runs of groups that are being drained to close when their turn ends."""
    for run in runs_to_drain().values_list("pk", flat=True):
        transitions.request_end(run, Intent.CLOSE, "an operator, who drains the group")


def position(session: AgentSession) -> Position | None:
    """Where a queued session stands; None if it doesn't wait for a slot."""
    return current_plan().positions.get(session.pk) if session.queued_at else None


def estimated_wait(position: Position) -> timedelta | None:
    """How long it may take until a session at this position starts, by the length of recent runs and the age of those
    that hold the slots; None if nobody can tell.
    """
    typical = cache.get_or_set("berth.typical_seconds", _typical_seconds, 15)
    seconds = plan.estimate_wait(position.ahead, position.ages, typical) if typical else None
    return None if seconds is None else timedelta(seconds=seconds)


def _typical_seconds() -> float:
    """The median time for which the last runs held their slot; 0 if there were too few."""
    ended = Run.objects.filter(state=RunState.ENDED).order_by("-ended_at").values_list("claimed_at", "ended_at")
    held = [(end - begin).total_seconds() for begin, end in ended[:HISTORY] if end]
    return statistics.median(held) if len(held) >= ENOUGH else 0.0
