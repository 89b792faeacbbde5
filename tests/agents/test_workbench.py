"""The workbench as a program: JSON lines in, JSON lines and raw output out."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.workbench import COMMANDS
from tests.agents.program import Program


@pytest.fixture
def workbench(tmp_path: Path) -> Iterator[Program]:
    with Program(tmp_path, BERTH_RUN="run-7") as program:
        yield program


def test_an_ordinary_message_is_answered_with_itself_and_where_it_was_answered(workbench: Program) -> None:
    answer = workbench.ask("good morning\nBerth")

    assert "> good morning\n> Berth" in answer
    assert f"`{workbench.process.pid}, user" in answer
    assert str(workbench.workspace) in answer
    assert "| BERTH_RUN | `run-7` |" in answer
    kinds = [event["type"] for event in workbench.events()]
    assert kinds == ["session", "result", "usage", "idle"]


def test_a_command_runs_in_the_workspace_and_tells_its_exit_status(workbench: Program) -> None:
    answer = workbench.ask("$ echo hi > x; pwd; echo oops >&2; exit 3")

    assert (workbench.workspace / "x").read_text() == "hi\n"
    assert answer.startswith("exit status 3 after ")
    assert str(workbench.workspace) in answer
    assert "oops" in answer
    assert workbench.raw() == f"{workbench.workspace}\n".encode()
    assert bytes(workbench.err) == b"oops\n"
    use, result = workbench.events("tool")
    assert use["name"] == result["name"] == "sh"
    assert (use["phase"], use["input"]) == ("use", {"command": "echo hi > x; pwd; echo oops >&2; exit 3"})
    assert (result["phase"], result["id"], result["is_error"]) == ("result", use["id"], True)


def test_the_output_of_a_command_passes_through_while_it_runs(workbench: Program) -> None:
    workbench.send("$ echo first; until [ -e go ]; do sleep 0.02; done; echo second")
    workbench.wait(lambda: workbench.raw() == b"first\n", "output of a command that still runs")
    (workbench.workspace / "go").touch()
    workbench.wait(lambda: workbench.raw() == b"first\nsecond\n", "the rest of it")


def test_every_byte_of_a_command_passes_through(workbench: Program) -> None:
    (workbench.workspace / "data").write_bytes(bytes(range(256)) * 4000 + b"\n")

    workbench.ask("$ cat data")

    assert workbench.raw() == (workbench.workspace / "data").read_bytes()


def test_json_lines_start_on_a_line_of_their_own_after_unfinished_output(workbench: Program) -> None:
    answer = workbench.ask("$ printf unfinished")

    assert "unfinished" in answer
    assert workbench.raw() == b"unfinished\n"


def test_a_command_that_leaves_something_in_the_background_ends_with_its_shell(workbench: Program) -> None:
    assert workbench.ask("$ sleep 300 & echo started $!").startswith("exit status 0")


def test_a_command_that_cannot_start_is_an_answer(workbench: Program) -> None:
    assert workbench.ask("$ echo \0").startswith("can't run that")
    assert workbench.ask("/time")


def test_an_interrupt_ends_the_command_and_the_agent_goes_on(workbench: Program) -> None:
    number = workbench.send("$ echo begun; sleep 300")
    workbench.wait(lambda: b"begun" in workbench.raw(), "the command's start")
    workbench.write({"type": "interrupt"})

    workbench.wait(lambda: workbench.events("idle"), "the end of the turn")
    assert workbench.answers()[0].startswith("interrupted, killed by SIGTERM")
    assert workbench.events("idle") == [{"type": "idle", "number": number}]
    assert workbench.ask("/silent 0") == "0 s of silence"


def test_an_interrupted_command_that_ignores_sigterm_is_killed(workbench: Program) -> None:
    workbench.send("$ trap '' TERM; echo begun; while :; do sleep 0.05; done")
    workbench.wait(lambda: b"begun" in workbench.raw(), "the command's start")
    workbench.write({"type": "interrupt"})

    workbench.wait(workbench.answers, "the answer")
    assert workbench.answers()[0].startswith("interrupted, killed by SIGKILL")


def test_an_interrupt_is_for_the_turn_that_goes_on_and_for_no_later_one(workbench: Program) -> None:
    workbench.write({"type": "interrupt"}, workbench.message("/silent 0"))
    workbench.wait(lambda: len(workbench.events("idle")) == 1, "the first turn")
    workbench.write(workbench.message("/silent 300"), {"type": "interrupt"}, workbench.message("/silent 0"))
    workbench.wait(lambda: len(workbench.events("idle")) == 3, "all turns")

    first, second, third = workbench.answers()
    assert (first, third) == ("0 s of silence", "0 s of silence")
    assert second == "Interrupted: message 2 was not finished"


def test_sigterm_ends_the_command_and_then_the_agent(workbench: Program) -> None:
    workbench.send("$ echo begun; sleep 300; echo never")
    workbench.wait(lambda: b"begun" in workbench.raw(), "the command's start")
    workbench.process.send_signal(signal.SIGTERM)

    assert workbench.end(close=False) == 128 + signal.SIGTERM
    assert workbench.answers()[0].startswith("stopped, killed by SIGTERM")
    assert not workbench.events("idle")


def test_sigterm_ends_an_agent_that_waits(workbench: Program) -> None:
    workbench.ask("/time")
    workbench.process.send_signal(signal.SIGTERM)

    assert workbench.end(close=False) == 128 + signal.SIGTERM


def test_close_lets_what_was_sent_before_finish(workbench: Program) -> None:
    workbench.write(workbench.message("/slow 0.2 a b"), workbench.message("/silent 0"), {"type": "close"})

    assert workbench.end(close=False) == 0
    assert workbench.answers() == ["a b", "0 s of silence"]


def test_the_end_of_the_input_lets_a_command_finish(workbench: Program) -> None:
    workbench.send("$ sleep 0.2; echo done")

    assert workbench.end() == 0
    assert workbench.raw() == b"done\n"


def test_a_slow_answer_comes_in_parts(workbench: Program) -> None:
    answer = workbench.ask("/slow 0.1 one word after the other")

    assert answer == "one word after the other"
    parts = [event["text"] for event in workbench.events("text")]
    assert len(parts) == 5
    assert "".join(parts) == answer


@pytest.mark.parametrize("argument", ["20000", "2000 20000"])
def test_numbered_lines_come_each_once_and_in_order(workbench: Program, argument: str) -> None:
    count = int(argument.split()[0])

    assert workbench.ask(f"/lines {argument}").startswith(f"{count} lines in")
    assert workbench.raw() == b"".join(b"line %d\n" % i for i in range(1, count + 1))


def test_lines_with_a_rate_can_be_interrupted(workbench: Program) -> None:
    workbench.send("/lines 1000000 10")
    workbench.wait(lambda: b"line 2\n" in workbench.raw(), "the second line")
    workbench.write({"type": "interrupt"})

    workbench.wait(lambda: workbench.events("idle"), "the end of the turn")


def test_clock_lines_tell_when_they_were_written(workbench: Program) -> None:
    before = time.time()
    workbench.ask("/clock 3 100")

    words = [line.split() for line in workbench.raw().decode().splitlines()]
    assert [word[:2] for word in words] == [["clock", "1"], ["clock", "2"], ["clock", "3"]]
    stamps = [float(word[2]) for word in words]
    assert before - 1e-3 <= stamps[0] <= stamps[1] <= stamps[2] <= time.time()


def test_the_time_is_when_the_message_was_received(workbench: Program) -> None:
    before = time.time()
    received = float(json.loads(workbench.ask("/time")))

    assert before <= received <= time.time()


def test_exit_leaves_with_the_status_and_the_message_unanswered(workbench: Program) -> None:
    workbench.send("/exit 3")

    assert workbench.end(close=False) == 3
    assert not workbench.answers()
    assert b"status 3" in bytes(workbench.err)


def test_a_crash_leaves_a_traceback(workbench: Program) -> None:
    workbench.send("/crash on purpose")

    assert workbench.end(close=False) == 1
    assert not workbench.answers()
    assert b"Traceback" in bytes(workbench.err)
    assert bytes(workbench.err).endswith(b"RuntimeError: on purpose\n")


def test_an_error_is_reported_and_the_agent_goes_on(workbench: Program) -> None:
    workbench.ask("/error the model is away")

    assert workbench.events("error") == [{"type": "error", "text": "the model is away"}]


def test_memory_is_taken_block_by_block_and_kept(workbench: Program) -> None:
    assert workbench.ask("/eat 40") == "holds 40 MiB"
    assert workbench.raw() == b"ate 16 MiB\nate 32 MiB\nate 40 MiB\n"
    assert workbench.ask("/eat 0") == "holds 0 MiB"


def test_samples_of_colours_bytes_and_markdown(workbench: Program) -> None:
    workbench.ask("/colors")
    assert b"\x1b[31mred\x1b[0m" in workbench.raw()
    workbench.ask("/bytes")
    with pytest.raises(UnicodeDecodeError):
        workbench.raw().decode()
    assert "| running | 5 |" in workbench.ask("/markdown")


def test_help_names_every_command_and_unknown_ones_get_it_too(workbench: Program) -> None:
    answer = workbench.ask("/help")

    assert all(f"`{name}" in answer for name in COMMANDS)
    unknown = workbench.ask("/dance")
    assert unknown.startswith("There is no `/dance`.")
    assert unknown.endswith(answer)


@pytest.mark.parametrize("message", ["/slow x", "/lines", "/lines 5 0", "/silent long", "/exit", "/eat much"])
def test_an_argument_that_cannot_be_used_is_answered_with_the_usage(workbench: Program, message: str) -> None:
    assert "is how to tell it" in workbench.ask(message)


def test_a_line_that_is_no_message_is_an_error_event_and_no_end(workbench: Program) -> None:
    workbench.write(b"hello", b"[]", b'{"type": "message"}', b"", b'{"type": "unheard of"}')

    workbench.ask("/time")
    assert len(workbench.events("error")) == 3


def test_a_conversation_goes_on_in_the_next_run(tmp_path: Path) -> None:
    with Program(tmp_path) as first:
        assert ", its message 1, 1 of this run" in first.ask("one")
        assert ", its message 2, 2 of this run" in first.ask("two")
        first.end()
    with Program(tmp_path) as second:
        assert ", its message 3, 1 of this run" in second.ask("three")
        assert second.events("session") == first.events("session")
    with Program(tmp_path, BERTH_SESSION="s2") as other:
        assert ", its message 1, 1 of this run" in other.ask("one")
        assert other.events("session") != first.events("session")


def test_a_state_folder_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Program(tmp_path, BERTH_STATE=str(tmp_path / "file" / "state")) as program:
        program.ask("/time")
        assert program.end() == 0
        assert b"can't keep its state" in bytes(program.err)
