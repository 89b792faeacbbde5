"""Groups' namespaces are kept in sync while something of theirs runs: a rule that somebody changes is put back.

A start looks by itself, at most once a minute. So this is for groups whose runs last.
"""

import time
import uuid

import structlog
from django.conf import settings

from groups.models import AgentGroup
from runtimes.base import GroupRef, GroupSpec, Quota, RuntimeFault
from sessions import work_queue
from sessions.choices import RunState
from sessions.lifecycle import runtime_factory
from sessions.models import Run, RunQuerySet

log = structlog.get_logger(__name__)
EVERY = 30.0  # seconds between two looks at a group


def quota(group: AgentGroup) -> Quota:
    """What the group's runs may use together."""
    return Quota(
        cpu_millis=group.quota_cpu_millis or settings.GROUP_CPU_MILLIS,
        memory_mib=group.quota_memory_mib or settings.GROUP_MEMORY_MIB,
        pods=group.quota_pods or settings.GROUP_PODS,
        storage_gib=settings.GROUP_STORAGE_GIB,
    )


def sync(group_id: uuid.UUID) -> bool:
    """Sync a group's namespace, which repairs what is not as it should be; whether it is in order now.

    A group without runs has nothing to hold, and may just be removed: its namespace must not come back.
    """
    group = AgentGroup.objects.filter(pk=group_id).first()
    if group is None or not _started().filter(session__group=group).exists():
        return False
    spec = GroupSpec(GroupRef(str(group.pk), group.slug), group.storage_gib, quota(group))
    try:
        runtime_factory.get(settings.RUNTIME).sync_namespace(spec)
    except RuntimeFault as fault:
        log.error("a berth can't be kept right", group=group.slug, cause=fault.cause, words=str(fault))
        return False
    return True


def _started() -> RunQuerySet:
    return Run.objects.active().filter(runtime="kubernetes").exclude(state=RunState.CLAIMED)


class SyncSchedule:
    """Requests a sync of each group that has something running, every 30 s."""

    def __init__(self) -> None:
        self._requested_at: dict[uuid.UUID, float] = {}  # group → when (monotonic)

    def step(self) -> None:
        """Queue the syncs that are due. The local runtime has nothing that could be changed from outside."""
        if settings.RUNTIME != "kubernetes":
            return
        now = time.monotonic()
        groups = set(_started().order_by().values_list("session__group", flat=True).distinct())
        self._requested_at = {group: at for group, at in self._requested_at.items() if group in groups}
        for group in groups:
            # The start has just synced it.
            if now - self._requested_at.setdefault(group, now) >= EVERY:
                self._requested_at[group] = now
                work_queue.request(work_queue.SYNC_NAMESPACE, group)
