"""Text that no database can hold, wherever it comes in: it is replaced, or refused with words, and never a fault."""

import json
import sys
from typing import Any
from urllib.parse import quote

import pytest
from django.core.management import call_command
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

import manage
from egress_policy import decision_service
from egress_policy.models import EgressRequest
from groups.models import AgentGroup, AgentProfile
from groups.texts import storable
from schedules import agent_requests, tasks
from schedules.models import ScheduledTask, TaskRequest
from sessions.lifecycle import run_tokens, transitions
from sessions.models import AgentSession, Message
from tests.unit.test_api import Program, problem

ODD = "a\0b\ud800c\ude00"
KEPT = "a\ufffdb\ufffdc\ufffd"
TASK = {"prompt": "Count the boats", "every_seconds": 60, "profile": "workbench"}
# Any text, with what a database can't hold far oftener than chance would have it.
TEXTS = st.text(st.one_of(st.sampled_from("\0\ud800\udfff😀\n "), st.characters(exclude_categories=[])), max_size=90)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FEW = effort(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def member(people: dict[str, Any], profile: AgentProfile, client: Client) -> Program:
    program = Program(people["member"])
    program.raise_request_exception = False
    return program


@pytest.fixture
def operator(people: dict[str, Any], profile: AgentProfile) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(people["operator"])
    return client


@given(TEXTS)
def test_what_is_made_storable_is_utf8_without_nul_and_ordinary_text_stays(text: str) -> None:
    kept = storable(text)
    assert "\0" not in kept and kept.encode().decode() == kept and len(kept) == len(text)
    assert storable(kept) == kept


def test_a_first_message_and_its_title_are_kept_like_a_follow_up(member: Program, group: AgentGroup) -> None:
    said = {"profile": "workbench", "message": ODD, "title": ODD}
    answer = member.send("groups/harbour/sessions", json.dumps(said))
    assert answer.status_code == 201, answer.content
    assert (answer.json()["title"], Message.objects.get().text) == (KEPT, KEPT)
    path = f"sessions/{answer.json()['id']}/messages"
    assert member.send(path, json.dumps({"text": ODD})).status_code == 202
    assert {each["text"] for each in member.read(path).json()} == {KEPT}


def test_a_title_cut_from_the_message_is_whole_characters(member: Program, group: AgentGroup) -> None:
    text = "x" * 79 + "😀" * 3
    told = member.send("groups/harbour/sessions", {"profile": "workbench", "message": text}).json()
    assert told["title"] == "x" * 79 + "😀"
    halves = json.dumps({"profile": "workbench", "message": "x" * 79 + "\ud83d"})
    assert member.send("groups/harbour/sessions", halves).json()["title"] == "x" * 79 + "\ufffd"


@pytest.mark.parametrize("field", ["profile", "name", "prompt", "cron", "time_zone", "once_at", "session"])
def test_a_field_of_a_task_is_kept_or_refused(member: Program, group: AgentGroup, field: str) -> None:
    answer = member.send("groups/harbour/tasks", json.dumps(TASK | {field: ODD}))
    if field in ("name", "prompt"):
        assert answer.status_code == 201 and answer.json()[field] == KEPT
    else:
        problem(answer, 422)


@FEW
@given(st.dictionaries(st.sampled_from([*TASK, "name", "cron", "once_at", "time_zone", "max_failures"]), JSON))
def test_no_task_that_is_asked_for_is_a_fault(member: Program, group: AgentGroup, said: dict[str, Any]) -> None:
    answer = member.send("groups/harbour/tasks", json.dumps(TASK | said))
    assert answer.status_code in (201, 422), answer.content
    ScheduledTask.objects.all().delete()


@FEW
@given(JSON)
def test_no_body_of_a_session_is_a_fault(member: Program, group: AgentGroup, body: Any) -> None:
    for said in (body, {"profile": body, "message": "x"}, {"profile": "workbench", "message": body, "title": body}):
        answer = member.send("groups/harbour/sessions", json.dumps(said))
        assert answer.status_code in (201, 400, 422), answer.content


@pytest.mark.parametrize("path", [f"groups/{quote('a' + chr(0))}/tasks", "groups/%00/egress", "groups/%ED%A0%80/tasks"])
def test_a_path_with_it_leads_nowhere(member: Program, path: str) -> None:
    problem(member.read(path), 404)


@FEW
@given(TEXTS.map(lambda text: quote(text, safe="", errors="surrogatepass")), st.sampled_from(["after", "limit", "q"]))
def test_no_address_is_a_fault(member: Program, session: AgentSession, text: str, name: str) -> None:
    assert member.read(f"groups/{text}/tasks").status_code in (200, 404)
    assert member.read(f"sessions/{session.pk}/events?{name}={text}").status_code in (200, 422)


@pytest.mark.parametrize("number", ["9" * 19, "9" * 40, "9" * 5000])
def test_a_number_that_no_row_can_have_is_no_fault(member: Program, session: AgentSession, number: str) -> None:
    for path in ("messages", "events"):
        assert member.read(f"sessions/{session.pk}/{path}?after={number}").status_code in (200, 422)
    answer = member.delete(f"/api/v1/sessions/{session.pk}/messages/{number}")
    assert answer.status_code in (404, 422)


PAGES = ["agent_sessions/agentsession", "agent_sessions/message", "schedules/scheduledtask", "groups/agentgroup",
         "groups/agentprofile", "reach/egressrequest", "groups/auditentry"]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_an_admin_page_is_searched_and_opened_with_it(operator: Client, session: AgentSession, page: str) -> None:
    for query in ("q=a%00b", "state=%00", "state__exact=%00", "group__slug=%00", "p=%00", "e=%00", "active=%00"):
        assert operator.get(f"/admin/{page}/?{query}").status_code in (200, 302, 400), query
    assert operator.get(f"/admin/{page}/a%00b/change/").status_code in (302, 404)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slug", "a\0b"),
        ("command", '["a\\u0000b"]'),
        ("command", '["a\\ud800b"]'),
        ("command", "[" * 5000),
        ("environment", '{"LANG": "a\\u0000b"}'),
        ("environment", '{"LANG": "a\\ud800b"}'),
        ("secrets", '{"a\\u0000b": "ref:model"}'),
        ("node_selector", '{"disk": "a\\u0000b"}'),
        ("tolerations", '[{"key": "a\\u0000b", "operator": "Exists"}]'),
        ("pod_patch", '{"metadata": {"annotations": {"note": "a\\u0000b"}}}'),
        ("image", "a\0b"),
    ],
)
def test_a_profiles_form_says_what_is_wrong(operator: Client, profile: AgentProfile, field: str, value: str) -> None:
    form = operator.get("/admin/groups/agentprofile/add/").context["adminform"].form
    said = {name: form[name].value() for name in form.fields if form[name].value() not in (None, False)}
    said |= {"slug": "new", "command": '["true"]', "contract": "jsonl", field: value}
    answer = operator.post("/admin/groups/agentprofile/add/", said)
    assert answer.status_code == 200 and list(answer.context["adminform"].form.errors) == [field]
    assert AgentProfile.objects.count() == 1


def test_a_new_sessions_form_takes_none_of_it(operator: Client, group: AgentGroup, profile: AgentProfile) -> None:
    said = {"group": group.pk, "profile": profile.pk, "text": "a\0b", "title": "a\0b"}
    answer = operator.post("/admin/agent_sessions/agentsession/add/", said)
    assert answer.status_code == 200 and {"text", "title"} <= answer.context["adminform"].form.errors.keys()


def test_a_message_from_the_live_page_is_kept(operator: Client, session: AgentSession) -> None:
    answer = operator.post(f"/admin/agent_sessions/agentsession/{session.pk}/message/", {"text": "a\0b"})
    assert (answer.status_code, Message.objects.last().text) == (202, "a\ufffdb")  # type: ignore[union-attr]


def test_what_an_agent_asks_for_is_kept(session: AgentSession) -> None:
    run = transitions.claim(session.pk, "local")
    said = {"type": "schedule_task", "prompt": ODD, "schedule_type": "interval", "schedule_value": "60000"}
    request = TaskRequest.objects.create(session=session, run=run, text=json.dumps(said | {"taskId": ODD}))
    assert agent_requests.handle(request.pk)
    row = ScheduledTask.objects.get()
    assert (row.prompt, row.name, row.agents_id) == (KEPT, KEPT, KEPT)


@FEW
@given(st.dictionaries(
    st.sampled_from(["type", "prompt", "schedule_type", "schedule_value", "context_mode", "taskId", "targetJid"]),
    JSON | st.sampled_from(["schedule_task", "cancel_task", "cron", "once", "interval", "group"]),
))  # fmt: skip
def test_no_request_of_an_agent_stays(session: AgentSession, asked: dict[str, Any]) -> None:
    run = session.runs.first() or transitions.claim(session.pk, "local")
    request = TaskRequest.objects.create(session=session, run=run, text=json.dumps(asked))
    tasks.requested(request.pk)
    assert not TaskRequest.objects.exists()
    said = session.events.last()
    assert said and "Berth failed" not in said.text and len(said.text) < 2000


def test_an_owners_words_for_a_host_are_kept(people: dict[str, Any], session: AgentSession) -> None:
    row = EgressRequest.objects.create(group=session.group, profile=session.profile, host="example.com", port=443)
    answer = Program(people["owner"]).send(f"egress/{row.pk}/propose", json.dumps({"reason": ODD}))
    assert (answer.status_code, answer.json()["reason"]) == (200, KEPT)


@pytest.mark.parametrize("host", [ODD, "a\0.example.com", "\ud800.example.com"])
def test_a_host_that_an_agent_makes_up_is_refused_and_no_fault(session: AgentSession, host: str) -> None:
    run = transitions.claim(session.pk, "local")
    assert run
    told = decision_service.answer_proxy(str(run.pk), run_tokens.mint_egress(run.pk), host, 443)
    assert told and not told["allowed"]
    assert (
        decision_service.answer_proxy(str(run.pk), ODD, host, 443)
        is None
        is decision_service.answer_proxy(ODD, ODD, host, 443)
    )


def test_a_command_in_a_terminal_takes_what_is_no_utf8(session: AgentSession, people: dict[str, Any]) -> None:
    call_command("sessions", "send", str(session.pk), "a\udcffb")
    assert Message.objects.last().text == "a\ufffdb"  # type: ignore[union-attr]


@pytest.mark.parametrize("words", [["create_token", "\udcff"], ["sessions", "list", "--group", "\udcff"]])
def test_a_name_that_is_no_utf8_is_nobodys(db: None, monkeypatch: Any, capsys: Any, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", *words])
    with pytest.raises(SystemExit):
        manage.main()
    assert "There is no" in capsys.readouterr().err
