"""Berth's own contract: JSON lines both ways.

In: {"type": "message", "number", "text", "sender"}, {"type": "close"}.
Out: {"type": "text" | "result" | "error", "text"}, {"type": "idle", "number"?}, {"type": "tool", "name", "phase", "id",
"input", "output", "is_error"}, {"type": "usage", …}, {"type": "session", "id"}. `number` is the last message that the
agent has handled: while it is lower than the last one delivered, the turn goes on.
"""

from typing import Any

from courier.contracts.base import Contract, Handover, Message, line, load, short_id
from courier.events import Event

TEXT_KINDS = {"text", "result", "error"}


class Jsonl(Contract):
    """Lines of an agent that was written for Berth."""

    def handover(self, message: Message) -> Handover:
        content = {"type": "message", "number": message.number, "text": message.text, "sender": message.sender}
        return Handover(line(content))

    def close(self) -> Handover:
        return Handover(line({"type": "close"}), eof=True)

    def _read(self, unit: bytes) -> list[Event] | None:
        value = load(unit)
        if value is None:
            return None
        kind = value.pop("type", None)
        if not isinstance(kind, str):
            return None
        if kind in TEXT_KINDS:
            return self._text_event(kind, value)
        if kind == "idle":
            number = value.get("number")
            behind = isinstance(number, int) and number < self.state["delivered"]
            return [] if behind else self.turn("idle")
        if kind == "tool" and isinstance(value.get("name"), str):
            return [Event("tool", value.pop("name"), value)]
        if kind == "usage":
            return [Event("usage", data=value)]
        if kind == "session" and isinstance(value.get("id"), str):
            return self.session(value["id"])
        return None

    def _text_event(self, kind: str, value: dict[str, Any]) -> list[Event] | None:
        text = value.pop("text", None)
        if "parent" in value:
            value["parent"] = short_id(value["parent"])
        return [Event(kind, text, value or None)] if isinstance(text, str) else None
