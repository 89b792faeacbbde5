"""Lists are cut by bytes in the database, before anything is read, and a cursor goes on."""

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from groups.models import AgentGroup, AgentProfile
from schedules.models import ScheduledTask
from sessions import pagination
from sessions.courier_api import ingest
from sessions.events import event_log
from sessions.events.event_log import NewEvent
from sessions.models import AgentSession, Message
from tests.unit.test_api import Program, problem

LONG = "é" * 100 * 1024  # 200 KiB


@pytest.fixture
def member(people: dict[str, Any], profile: AgentProfile) -> Program:
    return Program(people["member"])


def follow(program: Program, path: str) -> list[Any]:
    """Every page of a list."""
    found = []
    while path:
        answer = program.get(path)
        assert answer.status_code == 200 and len(answer.content) < 8 * pagination.PAGE_BYTES
        found.append(answer.json())
        link = re.fullmatch(r'<(.*)>; rel="next"', answer.get("Link", ""))
        path = link[1] if link else ""
    return found


def write(session: AgentSession, count: int, text: str = LONG) -> None:
    Message.objects.bulk_create(Message(session=session, number=2 + i, text=text) for i in range(count))


def test_messages_come_in_pages_of_a_mebibyte(member: Program, session: AgentSession) -> None:
    write(session, 12)
    found = follow(member, f"/api/v1/sessions/{session.pk}/messages?limit=1000")
    assert [[each["number"] for each in page] for page in found] == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13]]


def test_events_come_in_pages_of_a_mebibyte_whether_text_or_data_is_long(
    member: Program, session: AgentSession
) -> None:
    long: list[Any] = [("text", LONG, {}), ("tool", "", {"input": "x" * 2 * len(LONG)})]
    ingest.record(session.pk, long * 6)
    found = follow(member, f"/api/v1/sessions/{session.pk}/events?limit=1000")
    assert [len(page["events"]) for page in found] == [6, 5, 2]
    assert [e["seq"] for page in found for e in page["events"]] == list(range(1, 14))
    assert [page["last_seq"] for page in found] == [6, 11, 13]


def test_one_that_is_larger_alone_is_told_alone(member: Program, session: AgentSession) -> None:
    write(session, 3, LONG * 10)
    found = follow(member, f"/api/v1/sessions/{session.pk}/messages?after=1")
    assert [[each["number"] for each in page] for page in found] == [[2], [3], [4]]


def test_tasks_come_in_pages_of_a_mebibyte(member: Program, group: AgentGroup, profile: AgentProfile) -> None:
    made = {"group": group, "kind": "interval", "every_seconds": 60, "profile": profile, "state": "paused"}
    ScheduledTask.objects.bulk_create(ScheduledTask(name=str(i), prompt=LONG, **made) for i in range(12))
    found = follow(member, "/api/v1/groups/harbour/tasks")
    assert [len(page) for page in found] == [5, 5, 2]
    assert sorted(int(each["name"]) for page in found for each in page) == list(range(12))
    for query in ("offset=-1", "limit=0", "limit=1001", f"offset={10**30}"):
        problem(member.read(f"groups/harbour/tasks?{query}"), 422)


def test_groups_go_on(people: dict[str, Any]) -> None:
    AgentGroup.objects.bulk_create(AgentGroup(slug=f"g{i}", name=f"G{i}") for i in range(7))
    found = follow(Program(people["operator"]), "/api/v1/groups?limit=3")
    assert [len(page) for page in found] == [3, 3, 2]


@effort(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 700 * 1024), max_size=8), st.integers(1, 6))
def test_no_page_is_longer_than_it_may_be_and_none_leaves_anything_out(
    session: AgentSession, sizes: list[int], limit: int
) -> None:
    session.events.all().delete()
    session.last_seq = 0
    event_log.append(session, [NewEvent("text", "x" * size) for size in sizes])
    after, found = 0, []
    while True:
        page, more = event_log.read_page(session.pk, after, limit)
        found += [len(event["text"]) for event in page]
        assert len(page) == 1 or sum(len(event["text"]) for event in page) <= pagination.PAGE_BYTES
        if not more:
            break
        after = page[-1]["seq"]
    assert found == sizes


@pytest.mark.parametrize(
    ("page", "column"),
    [
        ("agent_sessions/message", "text"),
        ("agent_sessions/event", "text"),
        ("agent_sessions/event", "data"),
        ("schedules/scheduledtask", "prompt"),
        ("agent_sessions/run", "last_lines"),
    ],
)
def test_an_admin_list_reads_no_long_text(
    client: Client, people: dict[str, Any], session: AgentSession, profile: AgentProfile, page: str, column: str
) -> None:
    client.force_login(people["operator"])
    made = {"group": session.group, "kind": "interval", "every_seconds": 60, "profile": profile, "state": "paused"}
    ScheduledTask.objects.create(prompt=f"Count\n{LONG}", last_message=session.messages.get(), **made)
    with CaptureQueriesContext(connection) as seen:
        answer = client.get(f"/admin/{page}/")
    assert answer.status_code == 200 and len(answer.content) < 200 * 1024
    whole = {f'"{page.replace("/", "_")}"."{column}"', '"agent_sessions_message"."text"'}
    assert not [sql for each in seen for sql in re.findall(r'(?:SELECT|,) ("[^ ,]+)', each["sql"]) if sql in whole]
