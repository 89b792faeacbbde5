"""Looks for values that are known and keys of well-known kinds, in bytes that may go on."""

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from redaction import invisible, pattern_search
from redaction.encodings import pieces
from redaction.invisible import View
from redaction.key_patterns import HEADS
from redaction.multi_search import Begun, Exact, earliest
from redaction.spans import Span, replace

NEAR, NEAR_KINDS = 512, 2048  # bytes around what nobody sees, within which a value, or a key, may hold it
TAIL = 8192  # bytes at the end in which the beginning of a value is looked for; what nobody sees is not all of them


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
        spans += _kinds(data, start)
        begun = [each for each in (self._begun(data, start), _kinds_begun(data, start)) if each]
        return Look(spans, _whole(data, earliest(begun)))

    def clean(self, data: bytes) -> bool:
        """Tell, quickly, that there is nothing in `data`; it may be wrong only in saying that there is."""
        if self._values(data, 0) or pattern_search.suspicious([data.decode("latin-1")]):
            return False
        marked = invisible.around(data, 0, NEAR_KINDS, line_ends=False)
        return not any(pattern_search.suspicious([view.data.decode("latin-1")]) for view in marked)

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
        spans = [*self._values(data, 0), *_kinds(data, 0)]
        if end := self.cut_off(data):
            spans.append(end)
        return replace(data, spans) if spans else data

    def _values(self, data: bytes, start: int) -> list[Span]:
        views = [invisible.plain(data, start), *invisible.around(data, start, NEAR)]
        return [span for view in views if (found := list(self.exact.find(view.data))) for span in _placed(view, found)]

    def _begun(self, data: bytes, start: int) -> Begun | None:
        """What the end may become, also once what nobody sees, and has only begun, is left out of it."""
        start = max(start, len(data) - TAIL)
        found = []
        for end in {len(data), len(data) - invisible.cut(data)}:
            views = (
                [invisible.plain(data[:end], start), *invisible.around(data[:end], start, TAIL)] if end > start else []
            )
            found += [_begun_in(view, begun) for view in views if (begun := self.exact.begun(view.data))]
        return earliest(found)


def _whole(data: bytes, begun: Begun | None) -> Begun | None:
    """What has begun, with all of a sequence within which it seems to: the rest of one by itself would be letters."""
    if begun:
        before = max(0, begun.place - invisible.CUT_MAX)
        for run in invisible.unseen(data[before:]):
            if run.start < begun.place - before < run.end:
                return begun._replace(place=before + run.start)
    return begun


def _placed(view: View, found: Iterable[tuple[int, int, str]]) -> list[Span]:
    places = view.places()
    return [Span(places.of(first), places.of(end - 1) + 1, name) for first, end, name in found]


def _begun_in(view: View, begun: Begun) -> Begun:
    places = view.places()
    return Begun(places.of(begun.place), None if begun.veil is None else places.of(begun.veil), begun.name)


def _kinds(data: bytes, start: int) -> list[Span]:
    """Keys of well-known kinds, also where a part of one is marked in a way that nobody sees."""
    spans = list(
        pattern_search.find(data.decode("latin-1"), start)
    )  # places stay the same; all that matters to them is ASCII
    before = max(0, start - invisible.SHORT_CUT_MAX)  # a sequence may have begun there
    for view in invisible.around(data, before, NEAR_KINDS, line_ends=False):
        found = _placed(view, pattern_search.find(view.data.decode("latin-1")))
        spans += [span for span in found if span.start >= start]
    return spans


def _kinds_begun(data: bytes, start: int) -> Begun | None:
    found = [pattern_search.begun(data.decode("latin-1"), start)]
    end = len(data) - invisible.cut(data)
    if start <= end < len(data):
        found.append(pattern_search.begun(data[:end].decode("latin-1"), start))
        # A sequence that comes in two parts would seem to be letters before a key.
        found.append(Begun(end, None, "") if data[end] == 0x1B else None)
    for view in invisible.around(
        data[:end], max(start, end - pattern_search.LOOKED_BACK), pattern_search.LOOKED_BACK, line_ends=False
    ):
        begun = pattern_search.begun(view.data.decode("latin-1"))
        found.append(begun and _begun_in(view, begun))
    return earliest([each for each in found if each])


def checksum(data: bytes) -> int:
    """Return 16 bits that tell the data from others."""
    return crc32(data) & 0xFFFF
