"""May a run reach a host? Pure: the rules that count for it, the host, the port and the time are all that matters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from egress_policy.host_patterns import candidates


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that counts for the run: it is everybody's, or its group's, its profile's, or its own."""

    id: str
    host: str  # a pattern in its normal form
    ports: tuple[int, ...]
    until: datetime | None  # None: for good


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. `rule` and `until` are None where nothing allows it; `reason` is in words for the agent."""

    allowed: bool
    reason: str
    rule: str | None = None
    until: datetime | None = None


def decide(rules: Sequence[Rule], host: str, port: int, now: datetime) -> Decision:
    """Decide on a host (in its normal form) and port. Of the rules that allow it the one that lasts longest counts."""
    patterns = set(candidates(host))
    named = [rule for rule in rules if rule.host in patterns]
    in_force = [rule for rule in named if rule.until is None or now < rule.until]
    if matching := [rule for rule in in_force if port in rule.ports]:
        best = max(matching, key=_duration)
        return Decision(True, f"Rule {best.id} allows {best.host}.", best.id, best.until)
    if ended := [rule.until for rule in named if rule.until and now >= rule.until and port in rule.ports]:
        return Decision(False, f"{host} was allowed until {max(ended):%Y-%m-%d %H:%M} UTC, and is not any more.")
    if in_force:
        ports = ", ".join(str(port) for port in sorted({each for rule in in_force for each in rule.ports}))
        return Decision(False, f"{host} is allowed, but not on port {port}: only on {ports}.")
    return Decision(
        False, f"Nothing allows {host}: no rule for everybody, for this group or for this profile names it."
    )


def _duration(rule: Rule) -> tuple[bool, float, str]:
    return rule.until is None, rule.until.timestamp() if rule.until else 0.0, rule.id
