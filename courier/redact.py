"""Secrets stay in the pod: every event passes here before it is written to the journal.

What an agent says bit by bit (raw output, parts of an answer) is a stream, in which a secret may be split over events;
everything else is searched event by event. Events wait while the end of a stream may be the beginning of a secret.
Then the journal's state is that before them: a courier that dies meanwhile leaves them to be read again.
"""

import base64
import binascii
import os
import time
from collections import deque
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from courier.events import Event, raw
from courier.log import log
from redaction.encodings import MAX_VALUE
from redaction.json_strings import json_strings, map_strings
from redaction.secret_search import SecretSearch, checksum
from redaction.stream_redactor import StreamRedactor

MAX_HOLD = 0.5  # seconds that events wait at most
COURIER_KINDS = frozenset({"delivered", "turn", "exit", "gap"})  # kinds that hold nothing the agent wrote
STREAM_KINDS = frozenset({"text", "stdout", "stderr"})
MIN_TRUNCATED = 80  # bytes; a shorter string of an event was hardly cut off within a secret
VALUES_PER_SECRET = 4  # of one secret that are known at the same time: the present one, and those before it
MAX_STREAMS = 8  # that are remembered: raw output, and the agent with some subagents
TOKEN, EGRESS = "run-token", "egress-credential"


class RunSecrets:
    """The values of the run's secrets, its token and its credential at the egress proxy.

    `fingerprints` are those of the last `refresh`: a name and 16 bits, too few to tell anything of the value.
    """

    def __init__(self, folder: Path | None, token_file: Path, run: str = "") -> None:
        """`run` is the id of the run that the secrets are of."""
        self.folder, self.token_file, self.run = folder, token_file, run
        self.signatures: list[tuple[str, tuple[int, ...]]] | None = None
        self.values: dict[str, list[bytes]] = {}
        self.fingerprints: list[str] = []
        self._search: SecretSearch | None = None

    def refresh(self) -> None:
        """Read the files that have changed. What they held before is still secret."""
        files = self._files()
        signatures = [(name, _signature(path)) for name, path in files]
        if signatures == self.signatures:
            return
        self.signatures, self._search = signatures, None
        for name, path in files:
            self._read(name, path)
        self.fingerprints = [
            f"{name}:{checksum(values[0]):04x}"
            for name, values in sorted(self.values.items())
            if not self._is_run_scoped(name)
        ]

    def search(self) -> SecretSearch:
        """Return the search for all values that the files have had; made when it is first needed."""
        if self._search is None:
            self._search = SecretSearch((name, value) for name, values in self.values.items() for value in values)
        return self._search

    def _is_run_scoped(self, name: str) -> bool:
        """Whether a value is good for this run alone, so that nobody has to know it afterwards: a token, a stand-in."""
        return name in (TOKEN, EGRESS) or bool(self.run and self.values[name][0].startswith(f"{self.run}.".encode()))

    def _files(self) -> list[tuple[str, str]]:
        names = sorted(os.listdir(self.folder)) if self.folder and self.folder.is_dir() else []  # noqa: PTH208 (fast)
        ours = [(TOKEN, str(self.token_file))]
        if (egress := self.token_file.with_name("egress")).is_file():
            ours.append((EGRESS, str(egress)))
        return [*ours, *((name, f"{self.folder}/{name}") for name in names if name[0] != ".")]

    def _read(self, name: str, path: str) -> None:
        try:
            with Path(path).open("rb") as file:
                value = file.read(MAX_VALUE)
        except IsADirectoryError:
            return
        except OSError as error:
            log("secret not read, so not redacted", secret=name, problem=str(error))
            return
        if name == EGRESS and b"://" in value:  # the proxy's address: what is secret in it is the password
            value = unquote_to_bytes(urlsplit(value.decode(errors="replace")).password or "")
        before = [known for known in self.values.get(name, []) if known != value]
        self.values[name] = [value, *before][:VALUES_PER_SECRET]


class PendingBatch(NamedTuple):
    """A batch of events that waits: how many there are, and the state before them."""

    size: int
    state_before: Any
    checkpoints: dict[str, Any]


class SpoolRedactor:
    """What comes out of one spool, in order."""

    def __init__(self, secrets: RunSecrets, checkpoints: dict[str, Any] | None = None) -> None:
        self.secrets = secrets
        self.streams = {name: StreamRedactor(checkpoint) for name, checkpoint in (checkpoints or {}).items()}
        self.key = ""  # of the stream that the last event belongs to
        self.waiting: deque[tuple[Event, bytes]] = deque()  # of that stream
        self.decided: list[tuple[Event | None, bool]] = []  # None: nothing is left; a secret goes on in the next
        self.batches: deque[PendingBatch] = deque()
        self.release_at = float("inf")  # when those that wait are let go

    def redact(self, events: list[Event], state_before: Any, now: float, final: bool = False) -> list[Event]:
        """Take the next batch of events; return what may be written, redacted."""
        if events:
            self.secrets.refresh()
            if not self.batches:
                self.release_at = now + MAX_HOLD
            self.batches.append(PendingBatch(len(events), state_before, self.checkpoints()))
            for key, group in groupby(events, _stream_key):
                self._add(key, list(group))
        if self.batches:
            self._release(final or now >= self.release_at)
        return self._pop_decided(now)

    def checkpoints(self) -> dict[str, Any]:
        """Return what to remember of the streams."""
        checkpoints = {key: stream.checkpoint for key, stream in self.streams.items() if not stream.is_holding}
        return {key: checkpoint for key, checkpoint in list(checkpoints.items())[-MAX_STREAMS:] if checkpoint}

    def redact_separately(self, events: list[Event]) -> list[Event]:
        """Return the events without secrets, each searched by itself."""
        search = self.secrets.search()
        texts = [text.encode(errors="surrogatepass") for event in events for text in _strings(event)]
        cut_off = any(search.truncated_secret(text) for text in texts if len(text) >= MIN_TRUNCATED)
        if not cut_off and search.is_clean(b"\0".join(texts)):
            return events
        return [
            Event(event.kind, _text(search, event.text), map_strings(partial(_text, search), event.data))
            for event in events
        ]

    def _add(self, key: str, events: list[Event]) -> None:
        if key != self.key:
            self._release(True)
            self.key = key
        if not key or not self.secrets.search().is_clean(key.encode(errors="surrogatepass")):
            self.key = ""
            self.decided += [(event, False) for event in self.redact_separately(events)]
            return
        stream = self.streams.pop(key, None) or StreamRedactor()
        self.streams[key] = stream  # as the last
        added = [(event, _bytes(event)) for event in events]
        self.waiting += added
        stream.feed([content for _, content in added])

    def _release(self, flush: bool) -> None:
        if self.key:
            stream = self.streams[self.key]
            for content, continues in zip(stream.release(self.secrets.search(), flush), stream.continues, strict=False):
                event, before = self.waiting.popleft()
                self.decided.append((event if content is before else _rebuilt(event, content), continues))

    def _pop_decided(self, now: float) -> list[Event]:
        """Return the events of the batches that are decided, up to one after which no secret goes on."""
        size = batches = ready = 0
        for number, batch in enumerate(self.batches, 1):
            size += batch.size
            if size > len(self.decided):
                break
            if not self.decided[size - 1][1]:
                batches, ready = number, size
        for _ in range(batches):
            self.batches.popleft()
        events = [event for event, _ in self.decided[:ready] if event]
        del self.decided[:ready]
        if batches:
            self.release_at = now + MAX_HOLD if self.batches else float("inf")
        while not self.batches and len(self.streams) > MAX_STREAMS:
            del self.streams[next(iter(self.streams))]
        return events


class TranscriptRedactor:
    """The redactors of one transcript's spools. `state` goes into the journal's state, under the name "redaction"."""

    def __init__(self, folder: Path | None, token_file: Path, state: Any = None, run: str = "") -> None:
        self.secrets = RunSecrets(folder, token_file, run)
        self.secrets.refresh()
        self.restored = state if isinstance(state, dict) else {}
        checkpoints = self.restored.get("streams", {})
        self.spools = {name: SpoolRedactor(self.secrets, checkpoints.get(name)) for name in ("out", "err")}

    def redact(self, name: str, events: list[Event], state_before: Any, final: bool = False) -> list[Event]:
        """As `SpoolRedactor.redact`, for what came out of the spool of that name."""
        return self.spools[name].redact(events, state_before, time.monotonic(), final)

    def flush_and_redact(self, events: list[Event]) -> list[Event]:
        """Return what waits, then the events, all redacted: something else is to be written now."""
        waited = [event for spool in self.spools.values() for event in spool.redact([], None, time.monotonic(), True)]
        self.secrets.refresh()
        return waited + self.spools["out"].redact_separately(events)

    def state_before(self, name: str) -> Any:
        """Return the state before the first event of a spool that waits, None if none does."""
        batches = self.spools[name].batches
        return batches[0].state_before if batches else None

    def due(self) -> float:
        """Return when events have waited long enough (monotonic seconds)."""
        return min(spool.release_at for spool in self.spools.values())

    def state(self) -> dict[str, Any]:
        """Return what a restart needs, as of the last event that was let through."""
        streams = {
            name: spool.batches[0].checkpoints if spool.batches else spool.checkpoints()
            for name, spool in self.spools.items()
        }
        streams = {name: checkpoints for name, checkpoints in streams.items() if checkpoints}
        return {"marks": self.secrets.fingerprints, **({"streams": streams} if streams else {})}

    def lacks_secrets(self) -> bool:
        """Tell whether the courier that wrote the state knew secrets that are not known here."""
        return not set(self.restored.get("marks", [])) <= set(self.secrets.fingerprints)


def _signature(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116 (fast)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _stream_key(event: Event) -> str:
    """Return the name of the stream that an event belongs to, "" if it is searched by itself."""
    if event.kind not in STREAM_KINDS:
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
    return [] if event.kind in COURIER_KINDS else [event.text, *json_strings(event.data)]


def _text(search: SecretSearch, text: str) -> str:
    content = text.encode(errors="surrogatepass")
    redacted = search.redact(content)
    return text if redacted is content else redacted.decode(errors="replace")
