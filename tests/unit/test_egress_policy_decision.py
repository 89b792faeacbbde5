"""Which hosts a rule may name, and what a run may reach by the rules that count for it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_policy import host_patterns
from egress_policy.decision import Rule, decide

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LATER, BEFORE = NOW + timedelta(hours=1), NOW - timedelta(hours=1)


def rule(host: str, *ports: int, until: datetime | None = None, id: str = "1") -> Rule:
    return Rule(id, host, ports or (443,), until)


@pytest.mark.parametrize(
    ("rules", "host", "port", "allowed"),
    [
        ([], "api.example.com", 443, None),
        ([rule("api.example.com")], "api.example.com", 443, "1"),
        ([rule("api.example.com")], "api.example.com", 22, None),
        ([rule("api.example.com")], "api.example.com", 80, None),
        ([rule("api.example.com", 22, 443)], "api.example.com", 22, "1"),
        ([rule("api.example.com")], "example.com", 443, None),
        ([rule("api.example.com")], "x.api.example.com", 443, None),
        ([rule("api.example.com")], "api.example.com.evil.test", 443, None),
        ([rule("*.example.com")], "api.example.com", 443, "1"),
        ([rule("*.example.com")], "a.b.c.example.com", 443, "1"),
        ([rule("*.example.com")], "example.com", 443, None),
        ([rule("*.example.com")], "badexample.com", 443, None),
        ([rule("*.com")], "example.com", 443, "1"),
        ([rule("*.com")], "com", 443, None),
        ([rule("registry")], "registry", 443, "1"),
        ([rule("api.example.com", until=LATER)], "api.example.com", 443, "1"),
        ([rule("api.example.com", until=BEFORE)], "api.example.com", 443, None),
        ([rule("api.example.com", until=NOW)], "api.example.com", 443, None),
        ([rule("api.example.com", until=BEFORE), rule("*.example.com", id="2")], "api.example.com", 443, "2"),
        ([rule("api.example.com", until=LATER), rule("*.example.com", id="2")], "api.example.com", 443, "2"),
        ([rule("a.test", until=LATER), rule("a.test", until=LATER + timedelta(1), id="2")], "a.test", 443, "2"),
    ],
)
def test_the_rules_decide(rules: list[Rule], host: str, port: int, allowed: str | None) -> None:
    decision = decide(rules, host, port, NOW)
    assert (decision.allowed, decision.rule) == (allowed is not None, allowed)
    assert decision.reason.endswith(".")


def test_what_ends_says_when() -> None:
    assert decide([rule("a.test", until=LATER)], "a.test", 443, NOW).until == LATER
    assert decide([rule("a.test", until=LATER), rule("a.test", id="2")], "a.test", 443, NOW).until is None


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([], "Nothing allows a.test"),
        ([rule("a.test", 8443), rule("*.test", 22)], "not on port 443: only on 22, 8443"),
        ([rule("a.test", until=BEFORE)], "was allowed until 2026-11-01 11:00 UTC"),
        ([rule("a.test", 22, until=BEFORE)], "Nothing allows a.test"),
    ],
)
def test_a_refusal_says_what_is_missing(rules: list[Rule], words: str) -> None:
    assert words in decide(rules, "a.test", 443, NOW).reason


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("api.example.com", "api.example.com"),
        (" API.Example.COM. ", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
        ("registry", "registry"),
        ("*.com", "*.com"),
    ],
)
def test_a_host_is_stored_as_it_is_compared(written: str, stored: str) -> None:
    assert host_patterns.normal(written) == stored == host_patterns.normal(stored)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("10.0.0.1", "Rules are for names"),
        ("127.1", "Rules are for names"),
        ("2130706433", "Rules are for names"),
        ("0x7f000001", "Rules are for names"),
        ("0177.0.0.1", "Rules are for names"),
        ("::1", "Rules are for names"),
        ("[::1]", "Rules are for names"),
        ("::ffff:10.0.0.1", "Rules are for names"),
        ("*.10.0.0.1", "Rules are for names"),
        ("*.127", "Rules are for names"),
        ("*", "A star stands"),
        ("a.*.com", "A star stands"),
        ("*.*.com", "A star stands"),
        ("api*.example.com", "A star stands"),
        ("https://api.example.com", "without https://, a port or a path"),
        ("api.example.com/path", "a port or a path"),
        ("api.example.com:443", "without https://, a port"),
        ("user@example.com", "Use a host"),
        ("a..b", "Use a host"),
        ("", "Use a host"),
        ("*.", "Use a host"),
        ("a b.test", "Use a host"),
        ("%00.test", "Use a host"),
        ("x" * 300, "Use a host"),
    ],
)
def test_what_is_no_name_is_refused_with_words(written: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        host_patterns.normal(written)


LABEL = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)


@given(NAME, NAME)
def test_a_suffix_allows_the_names_below_it_and_no_others(suffix: str, other: str) -> None:
    rules = [rule(host_patterns.normal(f"*.{suffix}"))]
    assert decide(rules, f"{other}.{suffix}", 443, NOW).allowed
    assert decide(rules, other, 443, NOW).allowed == other.endswith(f".{suffix}")


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("*.com", 1), ("*.github.io", 1), ("*.example.com", 0), ("github.io", 0), ("*.me.github.io", 0)],
)
def test_a_rule_that_allows_nearly_anything_has_a_warning(pattern: str, count: int) -> None:
    assert len(host_patterns.warnings(pattern)) == count


@pytest.mark.parametrize("ports", [[], [0], [65536], ["443"], [True], "443", None, list(range(1, 22))])
def test_ports_are_numbers(ports: object) -> None:
    with pytest.raises(ValueError, match="Use 1 to 20 ports"):
        host_patterns.check_ports(ports)


def test_ports_are_stored_in_order_once_each() -> None:
    assert host_patterns.check_ports([8443, 443, 443]) == [443, 8443]
