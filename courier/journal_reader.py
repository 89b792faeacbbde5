"""Reads a run's journal in batches for the control plane, beside its writer or after it."""

import json
from pathlib import Path
from typing import BinaryIO

from courier.journal import path_of, segments


class JournalReader:
    """One journal, from any event on."""

    MAX_BYTES = 1024 * 1024 - 4096  # of one request, less its frame, docs/courier-protocol.md
    MAX_EVENTS = 1000

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = 0  # the file that is being read, and how far
        self.offset = 0
        self.file: BinaryIO | None = None
        self.waiting: list[tuple[int, bytes]] = []  # read, not yet stored

    def batch(self, after: int) -> list[tuple[int, bytes]]:
        """Return (number, event) for the events after number `after`, as many as one request holds, [] for none yet."""
        if self.waiting and self.waiting[0][0] > after + 1:
            self.rewind()  # the control plane wants earlier ones again
        self.waiting = [item for item in self.waiting if item[0] > after]
        size = sum(len(event) + 1 for _, event in self.waiting)
        while len(self.waiting) < self.MAX_EVENTS and size < self.MAX_BYTES:
            more = self._next_events(after)
            if not more:
                break
            self.waiting += more
            size += sum(len(event) + 1 for _, event in more)
        size = 0
        for count, (number, event) in enumerate(self.waiting):
            size += len(event) + 1
            if count == self.MAX_EVENTS or (count and size > self.MAX_BYTES) or number != self.waiting[0][0] + count:
                return self.waiting[:count]
        return self.waiting[:]

    def rewind(self) -> None:
        """Read from the beginning again."""
        self._open(0)
        self.waiting = []

    def _next_events(self, after: int) -> list[tuple[int, bytes]]:
        """Return the events of the next record that has any, [] at the end."""
        while True:
            line = self._next_line(after)
            if line is None:
                return []
            head, *events = line.split(b"\t")
            if events:
                number = _number(head)
                wanted = [(number + index, event) for index, event in enumerate(events) if number + index > after]
                wanted = wanted if number else []
                if wanted:
                    return wanted

    def _next_line(self, after: int) -> bytes | None:
        """Return the next complete line, from the next file when this one has no more; None at the end."""
        while True:
            if line := self._read_line():
                return line
            firsts = segments(self.folder)
            if not firsts:
                return None
            if not self.first:
                self._open(max((first for first in firsts if first <= after + 1), default=firsts[0]))
                continue
            following = [first for first in firsts if first > self.first]
            if line := self._read_line():  # written between the first look and the start of the next file
                return line
            if not following:
                return None
            self._open(following[0])

    def _open(self, first: int) -> None:
        self.first, self.offset = first, 0
        self._close()

    def _close(self) -> None:
        if self.file:
            self.file.close()
            self.file = None

    def _read_line(self) -> bytes:
        """Return the next line of the file without its end, b"" while there is none."""
        if not self.first:
            return b""
        try:
            file = self.file = self.file or path_of(self.folder, self.first).open("rb")
        except FileNotFoundError:
            return b""
        file.seek(self.offset)
        line = file.readline()
        if not line.endswith(b"\n"):
            self._close()  # with what it has buffered: a record that is being written may yet be taken back
            return b""
        self.offset += len(line)
        return line[:-1]


def _number(head: bytes) -> int:
    """Return the number of a record's first event, 0 if its header can't be read: then its events are passed over."""
    try:
        return int(json.loads(head)["n"])
    except (ValueError, TypeError, KeyError):
        return 0
