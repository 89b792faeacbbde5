"""A session's transcript in a terminal, live: events become lines with a margin that says who speaks.

What agents and people wrote is never trusted with the terminal: escape sequences are taken out, and other characters
that one can't see are written out.
"""

import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sessions.choices import MessageState, SessionState
from sessions.events import event_log
from sessions.models import AgentSession, Message
from sessions.stream.markdown import visible

POLL_SECONDS = 0.2  # between two looks for news
MARGIN = 10  # columns for who speaks
LABELS = {
    "text": "agent", "result": "agent", "tool": "tool", "error": "error", "gap": "gap", "task": "task",
    "stdout": "out", "stderr": "err",
}  # fmt: skip
SILENT = frozenset({"delivered", "turn", "usage", "session", "exit"})  # say nothing to a person
RAW = frozenset({"stdout", "stderr"})
FLOWING = RAW | {"text"}  # come in pieces: the next one goes on where the last one ended
COLOUR_OF = {
    "message": "bold cyan", "text": "green", "result": "green", "tool": "magenta", "error": "bold red",
    "gap": "bold red", "task": "yellow", "stdout": "blue", "stderr": "red", "state": "dim",
}  # fmt: skip
# Escape sequences, whole (ECMA-48: CSI, OSC and the like, two characters), and the beginning of one at a text's end.
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])")
BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]{0,256}\x1b?|[ -/]*)?\Z")
CODES = {
    "bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours, or none."""

    on: bool = False

    def __call__(self, text: str, style: str) -> str:
        """`text` in a style such as "bold red"."""
        if not self.on or not style or not text:
            return text
        return f"\x1b[{';'.join(str(CODES[word]) for word in style.split())}m{text}\x1b[0m"


class Transcript:
    """Turns events into text for a terminal, one after the other."""

    def __init__(self, paint: Paint | None = None) -> None:
        self.paint = paint or Paint()
        self.open: tuple[str, Any] | None = None  # kind and run of the lines that go on
        self.at_start = True  # of a line
        self.begun: dict[tuple[str, Any], str] = {}  # escape sequences of raw output that a piece cut in two
        self.written = ""  # by the agent since its last answer, without spaces
        self.answer = ""  # parts of an answer that is not complete

    def put(self, event: dict[str, Any]) -> str:
        """What to write for an event; nothing for those that say nothing to a person."""
        kind, key = event["kind"], (event["kind"], event["run"])
        if kind in SILENT:
            return ""
        text = self._text(event, key)
        if not text.strip() and not (kind in FLOWING and self.open == key):
            return ""
        if kind in FLOWING:
            return self._flow(key, text)
        return self.end() + self._lines(kind, self._label(event), text)

    def end(self) -> str:
        """What ends a line that is not complete."""
        self.open = None
        ending, self.at_start = "" if self.at_start else "\n", True
        return ending

    def _text(self, event: dict[str, Any], key: tuple[str, Any]) -> str:
        """The event's text, without what could harm a terminal."""
        kind, text, data = event["kind"], event["text"], event["data"]
        if kind in RAW:
            text = self.begun.pop(key, "") + text
            cut = BEGUN.search(text)
            if cut:
                self.begun[key], text = cut.group(), text[: cut.start()]
        if kind == "tool":
            text = f"{text or 'tool'} {_brief(data.get('input' if data.get('phase') != 'result' else 'output'))}"
            text = f"{text} (failed)" if data.get("is_error") else text
        if kind == "gap":
            text = f"{text or 'Output is missing'} ({data.get('events', '?')} events, {data.get('bytes', '?')} bytes)"
        text = clean(text)
        if kind == "text":
            self.written += _squeezed(text)
        return self._unprinted(text, data) if kind == "result" else text

    def _unprinted(self, text: str, data: dict[str, Any]) -> str:
        """An answer, or nothing if it was read while it was written. A long one comes in parts."""
        part, parts = (value if type(value := data.get(name)) is int else 1 for name in ("part", "parts"))
        self.answer = text if part == 1 else self.answer + text
        if part < parts:
            return ""
        answer, written = self.answer, self.written
        self.answer = self.written = ""
        return "" if _squeezed(answer) in written else answer

    def _label(self, event: dict[str, Any]) -> str:
        if event["kind"] == "message":
            return clean(str(event["data"].get("sender") or "unknown")).replace("\n", " ")
        return LABELS.get(event["kind"], "" if event["kind"] == "state" else event["kind"])

    def _margin(self, kind: str, label: str) -> str:
        label = label if len(label) <= MARGIN else f"{label[: MARGIN - 1]}…"
        return f"{self.paint(label.rjust(MARGIN), COLOUR_OF.get(kind, ''))} {self.paint('│', 'dim')} "

    def _lines(self, kind: str, label: str, text: str) -> str:
        """A block of whole lines."""
        style = "dim" if kind == "state" else "bold red" if kind in ("error", "gap") else ""
        out = []
        for line in text.strip("\n").rstrip().split("\n"):
            out.append(f"{self._margin(kind, label)}{self.paint(line, style)}\n")
            label = ""
        return "".join(out)

    def _flow(self, key: tuple[str, Any], text: str) -> str:
        """A piece of what goes on."""
        kind = key[0]
        out, label = [], ""
        if self.open != key:
            out.append(self.end())
            self.open, label = key, LABELS[kind]
            text = text.lstrip("\n")
        for line in text.splitlines(keepends=True):
            if self.at_start:
                out.append(self._margin(kind, label))
                label = ""
            out.append(line)
            self.at_start = line.endswith("\n")
        return "".join(out)


def clean(text: str) -> str:
    """`text` as it may be written to a terminal: lines, tabs, and nothing that moves the cursor or hides."""
    return visible(re.sub(r"\r+\n?", "\n", ESCAPE.sub("", text)).replace("\u2028", "\n").replace("\u2029", "\n"))


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _brief(value: Any, length: int = 100) -> str:
    """A tool's input or output in a line."""
    held = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value
    line = " ".join(str("" if held is None else held).split())
    return line if len(line) <= length else f"{line[:length]}…"


def pages(session_id: uuid.UUID, after: int = 0, *, until_idle: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Page after page of a session's events after a cursor, then what comes, for ever.

    Yields an empty page when there is no news, a few times a second. Ends when the session was deleted; with
    `until_idle` when the agent has nothing to do, and all that it said was yielded.
    """
    while True:
        idle = until_idle and is_at_rest(session_id)  # looked at first: what led to it is stored by then
        last = AgentSession.objects.filter(pk=session_id).values_list("last_seq", flat=True).first()
        if last is None:
            return
        while after < last and (page := event_log.read(session_id, after)):
            yield page
            after = page[-1]["seq"]
        if idle:
            return
        yield []
        wait()


def wait() -> None:
    """Wait until the next look."""
    time.sleep(POLL_SECONDS)


def is_at_rest(session_id: uuid.UUID) -> bool:
    """Whether nothing happens until a person acts: all is answered or given up."""
    state = AgentSession.objects.filter(pk=session_id).values_list("state", flat=True).first()
    if state not in (SessionState.IDLE, SessionState.WAITING):
        return state == SessionState.FAILED
    open_ones = Message.objects.filter(session=session_id, state__in=(MessageState.QUEUED, MessageState.DELIVERED))
    return not open_ones.exists()
