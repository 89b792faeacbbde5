"""The interface of a contract: pure, so that recorded exchanges can test it.

A contract is handed messages and units of the agent's output, and answers with what to hand over and with events. What
it must remember across a restart of the courier is in `state`, which goes into every record of the journal.
"""

import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from courier.events import CHUNK_LIMIT, Event, raw
from courier.log import log
from courier.settings import Settings

MAX_DEPTH = 200  # of JSON within JSON; Python's own reader ends at about 1,000, and the control plane adds a few
MAX_VALUES = 100_000  # in one unit: each takes up to some 300 bytes of memory, and a courier has 96 MiB
ASTRAL = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")  # characters for whose sake Python takes 4 bytes for each one
ASTRAL_LIMIT = 4 * 1024 * 1024  # bytes of a unit with one of them, for the same memory
MAX_ID = 200  # characters of an id that is remembered; the control plane keeps as many of a conversation's
STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class Message(NamedTuple):
    """One message of the inbox. `at` is passed on as the control plane told it, `scheduled` if no person sent it."""

    number: int
    text: str
    sender: str = ""
    at: Any = None
    scheduled: bool = False


class Handover(NamedTuple):
    """What to give the agent: bytes on its input, files (name to content) in ipc/input, then the end of its input."""

    data: bytes = b""
    files: Mapping[str, bytes] = MappingProxyType({})
    eof: bool = False


class Contract(ABC):
    """What all contracts share: who has been handed what, and whose turn it is."""

    kind: ClassVar[str] = "stdout"  # of the events that raw output becomes
    structured: ClassVar[bool] = True
    marks: ClassVar[tuple[bytes, bytes] | None] = None  # lines around a unit, where a unit is not a line
    once: ClassVar[bool] = False  # takes one message a run
    input_ends: ClassVar[bool] = False  # the input ends after the first message
    uses_ipc: ClassVar[bool] = False

    def __init__(self, settings: Settings, state: dict[str, Any] | None = None) -> None:
        self.settings = settings
        self.state: dict[str, Any] = {"turn": "", "delivered": 0, **(state or {})}
        self.unread = 0  # units and files that the contract's reader failed at

    @abstractmethod
    def handover(self, message: Message) -> Handover:
        """Return how the agent is given the message. Changes nothing."""

    def close(self) -> Handover:
        """Return how the agent is asked to end after the present turn."""
        return Handover(eof=True)

    def read(self, unit: bytes) -> list[Event] | None:
        """Return the events of one unit of output, None where it is not the contract's structure (then it is raw).

        Whatever an agent writes, this raises nothing: its courier would start again at the same byte, for ever.
        """
        before = dict(self.state)
        try:
            return self._read(unit)
        except Exception as error:
            self.state = before
            self._failed(error)
            return None

    def finish(self, code: int, output: Callable[[], tuple[int, bytes | None]]) -> list[Event]:
        """Return the events of the agent's end. `output` gives its output's bytes and all of it, None above 8 MiB."""
        return []

    def file(self, folder: str, content: bytes) -> list[Event]:
        """Return the events of a file that the agent put into ipc/messages or ipc/tasks (`folder`). As `read`."""
        try:
            return self._file(folder, content)
        except Exception as error:
            self._failed(error)
            return [raw("stdout", content[:CHUNK_LIMIT])]

    def delivered(self, number: int) -> list[Event]:
        """Return the events that follow when the agent has been handed message `number`."""
        self.state["delivered"] = max(number, self.state["delivered"])
        return [Event("delivered", data={"number": number}), *self.turn("working")]

    def turn(self, state: str) -> list[Event]:
        """Return the event of a turn that begins ("working") or ends ("idle"), none when it was so already."""
        if self.state["turn"] == state:
            return []
        self.state["turn"] = state
        return [Event("turn", data={"state": state})]

    def session(self, name: Any) -> list[Event]:
        """Return the event for the id to resume with, none when it is known or no id."""
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ID or self.state.get("session") == name:
            return []
        self.state["session"] = name
        return [Event("session", data={"id": name})]

    def _read(self, unit: bytes) -> list[Event] | None:
        """As `read`, which stands around it."""
        return None

    def _file(self, folder: str, content: bytes) -> list[Event]:
        """As `file`, which stands around it."""
        return []

    def _failed(self, error: Exception) -> None:
        self.unread += 1
        if self.unread == 1:  # an agent may repeat it as often as it likes
            log("not read, so taken as raw output", problem=type(error).__name__)


def short_id(value: Any) -> str:
    """Return an agent's id as it may be remembered and repeated, "" for none.

    One that is longer than any real one becomes its length and checksum, which tell nothing of a secret in it.
    """
    if not isinstance(value, str) or len(value) <= MAX_ID:
        return value if isinstance(value, str) else ""
    return f"{len(value)} characters, {zlib.crc32(value.encode(errors='surrogatepass')):08x}"


def line(value: dict[str, Any]) -> bytes:
    """Return the value as a JSON line."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def load(unit: bytes) -> dict[str, Any] | None:
    """Return the JSON object that the bytes are, None if they are none, or too deep or too is_too_wide to be meant."""
    if (len(unit) > 2 * MAX_VALUES and is_too_wide(unit)) or (len(unit) > ASTRAL_LIMIT and ASTRAL.search(unit)):
        return None
    try:
        value = json.loads(unit)
    except (ValueError, RecursionError):
        return None
    if unit.count(b"[") + unit.count(b"{") > MAX_DEPTH and is_too_deep(value):
        return None
    return value if isinstance(value, dict) else None


def is_too_wide(unit: bytes) -> bool:
    """Tell whether JSON has more than MAX_VALUES values, by its commas and brackets outside of strings."""
    if _separators(unit, 0, len(unit)) <= MAX_VALUES:
        return False
    count = position = 0
    for string in STRING.finditer(unit):
        count += 1 + _separators(unit, position, string.start())
        position = string.end()
        if count > 2 * MAX_VALUES:
            return True
    return count + _separators(unit, position, len(unit)) > 2 * MAX_VALUES


def _separators(unit: bytes, start: int, end: int) -> int:
    return unit.count(b",", start, end) + unit.count(b"[", start, end) + unit.count(b"{", start, end)


def is_too_deep(value: Any) -> bool:
    """Tell whether lists and objects stand in each other more than MAX_DEPTH deep: others might fail to read it."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner = [v for item in level for v in (item.values() if isinstance(item, dict) else item)]
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return False
    return True
