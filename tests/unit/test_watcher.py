"""The watcher's round, and the lease that lets one work at a time."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from k8s_adapter.runtime import Observed, Phase, RunRef, RunSpec
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

    def watch(self, until: threading.Event) -> Iterator[RunRef | None]:
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
    Watcher(runtime, "a").sweep()
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
