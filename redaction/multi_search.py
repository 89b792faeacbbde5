"""Finds many byte strings in a text at once, fast in plain Python.

A string of 15 bytes or more, wherever it stands, covers one of the text's aligned words of eight bytes. So the words
that its first 15 bytes can cover (eight, one for each place modulo eight) go into a set, and one look tells whether any
word of the text is in it: 150 to 200 MB/s however many strings there are. Shorter ones, which are few, are looked
for one by one.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

WORD = 8
LONG = 2 * WORD - 1
SHOWN = 8  # bytes of a string's beginning that may be shown; at most a quarter of it


class Begun(NamedTuple):
    """The text ends in the beginning of a string. From `place` on it may become one.

    From `veil` on it must not be shown, though the rest never came: None if all of it may be. `name` is whose it is.
    """

    place: int
    veil: int | None
    name: str


class Exact:
    """The strings that are looked for, each with a name."""

    def __init__(self, strings: Mapping[bytes, str]) -> None:
        self.strings = list(strings.items())
        self.short = [(string, name) for string, name in self.strings if len(string) < LONG]
        self.words: dict[int, list[tuple[int, bytes, str]]] = {}
        self.heads: dict[bytes, list[tuple[bytes, str]]] = {}  # first word to strings
        self.stubs: dict[bytes, tuple[int, str]] = {}  # shorter beginnings, and how much of them may be shown
        for string, name in self.strings:
            if len(string) >= LONG:
                for place in range(WORD):
                    word = int.from_bytes(string[place : place + WORD], sys.byteorder)
                    self.words.setdefault(word, []).append((place, string, name))
            if len(string) > WORD:
                self.heads.setdefault(string[:WORD], []).append((string, name))
            for length in range(1, min(WORD, len(string))):
                known = self.stubs.get(string[:length])
                if known is None or shown(string) < known[0]:
                    self.stubs[string[:length]] = (shown(string), name)
        self.needles = frozenset(self.words)
        self.longest = max((len(string) for string, _ in self.strings), default=0)

    def find(self, data: bytes) -> Iterator[tuple[int, int, str]]:
        """Yield (start, end, name) of every place where one of the strings stands, in no order."""
        for string, name in self.short:
            start = data.find(string)
            while start >= 0:
                yield start, start + len(string), name
                start = data.find(string, start + 1)
        words = memoryview(data)[: len(data) // WORD * WORD].cast("Q")
        if self.needles.isdisjoint(words):
            return
        for index in [index for index, word in enumerate(words) if word in self.needles]:
            for place, string, name in self.words[words[index]]:
                start = index * WORD - place
                if start >= 0 and data.startswith(string, start):
                    yield start, start + len(string), name

    def begun(self, data: bytes) -> Begun | None:
        """Tell whether the text ends in the beginning of one of the strings; the longest such end counts."""
        found: Begun | None = None
        for place in range(max(0, len(data) - self.longest + 1), len(data)):
            length = len(data) - place
            for limit, name in self._starting(data[place:]):
                found = found or Begun(place, None, name)
                if length > limit:
                    return Begun(found.place, place, name)
        return found

    def _starting(self, tail: bytes) -> Iterable[tuple[int, str]]:
        """Return the strings that start with all of `tail` and go on: how much of it may be shown, and the name."""
        if len(tail) < WORD:
            stub = self.stubs.get(tail)
            return [stub] if stub else []
        candidates = self.heads.get(tail[:WORD])
        if not candidates:
            return []
        return [(shown(s), name) for s, name in candidates if len(s) > len(tail) and s.startswith(tail)]


def shown(string: bytes) -> int:
    """Return how many bytes of the beginning of a string may be seen by everybody."""
    return min(SHOWN, len(string) // 4)


def earliest(found: Sequence[Begun]) -> Begun | None:
    """Return what covers all that was found: the first place, and the first from which on nothing must be shown."""
    if not found:
        return None
    veils = [(each.veil, each.name) for each in found if each.veil is not None]
    veil, name = min(veils, default=(None, found[0].name))
    return Begun(min(each.place for each in found), veil, name)
