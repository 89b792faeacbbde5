"""No event is larger than its bounds, whatever it is made of; what is cut says so."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from courier import bounds
from courier.bounds import DATA_LIMIT, MAX_DEPTH, MAX_ITEMS, fit, shorten
from courier.events import CARRIED, TEXT_LIMIT, Event, encode, split

sizes = st.integers(0, DATA_LIMIT)
texts = st.text() | st.builds(
    lambda size, letter: letter * size, sizes, st.sampled_from(["x", "é", "😀", "\n", "\0", '"'])
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.builds(lambda value, count: [value] * count, st.integers(), st.integers(0, 2 * MAX_ITEMS))
    ),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def shape(value: Any) -> tuple[int, int]:
    """How deep a value is, and how many values are in it."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    shapes = [shape(each) for each in inner]
    depth = max((depth for depth, _ in shapes), default=0) + isinstance(value, dict | list)
    return depth, len(inner) + sum(count for _, count in shapes)


@settings(max_examples=25, deadline=None)
@given(objects)
def test_data_is_cut_to_its_bounds_once(data: dict[str, Any]) -> None:
    kept = fit(data)
    line = json.dumps(kept, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    depth, items = shape(kept)
    assert len(line) <= DATA_LIMIT and depth <= MAX_DEPTH and items <= MAX_ITEMS and b"\\u0000" not in line
    assert fit(kept) == kept


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"a": "x" * (DATA_LIMIT - 100)},
        {"a": list(range(MAX_ITEMS - 1))},
        {"a": nested(MAX_DEPTH - 1)},
        {"a": [{"b": [n]} for n in range(MAX_ITEMS // 4)]},
    ],
    ids=["empty", "long", "many", "deep", "wide"],
)
def test_data_within_its_bounds_is_left_alone(data: dict[str, Any]) -> None:
    assert fit(data) is data


def test_what_is_cut_says_so_and_small_values_stay() -> None:
    output, row = "é" * DATA_LIMIT * 4, [{"n": n} for n in range(MAX_ITEMS)]
    data = fit({"phase": "result", "output": output, "rows": row, "deep": nested(900), "is_error": False, "n": 1e400})
    assert list(data) == ["phase", "output", "rows", "deep", "is_error", "n"] and "bytes more⟧" in data["output"]
    assert (data["phase"], data["is_error"], data["n"]) == ("result", False, None)
    assert "nested too deeply" in json.dumps(data["deep"], ensure_ascii=False)
    assert data["rows"][0] == {"n": 0} and "items more⟧" in data["rows"][-1]
    only = fit({"phase": "result", "output": output, "is_error": False})["output"]
    kept = only.partition("…")[0]
    assert only == f"{kept}…⟦{len(output.encode()) - len(kept.encode()):,} bytes more⟧" and len(kept) > DATA_LIMIT // 3


def test_of_very_many_names_some_are_left_out() -> None:
    data = fit({f"name {number}": "x" * 100 for number in range(30_000)})
    assert len(data) > 1000 and data["⟦cut⟧"] == f"…⟦{30_001 - len(data):,} items more⟧"


def test_a_long_name_is_cut_where_something_has_to_be() -> None:
    (name,) = fit({"k" * DATA_LIMIT: 1})
    assert name == "k" * bounds.MAX_KEY + f"…⟦{DATA_LIMIT - bounds.MAX_KEY:,} characters more⟧"


@settings(deadline=None)
@given(st.builds(lambda text, count: text * count, st.text(max_size=5), st.integers(0, 500)), st.integers(100, 1000))
def test_a_shortened_text_is_no_longer_than_its_limit(text: str, limit: int) -> None:
    kept = shorten(text, limit)
    assert len(kept.encode()) <= limit
    assert "bytes more⟧" in kept or kept == bounds.storable(text)


@pytest.mark.parametrize("kind", ["text", "result", "error", "tool", "usage", "session", "task", "stdout"])
@pytest.mark.parametrize("length", [10, 9 * TEXT_LIMIT])
def test_every_line_of_a_journal_is_bounded_and_data_is_not_repeated_in_each_part(kind: str, length: int) -> None:
    parts = split(Event(kind, "ü" * length, {"output": "x" * 8 * DATA_LIMIT, "parent": "p"}))
    lines = [encode(number, part, 1.0) for number, part in enumerate(parts, 1)]
    assert max(map(len, lines)) <= TEXT_LIMIT + DATA_LIMIT + 200
    assert sum(map(len, lines)) <= 2 * length + DATA_LIMIT + len(lines) * (CARRIED + 200)
    parts = split(Event(kind, "ü" * 9 * TEXT_LIMIT, {"parent": "p"}))
    assert {(part.data or {}).get("parent") for part in parts} == {"p"}
