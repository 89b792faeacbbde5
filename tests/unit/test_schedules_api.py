"""Tasks, as a program makes and changes them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from groups.models import AgentGroup, AgentProfile, AuditEntry
from schedules.models import ScheduledTask
from sessions.models import AgentSession, Message
from tests.unit.test_api import Program, problem

WEEKDAYS = {"prompt": "Count the boats", "cron": "0  9 * * 1-5", "time_zone": "Europe/Berlin", "profile": "workbench"}


@pytest.fixture
def programs(people: dict[str, Any], profile: AgentProfile) -> dict[str, Program]:
    return {name: Program(user) for name, user in people.items()}


@pytest.fixture
def made(programs: dict[str, Program]) -> dict[str, Any]:
    answer = programs["member"].send("groups/harbour/tasks", WEEKDAYS)
    assert answer.status_code == 201, answer.content
    told: dict[str, Any] = answer.json()
    return told


def change(program: Program, task_id: str, **said: Any) -> Any:
    return program.patch(f"/api/v1/tasks/{task_id}", said, content_type="application/json")


def test_a_task_is_made_told_and_listed(programs: dict[str, Program], made: dict[str, Any]) -> None:
    assert made | {"id": "", "next_at": "", "next_times": []} == {
        "id": "", "group": "harbour", "name": "", "prompt": "Count the boats", "kind": "cron", "cron": "0 9 * * 1-5",
        "every_seconds": None, "once_at": None, "time_zone": "Europe/Berlin", "session": None, "profile": "workbench",
        "state": "active", "reason": "", "next_at": "", "last_at": None, "last_session": None, "last_message": None,
        "outcome": None, "outcome_words": "", "failures": 0, "max_failures": 5, "skipped": 0, "next_times": [],
    }  # fmt: skip
    assert len(made["next_times"]) == 5 and made["next_times"][0] == made["next_at"]
    assert programs["viewer"].read(f"tasks/{made['id']}").json() == made
    assert [each["id"] for each in programs["viewer"].read("groups/harbour/tasks").json()] == [made["id"]]
    row = ScheduledTask.objects.get()
    assert row.created_by and row.created_by.username == "member"
    assert AuditEntry.objects.get(action="task.create").actor == row.created_by


def test_one_time_without_an_offset_is_read_by_the_tasks_clocks(programs: dict[str, Program]) -> None:
    said = {"prompt": "x", "profile": "workbench", "once_at": "2030-07-01T09:00:00", "time_zone": "America/New_York"}
    programs["member"].send("groups/harbour/tasks", said)
    programs["member"].send("groups/harbour/tasks", said | {"once_at": "2030-07-01T09:00:00Z"})
    times = ScheduledTask.objects.order_by("created_at").values_list("once_at", flat=True)
    assert list(times) == [datetime(2030, 7, 1, 13, tzinfo=UTC), datetime(2030, 7, 1, 9, tzinfo=UTC)]


def test_a_task_may_continue_a_session(programs: dict[str, Program], session: AgentSession) -> None:
    said = {"prompt": "x", "every_seconds": 60, "session": str(session.pk)}
    told = programs["member"].send("groups/harbour/tasks", said).json()
    assert (told["session"], told["profile"], told["kind"]) == (str(session.pk), None, "interval")


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"cron": None}, "cron"),
        ({"every_seconds": 60}, "cron"),
        ({"cron": None, "every_seconds": 59}, "every_seconds"),
        ({"cron": None, "once_at": "2020-01-01T00:00:00Z"}, "once_at"),
        ({"cron": None, "once_at": "2030-01-01T00:00:00", "time_zone": "x"}, "time_zone"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 300_000}, "prompt"),
        ({"profile": "nope"}, "profile"),
        ({"profile": None}, "profile"),
        ({"session": "11111111-1111-4111-8111-111111111111"}, "profile"),
        ({"session": "11111111-1111-4111-8111-111111111111", "profile": None}, "session"),
        ({"max_failures": 0}, "max_failures"),
        ({"name": "x" * 81}, "name"),
    ],
    ids=str,
)
def test_bad_input_names_the_field(programs: dict[str, Program], said: dict[str, Any], field: str) -> None:
    told = problem(programs["member"].send("groups/harbour/tasks", WEEKDAYS | said), 422)
    assert [error["field"] for error in told["errors"]] == [field]
    assert not ScheduledTask.objects.exists()


def test_another_groups_session_is_not_continued(
    programs: dict[str, Program], session: AgentSession, people: dict[str, Any]
) -> None:
    AgentGroup.objects.create(slug="pier", name="Pier")
    said = {"prompt": "x", "every_seconds": 60, "session": str(session.pk)}
    told = problem(programs["operator"].send("groups/pier/tasks", said), 422)
    assert "belongs to another group" in told["detail"]


def test_only_what_is_said_changes(programs: dict[str, Program], made: dict[str, Any]) -> None:
    told = change(programs["member"], made["id"], name="Boats").json()
    assert told == made | {"name": "Boats"}

    told = change(programs["member"], made["id"], every_seconds=3600).json()
    assert (told["kind"], told["cron"], told["every_seconds"]) == ("interval", None, 3600)
    assert told["next_at"] != made["next_at"]
    problem(change(programs["member"], made["id"], cron="x"), 422)
    assert programs["member"].read(f"tasks/{made['id']}").json() == told


def test_an_interval_keeps_its_beat_when_something_else_changes(programs: dict[str, Program], made: Any) -> None:
    told = change(programs["member"], made["id"], every_seconds=3600).json()
    assert change(programs["member"], made["id"], prompt="Count them twice").json()["next_at"] == told["next_at"]


def test_what_is_done_is_active_again_with_a_new_time(programs: dict[str, Program], made: dict[str, Any]) -> None:
    later = (timezone.now() + timedelta(days=1)).isoformat()
    ScheduledTask.objects.update(kind="once", once_at=timezone.now(), cron="", state="done", next_at=None)
    assert change(programs["member"], made["id"], name="Boats").json()["state"] == "done"
    assert change(programs["member"], made["id"], once_at=later).json()["state"] == "active"


def test_pause_resume_run_and_remove(programs: dict[str, Program], made: dict[str, Any]) -> None:
    member, path = programs["member"], f"tasks/{made['id']}"
    told = member.send(f"{path}/pause").json()
    assert (told["state"], told["reason"], told["next_at"]) == ("paused", "Paused by member.", None)
    assert member.send(f"{path}/resume").json()["next_at"] == made["next_at"]

    answer = member.send(f"{path}/run")
    assert (answer.status_code, answer.json()["outcome"]) == (202, "pending")
    message = Message.objects.get()
    assert (answer.json()["last_session"], answer.json()["last_message"]) == (str(message.session_id), 1)
    told = problem(member.send(f"{path}/run"), 422)
    assert "not over" in told["detail"]

    assert member.delete(f"/api/v1/{path}").status_code == 204
    problem(member.read(path), 404)
    assert AgentSession.objects.exists()


def test_a_full_group_says_so(programs: dict[str, Program], made: Any, settings: LazySettings) -> None:
    settings.SCHEDULES_PER_GROUP = 1
    told = problem(programs["member"].send("groups/harbour/tasks", WEEKDAYS), 422)
    assert "1 active tasks" in told["detail"]


def test_what_is_not_yours_is_not_there(programs: dict[str, Program], made: dict[str, Any]) -> None:
    outsider, path = programs["outsider"], f"tasks/{made['id']}"
    problem(outsider.read("groups/harbour/tasks"), 404)
    problem(outsider.send("groups/harbour/tasks", WEEKDAYS), 404)
    problem(outsider.read(path), 404)
    problem(change(outsider, made["id"], name="x"), 404)
    problem(outsider.delete(f"/api/v1/{path}"), 404)
    for action in ("pause", "resume", "run"):
        problem(outsider.send(f"{path}/{action}"), 404)
    assert ScheduledTask.objects.get().state == "active"


def test_a_viewer_reads_and_may_not_write(programs: dict[str, Program], made: dict[str, Any]) -> None:
    viewer, path = programs["viewer"], f"tasks/{made['id']}"
    problem(viewer.send("groups/harbour/tasks", WEEKDAYS), 403)
    problem(change(viewer, made["id"], name="x"), 403)
    problem(viewer.delete(f"/api/v1/{path}"), 403)
    for action in ("pause", "resume", "run"):
        problem(viewer.send(f"{path}/{action}"), 403)
    assert not Message.objects.exists()


def test_without_a_token_nothing_opens(made: dict[str, Any]) -> None:
    for path in ("groups/harbour/tasks", f"tasks/{made['id']}"):
        problem(Client().get(f"/api/v1/{path}"), 401)


def test_the_list_costs_the_same_however_long_it_is(
    programs: dict[str, Program], made: Any, django_assert_max_num_queries: Any
) -> None:
    for _ in range(10):
        programs["member"].send("groups/harbour/tasks", WEEKDAYS)
    with django_assert_max_num_queries(5):
        assert len(programs["member"].read("groups/harbour/tasks").json()) == 11
