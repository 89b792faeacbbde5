"""Deleted groups: their sessions are stopped, and after the grace all of them goes, what can't be made again last.

The group's row is the last to go: whatever a kill leaves behind, the next clean-up still knows why it has to go. First
the runtime, then the rows in batches, session by session.
"""

from collections.abc import Callable, Iterator

from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone

from groups import audit, deletion
from groups.models import AgentGroup
from groups.permissions import Person
from runtimes.base import OwnedResource, Runtime, RuntimeFault
from sessions.cleanup.actions import CleanupAction, Outcome, Scope, remove
from sessions.cleanup.orphans import runtimes_in_use
from sessions.durations import age
from sessions.lifecycle import intake, runtime_factory
from sessions.models import AgentSession, Event, Run

BATCH = 1000  # events in a transaction
BY = "Berth's clean-up"


def delete_group(group: AgentGroup, *, actor: Person | None = None, by: str = "") -> int:
    """Mark a group as deleted and stop what runs in it; return how many runs were asked to end.

    Messages that wait keep their places, for as long as the group can be restored.
    """
    deletion.mark_deleted(group, actor=actor, by=by)
    return stop_runs(group, actor=actor, by=by)


def stop_runs(group: AgentGroup, *, actor: Person | None = None, by: str = "") -> int:
    """Ask the active runs of a group to end now; return how many were asked."""
    name = by or (actor.get_username() if actor else BY)
    sessions = AgentSession.objects.filter(group=group, pk__in=Run.objects.active().values("session"))
    return sum(intake.stop(session, by=name, actor=actor) for session in sessions.select_related("group"))


def process_deleted_groups(scope: Scope) -> Iterator[CleanupAction]:
    """Stop what still runs in deleted groups, and remove those whose grace is over."""
    groups = AgentGroup.objects.filter(deleted_at__isnull=False).order_by("deleted_at")
    for group in groups.filter(slug=scope.group) if scope.group else groups:
        if group.deleted_at is None:
            continue
        ago = f"it was deleted {age(scope.now - group.deleted_at)} ago"
        until = deletion.removal_at(group.deleted_at)
        running = Run.objects.active().filter(session__group=group).count()
        if running:
            if not scope.dry_run:
                stop_runs(group)
            yield CleanupAction(Outcome.STOPPED, "runs", f"of group {group.slug} ({running})", ago)
        elif until > scope.now:
            yield CleanupAction(
                Outcome.KEPT, "group", group.slug, f"{ago} and can be restored until {until:%Y-%m-%d %H:%M} UTC"
            )
        else:
            yield from _remove(group, scope, ago)


def _remove(group: AgentGroup, scope: Scope, reason: str) -> Iterator[CleanupAction]:
    """Remove a group from the runtimes, then from the database. One whose resources can't be removed keeps its rows."""
    for name in runtimes_in_use():
        runtime = runtime_factory.get(name)
        try:
            resources = list(_traces(runtime, group))
        except RuntimeFault as fault:
            yield CleanupAction(
                Outcome.FAILED, "runtime", name, f"it can't be asked what it has of group {group.slug}: {fault}"
            )
            return
        for resource in resources:
            if not scope.go_on():
                return
            action = remove(
                resource, f"group {group.slug}: {reason}", None if scope.dry_run else _removal(runtime, resource)
            )
            yield action
            if action.outcome is Outcome.FAILED:
                return
    yield from _rows(group, scope, reason)


def _traces(runtime: Runtime, group: AgentGroup) -> Iterator[OwnedResource]:
    """All that a runtime has of a group: its runs first, what lasts after them."""
    slug = group.slug
    for resource in (*runtime.run_resources(), *runtime.group_resources()):
        if resource.owner.group == str(group.pk) or (not resource.owner.group and resource.owner.slug == slug):
            yield resource


def _removal(runtime: Runtime, resource: OwnedResource) -> Callable[[], None]:
    return lambda: runtime.remove(resource)


def _rows(group: AgentGroup, scope: Scope, reason: str) -> Iterator[CleanupAction]:
    """Delete a group's rows: each session's events in batches, then the session with the rest, then the group."""
    reason = f"group {group.slug}: {reason}"
    for session in AgentSession.objects.filter(group=group).order_by("pk"):
        if not scope.dry_run:
            while _some_events(session):
                yield CleanupAction(Outcome.DELETED, "events", f"of session {session.pk}", reason)
            with transaction.atomic():
                AgentSession.objects.filter(pk=session.pk).delete()
        yield CleanupAction(Outcome.DELETED, "session", str(session.pk), reason)
    try:
        if not scope.dry_run and not _group_row(group):
            return
    except ProtectedError as error:
        yield CleanupAction(Outcome.FAILED, "group", group.slug, f"its row is still needed ({error.args[0]})")
        return
    yield CleanupAction(Outcome.DELETED, "group", group.slug, reason)


@transaction.atomic
def _some_events(session: AgentSession) -> bool:
    """Delete one batch of a session's events; whether it was a full one."""
    rows = Event.objects.filter(session=session).order_by("seq").values_list("seq", flat=True)
    seqs = list(rows[:BATCH])
    if seqs:
        Event.objects.filter(session=session, seq__lte=seqs[-1]).delete()
        AgentSession.objects.filter(pk=session.pk).update(pruned_seq=seqs[-1])
    return len(seqs) == BATCH


@transaction.atomic
def _group_row(group: AgentGroup) -> bool:
    """Delete the group's own row, with its memberships and a line in the audit log; False if it was gone."""
    locked = AgentGroup.objects.select_for_update().filter(pk=group.pk, deleted_at__lt=timezone.now()).first()
    if locked is None:
        return False
    audit.record("group.remove", by=BY, target=locked.pk, slug=locked.slug, deleted_at=str(locked.deleted_at))
    locked.delete()
    return True
