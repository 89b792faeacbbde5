"""Text that comes in pieces, without the secrets: also those that are split over pieces.

A piece is held back as long as the end of the text so far may be the beginning of a secret. When that takes too long,
or something else follows, `settle` ends it: a beginning so short that it tells little is shown, a longer one replaced.
Either way it is remembered (the `ghost`), so that the rest is replaced too, should it come after all.
"""

from typing import Any

from redaction.invisible import LINE_ENDS, squeeze, unseen
from redaction.secret_search import Scanner, checksum
from redaction.spans import Span, label, merged

BEFORE_LINE_END = 3  # bytes of a beginning that hold back no line: almost any letter may begin something
HELD_LIMIT = 256 * 1024  # bytes that are held back at most


class Stream:
    """One text. After a restart it goes on with the `memory` of the one before, at a place where nothing was held."""

    def __init__(self, memory: Any = None) -> None:
        self.data = b""  # the ghost, then the pieces that wait
        self.ghost = 0  # bytes of what was settled last; they are not given out again
        self.veiled = ""  # the name by which the ghost was replaced; "" if it was shown
        self.pieces: list[bytes] = []
        self.tied: list[bool] = []  # of the pieces that were given out last: a secret goes on in the next one
        self.spans: list[Span] = []  # that begin before `looked`
        self.looked = 0  # what begins before it has been found
        self.past = memory if isinstance(memory, list) and len(memory) == 4 else None

    @property
    def held(self) -> bool:
        """Tell whether pieces wait for what comes next."""
        return bool(self.pieces)

    @property
    def memory(self) -> list[Any] | None:
        """What to remember across a restart, as JSON: a ghost that was shown, or name, length and checksum of another.

        The checksum has 16 bits, too few to tell anything of the bytes but which of the known ones they are.
        """
        if self.past or not self.ghost:
            return self.past
        ghost = squeeze(self.data[: self.ghost])
        return ["", self.veiled, len(ghost), checksum(ghost)] if self.veiled else [ghost.decode("latin-1"), "", 0, 0]

    def push(self, pieces: list[bytes]) -> None:
        """Add the text's next pieces."""
        self.pieces += pieces
        self.data = b"".join([self.data, *pieces])

    def take(self, scanner: Scanner, settle: bool = False) -> list[bytes]:
        """Return the first of the pieces that wait, as far as they are decided (all with `settle`), without secrets.

        A secret that is split is replaced in the piece in which it begins; the rest of it is left out of the others.
        """
        if not self.pieces:
            return []
        self._recall(scanner)
        look, end = scanner.look(self.data, self.looked), len(self.data)
        spans, begun = self.spans + look.spans, look.begun
        if begun and not (settle or end - self.ghost > HELD_LIMIT or self._tells_little(begun.place, begun.veil)):
            return self._give_out([span for span in spans if span.start < begun.place], begun.place)
        name = ""
        if begun:
            veil = begun.place if self.veiled and begun.place < self.ghost else begun.veil
            if veil is not None:
                spans.append(Span(veil, end, self.veiled or begun.name))
            name = next((span.name for span in spans if span.end == end), "")
        keep = self.data[begun.place :] if begun else b""
        done = self._give_out(spans, end)
        self.data, self.ghost, self.veiled, self.looked = keep, len(keep), name, 0
        return done

    def _recall(self, scanner: Scanner) -> None:
        """Make the ghost of an earlier stream again, as its memory tells."""
        if self.past:
            shown, self.veiled, length, check = self.past
            ghost = scanner.beginning(self.veiled, length, check) if self.veiled else shown.encode("latin-1", "replace")
            self.data, self.ghost, self.past = ghost + self.data, len(ghost), None

    def _tells_little(self, place: int, veil: int | None) -> bool:
        """Tell whether a line ends in a beginning that is so short that the line needn't wait."""
        return veil is None and self.data[-1:] == b"\n" and len(self.data.rstrip(LINE_ENDS)) - place <= BEFORE_LINE_END

    def _give_out(self, spans: list[Span], place: int) -> list[bytes]:
        """Return the pieces that end at or before `place` and not within a span, and forget them."""
        done: list[bytes] = []
        self.tied = []
        ahead = merged(spans)[::-1]  # the next one is the last
        start, taken, cut = self.ghost, 0, 0
        runs = unseen(self.data) if b"\x1b" in self.data else []
        for piece in self.pieces:
            end = start + len(piece)
            if end > place:
                break
            done.append(self._without(ahead, piece, start) if ahead else piece)
            start = end
            # The rest of a sequence by itself would be letters, which may stand before a key.
            split = any(run.start < end < run.end for run in runs)
            self.tied.append((bool(ahead) and ahead[-1].start < end) or split)
            if not self.tied[-1]:
                taken, cut = len(done), end
        self.pieces = self.pieces[taken:]
        if taken:
            self.data, self.ghost, self.veiled = self.data[cut:], 0, ""
        self.spans = [Span(span.start - cut, span.end - cut, span.name) for span in spans if span.end > cut]
        self.looked = place - cut
        return done[:taken]

    def _without(self, ahead: list[Span], piece: bytes, start: int) -> bytes:
        """Return the piece that stands at `start` without the spans, and drop those that end in it."""
        end, place, parts = start + len(piece), start, []
        while ahead and ahead[-1].start < end:
            span = ahead[-1]
            if span.end > start:
                parts.append(self.data[place : max(span.start, start)])
                if span.start >= start or (start == self.ghost and not self.veiled):
                    parts.append(label(span.name).encode())
                place = min(span.end, end)
            if span.end > end:
                break
            ahead.pop()
        return b"".join([*parts, self.data[place:end]]) if parts else piece
