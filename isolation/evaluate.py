"""From what the agent says and what was seen outside to a verdict on each check. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isolation.checks.catalogue import Check
from isolation.choices import Expected, Outcome, Verdict

GAP_MAX = 10.0  # seconds in which nothing is seen of the neighbour while the agent prints
LOCAL = "local processes share this machine: they are the same user, with the same files and the same network"


@dataclass(slots=True)
class Outside:
    """What was seen from outside of the agent."""

    canary: list[str] = field(default_factory=list)  # who connected there
    heard: int = 0  # how many the neighbour heard of
    ticks: int = 0  # signs of life of the neighbour
    missing: int = 0  # numbers that are left out among them
    gap: float = 0.0  # the longest time between two of them, while the agent printed without end
    changed: bool = False  # the neighbour's file
    alive: bool = True  # the neighbour's run is the one that it was, and goes on
    token: str = ""  # SHA-256 of the courier's token
    courier_status: int | None = None  # what the API answered to the courier's token; None: it was not asked


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the report."""

    check: str
    section: str
    title: str
    expected: str
    outcome: str
    detail: str
    verdict: str

    def told(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self)


def judge(check: Check, attempt: Mapping[str, Any] | None, outside: Outside) -> Row:
    """The verdict on one check. `attempt` is the agent's report, None if it gave none."""
    if check.untested:
        return _row(check, Verdict.UNTESTED, check.untested)
    if not check.attack or check.name == "flood":
        return _seen(check, attempt, outside)
    if attempt is None:
        return _row(check, Verdict.FAILED, "nothing was heard of it: the agent ended before")
    outcome, detail = Outcome(attempt["outcome"]), str(attempt["detail"])
    if attempt.get("untested"):
        return _row(check, Verdict.UNTESTED, detail)
    if outcome is Outcome.ERROR:
        return _row(check, Verdict.FAILED, f"it could not be tried: {detail}", outcome)
    if outside.token and outside.token in attempt.get("digests", ()):
        return _row(check, Verdict.FAILED, f"it found the courier's token; {detail}", Outcome.SUCCEEDED)
    return _row(check, Verdict.PASSED if outcome == check.expected else Verdict.FAILED, detail, outcome)


def local(check: Check) -> Row:
    """The row for a runtime that isolates nothing."""
    if check.expected is Expected.SUCCEEDED:
        return _row(check, Verdict.UNTESTED, "nothing holds it")
    return _row(check, Verdict.OPEN, LOCAL)


def _seen(check: Check, attempt: Mapping[str, Any] | None, outside: Outside) -> Row:
    """What is judged from outside alone."""
    if check.name == "flood":
        return _flood(check, attempt, outside)
    if check.name == "canary":
        heard = ", ".join(sorted(set(outside.canary)))
        words = f"connections from {heard}" if heard else "no connection"
        return _row(check, Verdict.FAILED if heard else Verdict.PASSED, words)
    if check.name == "api-courier":
        status = outside.courier_status
        if status is None:
            return _row(check, Verdict.UNTESTED, "the API could not be asked from here")
        denied = status in (401, 403, 404)
        return _row(check, Verdict.PASSED if denied else Verdict.FAILED, f"asked from outside: {status}")
    return _neighbour(check, outside)


def _neighbour(check: Check, outside: Outside) -> Row:
    """Whether the neighbour's run went on as if nothing was."""
    holds = {
        "its run did not go on": outside.alive,
        f"its listener heard {outside.heard} strangers": not outside.heard,
        "its file was changed": not outside.changed,
        f"{outside.missing} of its signs of life are missing": not outside.missing,
        "it gave no sign of life": outside.ticks > 0,
    }
    wrong = [words for words, holds in holds.items() if not holds]
    words = "; ".join(wrong) or f"{outside.ticks} signs of life, none missing; its listener heard nobody"
    return _row(check, Verdict.FAILED if wrong else Verdict.PASSED, words)


def _flood(check: Check, attempt: Mapping[str, Any] | None, outside: Outside) -> Row:
    if attempt is None or attempt["outcome"] != Outcome.SUCCEEDED:
        told = attempt["detail"] if attempt else "nothing was heard of it"
        return _row(check, Verdict.FAILED, f"it could not be tried: {told}", Outcome.ERROR)
    words = f"{attempt['detail']}; the neighbour was seen at least every {outside.gap:.1f} s"
    verdict = Verdict.FAILED if outside.gap > GAP_MAX else Verdict.PASSED
    return _row(check, verdict, words, Outcome.SUCCEEDED)


def _row(check: Check, verdict: Verdict, detail: str, outcome: Outcome = Outcome.NONE) -> Row:
    return Row(check.name, check.section, check.title, check.expected.value, outcome.value, detail, verdict.value)


def whole(rows: list[Row]) -> Verdict:
    """The verdict on all of it."""
    found = {row.verdict for row in rows}
    return next((each for each in (Verdict.FAILED, Verdict.OPEN, Verdict.PASSED) if each in found), Verdict.UNTESTED)
