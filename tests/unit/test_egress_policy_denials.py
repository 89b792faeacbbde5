"""What an agent is refused is told in its session, counted, and asked for."""

from typing import Any

import pytest

from egress_policy import access_requests, denials
from egress_policy.choices import RequestState, Term, Whose
from egress_policy.models import EgressDenial, EgressRequest, EgressRule
from egress_policy.reports import parse
from groups.models import AgentGroup, AgentProfile, AuditEntry
from sessions.lifecycle import intake, transitions
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession, Event, Run
from tests.unit.egress import TOKEN, allow, decided, denial, report

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def token(settings: Any) -> None:
    settings.EGRESS_TOKEN = TOKEN


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


def told(session: AgentSession) -> list[tuple[str, int]]:
    rows = Event.objects.filter(session=session, kind="denied").order_by("seq")
    return [(row.data["host"], row.data["count"]) for row in rows]


def asked() -> EgressRequest:
    return EgressRequest.objects.get()


# --- in the session -------------------------------------------------------------------------------------------------


def test_a_refusal_is_an_event_of_the_session(session: AgentSession, run: Run) -> None:
    report(denials=[denial(run)])
    event = Event.objects.get(kind="denied")
    assert (event.session_id, event.run_id) == (session.pk, run.pk)
    assert event.data == {"host": "api.example.com", "port": 443, "code": "rule", "count": 1}
    assert event.text.startswith("The agent was refused api.example.com:443: no egress rule")
    session.refresh_from_db()
    assert event.seq == session.last_seq


def test_a_host_is_told_again_at_each_power_of_ten(session: AgentSession, run: Run) -> None:
    for _ in range(12):
        report(denials=[denial(run)])
    report(denials=[denial(run, count=200)])
    report(denials=[denial(run, "other.test")])
    assert told(session) == [
        ("api.example.com", 1),
        ("api.example.com", 10),
        ("api.example.com", 212),
        ("other.test", 1),
    ]
    assert "212 times by now" in Event.objects.filter(kind="denied").order_by("seq")[2].text


def test_a_report_that_is_told_twice_counts_once(session: AgentSession, run: Run) -> None:
    first, second, third = denial(run), denial(run, count=3), denial(run)
    report(denials=[first, second])
    report(denials=[first, second, third])
    report(denials=[first, second, third])
    assert EgressDenial.objects.get().count == 5 == asked().count
    assert told(session) == [("api.example.com", 1)] or told(session) == [("api.example.com", 4)]


@pytest.mark.parametrize(("known", "new"), [("", "abc"), ("a", "bc"), ("c", ""), ("x", "abc"), ("bx", "c")])
def test_what_stands_before_something_known_is_known(run: Run, known: str, new: str) -> None:
    names = {"a": "0" * 31 + "a", "b": "0" * 31 + "b", "c": "0" * 31 + "c", "x": "x"}
    given = parse({"denials": [denial(run, id=names[name]) for name in "abc"]}).denials
    assert "".join(one.id[-1] for one in denials.uncounted(given, [names[name] for name in known])) == new


def test_other_refusals_are_told_but_not_asked_for(session: AgentSession, run: Run) -> None:
    report(denials=[denial(run, "10.0.0.1", code="literal", reason="10.0.0.1 is an address and not a name")])
    assert told(session) == [("10.0.0.1", 1)] and not EgressRequest.objects.exists()
    assert "asked for" not in Event.objects.get(kind="denied").text


def test_a_flood_of_hosts_is_bounded(session: AgentSession, run: Run) -> None:
    report(denials=[denial(run, f"h{number}.test") for number in range(denials.TARGETS_MAX + 50)])
    assert len(told(session)) == denials.TARGETS_MAX + 1
    assert EgressDenial.objects.get(host="*").count == 50
    assert EgressRequest.objects.count() == denials.TARGETS_MAX


def test_what_a_group_asks_for_is_bounded(
    monkeypatch: Any, session: AgentSession, run: Run, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    monkeypatch.setattr(access_requests, "UNDECIDED_MAX", 3)
    report(denials=[denial(run, f"h{number}.test") for number in range(5)])
    assert EgressRequest.objects.count() == 3 and len(told(session)) == 5


def test_nothing_that_an_agent_wrote_is_more_than_text(session: AgentSession, run: Run) -> None:
    report(denials=[denial(run, "a\x1b[2J\u202eb\0.test", reason="<script>\n\0")])
    event = Event.objects.get(kind="denied")
    assert event.data["host"] == "a\ufffd[2J\ufffdb\ufffd.test" and "\0" not in event.text and "\n" not in event.text


# --- asked for ------------------------------------------------------------------------------------------------------


def test_a_refusal_is_asked_for_once_however_many_ask(session: AgentSession, run: Run, people: dict[str, Any]) -> None:
    report(denials=[denial(run)])
    other = intake.open_session(group=session.group, profile=session.profile, text="Hi", sender=people["member"])
    transitions.enqueue(other)
    second = transitions.claim(other.pk, "local")
    assert second
    report(denials=[denial(second, count=4), denial(second, port=8443)])
    row = EgressRequest.objects.get(port=443)
    assert (row.count, row.state, row.last_session, row.last_run) == (5, "open", other, second)
    assert EgressRequest.objects.count() == 2


def test_an_owner_proposes_and_an_operator_approves_and_the_next_try_goes_through(
    run: Run, people: dict[str, Any]
) -> None:
    report(denials=[denial(run)])
    access_requests.propose(asked(), "The model's API", by="owner", actor=people["owner"])
    assert (asked().state, asked().proposed_by, asked().reason) == ("proposed", "owner", "The model's API")
    rule = access_requests.approve(asked(), Term.WEEK, Whose.GROUP, by="operator", actor=people["operator"])
    assert decided(run)["allowed"] and decided(run)["rule"] == str(rule.pk)
    assert (rule.group, rule.profile, rule.run, rule.reason) == (run.session.group, None, None, "The model's API")
    assert rule.until and (asked().state, asked().rule) == ("approved", rule)
    actions = list(AuditEntry.objects.order_by("pk").values_list("action", "by"))
    assert actions[-3:] == [("egress.propose", "owner"), ("egress.allow", "operator"), ("egress.approve", "operator")]


@pytest.mark.parametrize(
    ("term", "whose", "group_named", "profile_named", "run_named", "ends"),
    [
        (Term.GOOD, Whose.PROFILE_OF_GROUP, True, True, False, False),
        (Term.GOOD, Whose.GROUP, True, False, False, False),
        (Term.DAY, Whose.PROFILE, False, True, False, True),
        (Term.ONCE, Whose.PROFILE, True, True, True, False),
    ],
)
def test_an_approval_is_for_whom_and_how_long_it_says(
    run: Run, term: Term, whose: Whose, group_named: bool, profile_named: bool, run_named: bool, ends: bool
) -> None:
    report(denials=[denial(run)])
    rule = access_requests.approve(asked(), term, whose, by="operator")
    made = (bool(rule.group), bool(rule.profile), bool(rule.run), rule.until is not None)
    assert made == (group_named, profile_named, run_named, ends)
    assert decided(run)["allowed"]


def test_once_needs_a_run_that_lives(run: Run) -> None:
    report(denials=[denial(run)])
    Run.objects.filter(pk=run.pk).update(state="ended", ended_at=run.claimed_at)
    with pytest.raises(InvalidRequest, match="is over"):
        access_requests.approve(asked(), Term.ONCE, Whose.GROUP, by="operator")
    assert asked().state == RequestState.OPEN and not EgressRule.objects.exists()


def test_what_was_refused_stays_so_until_it_is_reopened(run: Run) -> None:
    report(denials=[denial(run)])
    access_requests.refuse(asked(), "never", by="operator")
    report(denials=[denial(run)])
    assert (asked().state, asked().count) == ("refused", 2)
    with pytest.raises(InvalidRequest, match="is refused already"):
        access_requests.propose(asked(), "please", by="owner")
    access_requests.reopen(asked(), by="operator")
    access_requests.propose(asked(), "please", by="owner")
    assert asked().state == "proposed"


def test_what_was_approved_is_asked_for_anew_once_nothing_allows_it(run: Run) -> None:
    report(denials=[denial(run)])
    rule = access_requests.approve(asked(), Term.GOOD, Whose.GROUP, by="operator")
    report(denials=[denial(run)])  # on its way while it was approved
    assert asked().state == "approved"
    rule.delete()
    report(denials=[denial(run)])
    assert (asked().state, asked().rule, asked().decided_at) == ("open", None, None)


def test_two_who_decide_at_once_do_not_both(run: Run) -> None:
    report(denials=[denial(run)])
    first, second = asked(), asked()
    access_requests.approve(first, Term.GOOD, Whose.GROUP, by="one")
    with pytest.raises(InvalidRequest, match="is approved already"):
        access_requests.approve(second, Term.GOOD, Whose.GROUP, by="two")
    with pytest.raises(InvalidRequest, match="is approved already"):
        access_requests.refuse(second, by="two")
    assert EgressRule.objects.count() == 1


def test_a_proposal_says_why(run: Run) -> None:
    report(denials=[denial(run)])
    with pytest.raises(InvalidRequest, match="Say what it is needed for"):
        access_requests.propose(asked(), "  ", by="owner")


def test_a_rule_for_others_leaves_a_request_open(run: Run) -> None:
    allow("api.example.com", group=AgentGroup.objects.create(slug="other"))
    report(denials=[denial(run)])
    assert asked().state == "open"
