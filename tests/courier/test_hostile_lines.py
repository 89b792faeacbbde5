"""Lines that an agent writes to be taken for something else, or to stop its courier."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from courier.contracts import make_contract
from courier.contracts.base import MAX_DEPTH, MAX_VALUES, Contract, load
from courier.events import Event, encode, split
from courier.redact import TranscriptRedactor
from courier.transcript import Transcript
from tests.courier.test_contracts_recorded import rows_of, settings
from tests.courier.test_journal import everything

ODD: list[Any] = [
    None, True, -1, 10**400, 1e308, float("nan"), float("inf"), "", "x", "\0", "\ud800", "x" * 1000, [], {}, [[]],
]  # fmt: skip
values = st.recursive(
    st.sampled_from(ODD) | st.text() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
# Lines as agents write them. Any value may stand in any place of them.
LINES: dict[str, list[Any]] = {
    "jsonl": [
        {"type": "text", "text": "a", "parent": "p"},
        {"type": "result", "text": "a"},
        {"type": "error", "text": "a"},
        {"type": "idle", "number": 1},
        {"type": "tool", "name": "sh", "phase": "use", "id": "1", "input": {"a": 1}, "output": "b", "is_error": False},
        {"type": "usage", "tokens": 1},
        {"type": "session", "id": "s"},
    ],
    "claude": [
        {"type": "system", "subtype": "init", "session_id": "c"},
        {"type": "stream_event", "parent_tool_use_id": "p", "event": {"type": "message_start", "message": {"id": "m"}}},
        {
            "type": "stream_event",
            "event": {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        },
        {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "a"}]}},
        {
            "type": "assistant",
            "parent_tool_use_id": "p",
            "message": {"id": "m", "content": [{"type": "tool_use", "id": "t", "name": "sh", "input": {"a": 1}}]},
        },
        {
            "type": "user",
            "message": {
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"text": "a"}], "is_error": False}]
            },
        },
        {"type": "result", "result": "a", "is_error": False, "errors": ["e"], "usage": {"n": 1}, "session_id": "c"},
        {"type": "result", "subtype": "error_during_execution", "is_error": True, "errors": ["e"], "num_turns": 1},
    ],
    "nanoclaw": [{"status": "success", "result": "a", "newSessionId": "n", "error": "e"}, {"status": "error"}],
}


def places(value: Any) -> list[tuple[Any, ...]]:
    """Where something else may stand: the way to each value within a value, the value itself first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, each in inner for rest in places(each))]


def put(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    """The value with `other` at that place."""
    if not place:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = put(value[place[0]], place[1:], other)
    return copy


@st.composite
def lines(draw: st.DrawFn, contract: str) -> Any:
    """A line of the contract with an odd value in one or two of its places."""
    line = draw(st.sampled_from(LINES[contract]))
    for _ in range(draw(st.integers(1, 2))):
        line = put(line, draw(st.sampled_from(places(line))), draw(values))
    return line


def unit(contract: str, line: Any) -> bytes:
    content = json.dumps(line).encode()
    marks = make_contract(contract, settings()).marks
    return b"\n".join([marks[0], content, marks[1], b""]) if marks else content + b"\n"


def tell(contract: Contract, content: bytes) -> list[Event] | None:
    """Read a unit as the courier does, up to the lines of the journal; fail if it took the wall around the reader."""
    events = contract.read(content)
    redactor = TranscriptRedactor(None, Path("/nowhere"))
    for event in (part for whole in redactor.flush_and_redact(events or []) for part in split(whole)):
        json.loads(encode(1, event, 1.0))
    assert contract.unread == 0
    return events


@pytest.mark.parametrize("contract", LINES)
def test_any_value_in_any_place_of_a_line_is_read_or_raw(contract: str) -> None:
    @given(st.lists(lines(contract), min_size=1, max_size=4))
    def reads(said: list[Any]) -> None:
        one = make_contract(contract, settings())
        for line in said:
            tell(one, unit(contract, line))

    reads()


@pytest.mark.parametrize("contract", LINES)
@given(content=st.binary() | st.text().map(str.encode) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_raw(contract: str, content: bytes) -> None:
    one = make_contract(contract, settings())
    tell(one, content)
    for folder in ("messages", "tasks"):
        for event in one.file(folder, content):
            json.loads(encode(1, event, 1.0))
    assert one.unread == 0


@pytest.mark.parametrize("contract", LINES)
def test_the_values_that_once_ended_couriers_are_raw_output(contract: str, tmp_path: Path) -> None:
    odd: list[Any] = [
        {"type": []},
        {"type": {}},
        {"type": "assistant", "message": {"id": ["m"], "content": [{"type": "text", "text": "kept"}]}},
        {"type": "result", "is_error": True, "errors": 5},
        {"status": [], "result": {}},
    ]
    said = b"".join(unit(contract, line) for line in odd) + b"after\n"
    (tmp_path / "out-000000000000000").write_bytes(said)
    one = Transcript(tmp_path, settings(BERTH_CONTRACT=contract))
    one.end(0)
    events = everything(tmp_path)
    raw = "".join(event.get("text", "") for event in events if event["kind"] == "stdout")
    assert raw.endswith("after\n") and events[-1]["kind"] == "exit"
    assert '{"type": []}' in raw or contract == "nanoclaw"
    one.close()


def test_a_reader_that_fails_leaves_raw_output_and_the_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_contract("jsonl", settings())

    def read(content: bytes) -> list[Event]:
        one.state["session"] = "half done"
        raise TypeError

    monkeypatch.setattr(one, "_read", read)
    assert one.read(b"{}\n") is None and one.read(b"{}\n") is None
    assert one.state == {"turn": "", "delivered": 0} and one.unread == 2


@pytest.mark.parametrize("fails", ["parser", "redaction"])
def test_what_cannot_be_read_is_a_gap_and_what_follows_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    (tmp_path / "out-000000000000000").write_bytes(b"poison\n")
    one = Transcript(tmp_path, settings(BERTH_CONTRACT="jsonl"))

    def fail(*_: Any) -> Any:
        raise IndexError

    if fails == "parser":
        monkeypatch.setattr(one.parsers["out"], "events", fail)
    else:
        monkeypatch.setattr(one.redactor.spools["out"], "redact", fail)
    one.step()
    with (tmp_path / "out-000000000000000").open("ab") as file:
        file.write(b'next\n{"type":"text","text":"after"}\n')
    one.spools["out"].end += len(b'next\n{"type":"text","text":"after"}\n')
    one.end(0)
    events = [(event["kind"], event.get("text"), event.get("data")) for event in everything(tmp_path)]
    assert events == [
        ("gap", "the courier could not read it", {"events": 0, "bytes": 7}),
        ("stdout", "next\n", None),
        ("text", "after", None),
        ("exit", None, {"code": 0}),
    ]
    one.close()


def test_a_line_at_which_courier_after_courier_ends_is_raw_output(tmp_path: Path) -> None:
    """As one that is killed for its memory: nothing is recorded, and the next one begins at the same place."""
    (tmp_path / "out-000000000000000").write_bytes(b'{"type":"text","text":"poison"}\n{"type":"text","text":"after"}\n')
    for _ in range(5):
        Transcript(tmp_path, settings(BERTH_CONTRACT="jsonl")).close()
    last = Transcript(tmp_path, settings(BERTH_CONTRACT="jsonl"))
    last.end(0)
    last.close()
    assert [event["kind"] for event in everything(tmp_path)] == ["stdout", "text", "exit"]
    assert not (tmp_path / "begun").exists()


def test_json_of_more_values_than_a_courier_has_memory_for_is_no_structure() -> None:
    assert load(b'{"type":"usage","a":[' + b"{}," * MAX_VALUES * 2 + b"1]}") is None
    assert load(b'{"type":"usage","a":[' + b'"",' * MAX_VALUES * 2 + b"1]}") is None
    for astral in ("😀", "\\ud83d\\ude00"):
        assert load(b'{"type":"text","text":"' + b"x" * 5_000_000 + astral.encode() + b'"}') is None
        assert load(b'{"type":"text","text":"' + b"x" * 4_000_000 + astral.encode() + b'"}') is not None
    text = json.dumps({"type": "text", "text": "a,[{" * MAX_VALUES})
    assert load(text.encode()) == json.loads(text)


# What an agent makes up, and how long its journal's records are then.
IDS: dict[str, list[Any]] = {
    "jsonl": [
        {"type": "text", "text": "a", "parent": "{}"},
        {"type": "session", "id": "{}"},
        {"type": "tool", "name": "{}", "id": "{}"},
    ],
    "claude": [
        {"type": "system", "subtype": "init", "session_id": "{}"},
        {
            "type": "stream_event",
            "parent_tool_use_id": "{}",
            "event": {"type": "message_start", "message": {"id": "{}"}},
        },
        {
            "type": "stream_event",
            "parent_tool_use_id": "{}",
            "event": {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        },
        {"type": "assistant", "message": {"id": "{}", "content": [{"type": "tool_use", "id": "{}", "name": "{}"}]}},
    ],
    "nanoclaw": [{"status": "success", "result": "a", "newSessionId": "{}"}],
}


@pytest.mark.parametrize("contract", IDS)
@pytest.mark.parametrize("size", [150, 10_000])
def test_what_is_remembered_of_ids_that_an_agent_invents_is_bounded(contract: str, size: int, tmp_path: Path) -> None:
    one = Transcript(tmp_path, settings(BERTH_CONTRACT=contract))
    for number in range(60):
        for line in IDS[contract]:
            said = json.loads(json.dumps(line).replace("{}", f"{number}".ljust(size, "é")))
            one.parsers["out"].feed(unit(contract, said))
            one.step()
    one.step(final=True)
    assert len(json.dumps(one.state(), ensure_ascii=False).encode()) < 24 * 1024
    one.close()


@pytest.mark.parametrize("contract", ["jsonl", "claude", "nanoclaw"])
@pytest.mark.parametrize("kind", ["message", "state", "delivered", "turn", "exit", "gap", "task", "stdout", "stderr"])
def test_no_line_becomes_an_event_that_is_not_the_agents_to_say(contract: str, kind: str) -> None:
    forged = {"type": kind, "kind": kind, "text": "x", "number": 1, "code": 0, "state": "idle", "data": {"n": 1}}
    assert kind not in {row[0] for row in rows_of(make_contract(contract, settings()), forged)} - {"raw"}


@pytest.mark.parametrize("inner", ['{"a":', "["])
def test_json_that_is_nested_beyond_sense_is_no_structure(inner: str) -> None:
    def nested(levels: int) -> bytes:
        tail = "}" if inner.startswith("{") else "]"
        return f'{{"type":"tool","name":"x","input":{inner * levels}1{tail * levels}}}'.encode()

    assert load(nested(MAX_DEPTH - 20)) is not None
    for levels in (MAX_DEPTH + 1, 900, 985, 990, 995, 100_000):
        assert load(nested(levels)) is None


def test_json_that_is_only_wide_is_read() -> None:
    value: dict[str, Any] = {"type": "usage", "rows": [{"n": [n]} for n in range(10_000)]}
    assert load(json.dumps(value).encode()) == value
