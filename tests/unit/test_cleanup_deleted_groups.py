"""Deleted groups: stopped at once, kept for the grace, then removed; what others have stays."""

from datetime import timedelta
from typing import Any

import pytest

from groups import deletion
from groups.models import AgentGroup, AuditEntry, Membership
from runtimes.base import Cause, OwnedResource, PermanentFault
from runtimes.local.runtime import LocalRuntime
from sessions.choices import Intent, MessageState, RunState
from sessions.cleanup import deleted_groups
from sessions.cleanup.deleted_groups import delete_group
from sessions.lifecycle import intake, run_spec
from sessions.models import AgentSession, Event, Message, Run
from tests.unit.things import DAY, deleted, gc, gc_json, make, run_of, say
from tests.unit.things import runtime as runtime


def test_deleting_marks_it_and_stops_what_runs(
    session: AgentSession, group: AgentGroup, profile: Any, people: dict[str, Any]
) -> None:
    waiting = intake.open_session(group=group, profile=profile, text="Later", sender=None)
    run = run_of(session)
    assert delete_group(group, actor=people["operator"]) == 1
    run.refresh_from_db()
    assert (run.state, run.intent, run.intent_by) == (RunState.ENDING, Intent.STOP, "operator")
    assert waiting.messages.get().state == MessageState.QUEUED
    entry = AuditEntry.objects.get(action="group.delete")
    assert (entry.by, entry.target, entry.group) == ("operator", str(group.pk), group)
    assert group.history.first().deleted_at == group.deleted_at
    assert delete_group(group, actor=people["operator"]) == 0
    assert AuditEntry.objects.filter(action="group.delete").count() == 1


def test_restoring_within_the_grace_brings_all_back(
    session: AgentSession, group: AgentGroup, runtime: LocalRuntime, people: dict[str, Any]
) -> None:
    folder = make(runtime, run_of(session, ended=8 * DAY, removed=8 * DAY).ref).parents[1] / "groups" / group.slug
    deleted(group, 6 * DAY)
    group.refresh_from_db()
    code, out = gc()
    assert (code, folder.exists()) == (0, True)
    assert f"kept group {group.slug}: it was deleted 6 d ago and can be restored until 20" in out
    assert deletion.restore(group, actor=people["operator"])
    assert not deletion.restore(group, actor=people["operator"])
    group.refresh_from_db()
    assert (group.deleted_at, group.sessions.count(), folder.exists()) == (None, 1, True)
    assert AuditEntry.objects.get(action="group.restore").by == "operator"


def test_restoring_after_the_grace_is_refused(group: AgentGroup) -> None:
    deleted(group, 8 * DAY)
    with pytest.raises(deletion.TooLate, match="more than 7 days ago"):
        deletion.restore(group)


def test_after_the_grace_all_of_it_goes(
    session: AgentSession, group: AgentGroup, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deleted_groups, "BATCH", 4)
    make(runtime, run_of(session, ended=8 * DAY, removed=8 * DAY).ref)
    say(session, 10, DAY)
    deleted(group, 8 * DAY)
    code, out = gc()
    assert code == 0
    assert not list((runtime._data.path / "groups").iterdir())
    assert not list((runtime._data.path / "runs").iterdir())
    for model in (AgentGroup, AgentSession, Run, Message, Event, Membership):
        assert not model.objects.exists(), model
    assert "removed group folder" in out
    assert out.splitlines()[-2] == f"deleted group {group.slug}: group {group.slug}: it was deleted 8 d ago"
    entry = AuditEntry.objects.get(action="group.remove")
    assert (entry.target, entry.details["slug"]) == (str(group.pk), group.slug)
    assert AgentGroup.history.filter(id=group.pk, history_type="-").exists()


def test_other_groups_keep_what_they_have(
    session: AgentSession, group: AgentGroup, profile: Any, runtime: LocalRuntime
) -> None:
    other = AgentGroup.objects.create(slug="other", name="Other")
    theirs = intake.open_session(group=other, profile=profile, text="Hi", sender=None)
    run = make(runtime, run_of(theirs).ref)
    make(runtime, run_of(session, ended=8 * DAY, removed=8 * DAY).ref)
    deleted(group, 8 * DAY)
    gc()
    assert list(AgentGroup.objects.all()) == [other]
    assert (run.exists(), theirs.messages.count()) == (True, 1)
    assert [each.name for each in (runtime._data.path / "groups").iterdir()] == ["other"]


def test_a_run_that_still_is_there_is_stopped_first(
    session: AgentSession, group: AgentGroup, runtime: LocalRuntime
) -> None:
    run = run_of(session)
    folder = make(runtime, run.ref)
    deleted(group, 8 * DAY)
    _code, out = gc()
    run.refresh_from_db()
    assert (run.intent, folder.exists(), AgentGroup.objects.exists()) == (Intent.STOP, True, True)
    assert f"stopped runs of group {group.slug} (1): it was deleted 8 d ago" in out


def test_what_cannot_be_removed_keeps_the_rows(
    session: AgentSession, group: AgentGroup, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(self: LocalRuntime, resource: OwnedResource) -> None:
        raise PermanentFault(Cause.REJECTED, "it holds Job x of the installation other")

    monkeypatch.setattr(LocalRuntime, "remove", remove)
    make(runtime, run_of(session, ended=8 * DAY, removed=8 * DAY).ref)
    deleted(group, 8 * DAY)
    code, out = gc()
    assert (code, AgentGroup.objects.exists(), session.events.exists()) == (1, True, True)
    assert "it could not be removed (it holds Job x of the installation other)" in out


def test_a_dry_run_removes_nothing(session: AgentSession, group: AgentGroup, runtime: LocalRuntime) -> None:
    folder = make(runtime, run_of(session, ended=8 * DAY, removed=8 * DAY).ref)
    deleted(group, 8 * DAY)
    told = gc_json("--dry-run")
    kinds = {action["kind"] for action in told["done"]}
    assert kinds == {"run folder", "group folder", "session", "group"}
    assert (folder.exists(), session.events.exists()) == (True, True)


def test_the_grace_is_a_setting(group: AgentGroup, runtime: LocalRuntime, settings: Any) -> None:
    settings.GROUP_GRACE_DAYS = 0
    deleted(group, timedelta(seconds=1))
    gc()
    assert not AgentGroup.objects.exists()


def test_a_group_made_anew_does_not_get_the_old_ones_folder(
    session: AgentSession, group: AgentGroup, profile: Any, runtime: LocalRuntime
) -> None:
    old = run_of(session, ended=DAY, removed=DAY)
    make(runtime, old.ref)
    runtime.destroy(old.ref)
    AgentSession.objects.all().delete()
    group.delete()
    again = AgentGroup.objects.create(slug="harbour", name="Harbour")
    run = run_of(intake.open_session(group=again, profile=profile, text="Hi", sender=None))
    with pytest.raises(PermanentFault, match=r"of a group that is gone; `manage.py gc` removes it"):
        runtime.ensure(run_spec.build(run))
    assert gc("--group", "harbour")[0] == 0
    assert not (runtime._data.path / "groups" / "harbour").exists()
