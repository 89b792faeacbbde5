"""Journals of other runs: shipped, each under its own run, by whoever comes next, and never taken from the living."""

import os
import threading
from pathlib import Path

import pytest

from courier import control_plane
from courier.contracts.base import Message
from courier.journal_lock import lock, remove_folder, try_lock
from courier.settings import read_settings
from testbed.courier_control_plane import Desk
from testbed.courier_run import Bench
from testbed.waiting import wait_for
from tests.courier.conftest import Make
from tests.courier.test_nothing_lost import assert_numbered, spool_ends_with


def leave_behind(bench: Make, run: str, desk: Desk) -> Bench:
    """A run whose courier ended without a control plane."""
    left = bench("plain", run=run, desk=desk)
    left.server.stop()
    left.start_courier("--exit-when-done", "--drain-seconds", "0.1")
    left.start_agent("echo", f"from {run}")
    assert left.courier is not None
    assert left.courier.wait(10) == 0
    return left


def test_the_next_run_ships_what_others_left(bench: Make) -> None:
    desk = Desk(own="second")
    leave_behind(bench, "first", desk)
    second = bench("plain", run="second", desk=desk)
    second.start_courier()
    wait_for(lambda: "exit" in desk.kinds("first"))
    assert desk.kinds("first") == ["text", "result", "exit"]
    assert desk.text("result", run="first") == "from first\n"
    wait_for(lambda: not (second.journals / "first").exists(), what="the leftover's end")
    assert desk.events("second") == []


def test_bytes_that_were_not_parsed_are_shipped_as_well(bench: Make) -> None:
    desk = Desk(own="second")
    first = bench("jsonl", run="first", desk=desk)
    first.server.stop()
    first.start_courier()
    first.start_agent("sh", "-c", "echo one; printf '{\"type\":'; read line")
    wait_for(lambda: spool_ends_with(first, b'"type":'))
    first.kill_courier()
    second = bench("plain", run="second", desk=desk)
    second.start_courier()
    wait_for(lambda: desk.text("stdout", run="first") == 'one\n{"type":')


def test_a_folder_whose_courier_lives_is_left_alone(bench: Make) -> None:
    desk = Desk(own="second")
    first = bench("jsonl", run="first", desk=desk)
    first.server.stop()
    first.start_courier()
    first.start_agent("sh", "-c", "echo one; read line")
    wait_for(lambda: spool_ends_with(first, b"one\n"))
    leave_behind(bench, "third", desk)
    second = bench("plain", run="second", desk=desk)
    second.start_courier()
    wait_for(lambda: "exit" in desk.kinds("third"))
    assert desk.events("first") == []
    assert (second.journals / "first" / "lock").exists()


def test_a_courier_that_returns_after_its_leftovers_were_shipped_goes_on(bench: Make) -> None:
    desk = Desk(own="first")
    first = bench("jsonl", run="first", desk=desk)
    first.start_courier()
    first.start_agent("sh", "-c", "echo one; read line; echo two")
    first.wait_for_kind("stdout")
    first.kill_courier()
    second = bench("plain", run="second", desk=Desk(own="second", runs=desk.runs))
    leave_behind(bench, "third", second.desk)
    second.start_courier()
    wait_for(lambda: "exit" in second.desk.kinds("third"))
    first.start_courier()
    desk.say("go")
    first.wait_for_kind("exit")
    assert desk.text("stdout") == "one\ntwo\n"
    assert_numbered(desk)


def test_a_leftover_whose_run_is_over_is_deleted_and_one_that_is_unknown_stays(bench: Make) -> None:
    desk = Desk(own="second", refused={"first": 410, "third": 404})
    for run in ("first", "third", "fourth"):
        leave_behind(bench, run, desk)
    second = bench("jsonl", run="second", desk=desk)
    second.start_courier()
    second.start_agent("sh", "-c", "echo alive; read line")
    wait_for(lambda: "exit" in desk.kinds("fourth") and not (second.journals / "fourth").exists())
    wait_for(lambda: not (second.journals / "first").exists())
    assert (second.journals / "third").exists()
    second.wait_for_kind("stdout")


def test_what_a_courier_left_that_will_not_return_is_deleted(bench: Make) -> None:
    desk = Desk(own="second")
    first = bench("jsonl", run="first", desk=desk)
    first.server.stop()
    first.start_courier()
    first.start_agent("sh", "-c", "echo one; read line")
    wait_for(lambda: spool_ends_with(first, b"one\n"))
    first.kill_courier()
    for path in (first.journals / "first").iterdir():
        os.utime(path, (1, 1))
    bench("plain", run="second", desk=desk).start_courier()
    wait_for(lambda: not (first.journals / "first").exists())
    assert desk.text("stdout", run="first") == "one\n"


def test_a_folder_is_claimed_once_and_its_own_courier_asks_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = lock(folder)
    assert try_lock(folder) is None
    owner = threading.Thread(target=lock, args=(folder,), daemon=True)
    owner.start()
    wait_for(lambda: (folder / "wanted").exists())
    os.close(first)
    owner.join(5)
    assert not owner.is_alive()
    assert not (folder / "wanted").exists()


def test_removing_a_folder_leaves_what_is_not_the_couriers(tmp_path: Path) -> None:
    (tmp_path / "somebody's").touch()
    for name in ("out-0", "journal-1", "lock"):
        (tmp_path / name).touch()
    remove_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's"]


ANSWERING = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"type": "result", "text": "answer to " + json.loads(line)["text"]}), flush=True)
    print(json.dumps({"type": "idle"}), flush=True)
"""


def test_what_a_lost_run_answered_is_told_before_the_next_one_asks_for_messages(bench: Make) -> None:
    first = bench("jsonl", run="first")
    first.start_courier()
    first.python("input()\n" + ANSWERING)
    first.desk.say("a question")
    first.wait_for_kind("delivered")
    first.server.stop()
    first.pipes.joinpath("in").write_text('{"text": "a question"}\n')  # the agent takes its time, then answers
    wait_for(lambda: spool_ends_with(first, b'"idle"}\n'))
    first.kill_courier()
    before = len(first.desk.heard)
    desk = Desk(own="second", runs=first.desk.runs, messages=first.desk.messages, busy={"first"})
    second = bench("jsonl", run="second", desk=desk)
    second.start_courier()
    wait_for(lambda: desk.heard.count("inbox 0") > 1, what="a look for commands alone")
    assert len(first.desk.heard) == before and "result" not in desk.kinds("first")
    desk.busy.clear()
    wait_for(lambda: "inbox 20" in desk.heard, what="a call for messages")
    assert "answer to a question" in desk.text("result", run="first")
    index = next(index for index, call in enumerate(desk.heard) if call.startswith("events first") and "turn" in call)
    assert index < desk.heard.index("inbox 20")


def test_a_stop_is_obeyed_while_leftovers_are_shipped(bench: Make) -> None:
    desk = Desk(own="second", busy={"first"}, command="stop")
    leave_behind(bench, "first", desk)
    second = bench("jsonl", run="second", desk=desk)
    desk.say("too late")
    second.start_courier()
    second.start_agent("sh", "-c", "read line")
    second.wait_for_kind("exit")
    assert desk.kinds("second") == ["exit"]
    assert set(desk.heard) & {"inbox 0", "inbox 20"} == {"inbox 0"}


class RecordingLoop:
    """A courier's loop that only listens."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def connected(self, stored: int) -> None: ...

    def message(self, message: Message) -> None:
        self.messages.append(message.text)

    def command(self, command: str) -> None: ...

    def run_over(self) -> None: ...


def listen(bench: Bench) -> tuple[control_plane.ControlPlane, RecordingLoop]:
    """The threads of a courier that has just been greeted, without the courier."""
    loop = RecordingLoop()
    threads = control_plane.ControlPlane(read_settings(bench.environment), loop)
    threads.start_orphan_journals()
    threads.start_inbox(0, None)
    return threads, loop


def received(threads: control_plane.ControlPlane, loop: RecordingLoop) -> list[str]:
    threads.run_tasks()
    return loop.messages


def test_leftovers_that_nobody_takes_hold_messages_back_for_a_while_only(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane, "COMMAND_POLL_INTERVAL", 0.01)
    desk = Desk(own="second", busy={"first"})
    leave_behind(bench, "first", desk)
    desk.say("hello")
    threads, loop = listen(bench("jsonl", run="second", desk=desk))
    wait_for(lambda: received(threads, loop) == ["hello"])
    threads.stop()
    assert desk.heard.count("inbox 0") == control_plane.COMMAND_POLLS
    assert "exit" not in desk.kinds("first")


def test_a_journal_that_a_living_courier_holds_delays_nothing(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "COMMAND_POLLS", 10**9)  # who waits for it, waits for ever
    first = bench("jsonl", run="first")
    first.start_courier()
    first.start_agent("sh", "-c", "echo one; read line")
    first.wait_for_kind("stdout")
    desk = Desk(own="second")
    desk.say("hello")
    threads, loop = listen(bench("jsonl", run="second", desk=desk))
    wait_for(lambda: received(threads, loop) == ["hello"])
    threads.stop()
    assert desk.events("first") == []


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"n":[],"state":{}}', b'{"n":3,"state":{"out":7}}', b'{"n":1,"state":{}}']
)
def test_a_leftover_that_cannot_be_read_is_told_of_once_and_set_aside(bench: Make, damage: bytes) -> None:
    desk = Desk(own="second")
    leave_behind(bench, "first", desk)
    leave_behind(bench, "third", desk)
    (journal,) = (bench("plain", run="x").journals / "first").glob("journal-*")
    journal.write_bytes(damage + b"\n")
    size = sum(path.stat().st_size for path in journal.parent.iterdir())
    for run in ("second", "fourth"):
        later = bench("plain", run=run, desk=desk)
        later.start_courier()
        wait_for(lambda: "exit" in desk.kinds("third"))
        desk.say(f"to {run}")
        later.start_agent("cat")
        wait_for(lambda: len(desk.of("delivered", run="second")) == 1)
        if run == "second":
            wait_for(lambda: desk.kinds("first") == ["gap"])
    assert desk.of("gap", run="first")[0]["data"] == {"events": 0, "bytes": size}
    assert desk.kinds("first") == ["gap"]
    assert list(journal.parent.glob("unread-journal-*")) and not journal.exists()
    log = (later.folder / "courier.log").read_text()
    assert log.count("leftover set aside") == 1


def test_what_was_set_aside_is_deleted_after_a_week(bench: Make) -> None:
    desk = Desk(own="second")
    folder = bench("plain", run="second", desk=desk).journals / "first"
    folder.mkdir(parents=True)
    for name in ("lock", "unread-journal-000000000001"):
        (folder / name).touch()
        os.utime(folder / name, (1, 1))
    bench("plain", run="second", desk=desk).start_courier()
    wait_for(lambda: not folder.exists())
