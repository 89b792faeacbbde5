"""From bytes to events: structured units as the contract reads them, everything else as raw chunks.

A chunk goes out at once when the last one is 50 ms ago, otherwise 50 ms after it; the rest of a line that lacks its end
waits 50 ms for it. `offset` only ever stands where a fresh parser can go on, given `inside`.
"""

from collections.abc import Callable

from courier.events import CHUNK_LIMIT, Event, raw, whole_characters

CHUNK_INTERVAL = 0.05  # seconds between chunks of raw output, docs/courier-protocol.md
LINE_LIMIT = 8 * 1024 * 1024  # bytes of one structured unit, docs/courier-protocol.md
NEVER = float("inf")

UnitReader = Callable[[bytes], "list[Event] | None"]


class Parser:
    """One stream. Feed it bytes, then ask for events; `due` tells when to ask again without new bytes.

    `read` turns a unit into events, or None where it is not the contract's; a unit is a line that starts with "{" or,
    with `marks`, all from a line that is the first mark to one that is the second. Without `read` all is raw.
    """

    def __init__(
        self,
        kind: str,
        offset: int = 0,
        inside: bool = False,
        read: UnitReader | None = None,
        marks: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.kind, self.offset, self.read, self.marks = kind, offset, read, marks
        self.inside = inside  # the byte before `offset` is not the end of a line
        self.buffer = bytearray()
        self.start = 0  # of what is not yet in events
        self.raw_end = 0  # what stands before it is raw
        self.line = 0  # start of the line that has no end yet
        self.searched = 0  # no line ends after it
        self.headless = inside  # the line at `raw_end` lacks its beginning, so it is raw
        self.in_block = False
        self.flushed_at = 0.0  # when the last chunk went out
        self.lines_waiting = False  # for the pause between chunks to be over
        self.rest_due = NEVER  # when the rest of an unfinished line goes out

    def feed(self, data: bytes) -> None:
        """Add the stream's next bytes."""
        self.buffer += data

    def events(self, now: float, final: bool = False) -> list[Event]:
        """Return what is due at `now` (monotonic seconds); with `final` everything, since no more bytes will come."""
        output: list[Event] = []
        if self.read:
            self._scan(output)
            if final and self.raw_end < len(self.buffer) and not self.headless:
                self._unit(output, len(self.buffer))
        self._flush(output, now, final)
        del self.buffer[: self.start]
        self.raw_end = max(0, self.raw_end - self.start)
        self.line = max(0, self.line - self.start)
        self.searched = max(0, self.searched - self.start)
        self.start = 0
        return output

    def due(self) -> float:
        """Return when raw output waits to go out (monotonic seconds), infinity if nothing waits for time."""
        return min(self.flushed_at + CHUNK_INTERVAL, self.rest_due) if self.lines_waiting else self.rest_due

    def _scan(self, output: list[Event]) -> None:
        """UnitReader the lines that are complete: into events, or up to `raw_end` as raw."""
        while end := self.buffer.find(b"\n", self.searched) + 1:
            start, self.line, self.searched = self.line, end, end
            if self.headless or not self._opens(start, end):
                self.headless, self.raw_end = False, end
            elif not self.marks or self._closes(start, end):
                self._unit(output, end)
        self.searched = len(self.buffer)
        if self.in_block and len(self.buffer) - self.raw_end > LINE_LIMIT:
            self.in_block, self.raw_end = False, self.buffer.rfind(b"\n") + 1

    def _opens(self, start: int, end: int) -> bool:
        """Tell whether the line can be (part of) a unit."""
        if not self.marks:
            return self.buffer[start] == 0x7B and end - start <= LINE_LIMIT  # "{"
        if not self.in_block:
            self.in_block = self.buffer[start:end].strip() == self.marks[0]
        return self.in_block

    def _closes(self, start: int, end: int) -> bool:
        return self.marks is not None and self.buffer[start:end].strip() == self.marks[1]

    def _unit(self, output: list[Event], end: int) -> None:
        """UnitReader the unit from `raw_end` to `end`; what stands before it goes out first."""
        events = self.read(bytes(self.buffer[self.raw_end : end])) if self.read else None
        if events is not None:
            while self.start < self.raw_end:
                self._emit(output, self._chunk_end(self.raw_end))
            output.extend(events)
            self._advance(end)
        self.in_block, self.raw_end = False, end

    def _flush(self, output: list[Event], now: float, final: bool) -> None:
        """Put raw output into chunks, as far as it is due."""
        end = len(self.buffer)
        if self.read and not final and self._may_become_unit():
            end = self.raw_end
        while end - self.start >= CHUNK_LIMIT or (final and self.start < end):
            self._emit(output, self._chunk_end(end))
            self.flushed_at = now
        lines = self.buffer.rfind(b"\n", self.start, end) + 1
        if lines > self.start and now >= self.flushed_at + CHUNK_INTERVAL:
            self._emit(output, lines)
            self.flushed_at = now
        self.lines_waiting = lines > self.start
        if max(lines, self.start) == end:
            self.rest_due = NEVER
        elif self.rest_due == NEVER:
            whole = whole_characters(self.buffer, end, self.start)
            self.rest_due = now + CHUNK_INTERVAL if whole > max(lines, self.start) else NEVER
        elif now >= self.rest_due:
            whole = whole_characters(self.buffer, end, self.start)
            if whole > self.start:
                self._emit(output, whole)
                self.flushed_at, self.lines_waiting = now, False
            self.rest_due = NEVER

    def _may_become_unit(self) -> bool:
        """Tell whether the unfinished line may still become a unit."""
        rest = len(self.buffer) - self.raw_end
        if not rest or self.headless:
            return False
        if not self.marks:
            return self.buffer[self.raw_end] == 0x7B and rest <= LINE_LIMIT
        return self.in_block or self.marks[0].startswith(bytes(self.buffer[self.raw_end : self.raw_end + 100]))

    def _chunk_end(self, end: int) -> int:
        """Return where the next chunk ends: `end`, or after the last line that fits, or where no character is cut."""
        stop = self.start + CHUNK_LIMIT
        if stop >= end:
            return end
        return self.buffer.rfind(b"\n", self.start, stop) + 1 or whole_characters(self.buffer, stop, self.start)

    def _emit(self, output: list[Event], end: int) -> None:
        output.append(raw(self.kind, bytes(self.buffer[self.start : end])))
        self._advance(end)
        if end > self.raw_end:
            self.raw_end = self.line = end
            self.headless = self.inside

    def _advance(self, end: int) -> None:
        self.inside = self.buffer[end - 1] != 0x0A
        self.offset += end - self.start
        self.start = end
