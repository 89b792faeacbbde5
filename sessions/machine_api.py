"""What the machines' doors read of a request: its bearer token first, then its body, in bounds."""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gone(Exception):
    """The client hung up before its request was there, or was cut off: nobody waits for an answer."""


class TooLarge(Exception):
    """A body of more bytes than its door takes; `str()` says how many that is."""


class NotJson(ValueError):
    """A body that is no JSON; `str()` says why."""


def bearer(scope: dict[str, Any]) -> str:
    """The token of `Authorization: Bearer …`; empty if there is none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value.decode("latin-1")).removeprefix("Bearer ")
    return ""


def declared(scope: dict[str, Any]) -> int | None:
    """What Content-Length says, in bytes; None for a body that comes in chunks, or whose length is no number."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    value = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or not value.isdigit():
        return None
    return int((value.lstrip(b"0") or b"0")[:18])  # more digits than that are an exabyte, whatever they say


async def read(scope: dict[str, Any], receive: Receive, at_most: int) -> bytes:
    """A request's body. Raises TooLarge, without reading if the head says so; Gone."""
    parts: list[bytes] = []
    left = at_most
    if (declared(scope) or 0) > at_most:
        raise TooLarge(f"at most {at_most} bytes")
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        left -= len(parts[-1])
        if left < 0:
            raise TooLarge(f"at most {at_most} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


def json_of(content: bytes) -> Any:
    """What a body says. Raises NotJson.

    NaN, Infinity and 1e999, which Python's reader takes for numbers, are the texts that they are: JSON knows no such
    number (RFC 8259, section 6), and no database does.
    """
    try:
        return json.loads(content, parse_constant=str, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON: {str(error)[:200]}") from None


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text
