"""What agents were seen to write, and the events that it becomes; what they are handed, byte by byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from courier.contracts import NAMES, argv, make_contract
from courier.contracts.base import Contract, Message
from courier.events import Event
from courier.settings import Settings, read_settings

ENVIRONMENT = {
    "BERTH_URL": "http://127.0.0.1:1",
    "BERTH_RUN": "run",
    "BERTH_TOKEN_FILE": "/nowhere",
    "BERTH_CONTRACT": "plain",
    "BERTH_PIPES": "/nowhere",
    "BERTH_JOURNAL": "/nowhere",
    "BERTH_GROUP": "demo",
    "BERTH_SESSION": "s-1",
}
Row = tuple[str, str, dict[str, Any] | None]


def settings(**more: str) -> Settings:
    return read_settings({**ENVIRONMENT, **more})


def rows_of(contract: Contract, *units: Any) -> list[Row]:
    """The events of units, each as JSON unless it is bytes; "raw" for one that is not the contract's."""
    rows: list[Row] = []
    for unit in units:
        events = contract.read(unit if isinstance(unit, bytes) else json.dumps(unit).encode() + b"\n")
        rows += [("raw", "", None)] if events is None else [tuple(event) for event in events]  # type: ignore[misc]
    return rows


def turn(state: str) -> Row:
    return ("turn", "", {"state": state})


@pytest.mark.parametrize("contract", NAMES)
def test_an_agent_without_a_conversation_is_started_as_its_profile_says(contract: str) -> None:
    assert argv(contract, ("agent", "-p"), "") == ["agent", "-p"]


def test_only_claude_is_told_by_argument_what_to_resume() -> None:
    assert argv("claude", ["claude", "-p"], "id-1") == ["claude", "-p", "--resume", "id-1"]
    assert argv("jsonl", ["agent"], "id-1") == ["agent"]


def test_an_unknown_contract_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown contract 'morse'"):
        argv("morse", ["agent"], "")
    with pytest.raises(ValueError, match="unknown contract 'morse'"):
        make_contract("morse", settings())


class TestPlain:
    def test_a_message_is_its_text_and_then_the_end(self) -> None:
        handover = make_contract("plain", settings()).handover(Message(1, "grüß dich\n"))
        assert (handover.data, handover.eof) == ("grüß dich\n".encode(), True)

    def test_its_whole_output_is_the_result_of_exit_0(self) -> None:
        assert make_contract("plain", settings()).finish(0, lambda: (3, b"42\n")) == [Event("result", "42\n")]

    def test_its_output_is_no_result_when_the_exit_is_not_0(self) -> None:
        assert make_contract("plain", settings()).finish(2, lambda: (3, b"42\n")) == [Event("error", "exit status 2")]


class TestJsonl:
    def test_a_turn(self) -> None:
        contract = make_contract("jsonl", settings())
        contract.delivered(1)
        assert rows_of(
            contract,
            {"type": "session", "id": "w-1"},
            {"type": "text", "text": "one "},
            {"type": "tool", "phase": "use", "id": "t", "name": "sh", "input": {"command": "ls"}},
            {"type": "tool", "phase": "result", "id": "t", "name": "sh", "output": "a\n", "is_error": False},
            {"type": "result", "text": "one two"},
            {"type": "usage", "characters_in": 3},
            {"type": "idle", "number": 1},
        ) == [
            ("session", "", {"id": "w-1"}),
            ("text", "one ", None),
            ("tool", "sh", {"phase": "use", "id": "t", "input": {"command": "ls"}}),
            ("tool", "sh", {"phase": "result", "id": "t", "output": "a\n", "is_error": False}),
            ("result", "one two", None),
            ("usage", "", {"characters_in": 3}),
            turn("idle"),
        ]

    def test_an_idle_that_has_not_seen_the_last_message_does_not_end_the_turn(self) -> None:
        contract = make_contract("jsonl", settings())
        contract.delivered(1)
        contract.delivered(2)
        assert rows_of(contract, {"type": "idle", "number": 1}) == []
        assert rows_of(contract, {"type": "idle", "number": 2}) == [turn("idle")]
        assert rows_of(contract, {"type": "idle"}) == []

    @pytest.mark.parametrize(
        "unit", [b"{\n", b"{}\n", b'{"type":"new"}\n', b'{"type":"text"}\n', b'{"type":"text","text":3}\n', b"[1]\n"]
    )
    def test_what_is_no_such_line_is_raw(self, unit: bytes) -> None:
        assert rows_of(make_contract("jsonl", settings()), unit) == [("raw", "", None)]

    def test_deep_nesting_and_endless_numbers_are_raw(self) -> None:
        deep = b'{"type":"usage","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
        assert rows_of(make_contract("jsonl", settings()), deep) == [("raw", "", None)]
        assert rows_of(make_contract("jsonl", settings()), b'{"type":"usage","a":' + b"9" * 5000 + b"}\n") == [
            ("raw", "", None)
        ]

    def test_close_is_a_line_and_then_the_end(self) -> None:
        handover = make_contract("jsonl", settings()).close()
        assert (handover.data, handover.eof) == (b'{"type":"close"}\n', True)


def delta(text: str) -> dict[str, Any]:
    event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return {"type": "stream_event", "event": event, "session_id": "c-1", "parent_tool_use_id": None}


def started(message: str) -> dict[str, Any]:
    event = {"type": "message_start", "message": {"id": message, "role": "assistant", "content": []}}
    return {"type": "stream_event", "event": event, "session_id": "c-1", "parent_tool_use_id": None}


def assistant(message: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "assistant", "message": {"id": message, "role": "assistant", "content": list(content)}}


INIT = {"type": "system", "subtype": "init", "session_id": "c-1", "cwd": "/workspace/group", "tools": ["Bash"]}
STATUS = {"type": "system", "subtype": "status", "status": "requesting"}
STOPPED = {"type": "stream_event", "event": {"type": "content_block_stop", "index": 0}, "session_id": "c-1"}
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "echo hi"}}
TOOL_RESULT = {
    "type": "user",
    "message": {
        "role": "user",
        "content": [{"tool_use_id": "toolu_1", "type": "tool_result", "content": "hi", "is_error": False}],
    },
}
RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "duration_ms": 812,
    "num_turns": 2,
    "result": "tool said: hi",
    "session_id": "c-1",
    "total_cost_usd": 0.01,
    "usage": {"input_tokens": 10, "output_tokens": 4},
}


class TestClaude:
    def test_a_turn_with_a_tool(self) -> None:
        contract = make_contract("claude", settings())
        contract.delivered(1)
        rows = rows_of(
            contract,
            INIT,
            STATUS,
            started("m-1"),
            assistant("m-1", TOOL_USE),
            TOOL_RESULT,
            started("m-2"),
            delta("tool said"),
            delta(": hi"),
            STOPPED,
            assistant("m-2", {"type": "text", "text": "tool said: hi"}),
            RESULT,
        )
        counts = {"input_tokens": 10, "output_tokens": 4, "num_turns": 2, "duration_ms": 812, "total_cost_usd": 0.01}
        assert rows == [
            ("session", "", {"id": "c-1"}),
            ("tool", "Bash", {"phase": "use", "id": "toolu_1", "input": {"command": "echo hi"}}),
            ("tool", "Bash", {"phase": "result", "id": "toolu_1", "output": "hi", "is_error": False}),
            ("text", "tool said", None),
            ("text", ": hi", None),
            ("result", "tool said: hi", None),
            ("usage", "", counts),
            turn("idle"),
        ]

    def test_without_partial_messages_text_comes_from_whole_ones(self) -> None:
        rows = rows_of(make_contract("claude", settings()), assistant("m-1", {"type": "text", "text": "hello"}))
        assert rows == [("text", "hello", None)]

    def test_its_state_goes_through_a_restart(self) -> None:
        first = make_contract("claude", settings())
        rows_of(first, INIT, started("m-1"), delta("hello"), assistant("m-1", TOOL_USE))
        second = make_contract("claude", settings(), json.loads(json.dumps(first.state)))
        rows = rows_of(second, INIT, delta("."), assistant("m-1", {"type": "text", "text": "hello."}), TOOL_RESULT)
        assert rows == [
            ("text", ".", None),
            ("tool", "Bash", {"phase": "result", "id": "toolu_1", "output": "hi", "is_error": False}),
        ]

    def test_the_next_turn_begins_by_itself_when_messages_were_joined(self) -> None:
        contract = make_contract("claude", settings())
        contract.delivered(1)
        rows_of(contract, INIT, RESULT)
        assert rows_of(contract, INIT) == [turn("working")]

    def test_an_unknown_session_is_an_error(self) -> None:
        failed = {
            "type": "result",
            "subtype": "error_during_execution",
            "is_error": True,
            "session_id": "c-2",
            "errors": ["No conversation found with session ID: c-9"],
        }
        rows = rows_of(make_contract("claude", settings()), failed)
        assert ("error", "No conversation found with session ID: c-9", None) in rows
        assert rows[-1] == turn("idle")

    def test_an_error_of_the_api_is_an_error(self) -> None:
        failed = {**RESULT, "is_error": True, "api_error_status": 401, "result": "API Error: 401"}
        assert ("error", "API Error: 401", None) in rows_of(make_contract("claude", settings()), failed)

    def test_a_subagents_text_names_the_call_it_speaks_in(self) -> None:
        said = {**assistant("m-9", {"type": "text", "text": "found it"}), "parent_tool_use_id": "toolu_1"}
        assert rows_of(make_contract("claude", settings()), said) == [("text", "found it", {"parent": "toolu_1"})]

    def test_an_output_of_text_blocks_is_text_and_another_stays_as_it_is(self) -> None:
        def result(content: Any) -> Any:
            block = {"type": "tool_result", "tool_use_id": "t", "content": content}
            unit = {"type": "user", "message": {"role": "user", "content": [block]}}
            return (rows_of(make_contract("claude", settings()), unit)[0][2] or {})["output"]

        assert result([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "ab"
        assert result([{"type": "image", "source": {}}]) == [{"type": "image", "source": {}}]

    @pytest.mark.parametrize("unit", [{"type": "surprise"}, {"result": 1}, b"{not json}\n"])
    def test_lines_it_does_not_know_are_raw(self, unit: Any) -> None:
        assert rows_of(make_contract("claude", settings()), unit) == [("raw", "", None)]

    def test_a_message_and_the_end(self) -> None:
        contract = make_contract("claude", settings())
        content = [{"type": "text", "text": "hi"}]
        assert json.loads(contract.handover(Message(1, "hi")).data) == {
            "type": "user",
            "message": {"role": "user", "content": content},
        }
        assert (contract.close().data, contract.close().eof) == (b"", True)


def triple(**value: Any) -> bytes:
    return b"---NANOCLAW_OUTPUT_START---\n" + json.dumps(value).encode() + b"\n---NANOCLAW_OUTPUT_END---\n"


class TestNanoclaw:
    @pytest.mark.parametrize(
        ("unit", "rows"),
        [
            (
                triple(status="success", result="hello", newSessionId="n-1"),
                [("session", "", {"id": "n-1"}), ("result", "hello", None), turn("idle")],
            ),
            (triple(status="success", result=None, newSessionId="n-1"), [("session", "", {"id": "n-1"}), turn("idle")]),
            (triple(status="success", result="API Error: 401"), [("result", "API Error: 401", None), turn("idle")]),
            (triple(status="error", result=None, error="exited"), [("error", "exited", None), turn("idle")]),
            (triple(result="no status"), [("raw", "", None)]),
            (b"---NANOCLAW_OUTPUT_START---\n{torn", [("raw", "", None)]),
            (b"a line\n", [("raw", "", None)]),
        ],
        ids=["a turn", "an empty turn", "an API error", "an error", "no status", "torn", "raw"],
    )  # fmt: skip
    def test_markers(self, unit: bytes, rows: list[Row]) -> None:
        contract = make_contract("nanoclaw", settings())
        contract.delivered(1)
        assert rows_of(contract, unit) == rows

    def test_the_first_message_is_one_object_with_the_secrets(self, tmp_path: Path) -> None:
        (tmp_path / "ANTHROPIC_API_KEY").write_text("sk-1\n")
        (tmp_path / "..data").mkdir()
        (tmp_path / "not-a-name").write_text("x")
        contract = make_contract("nanoclaw", settings(BERTH_SECRETS=str(tmp_path), BERTH_RESUME="n-1"))
        handover = contract.handover(Message(1, "hi"))
        assert handover.eof
        assert json.loads(handover.data) == {
            "prompt": "hi",
            "sessionId": "n-1",
            "groupFolder": "demo",
            "chatJid": "s-1",
            "isMain": False,
            "isScheduledTask": False,
            "secrets": {"ANTHROPIC_API_KEY": "sk-1"},
        }

    @pytest.mark.parametrize(
        ("environment", "main"), [({"BERTH_MAIN": "1"}, True), ({"BERTH_MAIN": ""}, False), ({}, False)]
    )
    def test_the_main_groups_agent_is_told_so(self, environment: dict[str, str], main: bool) -> None:
        handover = make_contract("nanoclaw", settings(**environment)).handover(Message(1, "hi"))
        assert json.loads(handover.data)["isMain"] is main

    def test_follow_ups_are_files_in_the_order_of_their_names(self) -> None:
        contract = make_contract("nanoclaw", settings())
        contract.delivered(1)
        files = {**contract.handover(Message(2, "b")).files, **contract.handover(Message(3, "c")).files}
        contents = [json.loads(files[name]) for name in sorted(files)]
        assert contents == [{"type": "message", "text": "b"}, {"type": "message", "text": "c"}]
        assert all(name.endswith(".json") for name in files)

    def test_it_is_closed_by_an_empty_file(self) -> None:
        contract = make_contract("nanoclaw", settings())
        contract.delivered(1)
        assert (contract.close().files, contract.close().eof) == ({"_close": b""}, False)

    def test_its_files_are_results_and_tasks(self) -> None:
        contract = make_contract("nanoclaw", settings())
        message = b'{"type":"message","chatJid":"s-1","text":"by the way"}'
        assert contract.file("messages", message) == [
            Event("result", "by the way", {"chatJid": "s-1", "source": "ipc"})
        ]
        assert contract.file("tasks", b'{"type":"schedule_task"}') == [Event("task", '{"type":"schedule_task"}')]
        assert contract.file("messages", b"torn") == [Event("result", "torn", {"source": "ipc"})]


def test_nanoclaw_is_told_that_a_task_speaks_and_no_person() -> None:
    contract = make_contract("nanoclaw", settings())
    handed = json.loads(contract.handover(Message(1, "Tidy up", scheduled=True)).data)
    assert handed["isScheduledTask"] is True
