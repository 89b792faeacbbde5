"""A proxy's report as it came, checked and typed (docs/egress.md). Pure."""

import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sessions.machine_api import InvalidPayload

ITEMS_MAX = 2000  # tunnels, and denials, of one report
BYTES_MAX = 2**62  # of a counter


@dataclass(frozen=True, slots=True)
class ReportedTunnel:
    """A tunnel as a proxy reports it. Its counters are totals."""

    id: uuid.UUID
    run: uuid.UUID
    host: str
    port: int
    opened: datetime
    ended: datetime | None
    sent: int
    received: int
    cause: str


@dataclass(frozen=True, slots=True)
class ReportedDenial:
    """Refusals of one kind, `count` of them since the report before."""

    id: str
    run: uuid.UUID
    host: str
    port: int
    code: str
    reason: str
    count: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """What a proxy reports, in its own order."""

    uses: tuple[ReportedTunnel, ...]
    denials: tuple[ReportedDenial, ...]


def parse(body: Any) -> Report:
    """Check a report and give it types. Raises InvalidPayload."""
    if not isinstance(body, dict):
        raise InvalidPayload("send an object with tunnels and denials")
    return Report(tuple(_parse_list(body, "tunnels", _tunnel)), tuple(_parse_list(body, "denials", _denial)))


def _parse_list(body: dict[str, Any], name: str, parse_item: Any) -> list[Any]:
    items = body.get(name, [])
    if not isinstance(items, list) or len(items) > ITEMS_MAX:
        raise InvalidPayload(f"{name}: a list of at most {ITEMS_MAX}")
    parsed = []
    for index, item in enumerate(items):
        try:
            parsed.append(parse_item(item))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidPayload(f"{name} {index}: {type(error).__name__}: {error}") from None
    return parsed


def _tunnel(item: Any) -> ReportedTunnel:
    ended = item.get("ended")
    return ReportedTunnel(
        uuid.UUID(item["id"]),
        uuid.UUID(item["run"]),
        _text(item["host"], 253),
        _count(item["port"], 65535),
        _time(item["opened"]),
        None if ended is None else _time(ended),
        _count(item["sent"], BYTES_MAX),
        _count(item["received"], BYTES_MAX),
        _text(item.get("cause") or "", 20),
    )


def _denial(item: Any) -> ReportedDenial:
    return ReportedDenial(
        uuid.UUID(item["id"]).hex,
        uuid.UUID(item["run"]),
        _text(item["host"], 253),
        _count(item["port"], 65535),
        _text(item.get("code") or "rule", 20),
        _text(item.get("reason") or "", 300),
        _count(item["count"], 10**9),
        _time(item["at"]),
    )


def _text(value: Any, length: int) -> str:
    """Text that a database holds and a page shows: agents choose what stands in it."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return "".join(character if character.isprintable() else "\ufffd" for character in value[:length])


def _count(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no number from 0 to {most}")
    return value


def _time(value: Any) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value < 4e9:
        raise ValueError(f"{value!r} is no time in seconds since the epoch")
    return datetime.fromtimestamp(value, UTC)
