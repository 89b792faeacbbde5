"""The watcher's round, and the lease that lets one work at a time."""

import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from groups.models import AgentProfile
from runtimes.base import Cause, Description, Observed, OwnedResource, Phase, RunRef, RunSpec, WatchEvent
from sessions import leases, tasks, work_queue
from sessions.choices import Intent, RunState
from sessions.lifecycle import observation, runtime_factory, secrets, transitions
from sessions.models import AgentSession, Lease, Run, WorkItem
from sessions.signals import swept
from sessions.work_queue import FIRST, LOW
from sessions.workers.watcher import Watcher


class Quiet:
    """A runtime in which nothing happens, and that notes what it is told."""

    def __init__(self, *refs: RunRef, silent: bool = False) -> None:
        self.refs, self.destroyed, self.silent = refs, list[RunRef](), silent
        self.observed = 0

    def ensure(self, spec: RunSpec) -> None: ...

    def observe(self, ref: RunRef) -> Observed:
        self.observed += 1
        return Observed(Phase.ABSENT)

    def describe(self, ref: RunRef) -> Description:
        return Description()

    def stop(self, ref: RunRef) -> None: ...

    def destroy(self, ref: RunRef) -> None:
        self.destroyed.append(ref)

    def runs(self) -> Iterator[RunRef]:
        yield from self.refs

    def run_resources(self) -> Iterator[OwnedResource]:
        yield from (OwnedResource(ref, "Job", ref.run, ref.slug) for ref in self.refs)

    def group_resources(self) -> Iterator[OwnedResource]:
        yield from ()

    def remove(self, resource: OwnedResource) -> None:
        self.destroy(resource.owner)

    def watch(self, until: threading.Event) -> Iterator[WatchEvent | None]:
        yield None
        until.wait(0 if self.silent else 30)


@pytest.fixture
def asked(session: AgentSession) -> Any:
    """What is asked for from here on, as (task, argument); but for the look for orphans, for which each asks."""
    WorkItem.objects.all().delete()
    keys = WorkItem.objects.exclude(key=work_queue.ORPHANS).values_list("key", flat=True)
    return lambda: [tuple(key.rpartition("sessions.tasks.")[2].split()) for key in keys.all()]


@pytest.fixture
def on_cluster(session: AgentSession, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that works on a cluster."""
    leases.heartbeat(leases.WEB)
    run = transitions.claim(session.pk, "kubernetes")
    assert run
    now = timezone.now()
    Run.objects.update(state=RunState.WORKING, made_at=now, started_at=now, seen_at=now, heard_at=now)
    WorkItem.objects.all().delete()
    run.refresh_from_db()
    return run


ALIVE = Observed(Phase.RUNNING)
HELD_UP = Observed(Phase.PENDING, Cause.QUOTA, "exceeded quota")


def test_one_holder_at_a_time(db: None) -> None:
    assert leases.acquire("x", "a") == 1
    assert leases.acquire("x", "b") is None
    assert leases.acquire("x", "a") == 1
    leases.release("x", "a")
    assert leases.acquire("x", "b") == 2


def test_a_holder_that_fell_silent_loses_it(db: None) -> None:
    leases.acquire("x", "a")
    Lease.objects.update(renewed_at=timezone.now() - 2 * leases.LASTS)
    assert leases.acquire("x", "b") == 2
    assert leases.acquire("x", "a") is None


def test_a_holder_that_slept_gets_a_new_epoch_and_its_old_one_is_worth_nothing(db: None) -> None:
    leases.acquire("x", "a")
    Lease.objects.update(renewed_at=timezone.now() - 2 * leases.LASTS)
    assert not leases.holds("x", "a", 1)
    assert leases.acquire("x", "a") == 2
    assert leases.holds("x", "a", 2) and not leases.holds("x", "a", 1)


def test_a_service_is_alive_since_its_last_silence(db: None) -> None:
    assert leases.alive_since("web") is None
    leases.heartbeat("web")
    first = leases.alive_since("web")
    leases.heartbeat("web")
    assert first and leases.alive_since("web") == first
    Lease.objects.update(renewed_at=timezone.now() - 2 * leases.LASTS)
    assert leases.alive_since("web") is None
    leases.heartbeat("web")
    assert leases.alive_since("web") != first


@pytest.mark.django_db(transaction=True)
def test_a_watcher_that_lost_its_lease_gives_up() -> None:
    watcher = Watcher(Quiet(), "a")
    watcher.step()
    Lease.objects.update(renewed_at=timezone.now() - 2 * leases.LASTS)
    with pytest.raises(RuntimeError, match="stale"):
        watcher.step()
    watcher.stop()


STRANGER = RunRef("11111111-1111-4111-8111-111111111111", "s", "g", "slug")


def removed(runtime: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker do what the watcher asks for about orphans."""
    monkeypatch.setattr(runtime_factory, "get", lambda name: runtime)
    Watcher(runtime, "a").sweep()
    for key, token in work_queue.take(10):
        if key == work_queue.ORPHANS:
            work_queue.do(key, token)


def test_an_orphan_is_left_alone_by_a_worker_whose_turn_is_over(
    session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Quiet):
        def run_resources(self) -> Iterator[OwnedResource]:
            WorkItem.objects.update(taken_until=timezone.now() - timedelta(seconds=1))
            yield from super().run_resources()

    runtime = Slow(STRANGER)
    removed(runtime, monkeypatch)
    assert runtime.destroyed == []


def test_orphans_are_removed_for_some_seconds_at_a_time_and_never_by_the_watcher(
    session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("sessions.tasks.time.monotonic", lambda: clock[0])

    class Many(Quiet):
        def destroy(self, ref: RunRef) -> None:
            clock[0] += 1
            super().destroy(ref)

    runtime = Many(*(replace(STRANGER, run=str(uuid.uuid4())) for _ in range(200)))
    Watcher(runtime, "a").sweep()
    assert runtime.destroyed == []
    removed(runtime, monkeypatch)
    assert len(runtime.destroyed) == 5
    assert WorkItem.objects.get(key=work_queue.ORPHANS).taken_until is None, "the rest is asked for"


@pytest.mark.django_db(transaction=True)
def test_a_second_watcher_stands_by() -> None:
    first, second = Watcher(Quiet(), "a"), Watcher(Quiet(), "b")
    assert first.step() and not second.step()
    first.stop()
    assert second.step()
    second.stop()


def test_a_session_that_waits_brings_admission(session: AgentSession, asked: Any) -> None:
    AgentSession.objects.update(queued_at=timezone.now() - timedelta(seconds=5))
    watcher = Watcher(Quiet(), "a")
    watcher.sweep()
    watcher.sweep()
    assert asked() == [("admit",)]


def test_a_session_whose_next_try_is_not_due_brings_nothing(session: AgentSession, asked: Any) -> None:
    now = timezone.now()
    AgentSession.objects.update(queued_at=now - timedelta(seconds=5), retry_at=now + timedelta(minutes=1))
    Watcher(Quiet(), "a").sweep()
    assert asked() == []


def test_a_start_whose_task_was_lost_is_taken_up(session: AgentSession, asked: Any) -> None:
    run = transitions.claim(session.pk, "local")
    Run.objects.update(claimed_at=timezone.now() - timedelta(seconds=10))
    Watcher(Quiet(), "a").sweep()
    assert run and asked() == [("reconcile", str(session.pk))]


def test_an_end_that_was_not_cleaned_up_is_taken_up(session: AgentSession, asked: Any) -> None:
    transitions.claim(session.pk, "local")
    past = timezone.now() - timedelta(seconds=60)
    Run.objects.update(state=RunState.ENDED, ended_at=past, verdict="completed")
    Watcher(Quiet(), "a").sweep()
    assert asked() == [("reconcile", str(session.pk))]


def test_what_the_database_does_not_want_is_removed(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    run = transitions.claim(session.pk, "local")
    assert run
    runtime = Quiet(run.ref, STRANGER)
    removed(runtime, monkeypatch)
    assert runtime.destroyed == [STRANGER]


# --- a wall around each item and each part ----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_no_label_ends_the_watch(on_cluster: Run) -> None:
    odd = [replace(on_cluster.ref, run=run) for run in ("x", "", "9" * 63, "\0", str(uuid.uuid4()))]
    odd += [replace(on_cluster.ref, session="x"), replace(on_cluster.ref, slug="x"), replace(on_cluster.ref, group="x")]

    class Odd(Quiet):
        def watch(self, until: threading.Event) -> Iterator[WatchEvent | None]:
            yield from (WatchEvent(ref, ALIVE) for ref in (*odd, on_cluster.ref))

    watcher = Watcher(Odd(), "a")
    watcher._follow()
    assert [item.key for item in WorkItem.objects.all()] == [f"{work_queue.RECONCILE} {on_cluster.session_id}"]


def test_a_part_of_the_sweep_that_fails_hinders_no_other_and_is_tried_again(
    session: AgentSession, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    AgentSession.objects.update(queued_at=timezone.now() - timedelta(seconds=5))
    clock = [1000.0]
    monkeypatch.setattr("sessions.workers.watcher.time.monotonic", lambda: clock[0])
    tried = []
    monkeypatch.setattr(leases, "alive_since", lambda _: tried.append(clock[0]) or 1 / 0)
    watcher = Watcher(Quiet(), "a")
    while clock[0] < 1100:
        watcher.sweep()
        clock[0] += 1
    assert asked() == [("admit",)]
    assert tried == [1000, 1002, 1006, 1014, 1030, 1062]
    assert watcher.failures == {"decisions": 6}


def test_a_part_that_never_works_ends_the_process(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("sessions.workers.watcher.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(leases, "alive_since", lambda _: 1 / 0)
    watcher = Watcher(Quiet(), "a")

    def hours() -> None:
        while clock[0] < 1000 + 3600:
            watcher.sweep()
            clock[0] += 10

    with pytest.raises(RuntimeError, match="decisions failed 30 times"):
        hours()


def test_another_apps_receiver_that_fails_hinders_no_other(session: AgentSession, asked: Any) -> None:
    def fail(**_: Any) -> None:
        raise ValueError

    AgentSession.objects.update(queued_at=timezone.now() - timedelta(seconds=5))
    swept.connect(fail)
    try:
        watcher = Watcher(Quiet(), "a")
        watcher.sweep()
    finally:
        swept.disconnect(fail)
    assert asked() == [("admit",)] and not watcher.failures


# --- what was seen --------------------------------------------------------------------------------------------------


def sees(run: Run, observed: Observed) -> Watcher:
    """A watcher that was told this of a run, and a queue that is empty since."""
    watcher = Watcher(Quiet(), "a")
    watcher._handle(WatchEvent(run.ref, observed))
    WorkItem.objects.all().delete()
    watcher.requested_at.clear()
    return watcher


def test_what_was_seen_is_handed_on(on_cluster: Run, asked: Any) -> None:
    watcher = Watcher(Quiet(), "a")
    watcher._handle(WatchEvent(on_cluster.ref, HELD_UP))
    watcher._handle(WatchEvent(on_cluster.ref, HELD_UP))
    (item,) = WorkItem.objects.all()
    assert item.priority == LOW
    assert json.loads(item.observed)["cause"] == "quota"


@pytest.mark.parametrize(
    "seen", [Observed(Phase.FINISHED, Cause.OOM, last_lines="a secret"), Observed(Phase.ABSENT), None]
)
def test_an_end_is_looked_at_anew_and_leaves_no_last_lines_in_a_row(on_cluster: Run, seen: Observed | None) -> None:
    Watcher(Quiet(), "a")._handle(WatchEvent(on_cluster.ref, seen))
    (item,) = WorkItem.objects.all()
    assert (item.priority, item.observed) == (FIRST, "")


@pytest.mark.parametrize("seen", [ALIVE, HELD_UP, Observed(Phase.PENDING, message="its containers are being started")])
def test_a_run_that_goes_on_as_it_should_brings_nothing(on_cluster: Run, asked: Any, seen: Observed) -> None:
    watcher = sees(on_cluster, seen)
    for clock in (0.0, 20.0, 40.0):
        watcher._decide(clock)
    assert asked() == []


def test_a_run_of_which_there_is_something_to_do_brings_a_step(on_cluster: Run, asked: Any) -> None:
    watcher = sees(on_cluster, ALIVE)
    Run.objects.update(claimed_at=timezone.now() - timedelta(days=2))
    watcher._decide(0.0)
    assert asked() == [("reconcile", str(on_cluster.session_id))]
    assert WorkItem.objects.get().priority == FIRST


def test_a_run_that_nobody_has_seen_is_looked_at_now_and_then(on_cluster: Run, asked: Any) -> None:
    watcher = Watcher(Quiet(), "a")
    watcher._decide(0.0)
    assert asked() == [], "what exists may only not be told yet"
    watcher._decide(20.0)
    assert asked() == [("reconcile", str(on_cluster.session_id))]


def test_only_runs_with_secrets_are_looked_at_for_them(on_cluster: Run, asked: Any) -> None:
    watcher = sees(on_cluster, ALIVE)
    AgentProfile.objects.update(secrets={"token": "ref:TOKEN"})
    watcher._decide(0.0)
    assert asked() == [("reconcile", str(on_cluster.session_id))]


def test_a_hundred_runs_cost_no_more_queries_than_one(on_cluster: Run, django_assert_max_num_queries: Any) -> None:
    watcher = sees(on_cluster, ALIVE)
    for _ in range(20):
        other = AgentSession.objects.create(group=on_cluster.session.group, profile=on_cluster.session.profile)
        Run.objects.create(
            session=other, number=1, runtime="kubernetes", state=RunState.STARTING, made_at=timezone.now()
        )
        watcher.seen[other.runs.get().pk] = HELD_UP
    with django_assert_max_num_queries(4):
        watcher._decide(0.0)


def test_time_that_passes_by_itself_does_not_count(on_cluster: Run, asked: Any) -> None:
    watcher = sees(on_cluster, HELD_UP)
    past = timezone.now() - timedelta(hours=1)
    Run.objects.update(state=RunState.STARTING, started_at=None, counted_from=past, claimed_at=past)
    watcher._decide(0.0)
    on_cluster.refresh_from_db()
    assert asked() == []
    assert on_cluster.counted_from > timezone.now() - timedelta(minutes=1)


def worked(observed: Observed | None, run: Run, runtime: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker take what a watcher saw."""
    monkeypatch.setattr(runtime_factory, "get", lambda name: runtime)
    Watcher(runtime, "a")._handle(WatchEvent(run.ref, observed))
    for key, token in work_queue.take(10):
        work_queue.do(key, token)


def test_a_worker_goes_by_what_was_seen_and_asks_nobody(on_cluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Run.objects.update(state=RunState.STARTING, started_at=None)
    runtime = Quiet()
    worked(HELD_UP, on_cluster, runtime, monkeypatch)
    on_cluster.refresh_from_db()
    assert (on_cluster.waits_for, on_cluster.state, runtime.observed) == ("exceeded quota", RunState.STARTING, 0)


def test_what_can_not_be_taken_back_is_decided_anew(on_cluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen says that the start is held up for too long; the runtime says that the run is alive by now."""
    past = timezone.now() - timedelta(hours=1)
    Run.objects.update(state=RunState.STARTING, started_at=None, counted_from=past, claimed_at=past)

    class Alive(Quiet):
        def observe(self, ref: RunRef) -> Observed:
            super().observe(ref)
            return ALIVE

    runtime = Alive()
    Run.objects.update(state=RunState.ENDING, intent=Intent.CLOSE, intent_at=past)
    worked(HELD_UP, on_cluster, runtime, monkeypatch)
    assert runtime.observed == 1
    assert Run.objects.get().state == RunState.ENDING
    worked(Observed(Phase.FINISHED), on_cluster, runtime, monkeypatch)
    assert Run.objects.get().state == RunState.ENDING


def test_what_was_seen_of_another_run_of_the_session_counts_for_nothing(
    on_cluster: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Quiet()
    monkeypatch.setattr(runtime_factory, "get", lambda name: runtime)
    other = observation.pack(uuid.uuid4(), ALIVE)
    tasks.reconcile(str(on_cluster.session_id), other)
    assert runtime.observed == 1 and Run.objects.get().state == RunState.ENDED


def test_an_agents_secrets_are_renewed_by_what_was_seen(on_cluster: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = []
    monkeypatch.setattr(secrets, "renew", lambda run, runtime: renewed.append(run.pk))
    worked(ALIVE, on_cluster, Quiet(), monkeypatch)
    assert renewed == [on_cluster.pk]


@pytest.mark.django_db(transaction=True)
def test_a_watch_that_ended_is_no_watch() -> None:
    watcher = Watcher(Quiet(silent=True), "a")
    watcher.thread = threading.Thread(target=watcher._follow)
    watcher.thread.start()
    watcher.thread.join(10)
    with pytest.raises(RuntimeError, match="ended"):
        watcher.step()


@pytest.mark.django_db(transaction=True)
def test_silence_is_an_error() -> None:
    watcher = Watcher(Quiet(), "a")
    watcher.step()
    watcher.last_event_at -= 100
    with pytest.raises(RuntimeError, match="silent"):
        watcher.step()
    watcher.stop()
