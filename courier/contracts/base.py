"""The interface of a contract: pure, so that recorded exchanges can test it.

A contract is handed messages and units of the agent's output, and answers with what to hand over and with events. What
it must remember across a restart of the courier is in `state`, which goes into every record of the journal.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from courier.events import Event
from courier.settings import Settings

LEVELS = 200  # of JSON within JSON; Python's own reader ends at about 1,000, and the control plane adds a few


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

    @abstractmethod
    def hand(self, message: Message) -> Handover:
        """Return how the agent is given the message. Changes nothing."""

    def close(self) -> Handover:
        """Return how the agent is asked to end after the present turn."""
        return Handover(eof=True)

    def read(self, unit: bytes) -> list[Event] | None:
        """Return the events of one unit of output, None where it is not the contract's structure (then it is raw)."""
        return None

    def finish(self, code: int, output: Callable[[], bytes | None]) -> list[Event]:
        """Return the events of the agent's end. `output` gives all of its output, None when that is above 256 KiB."""
        return []

    def file(self, folder: str, content: bytes) -> list[Event]:
        """Return the events of a file that the agent put into ipc/messages or ipc/tasks (`folder`)."""
        return []

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
        if not isinstance(name, str) or not name or self.state.get("session") == name:
            return []
        self.state["session"] = name
        return [Event("session", data={"id": name})]


def line(value: dict[str, Any]) -> bytes:
    """Return the value as a JSON line."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def load(unit: bytes) -> dict[str, Any] | None:
    """Return the JSON object that the bytes are, None if they are none or nested beyond all sense."""
    try:
        value = json.loads(unit)
    except (ValueError, RecursionError):
        return None
    if unit.count(b"[") + unit.count(b"{") > LEVELS and deep(value):
        return None
    return value if isinstance(value, dict) else None


def deep(value: Any) -> bool:
    """Tell whether lists and objects stand in each other more than LEVELS deep: others might not be able to read it."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(LEVELS):
        inner = [v for item in level for v in (item.values() if isinstance(item, dict) else item)]
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def make(name: str, settings: Settings, state: dict[str, Any] | None = None) -> Contract:
    """Return the contract of that name, with the state of an earlier courier. Raises ValueError for an unknown name.

    Imports the one that is used, since each run pays for what it loads.
    """
    if name == "plain":
        from courier.contracts.plain import Plain

        return Plain(settings, state)
    if name == "jsonl":
        from courier.contracts.jsonl import Jsonl

        return Jsonl(settings, state)
    if name == "claude":
        from courier.contracts.claude import Claude

        return Claude(settings, state)
    if name == "nanoclaw":
        from courier.contracts.nanoclaw import Nanoclaw

        return Nanoclaw(settings, state)
    raise ValueError(f"unknown contract {name!r}")
