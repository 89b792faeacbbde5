"""From the agent's report and what was observed outside of it to a verdict on each check. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isolation.checks.catalogue import Check
from isolation.choices import Expected, Outcome, Verdict

GAP_MAX = 10.0  # seconds in which nothing is seen of the neighbour while the agent prints
LOCAL = "local processes share this machine: they are the same user, with the same files and the same network"


@dataclass(slots=True)
class Observations:
    """What was observed outside of the agent."""

    peers: list[str] = field(default_factory=list)  # who connected to the listener
    neighbour_peers: int = 0  # how many connected to the neighbour
    heartbeats: int = 0  # of the neighbour
    missing: int = 0  # numbers left out among the heartbeats
    gap: float = 0.0  # seconds, the longest time between two of them while the agent printed without end
    file_changed: bool = False  # the neighbour's
    alive: bool = True  # the neighbour's run is the one that it was, and goes on
    token_digest: str = ""  # SHA-256 of the courier's token
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

    def as_dict(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self)


def evaluate(check: Check, attempt: Mapping[str, Any] | None, observations: Observations) -> Row:
    """The verdict on one check. `attempt` is the agent's report, None if it gave none."""
    if check.untested:
        return _row(check, Verdict.UNTESTED, check.untested)
    if not check.attack or check.name == "flood":
        return _evaluate_observed(check, attempt, observations)
    if attempt is None:
        return _row(check, Verdict.FAILED, "nothing was heard of it: the agent ended before")
    outcome, detail = Outcome(attempt["outcome"]), str(attempt["detail"])
    if attempt.get("untested"):
        return _row(check, Verdict.UNTESTED, detail)
    if outcome is Outcome.ERROR:
        return _row(check, Verdict.FAILED, f"it could not be tried: {detail}", outcome)
    if observations.token_digest and observations.token_digest in attempt.get("digests", ()):
        return _row(check, Verdict.FAILED, f"it found the courier's token; {detail}", Outcome.SUCCEEDED)
    return _row(check, Verdict.PASSED if outcome == check.expected else Verdict.FAILED, detail, outcome)


def not_isolated(check: Check) -> Row:
    """The row for a runtime that isolates nothing."""
    if check.expected is Expected.SUCCEEDED:
        return _row(check, Verdict.UNTESTED, "nothing holds it")
    return _row(check, Verdict.OPEN, LOCAL)


def _evaluate_observed(check: Check, attempt: Mapping[str, Any] | None, observations: Observations) -> Row:
    """The row of a check that observations alone decide."""
    if check.name == "flood":
        return _evaluate_flood(check, attempt, observations)
    if check.name == "canary":
        peers = ", ".join(sorted(set(observations.peers)))
        detail = f"connections from {peers}" if peers else "no connection"
        return _row(check, Verdict.FAILED if peers else Verdict.PASSED, detail)
    if check.name == "api-courier":
        status = observations.courier_status
        if status is None:
            return _row(check, Verdict.UNTESTED, "the API could not be asked from here")
        denied = status in (401, 403, 404)
        return _row(check, Verdict.PASSED if denied else Verdict.FAILED, f"asked from outside: {status}")
    return _evaluate_neighbour(check, observations)


def _evaluate_neighbour(check: Check, observations: Observations) -> Row:
    """The row for the neighbour's run: it passes if the run went on undisturbed."""
    conditions = {
        "its run did not go on": observations.alive,
        f"its listener heard {observations.neighbour_peers} strangers": not observations.neighbour_peers,
        "its file was changed": not observations.file_changed,
        f"{observations.missing} of its signs of life are missing": not observations.missing,
        "it gave no sign of life": observations.heartbeats > 0,
    }
    wrong = [detail for detail, holds in conditions.items() if not holds]
    detail = "; ".join(wrong) or f"{observations.heartbeats} signs of life, none missing; its listener heard nobody"
    return _row(check, Verdict.FAILED if wrong else Verdict.PASSED, detail)


def _evaluate_flood(check: Check, attempt: Mapping[str, Any] | None, observations: Observations) -> Row:
    if attempt is None or attempt["outcome"] != Outcome.SUCCEEDED:
        detail = attempt["detail"] if attempt else "nothing was heard of it"
        return _row(check, Verdict.FAILED, f"it could not be tried: {detail}", Outcome.ERROR)
    detail = f"{attempt['detail']}; the neighbour was seen at least every {observations.gap:.1f} s"
    verdict = Verdict.FAILED if observations.gap > GAP_MAX else Verdict.PASSED
    return _row(check, verdict, detail, Outcome.SUCCEEDED)


def _row(check: Check, verdict: Verdict, detail: str, outcome: Outcome = Outcome.NONE) -> Row:
    return Row(check.name, check.section, check.title, check.expected.value, outcome.value, detail, verdict.value)


def overall_verdict(rows: list[Row]) -> Verdict:
    """The verdict on the whole proof."""
    found = {row.verdict for row in rows}
    return next((each for each in (Verdict.FAILED, Verdict.OPEN, Verdict.PASSED) if each in found), Verdict.UNTESTED)
