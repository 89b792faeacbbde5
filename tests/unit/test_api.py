"""The API, as a program sees it."""

import json
from typing import Any

import pytest
from django.test import Client

from groups.models import AgentGroup, AgentProfile, ApiToken
from sessions.api.endpoints import api
from sessions.courier_api import ingest
from sessions.models import AgentSession, Event


class Program(Client):
    """A client with a token."""

    def __init__(self, user: Any) -> None:
        super().__init__(headers={"Authorization": f"Bearer {ApiToken.issue(user)}"})

    def send(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.post(f"/api/v1/{path}", body, content_type="application/json", headers=headers or None)

    def read(self, path: str) -> Any:
        return self.get(f"/api/v1/{path}")


@pytest.fixture
def programs(people: dict[str, Any]) -> dict[str, Program]:
    return {name: Program(user) for name, user in people.items()}


def problem(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    told = json.loads(answer.content)
    assert told["status"] == status and told["title"] and told["detail"]
    return told


def test_groups_with_the_callers_role(programs: dict[str, Program]) -> None:
    told = programs["viewer"].read("groups").json()
    assert told == [{"slug": "harbour", "name": "Harbour", "role": "viewer", "max_runs": 1}]
    assert programs["outsider"].read("groups").json() == []
    assert programs["operator"].read("groups").json()[0]["role"] == "operator"


def test_a_session_is_made_and_told(programs: dict[str, Program], group: AgentGroup, profile: AgentProfile) -> None:
    answer = programs["member"].send("groups/harbour/sessions", {"profile": "workbench", "message": "Hi"})
    assert answer.status_code == 201
    told = answer.json()
    assert (told["group"], told["profile"], told["state"], told["runs"]) == ("harbour", "workbench", "queued", [])
    assert told["reason"]
    assert programs["viewer"].read(f"sessions/{told['id']}").json()["id"] == told["id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"profile": "nope", "message": "Hi"}, "profile"),
        ({"profile": "workbench", "message": " "}, "message"),
        ({"profile": "workbench"}, "message"),
        ({"message": "Hi"}, "profile"),
        ({"profile": "workbench", "message": "Hi", "title": "x" * 81}, "title"),
    ],
)
def test_bad_input_names_the_field(programs: dict[str, Program], profile: AgentProfile, body: Any, field: str) -> None:
    told = problem(programs["member"].send("groups/harbour/sessions", body), 422)
    assert [error["field"] for error in told["errors"]] == [field]
    assert not AgentSession.objects.exists()


def test_what_is_no_json_is_bad_input(programs: dict[str, Program], session: AgentSession) -> None:
    answer = programs["member"].post(f"/api/v1/sessions/{session.pk}/messages", "{", content_type="application/json")
    assert answer.status_code in (400, 422) and answer["Content-Type"] == "application/problem+json"


def test_without_a_token_nothing_opens(session: AgentSession) -> None:
    for path in ("groups", f"sessions/{session.pk}", f"sessions/{session.pk}/events"):
        answer = Client().get(f"/api/v1/{path}")
        problem(answer, 401)
        assert answer["WWW-Authenticate"] == "Bearer"
    problem(Client(headers={"Authorization": "Bearer wrong"}).get("/api/v1/groups"), 401)


def test_what_is_not_yours_is_not_there(programs: dict[str, Program], session: AgentSession) -> None:
    outsider = programs["outsider"]
    for path in (f"sessions/{session.pk}", f"sessions/{session.pk}/events"):
        problem(outsider.read(path), 404)
    for path in ("messages", "stop", "close"):
        problem(outsider.send(f"sessions/{session.pk}/{path}", {"text": "x"}), 404)
    problem(outsider.send("groups/harbour/sessions", {"profile": "workbench", "message": "x"}), 404)
    problem(programs["member"].read("sessions/11111111-1111-4111-8111-111111111111"), 404)


def test_a_viewer_reads_and_may_not_write(programs: dict[str, Program], session: AgentSession) -> None:
    viewer = programs["viewer"]
    assert viewer.read(f"sessions/{session.pk}/events").status_code == 200
    for path in ("messages", "stop", "close"):
        problem(viewer.send(f"sessions/{session.pk}/{path}", {"text": "x"}), 403)
    problem(viewer.send("groups/harbour/sessions", {"profile": "workbench", "message": "x"}), 403)
    assert session.messages.count() == 1


def test_a_role_taken_away_counts_at_once(
    programs: dict[str, Program], people: dict[str, Any], session: AgentSession
) -> None:
    people["member"].memberships.all().delete()
    problem(programs["member"].read(f"sessions/{session.pk}"), 404)


def test_a_person_switched_off_is_out(programs: dict[str, Program], people: dict[str, Any]) -> None:
    people["member"].is_active = False
    people["member"].save()
    problem(programs["member"].read("groups"), 401)


def test_a_message_is_accepted_once_per_key(programs: dict[str, Program], session: AgentSession) -> None:
    member = programs["member"]
    path = f"sessions/{session.pk}/messages"
    answers = [member.send(path, {"text": "more"}, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert [(a.status_code, a.json()) for a in answers] == [(202, {"number": 2})] * 2
    assert member.send(path, {"text": "more"}).json() == {"number": 3}
    problem(member.send(path, {"text": "x"}, **{"Idempotency-Key": "k" * 201}), 422)


def test_events_page_by_page(programs: dict[str, Program], session: AgentSession) -> None:
    ingest.record(session.pk, [("state", f"line {i}", {}) for i in range(1200)])
    member, path = programs["member"], f"sessions/{session.pk}/events"
    first = member.read(path).json()
    assert (len(first["events"]), first["last_seq"]) == (500, 500)
    assert first["events"][0] | {"at": ""} == {
        "seq": 1,
        "kind": "message",
        "text": "Hello",
        "data": {"number": 1, "sender": "member"},
        "run": None,
        "at": "",
    }
    rest = member.read(f"{path}?after=500&limit=1000").json()
    assert [e["seq"] for e in rest["events"]] == list(range(501, 1202))
    assert member.read(f"{path}?after=1201").json() == {"events": [], "last_seq": 1201, "removed": 0}
    problem(member.read(f"{path}?limit=0"), 422)
    problem(member.read(f"{path}?after=-1"), 422)
    problem(member.read(f"{path}?after=x"), 422)


def test_stop_and_close_answer_with_the_session(programs: dict[str, Program], session: AgentSession) -> None:
    assert programs["member"].send(f"sessions/{session.pk}/stop").json()["state"] == "idle"
    assert programs["member"].send(f"sessions/{session.pk}/close").status_code == 200


def test_a_token_is_kept_as_a_hash_only(people: dict[str, Any], capsys: Any) -> None:
    from django.core.management import CommandError, call_command

    call_command("create_token", "member", "--name", "ci")
    printed = capsys.readouterr().out.strip()
    row = ApiToken.objects.get(name="ci")
    assert printed.startswith("berth_") and printed not in str(row.__dict__)
    assert row.digest == ApiToken.hash(printed)
    with pytest.raises(CommandError, match="no user"):
        call_command("create_token", "nobody")


def test_the_description_is_there_for_programs(client: Client, db: None) -> None:
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    assert "/api/v1/sessions/{session_id}/events" in paths


def test_wrong_tokens_are_slowed_and_right_ones_of_the_same_address_are_not(
    programs: dict[str, Program], people: dict[str, Any], settings: Any
) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 3
    assert programs["member"].read("groups").status_code == 200
    wrong = Client(headers={"Authorization": "Bearer wrong"})
    answers = [wrong.get("/api/v1/groups") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    assert answers[-1]["Retry-After"] == "60"
    problem(answers[-1], 429)
    assert programs["member"].read("groups").status_code == 200
    assert wrong.get("/api/v1/groups", REMOTE_ADDR="203.0.113.9").status_code == 401


def test_events_start_at_the_oldest_that_is_there(programs: dict[str, Program], session: AgentSession) -> None:
    ingest.record(session.pk, [("state", f"line {i}", {}) for i in range(4)])
    Event.objects.filter(session=session, seq__lte=3).delete()
    AgentSession.objects.filter(pk=session.pk).update(pruned_seq=3)
    path = f"sessions/{session.pk}/events"
    told = programs["viewer"].read(path).json()
    assert ([e["seq"] for e in told["events"]], told["last_seq"], told["removed"]) == ([4, 5], 5, 3)
    assert programs["viewer"].read(f"{path}?after=3").json()["removed"] == 0
    Event.objects.all().delete()
    AgentSession.objects.filter(pk=session.pk).update(pruned_seq=5)
    assert programs["viewer"].read(path).json() == {"events": [], "last_seq": 5, "removed": 5}


def test_operations_have_the_names_that_clients_were_generated_with() -> None:
    paths = api.get_openapi_schema(path_prefix="/api/v1/")["paths"]
    names = {operation["operationId"] for path in paths.values() for operation in path.values()}
    assert {"sessions_api_list_events", "schedules_api_run_task", "reach_api_list_asked"} <= names
