"""A message goes in, events come out: each contract with a small agent of its kind, as processes."""

import json
import signal
import sys
from pathlib import Path

import pytest

from testbed.waiting import wait_for
from tests.courier.conftest import Make

JSONL = """
import json, sys
for line in sys.stdin:
    value = json.loads(line)
    if value["type"] == "close":
        print(json.dumps({"type": "result", "text": "bye"}))
        sys.exit(0)
    print(json.dumps({"type": "result", "text": f"{value['number']}: {value['text']} from {value['sender']}"}))
    print(json.dumps({"type": "idle", "number": value["number"]}))
print("end of input", flush=True)
"""

CLAUDE = """
import json, sys
for line in sys.stdin:
    text = json.loads(line)["message"]["content"][0]["text"]
    for value in (
        {"type": "system", "subtype": "init", "session_id": "c1"},
        {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "echo: " + text}]}},
        {"type": "result", "is_error": False, "result": "echo: " + text, "usage": {"input_tokens": 3}},
    ):
        print(json.dumps(value))
"""

NANOCLAW = """
import json, os, sys, time
told = json.loads(sys.stdin.read())
ipc = os.environ["BERTH_IPC"]
def say(**value):
    print("---NANOCLAW_OUTPUT_START---", json.dumps(value), "---NANOCLAW_OUTPUT_END---", sep="\\n", flush=True)
print("a line of its own")
say(status="success", result="got " + told["prompt"], newSessionId="n1")
with open(ipc + "/messages/x.tmp", "w") as file:
    json.dump({"type": "message", "text": "by the way", "chatJid": "session"}, file)
os.rename(ipc + "/messages/x.tmp", ipc + "/messages/x.json")
with open(ipc + "/tasks/y.tmp", "w") as file:
    file.write('{"type":"schedule_task"}')
os.rename(ipc + "/tasks/y.tmp", ipc + "/tasks/y.json")
os.symlink(os.environ["BERTH_TOKEN_FILE"], ipc + "/messages/z.json")
while True:
    for name in sorted(os.listdir(ipc + "/input")):
        if name == "_close":
            sys.exit(0)
        if name.endswith(".json"):
            with open(ipc + "/input/" + name) as file:
                text = json.load(file)["text"]
            os.remove(ipc + "/input/" + name)
            say(status="success", result="then " + text, newSessionId="n1")
    time.sleep(0.02)
"""


def test_a_plain_program_answers_and_its_output_is_the_result(bench: Make) -> None:
    run = bench("plain")
    run.start_courier()
    run.start_agent("sh", "-c", 'read -r line; echo "got: $line"; echo oops >&2')
    run.desk.say("hello")
    run.wait_for_kind("exit")
    assert run.desk.text("result") == "got: hello\n"
    assert run.desk.text("text") == "got: hello\n"
    assert run.desk.text("stderr") == "oops\n"
    assert run.desk.events()[-1]["data"] == {"code": 0}
    assert run.desk.kinds()[:2] == ["delivered", "turn"]
    assert run.end_courier() == 0
    assert not (run.journals / "run").exists()


def test_a_plain_program_that_fails_leaves_an_error_and_no_result(bench: Make) -> None:
    run = bench("plain")
    run.start_courier()
    run.start_agent("sh", "-c", "echo half; exit 3")
    run.wait_for_kind("exit")
    assert run.desk.kinds()[-3:] == ["text", "error", "exit"]
    assert run.desk.events()[-1]["data"] == {"code": 3}


def test_a_long_plain_answer_is_a_result_in_parts(bench: Make) -> None:
    run = bench("plain")
    run.start_courier()
    run.python("print('x' * 300_000)")
    run.wait_for_kind("exit")
    assert run.desk.text("text") == run.desk.text("result") == "x" * 300_000 + "\n"
    assert [event["data"] for event in run.desk.of("result")] == [{"part": 1, "parts": 2}, {"part": 2, "parts": 2}]


def test_a_plain_answer_that_is_too_long_to_be_repeated_has_a_result_that_says_so(bench: Make) -> None:
    run = bench("plain")
    run.start_courier()
    run.python("for _ in range(9): print('x' * 1024 * 1024)")
    run.wait_for_kind("exit", seconds=30)
    (result,) = run.desk.of("result")
    assert len(run.desk.text("text")) == result["data"]["bytes"] == 9 * (1024 * 1024 + 1)
    assert result["text"].startswith("The answer has 9,437,193 bytes") and result["data"]["cut"]


def test_a_plain_run_takes_one_message(bench: Make) -> None:
    run = bench("plain")
    run.desk.say("one")
    run.desk.say("two")
    run.start_courier()
    run.start_agent("cat")
    run.wait_for_kind("exit")
    assert run.desk.text("result") == "one"


def test_jsonl_turns_end_when_the_last_message_is_handled_and_close_ends_it(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier("--exit-when-done")
    run.python(JSONL)
    run.desk.say("a")
    run.wait_for_kind("result")
    run.desk.say("b")
    run.wait_for_kind("result", 2)
    run.desk.order("close")
    assert run.courier is not None
    assert run.courier.wait(10) == 0
    assert [event["text"] for event in run.desk.of("result")] == ["1: a from ada", "2: b from ada", "bye"]
    assert [event["data"]["state"] for event in run.desk.of("turn")] == ["working", "idle"] * 2
    assert run.desk.events()[-1]["data"] == {"code": 0}


def test_claude_is_closed_by_the_end_of_its_input(bench: Make) -> None:
    run = bench("claude")
    run.desk.say("hi")
    run.start_courier()
    run.python(CLAUDE)
    run.wait_for_kind("result")
    run.desk.order("close")
    run.wait_for_kind("exit")
    kinds = ["delivered", "turn", "session", "text", "result", "usage", "turn", "exit"]
    assert run.desk.kinds() == kinds
    assert run.desk.text("text") == "echo: hi"


def test_nanoclaw_exchanges_files_and_markers(bench: Make) -> None:
    run = bench("nanoclaw")
    secrets = run.folder / "secrets"
    secrets.mkdir()
    run.environment["BERTH_SECRETS"] = str(secrets)
    run.desk.say("one")
    run.start_courier()
    run.python(NANOCLAW)
    run.wait_for_kind("task")
    run.desk.say("two")
    wait_for(lambda: "then two" in run.desk.text("result"), what="the follow-up")
    run.desk.order("close")
    run.wait_for_kind("exit")
    assert {event["text"] for event in run.desk.of("result")} == {"got one", "by the way", "then two"}
    assert run.desk.text("task") == '{"type":"schedule_task"}'
    assert run.desk.text("stdout") == "a line of its own\n"
    assert [event["data"] for event in run.desk.of("session")] == [{"id": "n1"}]
    assert [path.name for path in (run.folder / "ipc" / "messages").iterdir()] == ["z.json"], "a link is not followed"
    assert run.desk.events()[-1]["data"] == {"code": 0}


def test_stop_ends_the_agent_at_once(bench: Make) -> None:
    run = bench("jsonl")
    run.start_courier()
    run.python("import time; print('here', flush=True); time.sleep(60)")
    run.wait_for_kind("stdout")
    run.desk.order("stop")
    run.wait_for_kind("exit")
    assert run.desk.events()[-1]["data"] == {"code": 143}


def test_a_large_message_reaches_an_agent_that_is_slow_to_read(bench: Make) -> None:
    run = bench("jsonl")
    text = "ü" * 1_000_000
    run.desk.say("first")
    run.desk.say(text)
    run.start_courier()
    run.python(
        "import json, sys, time\n"
        "time.sleep(0.3)\n"
        "for line in sys.stdin:\n"
        "    value = json.loads(line)\n"
        "    print(json.dumps({'type': 'result', 'text': f\"{value['number']} {len(value['text'])}\"}))\n"
    )
    run.wait_for_kind("result", 2)
    assert [event["text"] for event in run.desk.of("result")] == ["1 5", "2 1000000"]


def test_the_recorded_exchange_of_a_message_is_json(bench: Make) -> None:
    run = bench("jsonl")
    run.desk.say("line\nbreak")
    run.start_courier()
    run.start_agent(sys.executable, "-c", "import sys; print('->', sys.stdin.readline(), end='', flush=True)")
    run.wait_for_kind("exit")
    sent = json.loads(run.desk.text("stdout").removeprefix("-> "))
    assert sent == {"type": "message", "number": 1, "text": "line\nbreak", "sender": "ada"}


def test_a_plain_run_that_is_closed_before_it_got_a_message_ends(bench: Make) -> None:
    run = bench("plain")
    run.start_courier("--exit-when-done")
    run.start_agent("cat")
    run.desk.order("close")
    assert run.courier is not None
    assert run.courier.wait(10) == 0
    assert run.desk.kinds() == ["result", "exit"]
    assert run.desk.events()[-1]["data"] == {"code": 0}


def test_a_plain_run_that_is_closed_at_work_finishes_it(bench: Make) -> None:
    run = bench("plain")
    run.desk.say("work")
    run.start_courier()
    run.start_agent("sh", "-c", "cat; until [ -e go ]; do sleep 0.05; done; echo ' done'; rm go")
    run.wait_for_kind("text")
    run.desk.order("close")
    assert run.wrapper is not None
    Path(f"/proc/{run.wrapper.pid}/cwd/go").touch()
    run.wait_for_kind("exit")
    assert run.desk.text("result") == "work done\n"


@pytest.mark.parametrize(("trap", "code"), [("", 143), ("trap 'echo so far; exit 7' TERM; ", 7)])
def test_a_pod_that_is_told_to_end_amid_a_turn_tells_the_agents_code(bench: Make, trap: str, code: int) -> None:
    """SIGTERM reaches wrapper and courier at once where the courier is no native sidecar."""
    run = bench("jsonl")
    run.start_courier()
    run.start_agent("sh", "-c", f"{trap}read line; echo working; while :; do sleep 0.05; done")
    run.desk.say("hello")
    run.wait_for_kind("stdout")
    assert run.courier is not None and run.wrapper is not None
    run.courier.send_signal(signal.SIGTERM)
    run.wrapper.send_signal(signal.SIGTERM)
    assert run.courier.wait(10) == 0
    assert run.desk.text("stdout") == ("working\nso far\n" if trap else "working\n")
    assert run.desk.events()[-1]["data"] == {"code": code}
    assert "idle" not in [event["data"]["state"] for event in run.desk.of("turn")]


def test_the_exit_tells_the_containers_peak_of_memory(bench: Make) -> None:
    run = bench("plain")
    cgroup = run.folder / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.peak").write_text("268435456\n")
    run.environment["BERTH_CGROUP"] = str(cgroup)
    run.start_courier()
    run.start_agent("sh", "-c", "kill -KILL $$")
    run.wait_for_kind("exit")
    assert run.desk.events()[-1]["data"] == {"code": 137, "peak_bytes": 268435456}


@pytest.mark.parametrize("spoil", ["mkfifo", "ln -s /etc/passwd", "echo a lot >", "printf '' >", "echo -5 >"])
def test_a_peak_that_the_agent_forged_harms_nobody(bench: Make, spoil: str) -> None:
    run = bench("plain")
    run.start_courier()
    run.start_agent("sh", "-c", f'{spoil} "$BERTH_PIPES/peak"')
    run.wait_for_kind("exit")
    assert run.desk.events()[-1]["data"] == {"code": 0}
