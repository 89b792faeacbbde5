"""Spans of a text that hold a secret, and the text without them."""

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """From `start` to `end` stands (part of) the secret `name`."""

    start: int
    end: int
    name: str


def label(name: str) -> str:
    """Return what stands in the place of a secret."""
    return f"[redacted:{name}]"


def merge(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order, those that overlap or that follow each other with the same name as one.

    Where several overlap the name is that of the first; of those that start together, the longest.
    """
    joined: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        last = joined[-1] if joined else None
        if last and (span.start < last.end or (span.start == last.end and span.name == last.name)):
            joined[-1] = last._replace(end=max(last.end, span.end))
        else:
            joined.append(span)
    return joined


def replace(data: bytes, spans: Iterable[Span]) -> bytes:
    """Return `data` with the spans replaced by their labels."""
    parts, position = [], 0
    for span in merge(spans):
        parts += [data[position : span.start], label(span.name).encode()]
        position = span.end
    return b"".join([*parts, data[position:]])
