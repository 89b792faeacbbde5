"""Secrets stay in the pod: every event passes here before it is written to the journal.

What an agent says bit by bit (raw output, parts of an answer) is a stream, in which a secret may be split over events;
everything else is looked at event by event. Events wait while the end of a stream may be the beginning of a secret.
Then the journal's state is that of the place before them: a courier that dies meanwhile leaves them to be read again.
"""

import base64
import binascii
import os
import time
from collections import deque
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from courier.events import Event, raw
from courier.log import log
from redaction.encodings import LONGEST
from redaction.pattern_search import strings
from redaction.secret_search import Scanner, checksum
from redaction.stream_redactor import Stream

HOLD = 0.5  # seconds that events wait at most
OURS = frozenset({"delivered", "turn", "exit", "gap"})  # kinds that hold nothing the agent wrote
STREAMED = frozenset({"text", "stdout", "stderr"})
CUT_OFF = 80  # bytes; a shorter string of an event was hardly cut off within a secret
VALUES = 4  # of one secret that are known at the same time: the present one, and those before it
STREAMS = 8  # that are remembered: raw output, and the agent with some subagents
TOKEN, EGRESS = "run-token", "egress-credential"


class Secrets:
    """The values of the run's secrets, its token and its credential at the egress proxy.

    `marks` tells them from others, as of the last `refresh`.

    A mark has a name and 16 bits, too few to tell anything of the value.
    """

    def __init__(self, folder: Path | None, token_file: Path, run: str = "") -> None:
        """`run` is the id of the run that the secrets are of."""
        self.folder, self.token_file, self.run = folder, token_file, run
        self.seen: list[tuple[str, tuple[int, ...]]] | None = None
        self.values: dict[str, list[bytes]] = {}
        self.marks: list[str] = []
        self._scanner: Scanner | None = None

    def refresh(self) -> None:
        """Read the files that have changed. What they held before is still secret."""
        files = self._files()
        seen = [(name, _signature(path)) for name, path in files]
        if seen == self.seen:
            return
        self.seen, self._scanner = seen, None
        for name, path in files:
            self._learn(name, path)
        self.marks = [
            f"{name}:{checksum(values[0]):04x}" for name, values in sorted(self.values.items()) if not self._dies(name)
        ]

    def scanner(self) -> Scanner:
        """Return the scanner for all values that the files have had; made when it is first needed."""
        if self._scanner is None:
            self._scanner = Scanner((name, value) for name, values in self.values.items() for value in values)
        return self._scanner

    def _dies(self, name: str) -> bool:
        """Whether a value is good for this run alone, so that nobody has to know it afterwards: a token, a stand-in."""
        return name in (TOKEN, EGRESS) or bool(self.run and self.values[name][0].startswith(f"{self.run}.".encode()))

    def _files(self) -> list[tuple[str, str]]:
        names = sorted(os.listdir(self.folder)) if self.folder and self.folder.is_dir() else []  # noqa: PTH208 (fast)
        ours = [(TOKEN, str(self.token_file))]
        if (egress := self.token_file.with_name("egress")).is_file():
            ours.append((EGRESS, str(egress)))
        return [*ours, *((name, f"{self.folder}/{name}") for name in names if name[0] != ".")]

    def _learn(self, name: str, path: str) -> None:
        try:
            with Path(path).open("rb") as file:
                value = file.read(LONGEST)
        except IsADirectoryError:
            return
        except OSError as error:
            log("secret not read, so not redacted", secret=name, problem=str(error))
            return
        if name == EGRESS and b"://" in value:  # the proxy's address: what is secret in it is the password
            value = unquote_to_bytes(urlsplit(value.decode(errors="replace")).password or "")
        before = [known for known in self.values.get(name, []) if known != value]
        self.values[name] = [value, *before][:VALUES]


class Held(NamedTuple):
    """A batch of events that waits: how many there are, and the state before them."""

    size: int
    before: Any
    memory: dict[str, Any]


class Lane:
    """What comes out of one spool, in order."""

    def __init__(self, secrets: Secrets, memory: dict[str, Any] | None = None) -> None:
        self.secrets = secrets
        self.streams = {name: Stream(kept) for name, kept in (memory or {}).items()}
        self.key = ""  # of the stream that the last event belongs to
        self.waiting: deque[tuple[Event, bytes]] = deque()  # of that stream
        self.done: list[tuple[Event | None, bool]] = []  # decided (None: nothing is left); a secret goes on in the next
        self.batches: deque[Held] = deque()
        self.until = float("inf")  # when those that wait are let go

    def sift(self, events: list[Event], before: Any, now: float, final: bool = False) -> list[Event]:
        """Take the next batch of events, before which the state was `before`; return what may be written, redacted."""
        if events:
            self.secrets.refresh()
            if not self.batches:
                self.until = now + HOLD
            self.batches.append(Held(len(events), before, self.memory()))
            for key, group in groupby(events, _key):
                self._add(key, list(group))
        if self.batches:
            self._take(final or now >= self.until)
        return self._released(now)

    def memory(self) -> dict[str, Any]:
        """Return what to remember of the streams."""
        kept = {key: stream.memory for key, stream in self.streams.items() if not stream.held}
        return {key: memory for key, memory in list(kept.items())[-STREAMS:] if memory}

    def whole(self, events: list[Event]) -> list[Event]:
        """Return the events without secrets, each looked at by itself."""
        scanner = self.secrets.scanner()
        texts = [text.encode(errors="surrogatepass") for event in events for text in _strings(event)]
        cut_off = any(scanner.cut_off(text) for text in texts if len(text) >= CUT_OFF)
        if not cut_off and scanner.clean(b"\0".join(texts)):
            return events
        return [Event(event.kind, _text(scanner, event.text), _data(scanner, event.data)) for event in events]

    def _add(self, key: str, events: list[Event]) -> None:
        if key != self.key:
            self._take(True)
            self.key = key
        if not key or not self.secrets.scanner().clean(key.encode(errors="surrogatepass")):
            self.key = ""
            self.done += [(event, False) for event in self.whole(events)]
            return
        stream = self.streams.pop(key, None) or Stream()
        self.streams[key] = stream  # as the last
        added = [(event, _bytes(event)) for event in events]
        self.waiting += added
        stream.push([content for _, content in added])

    def _take(self, settle: bool) -> None:
        if self.key:
            stream = self.streams[self.key]
            for content, tied in zip(stream.take(self.secrets.scanner(), settle), stream.tied, strict=False):
                event, before = self.waiting.popleft()
                self.done.append((event if content is before else _rebuilt(event, content), tied))

    def _released(self, now: float) -> list[Event]:
        """Return the events of the batches that are decided, up to one after which no secret goes on."""
        size = batches = ready = 0
        for number, batch in enumerate(self.batches, 1):
            size += batch.size
            if size > len(self.done):
                break
            if not self.done[size - 1][1]:
                batches, ready = number, size
        for _ in range(batches):
            self.batches.popleft()
        events = [event for event, _ in self.done[:ready] if event]
        del self.done[:ready]
        if batches:
            self.until = now + HOLD if self.batches else float("inf")
        while not self.batches and len(self.streams) > STREAMS:
            del self.streams[next(iter(self.streams))]
        return events


class Shield:
    """The lanes of one transcript. `state` is what to keep in the journal's state, under the name "redaction"."""

    def __init__(self, folder: Path | None, token_file: Path, state: Any = None, run: str = "") -> None:
        self.secrets = Secrets(folder, token_file, run)
        self.secrets.refresh()
        self.state_before = state if isinstance(state, dict) else {}
        memory = self.state_before.get("streams", {})
        self.lanes = {name: Lane(self.secrets, memory.get(name)) for name in ("out", "err")}

    def sift(self, name: str, events: list[Event], before: Any, final: bool = False) -> list[Event]:
        """As `Lane.sift`, for what came out of the spool of that name."""
        return self.lanes[name].sift(events, before, time.monotonic(), final)

    def all(self, events: list[Event]) -> list[Event]:
        """Return what waits, then the events, all redacted: something else is to be written now."""
        waited = [event for lane in self.lanes.values() for event in lane.sift([], None, time.monotonic(), True)]
        self.secrets.refresh()
        return waited + self.lanes["out"].whole(events)

    def before(self, name: str) -> Any:
        """Return the state before the first event of a spool that waits, None if none does."""
        batches = self.lanes[name].batches
        return batches[0].before if batches else None

    def due(self) -> float:
        """Return when events have waited long enough (monotonic seconds)."""
        return min(lane.until for lane in self.lanes.values())

    def state(self) -> dict[str, Any]:
        """Return what a restart needs, as of the last event that was let through."""
        streams = {name: lane.batches[0].memory if lane.batches else lane.memory() for name, lane in self.lanes.items()}
        kept: dict[str, Any] = {"streams": {name: memory for name, memory in streams.items() if memory}}
        return {"marks": self.secrets.marks, **(kept if kept["streams"] else {})}

    def lacks(self) -> bool:
        """Tell whether the courier that wrote the state knew secrets that are not known here."""
        return not set(self.state_before.get("marks", [])) <= set(self.secrets.marks)


def _signature(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116 (fast)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _key(event: Event) -> str:
    """Return the name of the stream that an event belongs to, "" if it is looked at by itself."""
    if event.kind not in STREAMED:
        return ""
    if event.data is None:
        return event.kind
    if set(event.data) == {"parent"}:
        return f"{event.kind} {event.data['parent']}"
    if set(event.data) == {"base64"}:
        content = _decoded(event.data["base64"])
        return event.kind if content is not None and raw(event.kind, content) == event else ""
    return ""


def _bytes(event: Event) -> bytes:
    if event.data and "base64" in event.data:
        return _decoded(event.data["base64"]) or b""
    return event.text.encode(errors="surrogatepass")


def _decoded(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return None


def _rebuilt(event: Event, content: bytes) -> Event | None:
    """Return the event of a stream with other content, None if there is none left."""
    if not content:
        return None
    if event.data and "parent" in event.data:
        return Event(event.kind, content.decode(errors="replace"), event.data)
    return raw(event.kind, content)


def _strings(event: Event) -> list[str]:
    return [] if event.kind in OURS else [event.text, *strings(event.data)]


def _text(scanner: Scanner, text: str) -> str:
    content = text.encode(errors="surrogatepass")
    redacted = scanner.redact(content)
    return text if redacted is content else redacted.decode(errors="replace")


def _data(scanner: Scanner, value: Any) -> Any:
    """Return a JSON value without secrets in its strings and keys."""
    if isinstance(value, str):
        return _text(scanner, value)
    if isinstance(value, list):
        return [_data(scanner, item) for item in value]
    if isinstance(value, dict):
        return {_text(scanner, key): _data(scanner, item) for key, item in value.items()}
    return value
