"""Finds the keys of `key_patterns`, in a text that is whole or in one that may go on."""

import re
from collections.abc import Iterable, Iterator
from functools import cache

from redaction import invisible
from redaction.key_patterns import ARMOUR_LIMIT, KEY_LIMIT, PREFILTERS, PRIVATE_KEY, Prefilter
from redaction.multi_search import MAX_VISIBLE, PartialMatch, join_partials
from redaction.spans import Span, label, merge

LOOKBACK = ARMOUR_LIMIT + 256  # characters before the end of a text in which a key may have begun

compiled = cache(re.compile)  # each when it is first needed: a start of the courier has no time for all of them


def find_keys(text: str, start: int = 0) -> Iterator[Span]:
    """Yield the secret parts of all keys that begin at or after `start`."""
    for prefilter in _matching_prefilters(text, start):
        for pattern in prefilter.key_patterns:
            for match in compiled(pattern.regex).finditer(text, start):
                yield Span(*match.span(1), pattern.name)


def partial_key(text: str, start: int = 0) -> PartialMatch | None:
    """Return what the text from `start` on ends in, if it may become a key, or is one that may go on."""
    partials: list[PartialMatch] = []
    for prefilter in _matching_prefilters(text, max(start, len(text) - LOOKBACK)):
        for pattern in prefilter.key_patterns:
            limit = LOOKBACK if pattern is PRIVATE_KEY else KEY_LIMIT
            if match := compiled(pattern.partial).search(text, max(start, len(text) - limit)):
                secret = match.start(match.lastindex) if match.lastindex else len(text)
                mask_from = secret if len(text) - secret > MAX_VISIBLE else None
                partials.append(PartialMatch(match.start(), mask_from, pattern.name))
    for length in range(min(MAX_LITERAL_PREFIX, len(text) - start), 0, -1):
        if text[-length:] in LITERAL_PREFIXES:
            partials.append(PartialMatch(len(text) - length, None, ""))
            break
    return join_partials(partials)


def may_contain_key(texts: Iterable[str]) -> bool:
    """Tell whether any of the texts may hold a key; a quick look at all of them together, which errs on that side."""
    text = "\0".join(texts)
    if next(_matching_prefilters(text, 0), None) is not None:
        return True
    data = text.encode(errors="surrogatepass")
    runs = invisible.invisible_runs(data)
    if not runs:
        return False
    bare = invisible.remove(data, runs).decode(errors="surrogatepass")
    return next(_matching_prefilters(bare, 0), None) is not None


def redact_keys(text: str) -> str:
    """Return the text with keys of well-known kinds replaced by `[redacted:KIND]`."""
    spans = merge([*find_keys(text), *_find_keys_across_invisible(text)])
    if not spans:
        return text
    parts, position = [], 0
    for span in spans:
        parts += [text[position : span.start], label(span.name)]
        position = span.end
    return "".join([*parts, text[position:]])


def _find_keys_across_invisible(text: str) -> Iterator[Span]:
    """Yield the keys that are there once what is invisible is left out."""
    data = text.encode(errors="surrogatepass")
    runs = invisible.invisible_runs(data)
    if not runs:
        return
    bare, offsets = invisible.remove(data, runs).decode(errors="surrogatepass"), invisible.OffsetMap(runs, 0)
    for span in find_keys(bare):
        first, last = (len(bare[:index].encode(errors="surrogatepass")) for index in (span.start, span.end - 1))
        start = offsets.original(first)
        end = offsets.original(last) + len(bare[span.end - 1].encode(errors="surrogatepass"))
        before, after = (len(data[:offset].decode(errors="surrogatepass")) for offset in (start, end))
        yield Span(before, after, span.name)


def _matching_prefilters(text: str, start: int) -> Iterator[Prefilter]:
    return (prefilter for prefilter in PREFILTERS if compiled(prefilter.pattern).search(text, start))


# The beginnings of what prefilters match: a text that ends in one may go on as the whole.
LITERAL_PREFIXES = frozenset(
    literal[:end] for prefilter in PREFILTERS for literal in prefilter.literals for end in range(1, len(literal))
)
MAX_LITERAL_PREFIX = max(map(len, LITERAL_PREFIXES))
