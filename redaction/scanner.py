"""Looks for values that are known and keys of well-known kinds, in bytes that may go on."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from re import compile as pattern
from typing import NamedTuple
from zlib import crc32

from redaction import known
from redaction.exact import Begun, Exact, earliest
from redaction.forms import pieces, squeeze
from redaction.kinds import HEADS
from redaction.spans import Span, replace

RUNS = pattern(rb"[\r\n]+")
TAIL = 4096  # bytes at the end in which the beginning of a value is looked for; line ends are few of them


class Look(NamedTuple):
    """What was found: spans in no order, those of known values first, and what the end may be the beginning of."""

    spans: list[Span]
    begun: Begun | None


class Scanner:
    """Knows the secrets, by name and value. The same name may have several values; the first name of a value counts."""

    def __init__(self, secrets: Iterable[tuple[str, bytes]] = ()) -> None:
        strings: dict[bytes, str] = {}
        for name, value in secrets:
            for piece in pieces(value):
                strings.setdefault(piece, name)
        self.exact = Exact(strings)

    def look(self, data: bytes, start: int = 0) -> Look:
        """Look at `data` from `start` on. What has begun before is not seen, but for what stands before a key."""
        spans = self._values(data, start)
        text = data.decode("latin-1")  # places stay the same; all that matters to the kinds is ASCII
        spans += known.find(text, start)
        begun = [each for each in (self._begun(data, start), known.begun(text, start)) if each]
        return Look(spans, earliest(begun))

    def clean(self, data: bytes) -> bool:
        """Tell, quickly, that there is nothing in `data`; it may be wrong only in saying that there is."""
        return not self._values(data, 0) and not known.suspicious([data.decode("latin-1")])

    def beginning(self, name: str, length: int, check: int) -> bytes:
        """Return the bytes with which the secret `name` began, by their number and checksum, b"" if they are not known.

        For a key of a well-known kind they are made up, since any are as good.
        """
        for string, owner in self.exact.strings:
            if owner == name and checksum(string[:length]) == check:
                return string[:length]
        return HEADS[name].encode().ljust(length, b"0") if name in HEADS else b""

    def cut_off(self, data: bytes) -> Span | None:
        """Return the beginning of a value that a text ends in, which must not be shown though it is all there is."""
        begun = self._begun(data, 0)
        return None if begun is None or begun.veil is None else Span(begun.veil, len(data), begun.name)

    def redact(self, data: bytes) -> bytes:
        """Return a text that is whole, or was cut off within a value, without the secrets; the same object if clean."""
        spans = [*self._values(data, 0), *known.find(data.decode("latin-1"))]
        if end := self.cut_off(data):
            spans.append(end)
        return replace(data, spans) if spans else data

    def _values(self, data: bytes, start: int) -> list[Span]:
        squeezed = squeeze(data[start:])
        found = list(self.exact.find(squeezed))
        if not found:
            return []
        places = _Places(data, start)
        return [Span(places.of(first), places.of(end - 1) + 1, name) for first, end, name in found]

    def _begun(self, data: bytes, start: int) -> Begun | None:
        start = max(start, len(data) - TAIL)
        begun = self.exact.begun(squeeze(data[start:]))
        if begun is None:
            return None
        places = _Places(data, start)
        veil = None if begun.veil is None else places.of(begun.veil)
        return Begun(places.of(begun.place), veil, begun.name)


class _Places:
    """Where bytes of the squeezed data stand in the data itself."""

    def __init__(self, data: bytes, start: int) -> None:
        runs = [(run.start(), run.end() - run.start()) for run in RUNS.finditer(data, start)]
        self.removed = list(accumulate((length for _, length in runs), initial=start))
        self.borders = [place - gone for (place, _), gone in zip(runs, self.removed, strict=False)]

    def of(self, place: int) -> int:
        """Return where the byte stands in the data that stands at `place` in what was squeezed."""
        return place + self.removed[bisect_right(self.borders, place)]


def checksum(data: bytes) -> int:
    """Return 16 bits that tell the data from others."""
    return crc32(data) & 0xFFFF
