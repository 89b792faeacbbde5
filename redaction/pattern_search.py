"""Finds keys of the kinds in `kinds`, in a text that is whole or in one that may go on."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from redaction import invisible
from redaction.key_patterns import ARMOUR_LIMIT, KEY_LIMIT, PRIVATE_KEY, TRIGGERS, Trigger
from redaction.multi_search import SHOWN, Begun, earliest
from redaction.spans import Span, label, merged

LOOKED_BACK = ARMOUR_LIMIT + 256  # characters before the end of a text in which something may have begun

compiled = cache(re.compile)  # each when it is first needed: a start of the courier has no time for all of them


def find(text: str, start: int = 0) -> Iterator[Span]:
    """Yield what is secret in the text, for all keys that begin at or after `start`."""
    for trigger in _at_work(text, start):
        for kind in trigger.kinds:
            for match in compiled(kind.found).finditer(text, start):
                yield Span(*match.span(1), kind.name)


def begun(text: str, start: int = 0) -> Begun | None:
    """Tell whether the text from `start` on ends in what may become a key, or in one that may go on."""
    found: list[Begun] = []
    for trigger in _at_work(text, max(start, len(text) - LOOKED_BACK)):
        for kind in trigger.kinds:
            limit = LOOKED_BACK if kind is PRIVATE_KEY else KEY_LIMIT
            if match := compiled(kind.begun).search(text, max(start, len(text) - limit)):
                secret = match.start(match.lastindex) if match.lastindex else len(text)
                found.append(Begun(match.start(), secret if len(text) - secret > SHOWN else None, kind.name))
    for length in range(min(LONGEST_STUB, len(text) - start), 0, -1):
        if text[-length:] in STUBS:
            found.append(Begun(len(text) - length, None, ""))
            break
    return earliest(found)


def suspicious(texts: Iterable[str]) -> bool:
    """Tell whether any of the texts may hold a key; a quick look at all of them together, which errs on that side."""
    text = "\0".join(texts)
    if next(_at_work(text, 0), None) is not None:
        return True
    data = text.encode(errors="surrogatepass")
    runs = invisible.unseen(data)
    return (
        bool(runs) and next(_at_work(invisible.without(data, runs).decode(errors="surrogatepass"), 0), None) is not None
    )


def redact_known(text: str) -> str:
    """Return the text with keys of well-known kinds replaced by `[redacted:KIND]`."""
    spans = merged([*find(text), *_marked(text)])
    if not spans:
        return text
    done, place = [], 0
    for span in spans:
        done += [text[place : span.start], label(span.name)]
        place = span.end
    return "".join([*done, text[place:]])


def _marked(text: str) -> Iterator[Span]:
    """Yield the keys that are there once what nobody sees is left out."""
    data = text.encode(errors="surrogatepass")
    runs = invisible.unseen(data)
    if not runs:
        return
    bare, places = invisible.without(data, runs).decode(errors="surrogatepass"), invisible.Places(runs, 0)
    for span in find(bare):
        first, last = (len(bare[:place].encode(errors="surrogatepass")) for place in (span.start, span.end - 1))
        start, end = places.of(first), places.of(last) + len(bare[span.end - 1].encode(errors="surrogatepass"))
        before, after = (len(data[:place].decode(errors="surrogatepass")) for place in (start, end))
        yield Span(before, after, span.name)


def redact_known_data(value: Any) -> Any:
    """Return a JSON value with `redact_known` done to every string in it, also to keys."""
    if isinstance(value, str):
        return redact_known(value)
    if isinstance(value, list):
        return [redact_known_data(item) for item in value]
    if isinstance(value, dict):
        return {redact_known(key): redact_known_data(item) for key, item in value.items()}
    return value


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, also keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)


def _at_work(text: str, start: int) -> Iterator[Trigger]:
    return (trigger for trigger in TRIGGERS if compiled(trigger.pattern).search(text, start))


# The beginnings of what triggers match: a text that ends in one may go on as the whole.
STUBS = frozenset(word[:end] for trigger in TRIGGERS for word in trigger.literals for end in range(1, len(word)))
LONGEST_STUB = max(map(len, STUBS))
