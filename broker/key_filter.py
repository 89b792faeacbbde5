"""Answers of a provider without the key, in whatever form they repeat it, and however they are cut: pure."""

import re
from typing import NamedTuple

from redaction.encodings import pieces
from redaction.multi_search import Exact
from redaction.spans import Span, replace

NAME = "key"
TOLD = 4  # characters of a key's end that providers show beside asterisks
ERROR_MAX = 256 * 1024  # bytes of an error that is passed on


class Needles(NamedTuple):
    """What of a key is looked for."""

    exact: Exact
    masked: re.Pattern[bytes]  # its beginning and its end, with something between them


def needles(key: str) -> Needles:
    """The forms of a key. Made once for a key: it takes some milliseconds."""
    value = key.encode()
    masked = re.escape(value[:3]) + rb"[^\s\"'<>\\]{1,300}?" + re.escape(value[-TOLD:])
    return Needles(Exact(dict.fromkeys(pieces(value), NAME)), re.compile(masked))


class Scrub:
    """One answer, or one part of it: what goes in comes out without the key, but for a few bytes that wait."""

    def __init__(self, needles: Needles) -> None:
        self._exact = needles.exact
        self._left = b""  # may be the beginning of a key

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what can be told of them."""
        data = self._left + chunk
        spans = [Span(*each) for each in self._exact.find(data)]
        begun = self._exact.begun(data)
        place = len(data) if begun is None else max(begun.place, *(span.end for span in spans), 0)
        self._left = data[place:]
        return replace(data[:place], spans) if spans else data[:place]

    def end(self) -> bytes:
        """What waited, when nothing follows: a beginning of a key that tells much is left out."""
        left, self._left = self._left, b""
        begun = self._exact.begun(left)
        if begun is None or begun.veil is None:
            return left
        return replace(left, [Span(begun.veil, len(left), NAME)])


def whole(needles: Needles, data: bytes) -> bytes:
    """A text that is all there, without the key."""
    scrub = Scrub(needles)
    return scrub.feed(data) + scrub.end()


def error(needles: Needles, data: bytes) -> bytes:
    """An error's text, without the key and without one that is masked in part."""
    return needles.masked.sub(f"[redacted:{NAME}]".encode(), whole(needles, data))
