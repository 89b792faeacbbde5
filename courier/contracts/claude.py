"""Claude Code's own stream-json, both ways: the unmodified CLI is an agent.

Made by `claude -p --input-format stream-json --output-format stream-json --verbose --include-partial-messages`, where
the last may be missing: then text comes from whole messages.
"""

from typing import Any

from courier.contracts.base import MAX_ID, Contract, Handover, Message, line, load, short_id
from courier.events import Event

MAX_REMEMBERED = 16  # messages whose text has been streamed, and tools that have no result yet
MAX_REMEMBERED_SIZE = 2048  # characters of all of them; each record of the journal has them
COUNTS = ("num_turns", "duration_ms", "total_cost_usd")


class Claude(Contract):
    """Lines of Claude Code 2. `streamed` has the messages whose text came in deltas, `tools` names by call id."""

    def handover(self, message: Message) -> Handover:
        content = [{"type": "text", "text": message.text}]
        return Handover(line({"type": "user", "message": {"role": "user", "content": content}}))

    def _read(self, unit: bytes) -> list[Event] | None:
        value = load(unit)
        if value is None:
            return None
        readers = {
            "system": self._system,
            "stream_event": self._delta,
            "assistant": self._assistant,
            "user": self._user,
            "result": self._result,
        }
        reader = readers.get(str(value.get("type")))
        return reader(value) if reader else None

    def _system(self, value: dict[str, Any]) -> list[Event]:
        if value.get("subtype") != "init":
            return []
        return [*self.session(value.get("session_id")), *self.turn("working")]

    def _delta(self, value: dict[str, Any]) -> list[Event]:
        event = _object(value.get("event"))
        agent = short_id(value.get("parent_tool_use_id"))
        if event.get("type") == "message_start":
            self._remember("open", agent, short_id(_object(event.get("message")).get("id")))
        delta = _object(event.get("delta"))
        text = delta.get("text")
        if event.get("type") != "content_block_delta" or delta.get("type") != "text_delta" or not isinstance(text, str):
            return []
        self._remember("streamed", self.state.get("open", {}).get(agent, ""), agent)
        return [Event("text", text, _parent(value))] if text else []

    def _assistant(self, value: dict[str, Any]) -> list[Event]:
        message = _object(value.get("message"))
        name = short_id(message.get("id"))
        events = []
        for block in _blocks(message):
            streamed = name != "" and name in self.state.get("streamed", {})
            if block.get("type") == "text" and block.get("text") and not streamed:
                events.append(Event("text", str(block["text"]), _parent(value)))
            elif block.get("type") == "tool_use":
                call, tool = short_id(block.get("id")), str(block.get("name") or "")
                self._remember("tools", call, tool[:MAX_ID])
                data = {"phase": "use", "id": call, "input": block.get("input"), **(_parent(value) or {})}
                events.append(Event("tool", tool, data))
        return events

    def _user(self, value: dict[str, Any]) -> list[Event]:
        events = []
        for block in _blocks(_object(value.get("message"))):
            if block.get("type") != "tool_result":
                continue
            call = short_id(block.get("tool_use_id"))
            data = {"phase": "result", "id": call, "output": _plain(block.get("content"))}
            data |= {"is_error": bool(block.get("is_error")), **(_parent(value) or {})}
            events.append(Event("tool", self.state.get("tools", {}).get(call, ""), data))
        return events

    def _result(self, value: dict[str, Any]) -> list[Event]:
        text = value.get("result")
        if value.get("is_error") or not isinstance(text, str):
            errors = value.get("errors")
            problems = [str(problem) for problem in (errors if isinstance(errors, list) else [])]
            message = text if isinstance(text, str) and text else "; ".join(problems) or str(value.get("subtype") or "")
            event = Event("error" if value.get("is_error", True) else "result", message)
        else:
            event = Event("result", text)
        counts = {name: value[name] for name in COUNTS if name in value}
        usage = {**_object(value.get("usage")), **counts}
        events = [*self.session(value.get("session_id")), event]
        return [*events, *([Event("usage", data=usage)] if usage else []), *self.turn("idle")]

    def _remember(self, table: str, key: str, word: str) -> None:
        before = self.state.get(table, {})
        if next(reversed(before), None) == key and before[key] == word:
            return
        pairs = [*[pair for pair in before.items() if pair[0] != key][-MAX_REMEMBERED + 1 :], (key, word)]
        while sum(len(name) + len(value) for name, value in pairs) > MAX_REMEMBERED_SIZE:
            del pairs[0]
        self.state[table] = dict(pairs)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _parent(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the tool call in which a subagent speaks."""
    parent = value.get("parent_tool_use_id")
    return {"parent": short_id(parent)} if isinstance(parent, str) else None


def _plain(content: Any) -> Any:
    """Return a tool's result as text where it is nothing else."""
    blocks = content if isinstance(content, list) else []
    if blocks and all(isinstance(block, dict) and isinstance(block.get("text"), str) for block in blocks):
        return "".join(block["text"] for block in blocks)
    return content
