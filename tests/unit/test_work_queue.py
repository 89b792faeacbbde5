"""The work queue: once however often it was asked for, never beside itself, and growing pauses after failures."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from sessions import tasks, work_queue
from sessions.models import WorkItem
from sessions.work_queue import ADMIT, FIRST, LOW, NORMAL, RECONCILE, SYNC_NAMESPACE

ONE, TWO, THREE = f"{SYNC_NAMESPACE} one", f"{SYNC_NAMESPACE} two", f"{SYNC_NAMESPACE} three"


@pytest.fixture(autouse=True)
def empty(db: None) -> None:
    WorkItem.objects.all().delete()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the task `keep` was called with, instead of what it does."""
    called: list[str] = []
    monkeypatch.setattr(tasks, "keep", lambda *words: called.append(" ".join(words)))
    return called


def work(count: int = 10) -> list[str]:
    """Take what is due and do it, one after the other; the keys."""
    taken = work_queue.take(count)
    for key, token in taken:
        work_queue.do(key, token)
    return [key for key, _ in taken]


def later(seconds: float, **where: Any) -> None:
    """Let so much time pass for the rows."""
    for item in WorkItem.objects.filter(**where):
        item.due_at -= timedelta(seconds=seconds)
        item.taken_until = item.taken_until and item.taken_until - timedelta(seconds=seconds)
        item.save()


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(tasks, "keep", fail)


def test_asked_twice_while_it_waits_is_once(done: list[str]) -> None:
    for _ in range(5):
        work_queue.request(SYNC_NAMESPACE, "one")
    assert work() == [ONE]
    assert work() == [] and not WorkItem.objects.exists()
    assert done == ["one"]


def test_asked_while_at_work_is_once_more(done: list[str]) -> None:
    work_queue.request(SYNC_NAMESPACE, "one")
    ((key, token),) = work_queue.take(10)
    for _ in range(3):
        work_queue.request(SYNC_NAMESPACE, "one")
    assert work_queue.take(10) == [], "it is at work"
    work_queue.do(key, token)
    assert work() == [ONE]
    assert work() == [] and not WorkItem.objects.exists()


def test_asked_from_within_is_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "keep", lambda _: work_queue.request(SYNC_NAMESPACE, "one"))
    work_queue.request(SYNC_NAMESPACE, "one")
    assert work() == [ONE]
    assert work() == [ONE]


def test_the_earliest_time_and_the_best_priority_count() -> None:
    now = timezone.now()
    work_queue.request(SYNC_NAMESPACE, "one", priority=LOW, due_at=now + timedelta(hours=1))
    work_queue.request(SYNC_NAMESPACE, "one", priority=FIRST, due_at=now + timedelta(hours=2))
    item = WorkItem.objects.get()
    assert (item.priority, item.due_at) == (FIRST, now + timedelta(hours=1))
    work_queue.request(SYNC_NAMESPACE, "one", priority=NORMAL, due_at=now)
    item.refresh_from_db()
    assert (item.priority, item.due_at) == (FIRST, now)


def test_what_comes_first_goes_first_and_what_is_not_due_not_at_all(done: list[str]) -> None:
    work_queue.request(SYNC_NAMESPACE, "look", priority=LOW)
    work_queue.request(SYNC_NAMESPACE, "one")
    work_queue.request(SYNC_NAMESPACE, "two")
    work_queue.request(SYNC_NAMESPACE, "start", priority=FIRST)
    work_queue.request(SYNC_NAMESPACE, "tomorrow", priority=FIRST, due_at=timezone.now() + timedelta(days=1))
    work()
    assert done == ["start", "one", "two", "look"]


def test_what_was_seen_is_handed_on_and_the_newest_counts(done: list[str]) -> None:
    work_queue.request(SYNC_NAMESPACE, "one", observed="old")
    work_queue.request(SYNC_NAMESPACE, "one", observed="new")
    work_queue.request(SYNC_NAMESPACE, "one")
    work()
    assert done == ["one new"]


def test_what_was_seen_before_it_was_taken_is_not_handed_on_again(done: list[str]) -> None:
    work_queue.request(SYNC_NAMESPACE, "one", observed="old")
    ((key, token),) = work_queue.take(1)
    work_queue.request(SYNC_NAMESPACE, "one")
    work_queue.do(key, token)
    work()
    assert done == ["one", "one"]


def test_a_failure_comes_back_after_pauses_that_grow(monkeypatch: pytest.MonkeyPatch, done: list[str]) -> None:
    failing(monkeypatch, ValueError("no"))
    work_queue.request(SYNC_NAMESPACE, "one")
    pauses = []
    for number in range(1, 9):
        with pytest.raises(ValueError, match="no"):
            work()
        item = WorkItem.objects.get()
        assert item.failures == number
        pauses.append(round((item.due_at - timezone.now()).total_seconds()))
        assert work() == [], "not yet"
        later(60)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_fails_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def keep(name: str) -> None:
        called.append(name)
        if name == "bad":
            raise ValueError

    monkeypatch.setattr(tasks, "keep", keep)
    for name in ("bad", "good"):
        work_queue.request(SYNC_NAMESPACE, name)
    for key, token in work_queue.take(10):
        try:
            work_queue.do(key, token)
        except ValueError:
            continue
    assert called == ["bad", "good"]
    assert [item.key for item in WorkItem.objects.all()] == [f"{SYNC_NAMESPACE} bad"]


def test_a_look_does_not_shorten_the_pause_after_a_failure_but_a_start_or_stop_does(
    monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, ValueError("no"))
        work_queue.request(SYNC_NAMESPACE, "one", priority=LOW)
        with pytest.raises(ValueError, match="no"):
            work()
    work_queue.request(SYNC_NAMESPACE, "one", priority=LOW)
    assert work() == []
    work_queue.request(SYNC_NAMESPACE, "one", priority=FIRST)
    assert work() == [ONE]
    assert not WorkItem.objects.exists(), "a success makes good for all failures"


def test_a_task_may_ask_to_come_back_without_having_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "keep", lambda _: work_queue.retry(7.0))
    work_queue.request(SYNC_NAMESPACE, "one")
    work()
    item = WorkItem.objects.get()
    assert 6 < (item.due_at - timezone.now()).total_seconds() <= 7


def test_what_a_dead_worker_had_is_taken_by_another_once_its_time_is_over(done: list[str]) -> None:
    work_queue.request(SYNC_NAMESPACE, "one")
    ((key, token),) = work_queue.take(1)
    assert work_queue.take(1) == []
    later(work_queue.LONGEST.total_seconds() + 1)
    ((again, newer),) = work_queue.take(1)
    assert again == key and newer > token
    work_queue.do(key, token)
    assert done == [], "the first one comes too late"
    work_queue.do(key, newer)
    assert done == ["one"] and not WorkItem.objects.exists()


def test_one_that_lost_its_turn_does_not_take_a_newer_request_away(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []

    def keep(_: str) -> None:
        held.append(work_queue.holds())
        later(1000)
        assert work_queue.take(1)
        held.append(work_queue.holds())
        WorkItem.objects.all().delete()  # the second one is done
        work_queue.request(SYNC_NAMESPACE, "one")

    monkeypatch.setattr(tasks, "keep", keep)
    work_queue.request(SYNC_NAMESPACE, "one")
    work()
    assert held == [True, False]
    assert WorkItem.objects.filter(taken_until=None).count() == 1


@pytest.mark.parametrize(
    "name",
    ["os.system", "sessions.tasks._admitted", "sessions.tasks.nothing", "sessions.cleanup.engine.step"],
)
def test_a_row_names_a_task_and_nothing_else(name: str) -> None:
    work_queue.request(name, "one")
    with pytest.raises(LookupError, match="there is no task"):
        work()


def test_many_are_asked_for_at_once(done: list[str]) -> None:
    work_queue.request_all(SYNC_NAMESPACE, {f"{number}": "" for number in range(500)})
    work_queue.request_all(SYNC_NAMESPACE, {f"{number}": "" for number in range(600)})
    assert WorkItem.objects.count() == 600
    assert len(work_queue.take(1000)) == 600


def in_threads(count: int, do: Callable[[int], None]) -> None:
    """Do the same at the same time, each with a connection of its own."""
    together = threading.Barrier(count)
    errors: list[Exception] = []

    def body(number: int) -> None:
        try:
            together.wait(30)
            do(number)
        except Exception as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("_", [None, pytest.param("postgres", marks=pytest.mark.postgres)])
def test_of_many_takers_one_has_a_key_and_no_request_is_lost(done: list[str], _: Any) -> None:
    """Every request is followed by a call that began after it, whatever is asked and taken beside it."""
    asked: list[int] = []
    taken: list[tuple[str, int]] = []

    def ask_and_take(number: int) -> None:
        for _ in range(15):
            work_queue.request(SYNC_NAMESPACE, str(number % 2))
            asked.append(number)
            for key, token in work_queue.take(2):
                taken.append((key, token))
                work_queue.do(key, token)

    in_threads(4, ask_and_take)
    while work():
        pass
    assert not WorkItem.objects.exists()
    assert len(set(taken)) == len(taken), "no token was given twice"
    assert {"0", "1"} <= set(done)
    assert len(asked) == 60


def test_the_queue_knows_what_has_waited_longest() -> None:
    assert work_queue.oldest() is None
    work_queue.request(ADMIT)
    work_queue.request(RECONCILE, "x", due_at=timezone.now() + timedelta(hours=1))
    assert WorkItem.objects.get(key=ADMIT).due_at == work_queue.oldest()
