"""A proof as lines for a terminal."""

from collections.abc import Iterator

from isolation.choices import Verdict
from isolation.models import Proof
from sessions.stream.markdown import visible

DETAIL = 110  # characters of what happened; all of it is in the admin and in --json
WORDS = {
    Verdict.PASSED: "passed",
    Verdict.FAILED: "FAILED",
    Verdict.UNTESTED: "not tested",
    Verdict.OPEN: "NOT ISOLATED",
}


def lines(proof: Proof) -> Iterator[str]:
    """The table, section by section, and the sum."""
    width, section = max((len(row["title"]) for row in proof.rows), default=0), ""
    for row in proof.rows:
        if row["section"] != section:
            section = row["section"]
            yield f"\n{section}"
        word = WORDS[Verdict(row["verdict"])]
        detail = visible(row["detail"]).replace("\n", " ")
        cut = detail if len(detail) <= DETAIL else f"{detail[: DETAIL - 1]}…"
        yield f"  {row['title']:<{width}}  {row['expected']:<9}  {word:<12}  {cut}"
    yield ""
    counts = ((proof.count(verdict), WORDS[verdict]) for verdict in Verdict)
    yield ", ".join(f"{count} {word}" for count, word in counts if count)
    yield from (f"Not found out: {words}" for words in proof.unknown)
