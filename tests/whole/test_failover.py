"""Two watchers on one database: one leads, and the other takes over when it is killed, ended or asleep."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
import pytest

from testbed.stack import Stack
from testbed.waiting import wait_for

FAILOVER = 15  # seconds, as promised: a lease lasts 10


class Held(NamedTuple):
    """The watchers' lease, as it stands in the database."""

    holder: str
    epoch: int
    renewed_at: object


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Local processes on SQLite."""
    stack = Stack.embedded(tmp_path_factory.mktemp("failover"))
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Local processes on PostgreSQL."""
    stack = Stack.embedded(tmp_path_factory.mktemp("failover"))
    stack.use_postgresql()
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture(params=["on_sqlite", pytest.param("on_postgres", marks=pytest.mark.postgres)])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack whose watcher `first` leads while `second` stands by."""
    stack: Stack = request.getfixturevalue(request.param)
    if "watcher" in stack.processes:
        end(stack, "watcher")
    launch(stack, "first")
    wait_for(lambda: lease(stack).holder, 60, f"a leader; see {stack.log}")
    before = starts(stack)
    launch(stack, "second")
    wait_for(lambda: starts(stack) > before, 60, f"a second watcher; see {stack.log}")
    yield stack
    for name in ("first", "second"):
        if name in stack.processes:
            end(stack, name)


def launch(stack: Stack, name: str) -> None:
    """Start one more watcher, as the Procfile says: one that gives up is started again."""
    stack.start("watcher")
    stack.processes[name] = stack.processes.pop("watcher")


def program(stack: Stack, name: str) -> psutil.Process:
    """The watcher itself, without the shell that supervises it."""
    return wait_for(lambda: psutil.Process(stack.processes[name].pid).children(), 10, f"{name} runs")[0]


def end(stack: Stack, name: str) -> None:
    """End a watcher as a supervisor does."""
    process = stack.processes.pop(name)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def starts(stack: Stack) -> int:
    """How many watchers have started so far."""
    return Path(stack.log).read_text(errors="replace").count("watcher starts")


def lease(stack: Stack) -> Held:
    """Read the lease; nobody holds one that was never taken."""
    words = "SELECT holder, epoch, renewed_at FROM agent_sessions_lease WHERE name = 'watcher'"
    if stack.database:
        with psycopg.connect(stack.env["DATABASE_URL"]) as connection:
            row = connection.execute(words).fetchone()
    else:
        with closing(sqlite3.connect(Path(stack.env["DATA_DIR"]) / "berth.sqlite3", timeout=10)) as file:
            row = file.execute(words).fetchone()
    return Held(*row) if row else Held("", 0, None)


def taken_over(stack: Stack, before: Held) -> Held | None:
    """The lease, once another watcher has it."""
    now = lease(stack)
    return now if now.holder not in ("", before.holder) else None


def kill_run(session: str) -> None:
    """Kill agent and courier of a session: nobody is left who could tell."""
    killed = 0
    for process in psutil.process_iter():
        try:
            if process.environ().get("BERTH_SESSION") == session:
                process.kill()
                killed += 1
        except psutil.Error:
            continue
    assert killed


def test_a_watcher_that_is_killed_is_followed_by_the_other(stack: Stack) -> None:
    running = stack.open("hello")
    stack.wait_result(running)
    before = lease(stack)
    stack.kill("first")
    kill_run(running)
    started = stack.open("is anybody there?")
    after = wait_for(lambda: taken_over(stack, before), FAILOVER, f"another leader; see {stack.log}")
    assert after.epoch == before.epoch + 1
    stack.wait_result(started)
    assert stack.wait_verdict(running)["verdict"] == "vanished", "only a watcher could see that"


def test_a_watcher_that_is_told_to_end_hands_over_at_once(stack: Stack) -> None:
    before = lease(stack)
    program(stack, "first").send_signal(signal.SIGTERM)
    stack.processes.pop("first").wait(30)
    after = wait_for(lambda: taken_over(stack, before), 8, "another leader, sooner than a lease goes stale")
    assert after.epoch == before.epoch + 1


def test_a_watcher_that_slept_stands_by_when_it_wakes_up(stack: Stack) -> None:
    before, started = lease(stack), starts(stack)
    sleeper = program(stack, "first")
    sleeper.suspend()
    try:
        after = wait_for(lambda: taken_over(stack, before), FAILOVER, f"another leader; see {stack.log}")
    finally:
        sleeper.resume()
    assert after.epoch == before.epoch + 1
    wait_for(lambda: not sleeper.is_running(), 30, "the end of the one that slept")
    wait_for(lambda: starts(stack) > started, 60, f"a fresh one in its place; see {stack.log}")
    for _ in range(3):
        seen = lease(stack)
        assert seen[:2] == after[:2]
        wait_for(lambda seen=seen: lease(stack).renewed_at != seen.renewed_at, 30, "the leader goes on")
