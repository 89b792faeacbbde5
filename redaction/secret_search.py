"""Searches bytes that may go on, for known values and keys of well-known kinds."""

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from redaction import invisible, pattern_search
from redaction.encodings import search_strings
from redaction.invisible import View
from redaction.key_patterns import PREFIXES
from redaction.multi_search import MultiSearch, PartialMatch, join_partials
from redaction.spans import Span, replace

NEAR, NEAR_KEYS = 512, 2048  # bytes around what is invisible, within which a value, or a key, may hold it
TAIL = 8192  # bytes, in which the beginning of a value is looked for


class SearchResult(NamedTuple):
    """What was found: spans in no order, those of known values first, and what the end may be the beginning of."""

    spans: list[Span]
    partial: PartialMatch | None


class SecretSearch:
    """Knows the secrets, by name and value. The same name may have several values; the first name of a value counts."""

    def __init__(self, secrets: Iterable[tuple[str, bytes]] = ()) -> None:
        strings: dict[bytes, str] = {}
        for name, value in secrets:
            for piece in search_strings(value):
                strings.setdefault(piece, name)
        self.known_values = MultiSearch(strings)

    def search(self, data: bytes, start: int = 0) -> SearchResult:
        """Search `data` from `start` on. What begins before it is not found."""
        spans = self._find_values(data, start) + _find_keys(data, start)
        partials = [each for each in (self._partial_value(data, start), _partial_key(data, start)) if each]
        return SearchResult(spans, _include_sequence(data, join_partials(partials)))

    def is_clean(self, data: bytes) -> bool:
        """Tell, quickly, that there is nothing in `data`; it may be wrong only in saying that there is."""
        if self._find_values(data, 0) or pattern_search.may_contain_key([data.decode("latin-1")]):
            return False
        marked = invisible.marked_views(data, 0, NEAR_KEYS, line_ends=False)
        return not any(pattern_search.may_contain_key([view.data.decode("latin-1")]) for view in marked)

    def prefix_of(self, name: str, length: int, check: int) -> bytes:
        """Return the bytes with which the secret `name` began, by their number and checksum, b"" if they are not known.

        For a key of a well-known kind they are made up, since any are as good.
        """
        for string, owner in self.known_values.strings:
            if owner == name and checksum(string[:length]) == check:
                return string[:length]
        return PREFIXES[name].encode().ljust(length, b"0") if name in PREFIXES else b""

    def truncated_secret(self, data: bytes) -> Span | None:
        """Return the beginning of a value that a text was cut off in, if it is long enough to be masked."""
        partial = self._partial_value(data, 0)
        return (
            None if partial is None or partial.mask_from is None else Span(partial.mask_from, len(data), partial.name)
        )

    def redact(self, data: bytes) -> bytes:
        """Return a text that is whole, or was cut off within a value, without the secrets; the same object if clean."""
        spans = [*self._find_values(data, 0), *_find_keys(data, 0)]
        if end := self.truncated_secret(data):
            spans.append(end)
        return replace(data, spans) if spans else data

    def _find_values(self, data: bytes, start: int) -> list[Span]:
        views = [invisible.plain_view(data, start), *invisible.marked_views(data, start, NEAR)]
        found = [(view, list(self.known_values.find(view.data))) for view in views]
        return [span for view, spans in found if spans for span in _spans_in_original(view, spans)]

    def _partial_value(self, data: bytes, start: int) -> PartialMatch | None:
        """Return what value the end may become, also without what is invisible, or may become so, at the end."""
        start = max(start, len(data) - TAIL)
        partials: list[PartialMatch] = []
        for end in {len(data), len(data) - invisible.incomplete_tail(data)}:
            if end > start:
                views = [invisible.plain_view(data[:end], start), *invisible.marked_views(data[:end], start, TAIL)]
                found = [(view, self.known_values.partial_match(view.data)) for view in views]
                partials += [_partial_in_original(view, partial) for view, partial in found if partial]
        return join_partials(partials)


def _include_sequence(data: bytes, partial: PartialMatch | None) -> PartialMatch | None:
    """Return the match from the start of a sequence within which it begins: the rest of one would be letters."""
    if partial:
        before = max(0, partial.start - invisible.MAX_SEQUENCE)
        for run in invisible.invisible_runs(data[before:]):
            if run.start < partial.start - before < run.end:
                return partial._replace(start=before + run.start)
    return partial


def _spans_in_original(view: View, spans: Iterable[Span]) -> list[Span]:
    offsets = view.offsets()
    return [Span(offsets.original(first), offsets.original(end - 1) + 1, name) for first, end, name in spans]


def _partial_in_original(view: View, partial: PartialMatch) -> PartialMatch:
    offsets = view.offsets()
    mask_from = None if partial.mask_from is None else offsets.original(partial.mask_from)
    return PartialMatch(offsets.original(partial.start), mask_from, partial.name)


def _find_keys(data: bytes, start: int) -> list[Span]:
    """Return keys of well-known kinds, also where a part of one is marked invisibly."""
    # Latin-1 keeps the offsets, and all that matters to the patterns is ASCII.
    spans = list(pattern_search.find_keys(data.decode("latin-1"), start))
    before = max(0, start - invisible.MAX_SHORT_SEQUENCE)  # a sequence may have begun there
    for view in invisible.marked_views(data, before, NEAR_KEYS, line_ends=False):
        found = _spans_in_original(view, pattern_search.find_keys(view.data.decode("latin-1")))
        spans += [span for span in found if span.start >= start]
    return spans


def _partial_key(data: bytes, start: int) -> PartialMatch | None:
    partials = [pattern_search.partial_key(data.decode("latin-1"), start)]
    end = len(data) - invisible.incomplete_tail(data)
    if start <= end < len(data):
        partials.append(pattern_search.partial_key(data[:end].decode("latin-1"), start))
        # A sequence that comes in two parts would seem to be letters before a key.
        partials.append(PartialMatch(end, None, "") if data[end] == 0x1B else None)
    for view in invisible.marked_views(
        data[:end], max(start, end - pattern_search.LOOKBACK), pattern_search.LOOKBACK, line_ends=False
    ):
        partial = pattern_search.partial_key(view.data.decode("latin-1"))
        partials.append(partial and _partial_in_original(view, partial))
    return join_partials([each for each in partials if each])


def checksum(data: bytes) -> int:
    """Return 16 bits that tell the data from others."""
    return crc32(data) & 0xFFFF
