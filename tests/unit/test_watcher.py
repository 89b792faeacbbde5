"""The watcher's round, and the lease that lets one work at a time."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from k8s_adapter.runtime import Observed, Phase, RunRef, RunSpec, Sighting, Trace
from sessions import leases, lifecycle
from sessions.models import AgentSession, Lease, Run
from sessions.states import RunState
from sessions.watcher import Watcher


class Quiet:
    """A runtime in which nothing happens, and that notes what it is told."""

    def __init__(self, *refs: RunRef, silent: bool = False) -> None:
        self.refs, self.destroyed, self.silent = refs, list[RunRef](), silent

    def ensure(self, spec: RunSpec) -> None: ...

    def observe(self, ref: RunRef) -> Observed:
        return Observed(Phase.ABSENT)

    def stop(self, ref: RunRef) -> None: ...

    def destroy(self, ref: RunRef) -> None:
        self.destroyed.append(ref)

    def owned(self) -> Iterator[RunRef]:
        yield from self.refs

    def traces(self) -> Iterator[Trace]:
        yield from (Trace(ref, "Job", ref.run, ref.slug) for ref in self.refs)

    def grounds(self) -> Iterator[Trace]:
        yield from ()

    def remove(self, trace: Trace) -> None:
        self.destroy(trace.of)

    def watch(self, until: threading.Event) -> Iterator[Sighting | None]:
        yield None
        until.wait(0 if self.silent else 30)


@pytest.fixture
def tasks(session: AgentSession) -> Any:
    """The tasks that are queued from here on, as (function, first argument)."""
    OrmQ.objects.all().delete()
    return lambda: [(t.func().rpartition(".")[2], *t.task["args"]) for t in OrmQ.objects.all()]


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
    leases.beat("web")
    first = leases.alive_since("web")
    leases.beat("web")
    assert first and leases.alive_since("web") == first
    Lease.objects.update(renewed_at=timezone.now() - 2 * leases.LASTS)
    assert leases.alive_since("web") is None
    leases.beat("web")
    assert leases.alive_since("web") != first


@pytest.mark.django_db(transaction=True)
def test_a_watcher_that_lost_its_lease_gives_up() -> None:
    watcher = Watcher(Quiet(), "a")
    watcher.step()
    Lease.objects.update(renewed_at=timezone.now() - 2 * leases.LASTS)
    with pytest.raises(RuntimeError, match="stale"):
        watcher.step()
    watcher.stop()


def test_an_orphan_is_left_alone_by_a_watcher_that_leads_no_more(session: AgentSession) -> None:
    runtime = Quiet(RunRef("11111111-1111-4111-8111-111111111111", "s", "g", "slug"))
    watcher = Watcher(runtime, "a")
    watcher.epoch = leases.acquire(leases.WATCHER, "a")
    Lease.objects.update(epoch=9)
    watcher.sweep()
    assert runtime.destroyed == []


@pytest.mark.django_db(transaction=True)
def test_a_second_watcher_stands_by() -> None:
    first, second = Watcher(Quiet(), "a"), Watcher(Quiet(), "b")
    assert first.step() and not second.step()
    first.stop()
    assert second.step()
    second.stop()


def test_a_session_that_waits_brings_admission(session: AgentSession, tasks: Any) -> None:
    AgentSession.objects.update(queued_at=timezone.now() - timedelta(seconds=5))
    watcher = Watcher(Quiet(), "a")
    watcher.sweep()
    watcher.sweep()
    assert tasks() == [("admit",)]


def test_a_session_whose_next_try_is_not_due_brings_nothing(session: AgentSession, tasks: Any) -> None:
    now = timezone.now()
    AgentSession.objects.update(queued_at=now - timedelta(seconds=5), retry_at=now + timedelta(minutes=1))
    Watcher(Quiet(), "a").sweep()
    assert tasks() == []


def test_a_start_whose_task_was_lost_is_taken_up(session: AgentSession, tasks: Any) -> None:
    run = lifecycle.claim(session.pk, "local")
    Run.objects.update(claimed_at=timezone.now() - timedelta(seconds=10))
    Watcher(Quiet(), "a").sweep()
    assert run and tasks() == [("reconcile", str(session.pk))]


def test_an_end_that_was_not_cleaned_up_is_taken_up(session: AgentSession, tasks: Any) -> None:
    lifecycle.claim(session.pk, "local")
    past = timezone.now() - timedelta(seconds=60)
    Run.objects.update(state=RunState.ENDED, ended_at=past, verdict="completed")
    Watcher(Quiet(), "a").sweep()
    assert tasks() == [("reconcile", str(session.pk))]


def test_what_the_database_does_not_want_is_removed(session: AgentSession, tasks: Any) -> None:
    run = lifecycle.claim(session.pk, "local")
    assert run
    stranger = RunRef("11111111-1111-4111-8111-111111111111", "s", "g", "slug")
    runtime = Quiet(run.ref, stranger)
    watcher = Watcher(runtime, "a")
    watcher.epoch = leases.acquire(leases.WATCHER, "a")
    watcher.sweep()
    assert runtime.destroyed == [stranger]


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
    watcher.heard -= 100
    with pytest.raises(RuntimeError, match="silent"):
        watcher.step()
    watcher.stop()
