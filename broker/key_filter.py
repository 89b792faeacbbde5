"""Responses of a provider without the key, in whatever form they repeat it, and however they are cut: pure."""

import re
from typing import NamedTuple

from redaction.encodings import search_strings
from redaction.multi_search import MultiSearch
from redaction.spans import Span, replace

NAME = "key"
SHOWN = 4  # characters of a key's end that providers show beside asterisks
ERROR_MAX = 256 * 1024  # bytes of an error that is passed on


class KeyForms(NamedTuple):
    """The forms of a key that are looked for."""

    exact: MultiSearch
    masked: re.Pattern[bytes]  # its beginning and its end, with something between them


def key_forms(key: str) -> KeyForms:
    """The forms of a key. Made once for a key: it takes some milliseconds."""
    value = key.encode()
    masked = re.escape(value[:3]) + rb"[^\s\"'<>\\]{1,300}?" + re.escape(value[-SHOWN:])
    return KeyForms(MultiSearch(dict.fromkeys(search_strings(value), NAME)), re.compile(masked))


class KeyFilter:
    """One response, or one part of it: what goes in comes out without the key, but for a few bytes that wait."""

    def __init__(self, forms: KeyForms) -> None:
        self._exact = forms.exact
        self._pending = b""  # may be the beginning of a key

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return those that are free of it."""
        data = self._pending + chunk
        spans = list(self._exact.find(data))
        partial = self._exact.partial_match(data)
        place = len(data) if partial is None else max(partial.start, *(span.end for span in spans), 0)
        self._pending = data[place:]
        return replace(data[:place], spans) if spans else data[:place]

    def end(self) -> bytes:
        """What waited, when nothing follows: a beginning of a key that says much is left out."""
        left, self._pending = self._pending, b""
        partial = self._exact.partial_match(left)
        if partial is None or partial.mask_from is None:
            return left
        return replace(left, [Span(partial.mask_from, len(left), NAME)])


def filter_text(forms: KeyForms, data: bytes) -> bytes:
    """A text that is all there, without the key."""
    keys = KeyFilter(forms)
    return keys.feed(data) + keys.end()


def filter_error(forms: KeyForms, data: bytes) -> bytes:
    """An error's text, without the key and without one that is masked in part."""
    return forms.masked.sub(f"[redacted:{NAME}]".encode(), filter_text(forms, data))
