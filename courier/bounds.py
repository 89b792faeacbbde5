"""How much an event's data may hold: the courier cuts what is above, and the control plane whatever a courier sends.

What is cut says so: "…⟦1,000 bytes more⟧". Pure, without a dependency: both sides import it.
"""

import json
import math
import re
from typing import Any

DATA_LIMIT = 256 * 1024  # bytes of an event's data as JSON, docs/courier-protocol.md
MAX_ITEMS = 10_000  # values in it
MAX_DEPTH = 50  # levels; what reads it all, here and on the pages, goes down by calling itself
MAX_KEY = 200  # characters of a name in what has to be cut
MIN_SHARE = 64  # bytes for each name of data; of more names some are left out
MARGIN = 8192  # bytes for the notes on what was cut: a few at each level
REPLACEMENT = "\ufffd"
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))  # json.dumps makes one each time
SURROGATES = re.compile("[\ud800-\udfff]+")


def storable(text: str) -> str:
    """Return the text as a database can hold it: PostgreSQL knows no NUL, UTF-8 no lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    text = text.replace("\0", REPLACEMENT)
    return SURROGATES.sub(lambda match: REPLACEMENT * len(match[0]), text)


def fits(line: bytes) -> bool:
    """Tell quickly that JSON in which data stands is within the bounds; wrong only in saying that it is not."""
    return (
        len(line) <= DATA_LIMIT
        and line.count(b",") < MAX_ITEMS
        and line.count(b"{") + line.count(b"[") <= MAX_DEPTH
        and b"\\u0000" not in line
    )


def fit(data: dict[str, Any]) -> dict[str, Any]:
    """Return an event's data as a database can hold it and within the bounds; the same object if it is so already.

    Numbers that are none become None. Of what is too much, small values stay and large ones are cut.
    """
    try:
        line = compact(data)
        if fits(line) or (len(line) <= DATA_LIMIT and b"\\u0000" not in line and _is_small_and_shallow(data)):
            return data
    except (ValueError, RecursionError):  # also what UTF-8 can't hold
        pass
    return _Truncation().event_data(data)


def shorten(text: str, limit: int) -> str:
    """Return the text, or its beginning with a note on the rest: at most `limit` bytes of UTF-8."""
    content = storable(text).encode()
    if len(content) <= limit:
        return content.decode()
    start = content[: max(0, limit - 64)].decode(errors="ignore")
    return f"{start}{omission(len(content) - len(start.encode()), 'bytes')}"


def omission(count: int, what: str) -> str:
    """Return the note on what was cut."""
    return f"…⟦{count:,} {what} more⟧"


def compact(value: Any) -> bytes:
    """Return compact JSON in UTF-8. Raises ValueError for what UTF-8 can't hold and numbers that are none."""
    return ENCODER.encode(value).encode()


def _is_small_and_shallow(data: dict[str, Any]) -> bool:
    """Tell whether values are few enough, and not too deep in each other."""
    level: list[Any] = [data]
    items = 0
    for _ in range(MAX_DEPTH):
        inner = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]
        items += len(inner)
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level or items > MAX_ITEMS:
            return items <= MAX_ITEMS
    return False


def _json_size(value: Any) -> int:
    """Return about how much a value takes."""
    try:
        return len(json.dumps(value))
    except RecursionError:
        return DATA_LIMIT


class _Truncation:
    """Walks through a value and leaves out what is too much."""

    def __init__(self) -> None:
        self.size, self.items = DATA_LIMIT - MARGIN, MAX_ITEMS - 4 * MAX_DEPTH  # that are left

    def event_data(self, data: dict[str, Any]) -> dict[str, Any]:
        """Cut an event's data. What small values don't use of an equal share goes to the large ones."""
        parts = {}
        order = sorted(data, key=lambda name: _json_size(data[name]))[: self.size // MIN_SHARE]
        for index, name in enumerate(order):
            left, rest = len(order) - index, (self.size, self.items)
            self.size, self.items = self.size // left, self.items // left
            if self.size <= 0:
                break
            share = self.size, self.items
            parts[name] = self.pair(name, data[name], 1)
            self.size, self.items = rest[0] - share[0] + self.size, rest[1] - share[1] + self.items
        return self.with_omission(data, parts)

    def value(self, value: Any, depth: int) -> Any:
        self.items -= 1
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict | list) and depth >= MAX_DEPTH:
            return self.text("⟦nested too deeply⟧")
        if isinstance(value, dict):
            return self.object(value, depth + 1)
        if isinstance(value, list):
            return self.list(value, depth + 1)
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        self.size -= len(compact(value)) + 1
        return value

    def object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        self.size -= 2
        parts = {}
        for name, inner in value.items():
            if self.size <= 0 or self.items <= 0:
                break
            parts[name] = self.pair(name, inner, depth)
        return self.with_omission(value, parts)

    def pair(self, name: str, value: Any, depth: int) -> tuple[str, Any]:
        name = storable(name)
        if len(name) > MAX_KEY:
            name = name[:MAX_KEY] + omission(len(name) - MAX_KEY, "characters")
        self.size -= len(compact(name)) + 2
        return name, self.value(value, depth)

    def with_omission(self, value: dict[str, Any], parts: dict[str, tuple[str, Any]]) -> dict[str, Any]:
        """Return the parts in the order of the value, with a note on the rest."""
        pairs = [parts[name] for name in value if name in parts]
        left = len(value) - len(parts)
        return dict([*pairs, ("⟦cut⟧", omission(left, "items"))] if left else pairs)

    def list(self, value: list[Any], depth: int) -> list[Any]:
        self.size -= 2
        parts: list[Any] = []
        for item in value:
            if self.size <= 0 or self.items <= 0:
                return [*parts, omission(len(value) - len(parts), "items")]
            parts.append(self.value(item, depth))
        return parts

    def text(self, text: str) -> str:
        text = storable(text)
        size = len(compact(text)) + 1
        if size > self.size:
            content, room = text.encode(), max(0, self.size - 2)
            while len(compact(text := content[:room].decode(errors="ignore"))) > max(2, self.size):
                room //= 2  # escapes take more
            text += omission(len(content) - len(text.encode()), "bytes")
        self.size -= size
        return text
