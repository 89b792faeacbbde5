"""Markdown: texts of 64 KiB that are made to be slow, each rendered as a page would, in ms of one core's time.

The floor is ordinary prose of the same size. Texts that are shown as plain text instead count as well. Each figure is
the median of rounds; the slowest text is the row.
"""

import time

from bench.harness import Figure, Outcome, median
from sessions.stream import markdown

ROUNDS = 5
TARGET = 250  # ms
PIECES = (
    "[", "*a_", "`x", "> ", "- ", "1. ", "![", "<a", "|a", "&#", "**[", "~~a", "[a](", "a  \n", "[a](http:b)", "*_",
    "[![a](http:x)](http:y)", "> > - 1. ",
)  # fmt: skip
PROSE = "Some **prose** with `code` and a [link](https://example.org/a).\n\n- one item\n- another one\n\n"
TABLE, WIDE = "|a|b|c|\n|-|-|-|\n", "|a" * 999 + "|\n" + "|-" * 999 + "|\n"


def texts() -> dict[str, str]:
    """What is rendered, by a name for people."""
    size = markdown.MAX_MARKDOWN
    found = {repr(piece): piece * (size // len(piece)) for piece in PIECES}
    found["a table of 10,000 rows"] = (TABLE + "|x|y|z|\n" * 10_000)[:size]
    found["a table of 1,000 columns"] = (WIDE + "|\n" * size)[:size]
    return found


def _cost(text: str) -> float:
    """Milliseconds of one core for one rendering; nothing is kept."""
    begin = time.process_time()
    markdown.render(text)
    return (time.process_time() - begin) * 1000


def run() -> Outcome:
    """Measure; one row."""
    costs = {name: median([_cost(text) for _ in range(ROUNDS)]) for name, text in texts().items()}
    prose = median([_cost((PROSE * 1000)[: markdown.MAX_MARKDOWN]) for _ in range(ROUNDS)])
    slowest = max(costs, key=lambda name: costs[name])
    slow = f"{costs[slowest]:.0f} ms"
    row = Figure("markdown made to be slow", slow, f"{prose:.0f} ms", slow, f"≤ {TARGET} ms", costs[slowest] <= TARGET)
    return Outcome([row], [f"The slowest is {slowest}, of {len(costs)} texts of {markdown.MAX_MARKDOWN // 1024} KiB."])
