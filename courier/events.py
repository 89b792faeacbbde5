"""Events as the control plane can store them: no NUL, no lone surrogate, no text above the limit."""

import base64
import math
from typing import Any, NamedTuple

from courier.bounds import REPLACEMENT, compact, fit, fits, shorten, storable

TEXT_LIMIT = 256 * 1024  # bytes of UTF-8 in one event's text, docs/courier-protocol.md
CHUNK_LIMIT = 32 * 1024  # bytes of raw output in one event
CARRIED = 1024  # bytes of data that every part of a long text carries; more goes with the first one alone
PARTED = frozenset({"text", "result", "error", "stdout", "stderr"})  # kinds whose text may be split


class Event(NamedTuple):
    """What the agent said or what became of it, before it has a number. `kind` is one of docs/courier-protocol.md."""

    kind: str
    text: str = ""
    data: dict[str, Any] | None = None


def encode(number: int, event: Event, at: float) -> bytes:
    """Return the event as one line of JSON without control characters, as the journal and the control plane take it."""
    content: dict[str, Any] = {"n": number, "kind": event.kind}
    if event.text:
        content["text"] = event.text
    if event.data:
        content["data"] = event.data
    content["at"] = round(at, 3)
    line = dump(content)
    if event.data and not fits(line):
        content["data"] = fit(event.data)
        line = dump(content)
    return line


def dump(value: Any) -> bytes:
    """Return compact JSON in UTF-8; what a database can't hold becomes U+FFFD, a number that is none becomes null."""
    try:
        line = compact(value)
        if b"\\u0000" not in line:
            return line
    except (UnicodeEncodeError, ValueError):
        pass
    return compact(clean(value))


def clean(value: Any) -> Any:
    """Return a JSON value with NULs and lone surrogates replaced, in keys as well, and NaN and infinities as None."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def raw(kind: str, chunk: bytes) -> Event:
    """Return the event for raw bytes: their text, and the bytes themselves where the text is not all of them."""
    try:
        text = chunk.decode()
        if "\0" not in text:
            return Event(kind, text)
    except UnicodeDecodeError:
        text = chunk.decode(errors="replace")
    return Event(kind, text.replace("\0", REPLACEMENT), {"base64": base64.b64encode(chunk).decode()})


def split(event: Event) -> list[Event]:
    """Return the event, or several where its text is above the limit; parts of a result or error are numbered.

    Where a part makes no sense, as in the name of a tool, the text is cut.
    """
    if len(event.text) * 4 <= TEXT_LIMIT:
        return [event]
    if event.kind not in PARTED:
        return [event._replace(text=shorten(event.text, TEXT_LIMIT))]
    content = event.text.encode(errors="replace") if event.text.isascii() else storable(event.text).encode()
    if len(content) <= TEXT_LIMIT:
        return [event]
    parts = []
    start = 0
    while start < len(content):
        end = whole_characters(content, min(start + TEXT_LIMIT, len(content)))
        parts.append(content[start:end].decode())
        start = end
    data = event.data or {}
    more = data if len(dump(data)) <= CARRIED else {}
    numbers: list[dict[str, Any]] = [{}] * len(parts)
    if event.kind != "text":
        numbers = [{"part": index, "parts": len(parts)} for index in range(1, len(parts) + 1)]
    carried = [{**(more if index else data), **number} for index, number in enumerate(numbers)]
    return [Event(event.kind, part, each or None) for part, each in zip(parts, carried, strict=True)]


def whole_characters(content: bytes | bytearray, end: int, start: int = 0) -> int:
    """Return the highest place at or before `end` that cuts no UTF-8 character of content[start:].

    Bytes that are no UTF-8 are cut at `end`: a character has at most four bytes, so three continuation bytes settle it.
    """
    for back in range(1, min(4, end - start) + 1):
        byte = content[end - back]
        if byte & 0xC0 == 0x80:
            continue  # a continuation byte: look further back for the first one
        size = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return end - back if size > back and byte < 0xF5 else end
    return end
