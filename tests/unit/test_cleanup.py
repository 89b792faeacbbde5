"""`manage.py gc`: things without rows, rows without things, what it tells, and the task of every day."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError
from django.utils import timezone

from runtimes.base import Cause, RunRef, TransientFault
from runtimes.local.runtime import LocalRuntime
from sessions.choices import RunState
from sessions.cleanup import engine as cleaning
from sessions.cleanup import orphans
from sessions.cleanup.orphans import RunTimes, removal_reason
from sessions.models import AgentSession, Lease
from tests.unit.things import DAY, HOUR, gc, gc_json, make, run_of, say, stranger
from tests.unit.things import runtime as runtime

NOW = timezone.now()


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (None, "the database doesn't know its run"),
        (RunTimes(), ""),
        (RunTimes(ended_at=NOW - timedelta(seconds=30)), ""),
        (RunTimes(ended_at=NOW - 3 * HOUR), "its run ended 3 h ago"),
        (RunTimes(NOW - 3 * HOUR, removed_at=NOW - timedelta(seconds=5)), ""),  # what it asked for is under way
        (RunTimes(NOW - 2 * DAY, removed_at=NOW - DAY), "its run ended 2 d ago"),
    ],
)
def test_what_stands_for_a_run_is_unwanted_when_the_run_is_over_or_unknown(run: RunTimes | None, reason: str) -> None:
    assert removal_reason(run, NOW) == reason


def test_what_no_row_knows_is_removed_and_the_rest_stays(session: AgentSession, runtime: LocalRuntime) -> None:
    active = make(runtime, run_of(session).ref)
    ref = stranger(session.group.slug)
    lost = make(runtime, RunRef(ref.run, ref.session, str(session.group.pk), ref.slug))
    code, out = gc()
    assert (code, lost.exists(), active.exists()) == (0, False, True)
    assert f"removed run folder {lost}: the database doesn't know its run\n" in out
    assert gc() == (0, out.replace(out, "Nothing to clean up.\n"))


def test_what_is_left_of_a_run_that_ended_is_removed(session: AgentSession, runtime: LocalRuntime) -> None:
    folder = make(runtime, run_of(session, ended=3 * HOUR, removed=2 * HOUR).ref)
    _code, out = gc()
    assert not folder.exists()
    assert f"removed run folder {folder}: its run ended 3 h ago" in out


def test_half_a_folder_and_a_lock_are_removed(db: None, runtime: LocalRuntime) -> None:
    ref = stranger()
    folder = make(runtime, ref)
    half = folder.with_name(f"{ref.run}.new")
    folder.rename(half)
    half.with_name(f"{ref.run}.lock").touch()
    gc()
    assert list(folder.parent.iterdir()) == []


def test_the_folder_of_an_unknown_group_is_removed_by_hand_only(db: None, runtime: LocalRuntime) -> None:
    ref = stranger()
    make(runtime, ref)
    runtime.destroy(ref)
    folder = runtime._data.workspace(ref).parent
    finish()
    assert folder.exists()
    _code, out = gc()
    assert not folder.exists()
    assert f"removed group folder {folder}: the database doesn't know its group" in out


def test_an_active_run_of_which_nothing_exists_gets_its_verdict(session: AgentSession, runtime: LocalRuntime) -> None:
    run = run_of(session)
    session.runs.update(state=RunState.WORKING, made_at=timezone.now() - HOUR)
    code, out = gc()
    run.refresh_from_db()
    assert (code, run.state, run.verdict) == (0, RunState.ENDED, Cause.VANISHED)
    assert f"reconciled run 1 of session {session.pk}: nothing of it exists, 1 h after it was claimed; it ended" in out


def test_a_run_that_was_just_claimed_is_left_to_start(session: AgentSession, runtime: LocalRuntime) -> None:
    run = run_of(session)
    session.runs.update(state=RunState.STARTING, claimed_at=timezone.now())
    gc()
    run.refresh_from_db()
    assert run.state == RunState.STARTING


def test_a_dry_run_tells_the_same_and_does_nothing(session: AgentSession, runtime: LocalRuntime) -> None:
    say(session, 5, 100 * DAY)
    AgentSession.objects.update(created_at=timezone.now() - 200 * DAY)
    folder = make(runtime, stranger())
    told = gc_json("--dry-run")
    assert folder.exists() and session.events.count() >= 5
    assert told["dry_run"] and told["counts"] == {"removed": 2}
    told = gc_json()
    assert not folder.exists()
    assert {action["kind"] for action in told["done"]} == {"run folder", "group folder"}


def test_json_tells_each_thing(db: None, runtime: LocalRuntime) -> None:
    folder = make(runtime, stranger())
    group = runtime._data.path / "groups" / "strangers"
    assert gc_json() == {
        "dry_run": False,
        "done": [
            {
                "action": "removed",
                "kind": "run folder",
                "name": str(folder),
                "reason": "the database doesn't know its run",
            },
            {
                "action": "removed",
                "kind": "group folder",
                "name": str(group),
                "reason": "the database doesn't know its group",
            },
        ],
        "counts": {"removed": 2},
    }


def test_one_fault_is_told_and_does_not_stop_the_rest(
    db: None, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted((stranger("one"), stranger("two")), key=lambda ref: ref.run)
    folders = [make(runtime, first), make(runtime, second)]
    real = LocalRuntime.destroy

    def destroy(self: LocalRuntime, ref: RunRef) -> None:
        if ref == first:
            raise TransientFault(Cause.UNREACHABLE, "the disk is full")
        real(self, ref)

    monkeypatch.setattr(LocalRuntime, "destroy", destroy)
    code, out = gc()
    assert code == 1
    assert [folder.exists() for folder in folders] == [True, False]
    assert f"failed run folder {folders[0]}: it could not be removed (the disk is full);" in out


def test_a_group_narrows_it(session: AgentSession, runtime: LocalRuntime) -> None:
    others = make(runtime, stranger("others"))
    ours = make(runtime, stranger(session.group.slug))
    gc("--group", session.group.slug)
    assert (ours.exists(), others.exists()) == (False, True)


def test_an_unknown_group_is_an_error(db: None, runtime: LocalRuntime) -> None:
    with pytest.raises(CommandError, match="no group 'nobody'"):
        gc("--group", "nobody")


def test_the_watcher_removes_orphans_only_while_it_leads(session: AgentSession, runtime: LocalRuntime) -> None:
    folders = [make(runtime, stranger()) for _ in range(3)]
    answers = iter([True, False, False])
    deeds = orphans.remove_orphans(runtime, lambda: next(answers))
    assert len(deeds) == 1
    assert sum(folder.exists() for folder in folders) == 2
    group = runtime._data.path / "groups" / "strangers"
    orphans.remove_orphans(runtime, lambda: True)
    assert (sum(folder.exists() for folder in folders), group.exists()) == (0, True)


def finish(seconds: float = 5.0) -> int:
    """Run the task of a day to its end; return how many steps it took."""
    cleaning.due()
    Lease.objects.filter(name=cleaning.NAME).update(renewed_at=timezone.now() - 2 * DAY)
    assert cleaning.due()
    steps = 1
    while cleaning.step(seconds):
        steps += 1
    return steps


def test_it_is_due_once_a_day(db: None) -> None:
    assert not cleaning.due()  # a new installation has nothing to clean up
    Lease.objects.filter(name=cleaning.NAME).update(renewed_at=timezone.now() - 2 * DAY)
    assert cleaning.due()
    assert not cleaning.due()


def test_the_task_does_a_little_at_a_time_and_all_in_the_end(session: AgentSession, runtime: LocalRuntime) -> None:
    folders: list[Path] = [make(runtime, stranger(session.group.slug)) for _ in range(4)]
    steps = finish(seconds=0)
    assert steps == 4 + len(cleaning.STAGES)
    assert not any(folder.exists() for folder in folders)


def test_a_step_without_a_clean_up_does_nothing(db: None, runtime: LocalRuntime) -> None:
    folder = make(runtime, stranger())
    assert not cleaning.step()
    assert folder.exists()


def test_days_must_be_a_number_of_days(db: None, runtime: LocalRuntime) -> None:
    with pytest.raises(CommandError, match="from 0"):
        gc("--days=-1")
