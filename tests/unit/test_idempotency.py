"""What is asked for twice with one key is made once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, Membership
from schedules.models import ScheduledTask
from sessions.courier_api import endpoints
from sessions.models import AgentSession, IdempotencyKey, Message
from tests.unit.test_api import Program, problem
from tests.unit.things import gc, run_of

KEY = {"Idempotency-Key": "7f3a"}
OPENED = {"profile": "workbench", "message": "Hi"}
TASK = {"prompt": "Count the boats", "every_seconds": 60, "profile": "workbench"}


@pytest.fixture
def member(people: dict[str, Any], profile: AgentProfile) -> Program:
    return Program(people["member"])


def counts() -> tuple[int, int, int]:
    return AgentSession.objects.count(), Message.objects.count(), ScheduledTask.objects.count()


@pytest.fixture
def task(group: AgentGroup, profile: AgentProfile) -> ScheduledTask:
    return ScheduledTask.objects.create(
        group=group, prompt="x", kind="interval", every_seconds=60, profile=profile, next_at=timezone.now()
    )


MAKERS = [
    ("groups/harbour/sessions", OPENED, OPENED | {"message": "Ho"}),
    ("groups/harbour/tasks", TASK, TASK | {"prompt": "Count the ships"}),
    ("sessions/{session}/messages", {"text": "Hi"}, {"text": "Ho"}),
]


@pytest.mark.parametrize(("path", "body", "other"), MAKERS, ids=lambda each: str(each)[:20])
def test_the_same_key_makes_one_and_another_body_is_a_conflict(
    member: Program, session: AgentSession, path: str, body: Any, other: Any
) -> None:
    path = path.format(session=session.pk)
    first = member.send(path, body, **KEY)
    after = counts()
    again = member.send(path, dict(reversed(body.items())), **KEY)
    assert (first.status_code, first.json()) == (again.status_code, again.json()) and counts() == after
    assert "another body" in problem(member.send(path, other, **KEY), 409)["detail"]
    assert counts() == after
    assert member.send(path, other, **{"Idempotency-Key": "7f3b"}).status_code == first.status_code
    assert member.send(path, body).status_code == first.status_code
    assert sum(counts()) > sum(after) + 1


def test_a_task_runs_once_per_key(member: Program, task: ScheduledTask) -> None:
    path = f"tasks/{task.pk}/run"
    assert [member.send(path, **KEY).status_code for _ in range(2)] == [202, 202]
    assert Message.objects.count() == 1
    problem(member.send(path), 422)


def test_what_was_refused_takes_no_key(member: Program, group: AgentGroup) -> None:
    problem(member.send("groups/harbour/sessions", OPENED | {"profile": "nope"}, **KEY), 422)
    problem(member.send("groups/harbour/sessions", OPENED | {"message": " "}, **KEY), 422)
    assert member.send("groups/harbour/sessions", OPENED, **KEY).status_code == 201


def test_a_key_is_its_persons_and_its_endpoints(member: Program, people: dict[str, Any], session: AgentSession) -> None:
    other = Program(people["owner"])
    for program in (member, other):
        assert program.send("groups/harbour/sessions", OPENED, **KEY).status_code == 201
        assert program.send(f"sessions/{session.pk}/messages", {"text": "x"}, **KEY).status_code == 202
    assert (AgentSession.objects.count(), session.messages.count()) == (3, 3)


def test_a_key_opens_nothing_that_its_person_may_not_see_any_more(member: Program, group: AgentGroup) -> None:
    assert member.send("groups/harbour/sessions", OPENED, **KEY).status_code == 201
    Membership.objects.filter(role=Role.MEMBER).delete()
    problem(member.send("groups/harbour/sessions", OPENED, **KEY), 404)


@effort(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=300))
def test_no_key_is_a_fault(member: Program, session: AgentSession, key: str) -> None:
    before = session.messages.count()
    answer = member.send(f"sessions/{session.pk}/messages", {"text": "x"}, **{"Idempotency-Key": key})
    right = 1 <= len(key) <= 200 and key.isascii() and key.isprintable()
    if right:
        assert answer.status_code == 202
    else:
        assert problem(answer, 422)["errors"][0]["field"] == "Idempotency-Key" and session.messages.count() == before


@pytest.mark.parametrize("key", ["schedule:x:2030", "task:x:1"])
def test_no_key_is_taken_for_one_of_berths_own(member: Program, session: AgentSession, key: str) -> None:
    run = run_of(session)
    member.send(f"sessions/{session.pk}/messages", {"text": "x"}, **{"Idempotency-Key": key})
    told = endpoints._read_inbox(run.pk, 0, 10)[1]
    assert [each["scheduled"] for each in told] == [False, False]
    assert not Message.objects.exclude(idempotency_key=None).exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("path", "body"), [each[:2] for each in MAKERS], ids=lambda each: str(each)[:20])
def test_of_requests_at_the_same_time_one_makes_it(
    member: Program, session: AgentSession, path: str, body: Any
) -> None:
    path = path.format(session=session.pk)
    before = sum(counts())

    def send(_: int) -> Any:
        answer = member.send(path, body, **KEY)
        connection.close()
        return answer.status_code, answer.json().get("id") or answer.json()["number"]

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(send, range(12)))) == 1
    assert sum(counts()) == before + (2 if "sessions" in path and "messages" not in path else 1)


def test_a_key_is_forgotten_after_its_time(member: Program, session: AgentSession) -> None:
    path = f"sessions/{session.pk}/messages"
    member.send(path, {"text": "x"}, **KEY)
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(days=6))
    assert "idempotency keys" not in gc()[1] and IdempotencyKey.objects.exists()
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(days=8))
    assert "idempotency keys" in gc()[1] and not IdempotencyKey.objects.exists()


def test_the_live_page_sends_once_per_key(people: dict[str, Any], session: AgentSession, client: Client) -> None:
    client.force_login(people["operator"])

    def send(**said: str) -> Any:
        return client.post(f"/admin/agent_sessions/agentsession/{session.pk}/message/", said)

    assert [send(text="x", key="schedule:k").json() for _ in range(2)] == [{"number": 2}] * 2
    assert send(text="y", key="schedule:k").status_code == 409
    assert session.messages.count() == 2
