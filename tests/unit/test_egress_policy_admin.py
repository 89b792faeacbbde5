"""Egress in the admin and the API: who sees what, who proposes, who decides, and what a run's page tells."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from egress_policy import access_requests, policy_revision
from egress_policy.models import EgressDenial, EgressRequest, EgressRule, EgressUse
from groups.choices import Role, Scope
from groups.models import AgentGroup, AgentProfile, ApiToken, AuditEntry, OperatorScope
from sessions.lifecycle import transitions
from sessions.models import AgentSession, Run
from tests.unit.test_admin import address, client, person

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    return client(person("chief", is_superuser=True))


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


@pytest.fixture
def row(run: Run) -> EgressRequest:
    access_requests.record(run, "api.example.com", 443, 3, timezone.now())
    return EgressRequest.objects.get()


def staff(name: str, group: AgentGroup, *permissions: str, scope: bool = False, role: str = "") -> Client:
    user = person(name, group if role else None, role or Role.VIEWER)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="reach", codename__in=permissions))
    if scope:
        OperatorScope.objects.create(user=user, group=group)
    return client(user)


RULES = ("add_egressrule", "change_egressrule", "delete_egressrule")


def act(who: Client, model: Any, action: str, rows: Any, **fields: str) -> Any:
    chosen = {"action": action, "_selected_action": [str(each.pk) for each in rows]}
    return who.post(address(model, "changelist"), chosen | fields)


def told(answer: Any) -> list[str]:
    return [str(message) for message in get_messages(answer.wsgi_request)]


def form(**changes: Any) -> dict[str, Any]:
    empty = {"group": "", "profile": "", "until_0": "", "until_1": "", "reason": ""}
    return {"host": "API.Example.com", "ports": "443, 8443"} | empty | changes


def shown(who: Client, model: Any) -> str:
    return who.get(address(model, "changelist")).content.decode()


# --- rules ----------------------------------------------------------------------------------------------------------


def test_an_operator_writes_changes_and_withdraws_a_rule(operator: Client) -> None:
    before = policy_revision.current()
    assert operator.get(address(EgressRule, "add")).status_code == 200
    assert operator.post(address(EgressRule, "add"), form(reason="the model")).status_code == 302
    rule = EgressRule.objects.get()
    assert (rule.host, rule.ports, rule.until, rule.whose) == ("api.example.com", [443, 8443], None, "everybody")
    page = operator.get(address(EgressRule, "change", rule.pk)).content.decode()
    assert 'value="443, 8443"' in page
    operator.post(address(EgressRule, "change", rule.pk), form(host="*.example.com", ports="443"))
    rule.refresh_from_db()
    assert (rule.host, rule.ports) == ("*.example.com", [443])
    operator.post(address(EgressRule, "delete", rule.pk), {"post": "yes"})
    assert not EgressRule.objects.exists() and policy_revision.current() == before + 3
    actions = list(AuditEntry.objects.order_by("pk").values_list("action", "by"))
    assert actions[-3:] == [("egress.allow", "chief"), ("egress.change", "chief"), ("egress.withdraw", "chief")]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"host": "10.0.0.1"}, "Rules are for names"), ({"host": "*"}, "A star stands"), ({"ports": "x"}, "1 to 20 ports"),
     ({"ports": "0"}, "1 to 20 ports"), ({"ports": ""}, "required"), ({"host": "https://a.test/"}, "a host alone")],
)  # fmt: skip
def test_a_rule_that_can_not_be_is_not_saved(operator: Client, wrong: dict[str, str], words: str) -> None:
    answer = operator.post(address(EgressRule, "add"), form(**wrong))
    assert answer.status_code == 200 and words in answer.content.decode()
    assert not EgressRule.objects.exists()


def test_a_rule_for_nearly_everything_is_saved_with_a_warning(operator: Client) -> None:
    answer = operator.post(address(EgressRule, "add"), form(host="*.com"))
    assert any("whole top-level domain" in words for words in told(answer)) and EgressRule.objects.exists()


def test_many_are_withdrawn_at_once(operator: Client, group: AgentGroup, profile: AgentProfile) -> None:
    whose: list[dict[str, Any]] = [{}, {"group": group}, {"profile": profile}]
    rows = [EgressRule.objects.create(host=f"{name}.test", **fields) for name, fields in zip("abc", whose, strict=True)]
    assert all(f"{name}.test" in shown(operator, EgressRule) for name in "abc")
    answer = act(operator, EgressRule, "withdraw_selected", rows[:2])
    assert told(answer) == ["2 withdrawn."] and EgressRule.objects.get() == rows[2]


def test_rules_that_are_over_are_out_of_the_way(operator: Client) -> None:
    EgressRule.objects.create(host="over.test", until=timezone.now() - timedelta(hours=1))
    EgressRule.objects.create(host="living.test", until=timezone.now() + timedelta(hours=1))
    assert "living.test" in shown(operator, EgressRule) and "over.test" not in shown(operator, EgressRule)
    page = operator.get(address(EgressRule, "changelist"), {"time": "over"}).content.decode()
    assert "over.test" in page and "living.test" not in page


def test_people_see_the_rules_of_their_groups_and_change_none(group: AgentGroup) -> None:
    other = AgentGroup.objects.create(slug="other")
    mine = EgressRule.objects.create(host="mine.test", group=group)
    theirs = EgressRule.objects.create(host="theirs.test", group=other)
    EgressRule.objects.create(host="common.test")
    owner = client(person("theowner", group, Role.OWNER))
    page = shown(owner, EgressRule)
    assert "mine.test" in page and "common.test" in page and "theirs.test" not in page
    assert owner.get(address(EgressRule, "change", theirs.pk)).status_code == 404
    assert owner.get(address(EgressRule, "change", mine.pk)).status_code == 200
    assert owner.post(address(EgressRule, "change", mine.pk), form()).status_code == 403
    assert owner.post(address(EgressRule, "add"), form()).status_code == 403
    assert owner.post(address(EgressRule, "delete", mine.pk), {"post": "yes"}).status_code == 403
    act(owner, EgressRule, "withdraw_selected", [mine])
    assert EgressRule.objects.count() == 3


def test_who_operates_a_group_writes_its_rules_and_no_others(group: AgentGroup, profile: AgentProfile) -> None:
    other = AgentGroup.objects.create(slug="other")
    common = EgressRule.objects.create(host="common.test")
    scoped = staff("scoped", group, *RULES, scope=True)
    assert scoped.post(address(EgressRule, "add"), form(group=str(group.pk))).status_code == 302
    for wrong in (form(), form(group=str(other.pk)), form(profile=str(profile.pk))):
        assert scoped.post(address(EgressRule, "add"), wrong).status_code == 200
    mine = EgressRule.objects.get(group=group)
    assert EgressRule.objects.count() == 2
    assert scoped.post(address(EgressRule, "change", common.pk), form(group=str(group.pk))).status_code == 403
    act(scoped, EgressRule, "withdraw_selected", [common, mine])
    assert EgressRule.objects.get() == common


# --- asked for ------------------------------------------------------------------------------------------------------


def test_an_owner_proposes_with_a_reason(group: AgentGroup, row: EgressRequest) -> None:
    owner = client(person("theowner", group, Role.OWNER))
    page = act(owner, EgressRequest, "propose_selected", [row]).content.decode()
    assert "Propose these?" in page and "api.example.com:443" in page
    page = act(owner, EgressRequest, "propose_selected", [row], confirmed="yes", reason="").content.decode()
    assert "This field is required" in page
    answer = act(owner, EgressRequest, "propose_selected", [row], confirmed="yes", reason="The model")
    assert told(answer) == ["1 proposed."]
    row.refresh_from_db()
    assert (row.state, row.reason, row.proposed_by) == ("proposed", "The model", "theowner")
    assert "The model (theowner)" in shown(owner, EgressRequest)


@pytest.mark.parametrize("action", ["approve_selected", "refuse_selected", "reopen_selected"])
def test_an_owner_decides_nothing(group: AgentGroup, row: EgressRequest, action: str) -> None:
    owner = client(person("theowner", group, Role.OWNER))
    act(owner, EgressRequest, action, [row], confirmed="yes", term="good", whose="group", answer="")
    row.refresh_from_db()
    assert row.state == "open" and not EgressRule.objects.exists()


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MEMBER])
def test_others_of_the_group_read(group: AgentGroup, row: EgressRequest, role: str) -> None:
    member = client(person("themember", group, role))
    assert "api.example.com" in shown(member, EgressRequest)
    act(member, EgressRequest, "propose_selected", [row], confirmed="yes", reason="x")
    row.refresh_from_db()
    assert row.state == "open"


def test_somebody_from_outside_sees_nothing(row: EgressRequest) -> None:
    outsider = client(person("stranger", AgentGroup.objects.create(slug="other"), Role.OWNER))
    assert "api.example.com" not in shown(outsider, EgressRequest)
    assert outsider.get(address(EgressRequest, "change", row.pk)).status_code == 404
    act(outsider, EgressRequest, "propose_selected", [row], confirmed="yes", reason="x")
    row.refresh_from_db()
    assert row.state == "open"


def test_operators_approve_many_at_once(operator: Client, run: Run) -> None:
    for name in "abc":
        access_requests.record(run, f"{name}.test", 443, 1, timezone.now())
    rows = list(EgressRequest.objects.order_by("host"))
    page = act(operator, EgressRequest, "approve_selected", rows[:2]).content.decode()
    assert "Allow these?" in page and "For a week" in page and "b.test:443" in page
    said = {"confirmed": "yes", "term": "7d", "whose": "group", "answer": "fine"}
    answer = act(operator, EgressRequest, "approve_selected", rows[:2], **said)
    assert told(answer) == ["2 approved."]
    rules = list(EgressRule.objects.order_by("host").values_list("host", "group", "reason"))
    assert rules == [("a.test", run.session.group_id, "fine"), ("b.test", run.session.group_id, "fine")]
    assert EgressRequest.objects.get(host="c.test").state == "open"


def test_operators_refuse_and_reopen(operator: Client, row: EgressRequest) -> None:
    act(operator, EgressRequest, "refuse_selected", [row], confirmed="yes", answer="use the mirror")
    row.refresh_from_db()
    assert (row.state, row.answer, row.decided_by) == ("refused", "use the mirror", "chief")
    answer = act(operator, EgressRequest, "refuse_selected", [row], confirmed="yes", answer="")
    assert told(answer)[-2].endswith("api.example.com:443 is refused already.") and "1 left as" in told(answer)[-1]
    act(operator, EgressRequest, "reopen_selected", [row])
    row.refresh_from_db()
    assert row.state == "open"


def test_who_operates_a_group_decides_for_it_alone(group: AgentGroup, row: EgressRequest, run: Run) -> None:
    here = staff("here", group, *RULES, scope=True)
    there = staff("there", AgentGroup.objects.create(slug="other"), *RULES, scope=True)
    said = {"confirmed": "yes", "term": "good", "whose": "group", "answer": ""}
    act(there, EgressRequest, "approve_selected", [row], **said)
    assert not EgressRule.objects.exists()
    act(here, EgressRequest, "approve_selected", [row], **(said | {"whose": "profile"}))  # is no choice of theirs
    assert not EgressRule.objects.exists()
    act(here, EgressRequest, "approve_selected", [row], **said)
    assert EgressRule.objects.get().group == group


def test_berth_alone_writes_requests(operator: Client, row: EgressRequest) -> None:
    assert operator.get(address(EgressRequest, "change", row.pk)).status_code == 200
    assert operator.get(address(EgressRequest, "add")).status_code == 403
    assert operator.post(address(EgressRequest, "change", row.pk), {"state": "approved"}).status_code == 405
    assert operator.post(address(EgressRequest, "delete", row.pk), {"post": "yes"}).status_code == 403


# --- a run's page and the API ---------------------------------------------------------------------------------------


@pytest.fixture
def used(run: Run) -> Run:
    now = timezone.now()
    for host, sent in (("a.test", 1), ("a.test", 2), ("b.test", 3)):
        EgressUse.objects.create(run=run, host=host, port=443, opened_at=now, ended_at=now, sent=sent, received=10)
    denied = {"reason": "<b>no rule</b>", "first_at": now, "last_at": now, "count": 12}
    EgressDenial.objects.create(run=run, host="c.test", port=443, code="rule", **denied)
    return run


def test_a_runs_page_tells_what_it_reached(operator: Client, used: Run) -> None:
    page = operator.get(address(Run, "change", used.pk)).content.decode()
    assert "a.test:443" in page and "b.test:443" in page and "c.test:443" in page
    assert "&lt;b&gt;no rule" in page and "which nothing confines" in page


def test_a_page_says_what_confines_a_local_run(operator: Client, run: Run, settings: Any) -> None:
    settings.LOCAL_BWRAP = True
    assert "in a sandbox, with no network" in operator.get(address(Run, "change", run.pk)).content.decode()
    Run.objects.filter(pk=run.pk).update(runtime="kubernetes", removed_at=timezone.now())
    page = operator.get(address(Run, "change", run.pk)).content.decode()
    assert "sandbox" not in page and "No egress proxy is configured" in page


def test_the_first_event_says_what_confines_a_local_run(run: Run, session: AgentSession) -> None:
    words = session.events.filter(kind="state").order_by("seq").values_list("text", flat=True)
    assert any("Run 1 starts. It is a local process, which nothing confines" in text for text in words)


def api(user: User, method: str, path: str, body: Any = None) -> Any:
    token = ApiToken.issue(user, "test", scope=Scope.WRITE)
    headers = {"Authorization": f"Bearer {token}"}
    return getattr(Client(), method)(f"/api/v1/{path}", body, content_type="application/json", headers=headers)


def test_the_api_tells_what_a_run_reached(used: Run, people: dict[str, Any]) -> None:
    path = f"sessions/{used.session_id}/runs/1/egress"
    answer = api(people["viewer"], "get", path).json()
    assert [(row["host"], row["connections"], row["sent"]) for row in answer["reached"]] == [
        ("a.test", 2, 3),
        ("b.test", 1, 3),
    ]
    assert [(row["host"], row["count"]) for row in answer["denied"]] == [("c.test", 12)]
    assert api(people["outsider"], "get", path).status_code == 404
    assert api(people["viewer"], "get", f"sessions/{used.session_id}/runs/2/egress").status_code == 404


def test_the_api_lists_what_is_asked_for_and_takes_proposals(
    row: EgressRequest, people: dict[str, Any], group: AgentGroup
) -> None:
    path = f"groups/{group.slug}/egress"
    listed = api(people["viewer"], "get", path).json()
    assert [(each["host"], each["state"], each["count"]) for each in listed] == [("api.example.com", "open", 3)]
    assert api(people["outsider"], "get", path).status_code == 404
    propose = f"egress/{row.pk}/propose"
    assert api(people["outsider"], "post", propose, {"reason": "x"}).status_code == 404
    assert api(people["member"], "post", propose, {"reason": "x"}).status_code == 403
    assert api(people["owner"], "post", propose, {"reason": " "}).status_code == 422
    assert api(people["owner"], "post", propose, {"reason": "The model"}).json()["state"] == "proposed"
    assert api(people["owner"], "post", propose, {"reason": "again"}).status_code == 422
    access_requests.refuse(row, by="operator")
    assert api(people["viewer"], "get", path).json() == []
    assert len(api(people["viewer"], "get", f"{path}?undecided=false").json()) == 1
