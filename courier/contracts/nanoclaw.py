"""NanoClaw's agent image: one JSON object on its input, follow-ups as files, answers between markers.

It reads its input to the end before anything else, so that is closed after the first message. It reads files of
ipc/input every 0.5 s in the order of their names, and ends some 5 s after an empty file `_close`.
"""

import time
from pathlib import Path
from typing import Any

from courier.contracts.base import Contract, Handover, Message, line, load
from courier.events import Event
from courier.log import log

START, END = b"---NANOCLAW_OUTPUT_START---", b"---NANOCLAW_OUTPUT_END---"
SECRET_LIMIT = 64 * 1024  # bytes of one secret


class Nanoclaw(Contract):
    """One triple of lines for each turn; `result` null marks the end of a turn without text."""

    marks = (START, END)
    input_ends = True
    uses_ipc = True

    def handover(self, message: Message) -> Handover:
        if self.state["delivered"]:
            # Milliseconds keep the order among NanoClaw's own names, the number makes the name one of its own.
            name = f"{time.time_ns() // 1_000_000}-{message.number:08d}.json"
            return Handover(files={name: line({"type": "message", "text": message.text})})
        content: dict[str, Any] = {
            "prompt": message.text,
            "groupFolder": self.settings.group,
            "chatJid": self.settings.session,
            "isMain": self.settings.main,
            "isScheduledTask": message.scheduled,
            "secrets": read_secrets(self.settings.secrets),
        }
        if self.settings.resume:
            content["sessionId"] = self.settings.resume
        return Handover(line(content), eof=True)

    def close(self) -> Handover:
        return Handover(files={"_close": b""}) if self.state["delivered"] else Handover(eof=True)

    def _read(self, unit: bytes) -> list[Event] | None:
        stripped = unit.strip()
        if not stripped.startswith(START) or not stripped.endswith(END):
            return None
        value = load(stripped[len(START) : -len(END)])
        if value is None or "status" not in value:
            return None
        events = self.session(value.get("newSessionId"))
        if isinstance(value.get("result"), str):
            events.append(Event("result", value["result"]))
        if value["status"] == "error":
            events.append(Event("error", str(value.get("error") or "unknown error")))
        return [*events, *self.turn("idle")]

    def _file(self, folder: str, content: bytes) -> list[Event]:
        text = content.decode(errors="replace")
        if folder == "tasks":
            return [Event("task", text)]
        value = load(content)
        if value is None or not isinstance(value.get("text"), str):
            return [Event("result", text, {"source": "ipc"})]
        extra = {name: item for name, item in value.items() if name not in ("text", "type")}
        return [Event("result", value["text"], {**extra, "source": "ipc"})]


def read_secrets(folder: Path | None) -> dict[str, str]:
    """Return name and content of the files in `folder` that are named like environment variables."""
    if folder is None or not folder.is_dir():
        return {}
    secrets = {}
    for path in sorted(folder.iterdir()):
        if path.name.isidentifier() and path.is_file():
            try:
                with path.open(errors="replace") as file:
                    secrets[path.name] = file.read(SECRET_LIMIT).rstrip("\n")
            except OSError as error:
                log("secret not read, so not handed over", secret=path.name, problem=str(error))
    return secrets
