"""How much an event's data may hold: the courier cuts what is above, and the control plane whatever a courier sends.

What is cut says so: "…⟦1,000 bytes more⟧". Pure, without a dependency: both sides import it.
"""

import json
import math
import re
from typing import Any

DATA_LIMIT = 256 * 1024  # bytes of an event's data as JSON, docs/courier-protocol.md
ITEMS = 10_000  # values in it
DEEPEST = 50  # levels; what reads it all, here and on the pages, goes down by calling itself
KEY_LIMIT = 200  # characters of a name in what has to be cut
LEAST = 64  # bytes for each name of data; of more names some are left out
MARGIN = 8192  # bytes for the words about what was cut: a few at each level
REPLACEMENT = "\ufffd"
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))  # json.dumps makes one each time
SURROGATES = re.compile("[\ud800-\udfff]+")


def storable(text: str) -> str:
    """Return the text as a database can hold it: PostgreSQL knows no NUL, UTF-8 no lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    text = text.replace("\0", REPLACEMENT)
    return SURROGATES.sub(lambda found: REPLACEMENT * len(found[0]), text)


def fits(line: bytes) -> bool:
    """Tell quickly that JSON in which data stands is within the bounds; wrong only in saying that it is not."""
    return (
        len(line) <= DATA_LIMIT
        and line.count(b",") < ITEMS
        and line.count(b"{") + line.count(b"[") <= DEEPEST
        and b"\\u0000" not in line
    )


def fit(data: dict[str, Any]) -> dict[str, Any]:
    """Return an event's data as a database can hold it and within the bounds; the same object if it is so already.

    Numbers that are none become None. Of what is too much, small values stay and large ones are cut.
    """
    try:
        line = compact(data)
        if fits(line) or (len(line) <= DATA_LIMIT and b"\\u0000" not in line and _modest(data)):
            return data
    except (ValueError, RecursionError):  # also what UTF-8 can't hold
        pass
    return _Cut().shares(data)


def shorten(text: str, limit: int) -> str:
    """Return the text, or its beginning with a word about the rest: at most `limit` bytes of UTF-8."""
    content = storable(text).encode()
    if len(content) <= limit:
        return content.decode()
    kept = content[: max(0, limit - 64)].decode(errors="ignore")
    return f"{kept}{more(len(content) - len(kept.encode()), 'bytes')}"


def more(count: int, what: str) -> str:
    """Return the word about what was cut."""
    return f"…⟦{count:,} {what} more⟧"


def compact(value: Any) -> bytes:
    """Return compact JSON in UTF-8. Raises ValueError for what UTF-8 can't hold and numbers that are none."""
    return ENCODER.encode(value).encode()


def _modest(data: dict[str, Any]) -> bool:
    """Tell whether values are few enough, and not too deep in each other."""
    level: list[Any] = [data]
    items = 0
    for _ in range(DEEPEST):
        inner = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]
        items += len(inner)
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level or items > ITEMS:
            return items <= ITEMS
    return False


def _weight(value: Any) -> int:
    """Return about how much a value takes."""
    try:
        return len(json.dumps(value))
    except RecursionError:
        return DATA_LIMIT


class _Cut:
    """Walks through a value and leaves out what is too much."""

    def __init__(self) -> None:
        self.size, self.items = DATA_LIMIT - MARGIN, ITEMS - 4 * DEEPEST  # that are left

    def shares(self, data: dict[str, Any]) -> dict[str, Any]:
        """Cut an event's data. What small values don't use of an equal share goes to the large ones."""
        kept = {}
        order = sorted(data, key=lambda name: _weight(data[name]))[: self.size // LEAST]
        for place, name in enumerate(order):
            left, rest = len(order) - place, (self.size, self.items)
            self.size, self.items = self.size // left, self.items // left
            if self.size <= 0:
                break
            share = self.size, self.items
            kept[name] = self.pair(name, data[name], 1)
            self.size, self.items = rest[0] - share[0] + self.size, rest[1] - share[1] + self.items
        return self.joined(data, kept)

    def value(self, value: Any, depth: int) -> Any:
        self.items -= 1
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict | list) and depth >= DEEPEST:
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
        kept = {}
        for name, inner in value.items():
            if self.size <= 0 or self.items <= 0:
                break
            kept[name] = self.pair(name, inner, depth)
        return self.joined(value, kept)

    def pair(self, name: str, value: Any, depth: int) -> tuple[str, Any]:
        name = storable(name)
        if len(name) > KEY_LIMIT:
            name = name[:KEY_LIMIT] + more(len(name) - KEY_LIMIT, "characters")
        self.size -= len(compact(name)) + 2
        return name, self.value(value, depth)

    def joined(self, value: dict[str, Any], kept: dict[str, tuple[str, Any]]) -> dict[str, Any]:
        """Return what was kept, in the order of the value, with a word about the rest."""
        pairs = [kept[name] for name in value if name in kept]
        left = len(value) - len(kept)
        return dict([*pairs, ("⟦cut⟧", more(left, "items"))] if left else pairs)

    def list(self, value: list[Any], depth: int) -> list[Any]:
        self.size -= 2
        kept: list[Any] = []
        for item in value:
            if self.size <= 0 or self.items <= 0:
                return [*kept, more(len(value) - len(kept), "items")]
            kept.append(self.value(item, depth))
        return kept

    def text(self, text: str) -> str:
        text = storable(text)
        size = len(compact(text)) + 1
        if size > self.size:
            content, room = text.encode(), max(0, self.size - 2)
            while len(compact(text := content[:room].decode(errors="ignore"))) > max(2, self.size):
                room //= 2  # escapes take more
            text += more(len(content) - len(text.encode()), "bytes")
        self.size -= size
        return text
