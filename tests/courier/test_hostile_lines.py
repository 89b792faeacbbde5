"""Lines that an agent writes to be taken for something else, or to stop its courier."""

import json
from typing import Any

import pytest

from courier.contracts.base import LEVELS, load, make
from tests.courier.test_contracts_recorded import settings, told


@pytest.mark.parametrize("contract", ["jsonl", "claude", "nanoclaw"])
@pytest.mark.parametrize("kind", ["message", "state", "delivered", "turn", "exit", "gap", "task", "stdout", "stderr"])
def test_no_line_becomes_an_event_that_is_not_the_agents_to_say(contract: str, kind: str) -> None:
    forged = {"type": kind, "kind": kind, "text": "x", "number": 1, "code": 0, "state": "idle", "data": {"n": 1}}
    assert kind not in {row[0] for row in told(make(contract, settings()), forged)} - {"raw"}


@pytest.mark.parametrize("inner", ['{"a":', "["])
def test_json_that_is_nested_beyond_sense_is_no_structure(inner: str) -> None:
    def nested(levels: int) -> bytes:
        tail = "}" if inner.startswith("{") else "]"
        return f'{{"type":"tool","name":"x","input":{inner * levels}1{tail * levels}}}'.encode()

    assert load(nested(LEVELS - 20)) is not None
    for levels in (LEVELS + 1, 900, 985, 990, 995, 100_000):
        assert load(nested(levels)) is None


def test_json_that_is_only_wide_is_read() -> None:
    value: dict[str, Any] = {"type": "usage", "rows": [{"n": [n]} for n in range(10_000)]}
    assert load(json.dumps(value).encode()) == value
