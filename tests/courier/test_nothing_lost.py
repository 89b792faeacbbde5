"""Kills, restarts and a control plane that misbehaves: every line once, in order."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from courier.events import Event
from courier.journal import Journal
from testbed.courier_control_plane import Desk, Server
from testbed.courier_run import Bench
from testbed.waiting import wait_for
from tests.courier.conftest import Make

COUNTING = """
import json, sys, time
for number in range({count}):
    print({line}, flush={flush})
    if number % {every} == 0:
        time.sleep(0.005)
"""
RAW = "f'line {number}'"
TEXT = "json.dumps({'type': 'text', 'text': f'line {number}\\n'})"


def counting(count: int, line: str = RAW, every: int = 20, flush: bool = False) -> str:
    return COUNTING.format(count=count, line=line, every=every, flush=flush)


def expected(count: int) -> str:
    return "".join(f"line {number}\n" for number in range(count))


def reached(desk: Desk, count: int) -> bool:
    return len(desk.events()) > count or "exit" in desk.kinds()


def assert_numbered(desk: Desk, run: str = "") -> None:
    numbers = [event["n"] for event in desk.events(run)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(("contract", "line", "kind"), [("jsonl", RAW, "stdout"), ("jsonl", TEXT, "text")])
def test_a_courier_killed_again_and_again_loses_and_repeats_nothing(
    bench: Make, contract: str, line: str, kind: str
) -> None:
    run = bench(contract)
    run.desk.say("go")
    run.start_courier()
    run.python(counting(8_000, line, every=25))
    for moment in range(8):
        target = len(run.desk.events()) + 3
        wait_for(partial(reached, run.desk, target))
        time.sleep(moment * 0.006)  # so that each kill falls into another moment
        run.kill_courier()
        run.start_courier()
    run.wait_for_kind("exit")
    assert run.desk.text(kind) == expected(8_000)
    assert_numbered(run.desk)
    assert len(run.desk.of("exit")) == 1
    assert len(run.desk.of("delivered")) == 1


def test_a_courier_killed_before_the_exit_was_shipped_ships_it_later(bench: Make) -> None:
    run = bench("plain")
    run.server.stop()
    run.start_courier()
    run.start_agent("sh", "-c", "echo answer")
    wait_for(lambda: (run.pipes / "drained").exists())
    run.kill_courier()
    run.server = Server(run.desk, run.port)
    run.start_courier("--exit-when-done")
    assert run.courier is not None
    assert run.courier.wait(10) == 0
    assert run.desk.kinds() == ["text", "result", "exit"]


def test_a_courier_killed_when_all_was_stored_ends_without_repeating_it(bench: Make) -> None:
    run = bench("plain")
    run.start_courier()
    run.start_agent("sh", "-c", "echo answer")
    run.wait_for_kind("exit")
    run.kill_courier()
    run.start_courier("--exit-when-done")
    assert run.courier is not None
    assert run.courier.wait(10) == 0
    assert run.desk.kinds() == ["text", "result", "exit"]
    assert not (run.journals / "run").exists()


def test_a_wrapper_that_is_killed_counts_as_137(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    wrapper = run.start_agent("sh", "-c", "echo last words; read line")
    run.wait_for_kind("stdout")
    os.killpg(wrapper.pid, signal.SIGKILL)  # as when a container runs out of memory; the agent then finds no input
    run.wait_for_kind("exit")
    assert run.desk.text("stdout") == "last words\n"
    assert run.desk.events()[-1]["data"] == {"code": 137}


@pytest.mark.parametrize("manner", ["503", "401", "drop", "forget", "torn", "delay", "mixed"])
def test_a_server_that_refuses_forgets_or_delays_gets_everything_once(bench: Make, manner: str) -> None:
    run = bench("jsonl")
    several = ["drop", "forget", "torn", "delay"]

    def manners(number: int) -> str:
        if manner == "mixed":
            return several[number % 5] if number % 5 < 4 and number < 40 else ""
        return manner if number in (2, 4) else ""

    run.desk.manner = manners
    run.start_courier()
    run.python(counting(3_000, every=100))
    run.wait_for_kind("exit", seconds=20)
    assert run.desk.text("stdout") == expected(3_000)
    assert_numbered(run.desk)


def test_a_server_that_was_away_gets_everything_when_it_is_back(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python(counting(6_000, every=50))
    run.wait_for_kind("stdout")
    run.server.stop()
    wait_for(lambda: (run.pipes / "exit").exists(), what="the agent's end, without a server")
    run.server = Server(run.desk, run.port)
    run.wait_for_kind("exit", seconds=20)
    assert run.desk.text("stdout") == expected(6_000)
    assert_numbered(run.desk)


def test_a_message_reaches_the_agent_after_the_server_was_away(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.start_agent("sh", "-c", "echo ready; read line; echo got it; read line")
    run.wait_for_kind("stdout")
    run.server.stop()
    run.desk.say("hello")
    run.server = Server(run.desk, run.port)
    run.wait_for_kind("delivered")
    wait_for(lambda: "got it" in run.desk.text("stdout"))


def test_a_run_that_is_over_ends_the_agent_and_ships_nothing_more(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier("--exit-when-done")
    run.python("import time\nwhile True: print('tick', flush=True); time.sleep(0.01)")
    run.wait_for_kind("stdout")
    run.desk.over = True
    run.desk.order("")
    assert run.courier is not None
    assert run.courier.wait(10) == 0
    assert "exit" not in run.desk.kinds()
    assert (run.pipes / "exit").read_text() == "143\n"


def test_events_above_the_journals_bound_become_a_gap(bench: Make) -> None:
    run = bench("jsonl")
    run.environment["BERTH_JOURNAL_MAX_MIB"] = "1"
    run.server.stop()
    run.start_courier()
    run.python("for number in range(30_000): print(f'{number:0100}')")
    wait_for(lambda: (run.pipes / "drained").exists(), seconds=15)
    assert journal_size(run) < 2 * 1024 * 1024
    run.server = Server(run.desk, run.port)
    run.wait_for_kind("exit", seconds=20)
    gaps = run.desk.of("gap")
    lost = sum(gap["data"]["bytes"] for gap in gaps)
    assert lost > 0
    assert len(run.desk.text("stdout")) + lost == 30_000 * 101
    assert_numbered(run.desk)


def test_the_journal_shrinks_as_events_are_stored(bench: Make) -> None:
    run = bench("jsonl")
    run.environment["BERTH_JOURNAL_MAX_MIB"] = "40"
    run.start_courier()
    run.python("import sys\nfor number in range(150_000): print(f'{number:0100}')\nsys.stdin.readline()")
    wait_for(lambda: len(run.desk.text("stdout")) == 150_000 * 101, seconds=20)
    wait_for(lambda: journal_size(run) < 6 * 1024 * 1024, what="a small journal")


def test_a_drained_run_ends_on_sigterm_only(bench: Make) -> None:
    run = bench("plain")
    run.start_courier()
    wrapper = run.start_agent("true")
    run.wait_for_kind("exit")
    assert wrapper.wait(10) == 0
    assert run.courier is not None
    assert run.courier.poll() is None
    assert run.end_courier() == 0


def test_sigterm_while_the_agent_runs_waits_for_its_end(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.start_agent("sh", "-c", "echo ready; read go; echo done")
    run.wait_for_kind("stdout")
    assert run.courier is not None
    run.courier.terminate()
    run.desk.say("go")
    assert run.courier.wait(10) == 0
    assert run.desk.text("stdout") == "ready\ndone\n"
    assert run.desk.kinds()[-1] == "exit"


def test_sigterm_without_an_agent_ends_at_once(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    wait_for(lambda: run.desk.greetings)
    assert run.end_courier() == 0


def test_without_a_control_plane_the_end_is_bounded_and_the_journal_stays(bench: Make) -> None:
    run = bench("plain")
    run.server.stop()
    run.start_courier("--exit-when-done", "--drain-seconds", "0.5")
    run.start_agent("echo", "kept")
    assert run.courier is not None
    assert run.courier.wait(10) == 0
    assert journal_size(run) > 0


def spool_ends_with(run: Bench, end: bytes) -> bool:
    return any(path.read_bytes().endswith(end) for path in (run.journals / run.run).glob("out-*"))


def journal_size(run: Bench) -> int:
    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    return sum(size(path) for path in (run.journals / run.run).glob("journal-*"))


@pytest.mark.parametrize("status", [413, 422, 499])
def test_an_event_that_is_refused_for_good_becomes_a_gap_and_all_others_are_stored(bench: Make, status: int) -> None:
    run = bench("jsonl")

    def unfit(events: list[dict[str, Any]], size: int) -> int:
        return status if any("line 300\n" in event.get("text", "") for event in events) else 0

    run.desk.unfit = unfit
    run.start_courier()
    run.python(counting(1_000, TEXT, every=2_000))
    run.wait_for_kind("exit")
    assert run.desk.text("text") == expected(1_000).replace("line 300\n", "")
    (gap,) = run.desk.of("gap")
    assert gap["text"] == f"the control plane refused it with status {status}" and gap["data"]["events"] == 1
    assert_numbered(run.desk)


def test_batches_that_are_too_large_are_sent_in_parts(bench: Make) -> None:
    run = bench("jsonl")
    run.desk.unfit = lambda events, size: 413 if size > 20_000 else 0
    run.start_courier()
    run.python(counting(2_000, TEXT, every=4_000))
    run.wait_for_kind("exit")
    assert run.desk.text("text") == expected(2_000)
    assert not run.desk.of("gap")


def test_a_control_plane_that_refuses_everything_is_waited_for(bench: Make) -> None:
    run = bench("jsonl")
    asked: list[int] = []

    def unfit(events: list[dict[str, Any]], size: int) -> int:
        asked.append(len(events))
        return 400 if len(asked) < 4 else 0

    run.desk.unfit = unfit
    run.start_courier()
    run.start_agent("sh", "-c", "echo one; read line; echo two")
    wait_for(lambda: len(asked) >= 4)
    run.desk.say("go")
    run.wait_for_kind("exit")
    assert len(run.desk.of("gap")) == 1 and run.desk.text("stdout") == "two\n"


@pytest.mark.parametrize("damage", ["a record", "a file"])
def test_what_a_journal_has_lost_is_a_gap(bench: Make, damage: str) -> None:
    run = bench("jsonl")
    (run.journals / "run").mkdir(parents=True)
    one = Journal(run.journals / "run", 65536, {"name": "jsonl"})
    for number in range(9):
        one.append([Event("stdout", f"{number}" * 1000)], {"name": "jsonl"})
    one.append([Event("exit", data={"code": 0})], {"name": "jsonl", "exit": 0})
    one.close()
    files = sorted((run.journals / "run").glob("journal-*"))
    content = files[0].read_bytes().split(b"\n")
    lost = len(files[0].read_bytes().split(b"\t")) - 1 if damage == "a file" else content[2].count(b"\t")
    if damage == "a file":
        files[0].unlink()
    else:
        content[2] = b"{damaged" + content[2][8:]
        files[0].write_bytes(b"\n".join(content))
    run.start_courier()
    run.wait_for_kind("exit")
    assert_numbered(run.desk)
    (gap,) = run.desk.of("gap")
    assert gap["data"] == {"events": lost, "bytes": 0} and lost > 0
    assert "8" * 1000 in run.desk.text("stdout")


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"n":"x"}', b'{"n":3,"state":[]}', b'{"n":3,"state":{"out":{}}}', b"\xff"]
)
def test_a_journal_of_ones_own_that_cannot_be_read_is_set_aside(bench: Make, damage: bytes) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.start_agent("sh", "-c", "echo one; read line; echo two; read line")
    run.wait_for_kind("stdout")
    run.kill_courier()
    (journal,) = (run.journals / "run").glob("journal-*")
    journal.write_bytes(damage + b"\n")
    run.start_courier()
    run.wait_for_kind("gap")
    run.desk.say("go")
    wait_for(lambda: "two" in run.desk.text("stdout"))
    assert [event["text"] for event in run.desk.of("stdout")] == ["one\n", "two\n"]
    assert "can't be read" in run.desk.text("gap")
    assert_numbered(run.desk)
    assert list((run.journals / "run").glob("unread-journal-*"))
