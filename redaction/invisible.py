"""What is invisible in a text: line ends, a terminal's escape sequences, characters without width.

A terminal's sequences are those of ECMA-48 (https://ecma-international.org/publications-and-standards/standards/ecma-48/),
also as JSON, Python and shells escape them; characters without width are Unicode's Default_Ignorable_Code_Points that
tools put into words (https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point).
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

LINE_ENDS = b"\r\n"
LINE_END_RUNS = re.compile(rb"[\r\n]+")
_CSI = rb"[0-?]{0,64}[ -/]{0,4}[@-~]"
# Each with what a text may end in that may become one. A pattern that begins with one byte is fast.
ESCAPE = re.compile(
    rb"\x1b(?:\[" + _CSI + rb"|\][^\x07\x1b\r\n]{0,1024}(?:\x07|\x1b\\)|[()*+][0-9A-Za-z]|[78=>@-Z\\^_])"
)  # the second are titles and links
ESCAPE_PARTIAL = re.compile(rb"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|\][^\x07\x1b\r\n]{0,1024}\x1b?|[()*+])?")
ESCAPED = re.compile(
    rb"\\(?:(?:u001[bB]|x1[bB]|033|e)\[" + _CSI + rb"|u(?:200[b-fB-F]|202[a-eA-E]|206[0-9a-fA-F]|feff|FEFF|00[aA][dD]))"
)
ESCAPED_PARTIAL = re.compile(
    rb"\\(?:(?:u001[bB]|x1[bB]|033|e)(?:\[[0-?]{0,64}[ -/]{0,4})?"
    rb"|u(?:0(?:0(?:1|[aA])?)?|2(?:0[026]?)?|fe?f?|FE?F?)?|x1?|03?)?"
)
# U+200B to U+200F, U+202A to U+202E, U+2060 to U+206F; U+FEFF, U+FE00 to U+FE0F; U+00AD, U+009B (CSI as one character);
# U+034F; U+180E.
WIDTHLESS = {
    b"\xe2": re.compile(rb"\xe2(?:\x80[\x8b-\x8f\xaa-\xae]|\x81[\xa0-\xaf])"),
    b"\xef": re.compile(rb"\xef(?:\xbb\xbf|\xb8[\x80-\x8f])"),
    b"\xc2": re.compile(rb"\xc2(?:\xad|\x9b" + _CSI + rb")"),
    b"\xcd": re.compile(rb"\xcd\x8f"),
    b"\xe1": re.compile(rb"\xe1\xa0\x8e"),
}
WIDTHLESS_PARTIAL = re.compile(
    rb"(?:\xe2[\x80\x81]?|\xef[\xbb\xb8]?|\xc2(?:\x9b[0-?]{0,64}[ -/]{0,4})?|\xcd|\xe1\xa0?)\Z"
)
MAX_SEQUENCE, MAX_SHORT_SEQUENCE = 1100, 80  # bytes of what is not complete yet; of all but titles and links


class Run(NamedTuple):
    """From `start` to `end` nothing is seen."""

    start: int
    end: int


def invisible_runs(data: bytes) -> list[Run]:
    """Return where there is something invisible, besides line ends, in order."""
    patterns = [pattern for sign, pattern in ((b"\x1b", ESCAPE), (b"\\", ESCAPED)) if sign in data]
    if not data.isascii():
        patterns += [pattern for sign, pattern in WIDTHLESS.items() if sign in data]
    runs = sorted(Run(*match.span()) for pattern in patterns for match in pattern.finditer(data))
    apart: list[Run] = []
    for run in runs:  # a title may hold characters without width
        if not apart or run.start >= apart[-1].end:
            apart.append(run)
    return apart


def remove(data: bytes, runs: list[Run]) -> bytes:
    """Return the data without these runs."""
    if not runs:
        return data
    borders = [0, *(offset for run in runs for offset in run), len(data)]
    return b"".join(data[borders[at] : borders[at + 1]] for at in range(0, len(borders), 2))


def normalize(data: bytes) -> bytes:
    """Return the data without what is invisible, and without line ends."""
    return remove(data, invisible_runs(data)).translate(None, LINE_ENDS)


def incomplete_tail(data: bytes) -> int:
    """Return how many bytes at the end may be the beginning of something invisible."""
    size = len(data)
    for sign, pattern, most in ((b"\x1b", ESCAPE_PARTIAL, MAX_SEQUENCE), (b"\\", ESCAPED_PARTIAL, MAX_SHORT_SEQUENCE)):
        offset = data.rfind(sign, max(0, size - most))
        if sign == b"\x1b" and offset == size - 1:  # which may be the end of a title's end
            title = data.rfind(b"\x1b]", max(0, size - most))
            offset = title if title >= 0 and pattern.fullmatch(data, title) else offset
        if offset >= 0 and pattern.fullmatch(data, offset):
            return size - offset
    tail = data[-MAX_SHORT_SEQUENCE:]
    found = None if tail.isascii() else WIDTHLESS_PARTIAL.search(tail)
    return len(tail) - found.start() if found else 0


class View(NamedTuple):
    """A part of a text as it is searched, and what was left out of it."""

    data: bytes
    runs: list[Run]  # within the part
    start: int
    part: bytes
    line_ends: bool  # are left out, too

    def offsets(self) -> "OffsetMap":
        """Return the map from its bytes to those of the whole text."""
        ends = [Run(*match.span()) for match in LINE_END_RUNS.finditer(self.part)] if self.line_ends else []
        return OffsetMap(sorted(self.runs + ends), self.start)


def plain_view(whole: bytes, start: int) -> View:
    """Return the view of the text from `start` on without line ends."""
    part = whole[start:]
    return View(part.translate(None, LINE_ENDS), [], start, part, True)


def marked_views(whole: bytes, start: int, near: int, line_ends: bool = True) -> Iterator[View]:
    """Yield views of what is invisible from `start` on and `near` bytes around, without what is invisible.

    Beside the plain text, not instead of it: a sequence that was cut off may have taken a visible character along.
    """
    data = whole[start:]
    group: list[Run] = []
    for run in [*invisible_runs(data), None]:
        if group and (run is None or run.start - group[-1].end > 2 * near):
            first, end = max(0, group[0].start - near), group[-1].end + near
            part, runs = data[first:end], [Run(each.start - first, each.end - first) for each in group]
            view = remove(part, runs)
            yield View(view.translate(None, LINE_ENDS) if line_ends else view, runs, start + first, part, line_ends)
            group = []
        if run:
            group.append(run)


class OffsetMap:
    """Maps offsets in a part without some runs to those in the whole text, in which the part begins at `start`."""

    def __init__(self, runs: list[Run], start: int) -> None:
        self.start = start
        self.removed = list(accumulate((run.end - run.start for run in runs), initial=0))
        self.borders = [run.start - gone for run, gone in zip(runs, self.removed, strict=False)]

    def original(self, offset: int) -> int:
        """Return the offset in the whole text of the byte at `offset` of the part."""
        return self.start + offset + self.removed[bisect_right(self.borders, offset)]
