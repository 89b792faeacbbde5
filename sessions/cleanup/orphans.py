"""Resources without rows, and rows without resources: what only a runtime has, and what only the database has.

A run's row is committed before anything of the run is made. So whoever reads the runtime first and the rows afterwards
never takes a run that just starts for an orphan.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from django.conf import settings

from groups.models import AgentGroup
from runtimes.base import GroupRef, OwnedResource, Phase, RunRef, Runtime, RuntimeFault
from runtimes.names import dns_label
from sessions import work_queue
from sessions.choices import RunState
from sessions.cleanup.actions import CleanupAction, Outcome, Scope, remove
from sessions.durations import age
from sessions.lifecycle import reconcile, runtime_factory
from sessions.models import Run

log = structlog.get_logger(__name__)
SETTLE = timedelta(minutes=1)  # what is only this old is probably under way
CHUNK = 500


@dataclass(frozen=True, slots=True)
class RunTimes:
    """What the rows say of a run. Times are None while it is active."""

    ended_at: datetime | None = None
    removed_at: datetime | None = None


def removal_reason(run: RunTimes | None, now: datetime) -> str:
    """Why what exists for a run has to go; empty if it may stay."""
    if run is None:
        return "the database doesn't know its run"
    if run.ended_at is None or now - max(run.ended_at, run.removed_at or run.ended_at) < SETTLE:
        return ""
    return f"its run ended {age(now - run.ended_at)} ago"


def remove_orphans(runtime: Runtime, still_leading: Callable[[], bool]) -> list[CleanupAction]:
    """Remove what a runtime has for runs that ended or that the database doesn't know; return what was done.

    `still_leading` is asked before each removal. Raises RuntimeFault if the runtime can't be asked at all.
    """
    actions = []
    for action in _run_resources_without_rows(runtime, Scope(go_on=still_leading)):
        log.warning(
            "orphan removed", kind=action.kind, name=action.name, reason=action.reason, action=str(action.outcome)
        )
        actions.append(action)
    return actions


def resources_without_rows(scope: Scope) -> Iterator[CleanupAction]:
    """Clean-up's first direction, in every runtime: what exists for runs, and for groups."""
    for name in runtimes_in_use():
        runtime = runtime_factory.get(name)
        for stage in (_run_resources_without_rows, _group_resources_without_rows):
            try:
                yield from stage(runtime, scope)
            except RuntimeFault as fault:
                yield CleanupAction(Outcome.FAILED, "runtime", name, f"it can't be asked what it has: {fault}")


def runtimes_in_use() -> list[str]:
    """The runtime of the settings, and those that may still have something of earlier runs."""
    used = Run.objects.filter(removed_at=None).order_by().values_list("runtime", flat=True).distinct()
    return [settings.RUNTIME, *sorted(set(used) - {settings.RUNTIME})]


def _run_resources_without_rows(runtime: Runtime, scope: Scope) -> Iterator[CleanupAction]:
    resources = [
        resource for resource in runtime.run_resources() if not scope.group or resource.owner.slug == scope.group
    ]
    for start in range(0, len(resources), CHUNK):
        chunk = resources[start : start + CHUNK]
        known = _known(resource.owner.run for resource in chunk if isinstance(resource.owner, RunRef))
        for resource in chunk:
            reason = (
                removal_reason(known.get(resource.owner.run), scope.now) if isinstance(resource.owner, RunRef) else ""
            )
            if reason and scope.go_on():
                yield remove(resource, reason, None if scope.dry_run else _removal(runtime, resource))


def _group_resources_without_rows(runtime: Runtime, scope: Scope) -> Iterator[CleanupAction]:
    """A volume can't be brought back, and a database restored from a backup knows less than there was: so what lasts of
    unknown groups goes only when a person asks for it."""
    resources = [
        resource for resource in runtime.group_resources() if not scope.group or resource.owner.slug == scope.group
    ]
    known = {str(pk): slug for pk, slug in AgentGroup.objects.values_list("pk", "slug")}
    labels = {dns_label(slug) for slug in known.values()}
    for resource in resources:
        ref = resource.owner
        if not isinstance(ref, GroupRef) or (ref.group in known if ref.group else ref.slug in labels):
            continue
        reason = "the database doesn't know its group"
        if not scope.by_hand:
            yield replace(remove(resource, f"{reason}; `manage.py gc` removes it", None), outcome=Outcome.KEPT)
        elif scope.go_on():
            yield remove(resource, reason, None if scope.dry_run else _removal(runtime, resource))


def _removal(runtime: Runtime, resource: OwnedResource) -> Callable[[], None]:
    return lambda: runtime.remove(resource)


def _known(runs: Iterable[str]) -> dict[str, RunTimes]:
    """What the rows say of these runs. A label may hold anything: what is no id names no run."""
    rows = Run.objects.filter(pk__in=[pk for pk in map(_id, runs) if pk])
    return {str(pk): RunTimes(ended, gone) for pk, ended, gone in rows.values_list("pk", "ended_at", "removed_at")}


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def rows_without_resources(scope: Scope) -> Iterator[CleanupAction]:
    """Clean-up's other direction: active runs of which nothing exists are given their next step, often the verdict."""
    runs = Run.objects.active().filter(claimed_at__lt=scope.now - SETTLE).select_related("session__group")
    if scope.group:
        runs = runs.filter(session__group__slug=scope.group)
    for run in runs.order_by("claimed_at"):
        name = f"{run.number} of session {run.session_id}"
        reason = f"nothing of it exists, {age(scope.now - run.claimed_at)} after it was claimed"
        try:
            if runtime_factory.get(run.runtime).observe(run.ref).phase is not Phase.ABSENT or not scope.go_on():
                continue
        except RuntimeFault as fault:
            yield CleanupAction(Outcome.FAILED, "run", name, f"its runtime can't be asked: {fault}")
            continue
        yield CleanupAction(
            Outcome.RECONCILED, "run", name, reason if scope.dry_run else f"{reason}; {_reconciled(run)}"
        )


def _reconciled(run: Run) -> str:
    """Take the run's next step, and tell how it is after it."""
    if reconcile.reconcile(run.session_id):
        work_queue.request(work_queue.ADMIT, priority=work_queue.FIRST)
    run.refresh_from_db(fields=["state", "verdict_words"])
    if run.state == RunState.ENDED:
        return f"it ended: {run.verdict_words}"
    return f"it is {run.get_state_display().lower()} now"
