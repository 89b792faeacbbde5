"""A run's journal: every event on the volume before it is sent, together with what a restart needs to go on.

A journal is a row of files `journal-<n>`, each named for the number of its first event. A line is one record, written
by one call: a header `{"n": number of its first event, "state": …}`, then its events, each after a tab. So a record
holds its events and the state after them, or does not exist; a torn last line is cut off. The state has the offsets in
the spools up to which the events go. Each file starts with a record without events, so the last one alone is enough.
"""

import errno
import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from courier.events import Event, dump, encode, split
from courier.log import log

SEGMENT = 4 * 1024 * 1024  # bytes; a file at least this long is followed by a new one
MAX_UNRECORDED = 1024 * 1024  # bytes of a spool that may be read without a record
ALWAYS_WRITTEN = frozenset({"delivered", "turn", "session", "exit"})  # written even above the bound: few and small
ASIDE = "unread-"  # begins the names of what was set aside
FULL = (errno.ENOSPC, errno.EDQUOT)


class Journal:
    """The one writer of a journal. `last` is the number of the last event, `state` what the last record holds.

    `append` belongs to one thread; `forget` may be called by another.
    """

    def __init__(self, folder: Path, limit: int, state: dict[str, Any]) -> None:
        """Open the journal in `folder`, or make it with this `state`; it holds at most about `limit` bytes."""
        self.folder, self.limit = folder, limit
        self.segment = min(SEGMENT, max(limit // 8, 4096))
        self.lock = threading.Lock()
        self.last = 0
        self.state = state
        self.gap = [0, 0]  # events and bytes that were left out since the last record
        self.recorded_position = 0  # total offset in the spools at the last record
        self.sizes = {first: path_of(folder, first).stat().st_size for first in segments(folder)}
        self.total = sum(self.sizes.values())
        self.fd = self._recover()

    def append(self, events: list[Event], state: dict[str, Any], position: int = 0) -> None:
        """Write the events and the state after them. `position` counts the bytes of the spools that `state` covers.

        Above the bound most events are left out, and a `gap` event tells how many. Waits while the volume is full.
        """
        written = []
        for event in (part for whole in events for part in split(whole)):
            if self.total >= self.limit and event.kind not in ALWAYS_WRITTEN:
                self.gap[0] += 1
                self.gap[1] += len(event.text)
                continue
            if self.gap[0]:
                written.append(self._gap_event())
            written.append(event)
        self._write(written, state, position)

    def close_gap(self, state: dict[str, Any]) -> None:
        """Tell of what was left out, if the bound leaves room again and nothing has been written since."""
        if self.gap[0] and self.total < self.limit:
            self._write([self._gap_event()], state, self.recorded_position)

    def skip_to(self, stored: int) -> None:
        """Go on after `stored`: the control plane holds events of this run of which this volume knows nothing."""
        self.last = max(self.last, stored)

    def forget(self, stored: int) -> None:
        """Delete the files whose events all have numbers up to `stored`; the last one stays."""
        with self.lock:
            firsts = sorted(self.sizes)
            for first, following in itertools.pairwise(firsts):
                if following <= stored + 1:
                    path_of(self.folder, first).unlink(missing_ok=True)
                    self.total -= self.sizes.pop(first)

    def close(self) -> None:
        """Close the last file."""
        os.close(self.fd)

    def _gap_event(self) -> Event:
        events, size = self.gap
        self.gap = [0, 0]
        return Event("gap", "the journal was full", {"events": events, "bytes": size})

    def _write(self, events: list[Event], state: dict[str, Any], position: int) -> None:
        if not events and self.recorded_position <= position < self.recorded_position + MAX_UNRECORDED:
            return
        if self.sizes[self.first] >= self.segment and self.last >= self.first:
            os.close(self.fd)
            self.fd = self._begin()
        at = time.time()
        state = {**state, "gap": self.gap}
        head = dump({"n": self.last + 1, "state": state})
        lines = [_encoded(self.last + index, event, at) for index, event in enumerate(events, 1)]
        self._put(b"\t".join([head, *lines]) + b"\n")
        self.last += len(events)
        self.state, self.recorded_position = state, position

    def _put(self, record: bytes) -> None:
        """Write one record, all or nothing; waits while the volume is full, and the agent with it."""
        size = self.sizes[self.first]
        done = 0
        while done < len(record):
            try:
                done += os.pwrite(self.fd, record[done:], size + done)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                os.ftruncate(self.fd, size)
                done = 0
                time.sleep(0.5)
        with self.lock:
            self.sizes[self.first] = size + len(record)
            self.total += len(record)

    def _begin(self) -> int:
        """Start the file for the events after `last`, with the state as its first record."""
        self.first = self.last + 1
        fd = os.open(path_of(self.folder, self.first), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        with self.lock:
            self.sizes[self.first] = 0
        self.fd = fd
        self._put(dump({"n": self.first, "state": self.state}) + b"\n")
        return fd

    def _recover(self) -> int:
        """Find the last record, cut off what is torn after it, and return the file to go on with."""
        for first in sorted(self.sizes, reverse=True):
            path = path_of(self.folder, first)
            size, line = last_line(path)
            if line:
                head, *events = line.split(b"\t")
                header = json.loads(head)
                self.first, self.last = first, header["n"] - 1 + len(events)
                self.state = header["state"]
                self.gap = list(self.state.get("gap", self.gap))
                fd = os.open(path, os.O_RDWR)
                if size < self.sizes[first]:
                    os.ftruncate(fd, size)
                    self.total += size - self.sizes[first]
                    self.sizes[first] = size
                return fd
            path.unlink()  # made a moment before the end: the file before it still has all
            self.total -= self.sizes.pop(first)
        return self._begin()


def _encoded(number: int, event: Event, at: float) -> bytes:
    """Return the event's line; one that can't be written is a gap, since it would be tried again for ever."""
    try:
        return encode(number, event, at)
    except Exception as error:
        log("event not written", kind=event.kind, problem=type(error).__name__)
        return encode(number, Event("gap", "it could not be written", {"events": 1, "bytes": len(event.text)}), at)


def path_of(folder: Path, first: int) -> Path:
    """Return where the journal's file is whose first event has number `first`."""
    return folder / f"journal-{first:012d}"


def segments(folder: Path) -> list[int]:
    """Return the numbers of the first events of the journal's files, in order."""
    return sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("journal-*"))


def set_aside(folder: Path) -> int:
    """Put away a journal that can't be read, with its spools, so that nobody reads it again; return its bytes."""
    size = 0
    for pattern in ("journal-*", "out-*", "err-*"):
        for path in folder.glob(pattern):
            size += path.stat().st_size
            path.rename(folder / f"{ASIDE}{path.name}")
    return size


def last_line(path: Path) -> tuple[int, bytes]:
    """Return the length of the complete lines of a file, and the last of them; (0, b"") if there is none."""
    with path.open("rb") as file:
        end = size = file.seek(0, os.SEEK_END)
        tail = b""
        while end and tail.count(b"\n") < 2:
            start = max(0, end - 65536)
            file.seek(start)
            tail = file.read(end - start) + tail
            end = start
    complete = tail.rfind(b"\n") + 1
    if not complete:
        return 0, b""
    return size - (len(tail) - complete), tail[tail.rfind(b"\n", 0, complete - 1) + 1 : complete - 1]
