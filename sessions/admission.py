"""Applying the queue's plan: reads who waits and who holds a slot, under one lock, and claims runs accordingly."""

import uuid

from django.conf import settings
from django.db import transaction

from groups.models import AgentGroup
from sessions import lifecycle, queue
from sessions.leases import QUEUE
from sessions.models import AgentSession, Lease, Run
from sessions.queue import Holder, Place, Plan, Share, Waiter
from sessions.states import Intent, RunState


def admit() -> list[uuid.UUID]:
    """Start who may start and ask idle runs to give way; return the sessions that got a run.

    One process at a time: the slots are counted under the lock of the lease's row, so that there are never more runs
    than slots.
    """
    Lease.objects.get_or_create(name=QUEUE)
    with transaction.atomic():
        Lease.objects.select_for_update().get(name=QUEUE)
        decision = look()
        started = [session for session in decision.start if lifecycle.claim(session, settings.RUNTIME)]
    for run in decision.give_way:
        lifecycle.ask(run, Intent.PREEMPT, only_from=RunState.WAITING)
    return started


def look() -> Plan:
    """The plan for the rows as they are now, without doing anything."""
    waiting = AgentSession.objects.filter(queued_at__isnull=False)
    waiters = [
        Waiter(pk, group, since, priority)
        for pk, group, since, priority in waiting.values_list("pk", "group_id", "queued_at", "priority")
        if since
    ]
    rows = Run.objects.active().values_list("pk", "session__group_id", "waiting_since", "state")
    holders = [
        Holder(pk, group, since if state == RunState.WAITING else None, state == RunState.ENDING)
        for pk, group, since, state in rows
    ]
    shares = {group.pk: Share(group.slots, group.weight) for group in AgentGroup.objects.all()} if waiters else {}
    return queue.plan(waiters, holders, shares, settings.MAX_RUNS)


def place(session: AgentSession) -> Place | None:
    """Where a queued session stands; None if it doesn't wait."""
    return look().places.get(session.pk) if session.queued_at else None
