"""The egress proxies' door, as a proxy sees it: decisions, the version, reports."""

import asyncio
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from egress_policy import access_requests, policy_revision, rules, traffic
from egress_policy.models import EgressRequest, EgressRule, EgressUse
from groups.models import AgentGroup, AgentProfile
from runtimes.base import Observed, Phase
from sessions.choices import RunState
from sessions.lifecycle import egress_access, run_tokens, transitions
from sessions.models import AgentSession, Run
from tests.unit.egress import TOKEN, allow, ask, call, decided, denial, question, report, tunnel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def token(settings: Any) -> None:
    settings.EGRESS_TOKEN = TOKEN


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


def end(run: Run) -> None:
    assert transitions.end(run, Observed(Phase.FINISHED, exit_code=0))


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["decide", "version", "report", "nothing"])
def test_without_a_token_there_is_no_door(settings: Any, run: Run, path: str) -> None:
    settings.EGRESS_TOKEN = ""
    for method in ("GET", "POST"):
        assert ask(method, path, {}, token="")[0] == 404
        assert ask(method, path, {}, token=TOKEN)[0] == 404


@pytest.mark.parametrize("wrong", ["", "wrong", TOKEN[:-1], f"{TOKEN}x", "ö"])
def test_a_wrong_token_opens_nothing(run: Run, wrong: str) -> None:
    for method, path in (("POST", "decide"), ("GET", "version"), ("POST", "report")):
        assert ask(method, path, question(run), token=wrong)[0] == 403


def test_a_couriers_token_opens_nothing(run: Run) -> None:
    assert ask("POST", "decide", question(run), token=run_tokens.mint(run.pk))[0] == 403


def test_the_token_may_stand_in_a_file_and_change(settings: Any, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings.EGRESS_TOKEN, settings.EGRESS_TOKEN_FILE = "", str(file)
    assert ask("GET", "version")[0] == 404
    file.write_text(f"{TOKEN}\n")
    assert ask("GET", "version")[0] == 200
    file.write_text("another")
    assert ask("GET", "version")[0] == 403


def test_other_addresses_are_not_there(run: Run) -> None:
    assert ask("GET", "decide")[0] == 404
    assert ask("POST", "decide/x", {})[0] == 404


# --- decisions ------------------------------------------------------------------------------------------------------


def test_nothing_is_allowed_by_itself(run: Run) -> None:
    told = decided(run)
    assert (told["allowed"], told["rule"], told["until"]) == (False, None, None)
    assert (
        "Nothing allows api.example.com" in told["reason"] and "an owner of the group can propose it" in told["reason"]
    )


def test_rules_count_for_everybody_a_group_a_profile_a_run(run: Run, group: AgentGroup, profile: AgentProfile) -> None:
    other = AgentGroup.objects.create(slug="other")
    stranger = AgentProfile.objects.create(slug="stranger", command=["x"])
    allow("common.test")
    allow("group.test", group=group)
    allow("profile.test", profile=profile)
    allow("both.test", group=group, profile=profile)
    allow("run.test", run=run, group=group)
    allow("no.test", group=other)
    allow("no.test", profile=stranger)
    allow("no.test", group=group, profile=stranger)
    allow("no.test", group=other, profile=profile)
    for host in ("common", "group", "profile", "both", "run"):
        assert decided(run, f"{host}.test")["allowed"], host
    assert not decided(run, "no.test")["allowed"]


def test_a_rule_of_a_run_ends_with_it(run: Run, session: AgentSession) -> None:
    allow("once.test", run=run, group=session.group)
    end(run)
    transitions.enqueue(session)
    second = transitions.claim(session.pk, "local")
    assert second and not decided(second, "once.test")["allowed"]


def test_suffixes_ports_and_times_count(run: Run) -> None:
    until = timezone.now() + timedelta(hours=1)
    rule = allow("*.example.com", [443, 8443], until=until)
    told = decided(run, "API.Example.COM.", 8443)
    assert told["allowed"] and told["rule"] == str(rule.pk) and told["until"] == pytest.approx(until.timestamp())
    assert not decided(run, "example.com")["allowed"]
    assert "only on 443, 8443" in decided(run, "api.example.com", 22)["reason"]
    EgressRule.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert not decided(run)["allowed"]


@pytest.mark.parametrize("host", ["10.0.0.1", "127.1", "0x7f01", "21307064", "::1", "[::1]", "a b", "x" * 300, ""])
def test_what_is_no_name_is_never_allowed(run: Run, host: str) -> None:
    allow("*.1")
    allow(host[:250] or "x")
    assert not decided(run, host)["allowed"]


@pytest.mark.parametrize("wrong", [{"credential": "x"}, {"run": "x"}, {"run": str(uuid.uuid4())}, {"credential": ""}])
def test_a_wrong_credential_is_told_from_a_refusal(run: Run, wrong: dict[str, str]) -> None:
    assert ask("POST", "decide", question(run) | wrong)[0] == 401


@pytest.mark.parametrize("spelled", ["hex", "upper", "braces"])
def test_a_run_has_one_name(run: Run, spelled: str) -> None:
    """The proxies count by it what a run does."""
    name = {"hex": run.pk.hex, "upper": str(run.pk).upper(), "braces": f"{{{run.pk}}}"}[spelled]
    assert ask("POST", "decide", question(run) | {"run": name})[0] == 401


def test_another_runs_credential_and_the_couriers_token_are_wrong(run: Run) -> None:
    for credential in (
        run_tokens.mint_egress(uuid.uuid4()),
        run_tokens.mint(run.pk),
        run_tokens.mint(run.pk).partition(".")[2],
    ):
        assert ask("POST", "decide", question(run, credential=credential))[0] == 401


def test_a_credential_dies_with_its_run(run: Run) -> None:
    allow("api.example.com")
    assert decided(run)["allowed"]
    end(run)
    assert ask("POST", "decide", question(run))[0] == 401


@pytest.mark.parametrize("body", [b"", b"{", [], {}, {"run": 1, "credential": 1, "host": 1, "port": 1}])
def test_what_is_no_question_is_bad_input(body: Any) -> None:
    status, told = ask("POST", "decide", body)
    assert status == 422 and told["detail"]


def test_a_port_is_a_number(run: Run) -> None:
    assert ask("POST", "decide", question(run, port="443"))[0] == 422


def test_a_refusal_says_how_far_the_request_came(run: Run, people: dict[str, Any]) -> None:
    report(denials=[denial(run)])
    row = EgressRequest.objects.get()
    assert "can propose it" in decided(run)["reason"]
    access_requests.propose(row, "the model", by="owner")
    assert "was proposed and waits for an operator" in decided(run)["reason"]
    access_requests.refuse(row, "use the mirror", by="operator")
    assert decided(run)["reason"].endswith("An operator refused it: use the mirror")


def test_a_run_is_given_its_way_out(settings: Any, run: Run) -> None:
    assert egress_access.of_run(run) is None
    settings.EGRESS_PROXY_URL = "http://proxy.test:3128"
    access = egress_access.of_run(run)
    assert access and access.proxy == "http://proxy.test:3128" and access.credential not in repr(access)
    assert ask("POST", "decide", question(run, credential=access.credential))[0] == 200


# --- the version ----------------------------------------------------------------------------------------------------


def number() -> int:
    status, told = ask("GET", "version?after=-1")
    assert status == 200
    return int(told["version"])


def test_changes_of_rules_are_counted_and_stand_in_decisions(run: Run) -> None:
    before = number()
    rule = rules.store(EgressRule(host="api.example.com"), by="operator")
    assert number() == before + 1 == decided(run)["version"]
    rules.withdraw(rule, by="operator")
    assert number() == before + 2
    assert not decided(run)["allowed"]


def test_a_change_answers_who_waits_for_it(run: Run) -> None:
    now = number()

    async def both() -> tuple[int, Any]:
        waiting = asyncio.ensure_future(call("GET", f"version?after={now}&wait=20"))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, policy_revision.bump)
        return await waiting

    assert asyncio.run(both()) == (200, {"version": now + 1})


def test_without_a_change_the_answer_comes_when_its_time_is_up(run: Run) -> None:
    now = number()
    assert ask("GET", f"version?after={now}&wait=0.05") == (200, {"version": now})
    assert ask("GET", f"version?after={now + 7}&wait=20") == (200, {"version": now})  # a restored database
    assert ask("GET", "version?after=x")[0] == 422


def test_a_run_that_ends_with_something_open_counts_as_a_change(run: Run) -> None:
    report(tunnels=[tunnel(run)])
    before = number()
    end(run)
    assert number() == before + 1


def test_the_end_of_other_runs_wakes_nobody(run: Run) -> None:
    report(tunnels=[tunnel(run, ended=time.time(), cause="client")])
    before = number()
    end(run)
    assert number() == before


def test_what_was_opened_while_its_run_ended_counts_as_a_change(run: Run) -> None:
    end(run)
    before = number()
    report(tunnels=[tunnel(run)])
    assert number() == before + 1


# --- what was reached -----------------------------------------------------------------------------------------------


def test_uses_are_kept_as_totals_however_often_they_are_told(run: Run) -> None:
    first = tunnel(run, sent=10, received=100)
    report(tunnels=[first])
    report(tunnels=[first])
    report(tunnels=[first | {"sent": 30, "received": 300, "ended": time.time(), "cause": "client"}])
    report(tunnels=[first])  # late, from a call that was thought lost
    report(tunnels=[tunnel(run, sent=1, received=2), tunnel(run, "b.test", 8443)])
    use = EgressUse.objects.get(pk=first["id"])
    assert (use.sent, use.received, use.cause, use.ended_at is not None) == (30, 300, "client", True)
    told = [(row.host, row.port, row.connections, row.open, row.sent, row.received) for row in traffic.by_host(run.pk)]
    assert told == [("api.example.com", 443, 2, 1, 31, 302), ("b.test", 8443, 1, 1, 0, 0)]


def test_reports_of_runs_that_are_gone_are_passed_over(run: Run) -> None:
    gone = Run(pk=uuid.uuid4())
    report(tunnels=[tunnel(gone), tunnel(run)], denials=[denial(gone), denial(run)])
    assert EgressUse.objects.count() == 1 and EgressRequest.objects.count() == 1


def test_uses_go_with_their_run(run: Run) -> None:
    report(tunnels=[tunnel(run)], denials=[denial(run)])
    Run.objects.filter(pk=run.pk).update(state=RunState.ENDED, ended_at=timezone.now())
    Run.objects.filter(pk=run.pk).delete()
    assert not EgressUse.objects.exists() and EgressRequest.objects.get().last_run is None


@pytest.mark.parametrize(
    "wrong",
    [{"id": "x"}, {"run": 5}, {"host": None}, {"port": -1}, {"port": 70000}, {"sent": -1}, {"sent": 2**63},
     {"sent": "1"}, {"opened": "now"}, {"opened": float("inf")}, {"opened": True}],
)  # fmt: skip
def test_what_is_no_report_is_bad_input(run: Run, wrong: dict[str, Any]) -> None:
    status, told = ask("POST", "report", {"tunnels": [tunnel(run) | wrong], "denials": []})
    assert status == 422 and told["detail"].startswith("tunnels 0: ")
    assert not EgressUse.objects.exists()


def test_a_report_may_be_empty_and_not_endless(run: Run) -> None:
    assert ask("POST", "report", {}) == (200, {})
    assert ask("POST", "report", [])[0] == 422
    assert ask("POST", "report", {"denials": [denial(run)] * 2001})[0] == 422
    assert ask("POST", "report", b" " * (4 * 1024 * 1024 + 1))[0] == 413
