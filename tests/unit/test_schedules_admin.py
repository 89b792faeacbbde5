"""The admin's pages of tasks: making one, what is wrong with it, when it is due, and the actions of the list."""

from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, AuditEntry, Membership
from schedules import execute, service
from schedules.models import ScheduledTask
from sessions.lifecycle import intake
from sessions.models import AgentSession, Message

LIST = "admin:schedules_scheduledtask_changelist"


def client(name: str, group: AgentGroup | None = None, role: str = Role.MEMBER, **more: Any) -> Client:
    user = User.objects.create_user(name, is_staff=True, **more)
    if group:
        Membership.objects.create(group=group, user=user, role=role)
    visitor = Client()
    visitor.force_login(user)
    return visitor


@pytest.fixture
def member(group: AgentGroup) -> Client:
    return client("member", group)


@pytest.fixture
def wanted(group: AgentGroup, profile: AgentProfile) -> dict[str, Any]:
    return {
        "group": group.pk, "name": "Boats", "prompt": "Count the boats", "kind": "cron", "cron": "30 2 * * *",
        "time_zone": "Europe/Berlin", "every_seconds": "", "once_at_0": "", "once_at_1": "", "context": "fresh",
        "session": "", "profile": profile.pk, "max_failures": 5,
    }  # fmt: skip


@pytest.fixture
def task(group: AgentGroup, profile: AgentProfile) -> ScheduledTask:
    made = ScheduledTask(group=group, prompt="Count the boats", cron="30 2 * * *", profile=profile)
    made.time_zone = "Europe/Berlin"
    return service.store(made, by="ada")


def page(task: ScheduledTask, name: str = "change") -> str:
    return reverse(f"admin:schedules_scheduledtask_{name}", args=[task.pk])


def add(visitor: Client, wanted: dict[str, Any], **more: Any) -> Any:
    return visitor.post(reverse("admin:schedules_scheduledtask_add"), wanted | more)


def act(visitor: Client, action: str, *tasks: ScheduledTask) -> str:
    """What the list says after an action."""
    chosen = {"action": action, "_selected_action": [task.pk for task in tasks], "index": 0}
    return visitor.post(reverse(LIST), chosen, follow=True).content.decode()


def test_a_task_is_made(member: Client, wanted: dict[str, Any]) -> None:
    assert add(member, wanted).status_code == 302
    task = ScheduledTask.objects.get()
    assert (task.name, task.cron, task.state, task.created_by) == (
        "Boats",
        "30 2 * * *",
        "active",
        User.objects.get(username="member"),
    )
    assert task.next_at and task.next_at > timezone.now()
    assert AuditEntry.objects.get(action="task.create").by == "member"


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"cron": "61 * * * *"}, "cron", "its minute can"),
        ({"cron": "whenever"}, "cron", "0 9 * * 1-5"),
        ({"time_zone": "Mars"}, "time_zone", "such as Europe/Berlin"),
        ({"kind": "interval"}, "every_seconds", "at least 60"),
        ({"kind": "interval", "every_seconds": 59}, "every_seconds", "at least 60 seconds"),
        ({"kind": "once"}, "once_at", "Say when"),
        ({"kind": "once", "once_at_0": "2020-01-01", "once_at_1": "09:00"}, "once_at", "in the future"),
        ({"prompt": " "}, "prompt", ""),
        ({"context": "session"}, "session", "Choose the session"),
        ({"profile": ""}, "profile", "Choose what"),
        ({"group": ""}, "group", "required"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_at_its_field(
    member: Client, wanted: dict[str, Any], change: dict[str, Any], field: str, words: str
) -> None:
    answer = add(member, wanted, **change)
    assert answer.status_code == 200
    errors = answer.context["adminform"].form.errors
    assert field in errors and words in str(errors[field])
    assert not ScheduledTask.objects.exists()


def test_a_full_group_says_so(member: Client, wanted: dict[str, Any], settings: LazySettings) -> None:
    settings.SCHEDULES_PER_GROUP = 1
    add(member, wanted)
    errors = add(member, wanted).context["adminform"].form.errors
    assert "1 active tasks" in str(errors["group"])
    assert ScheduledTask.objects.count() == 1


def test_the_page_shows_the_next_five_times_by_its_clocks(member: Client, task: ScheduledTask) -> None:
    text = member.get(page(task)).content.decode()
    assert text.count("02:30:00 CE") + text.count("03:00:00 CEST") == 5
    assert "Active" in text and "Never run" in text and "('active'" not in text


def test_a_task_that_was_edited_counts_from_now_and_stays_in_its_group(
    member: Client, task: ScheduledTask, wanted: dict[str, Any]
) -> None:
    other = AgentGroup.objects.create(slug="pier", name="Pier")
    assert member.post(page(task), wanted | {"cron": "0 4 * * *", "group": other.pk}).status_code == 302
    before, task = task, ScheduledTask.objects.get()
    assert (task.cron, task.group) == ("0 4 * * *", before.group)
    assert task.next_at != before.next_at
    assert AuditEntry.objects.filter(action="task.change").count() == 1


def test_the_list_shows_state_outcome_and_reason(member: Client, task: ScheduledTask) -> None:
    execute.run_now(task, by="ada")
    Message.objects.update(state="failed", reason="The agent ran out of memory.")
    ScheduledTask.objects.update(max_failures=1)
    execute.settle(task.pk)
    text = member.get(reverse(LIST)).content.decode()
    for words in ("Count the boats", "30 2 * * * (Europe/Berlin)", "Paused", "Failed", "ran out of memory"):
        assert words in text
    assert str(Message.objects.get().session_id) in member.get(page(task)).content.decode()


def test_actions_tell_what_happened(member: Client, task: ScheduledTask) -> None:
    assert "1 paused." in act(member, "pause_selected", task)
    assert ScheduledTask.objects.get().state == "paused"
    assert "1 resumed." in act(member, "resume_selected", task)
    assert "1 run." in act(member, "run_selected", task)
    again = act(member, "run_selected", task)
    assert "1 left as they are." in again and "not over" in again
    assert Message.objects.count() == 1


def test_a_viewer_reads_and_changes_nothing(group: AgentGroup, task: ScheduledTask, wanted: dict[str, Any]) -> None:
    viewer = client("viewer", group, Role.VIEWER)
    assert viewer.get(page(task)).status_code == 200
    assert viewer.post(page(task), wanted).status_code == 403
    assert viewer.post(page(task, "delete"), {"post": "yes"}).status_code == 403
    assert add(viewer, wanted).status_code == 403
    assert "1 not allowed" in act(viewer, "run_selected", task)
    assert not Message.objects.exists() and ScheduledTask.objects.exists()


def test_an_outsider_finds_nothing(task: ScheduledTask) -> None:
    outsider = client("outsider", AgentGroup.objects.create(slug="pier", name="Pier"))
    assert "Count the boats" not in outsider.get(reverse(LIST)).content.decode()
    assert outsider.get(page(task)).status_code == 404
    act(outsider, "pause_selected", task)
    assert ScheduledTask.objects.get().state == "active"


def test_only_ones_own_groups_and_sessions_are_offered(
    member: Client, wanted: dict[str, Any], profile: AgentProfile
) -> None:
    other = AgentGroup.objects.create(slug="pier", name="Pier")
    theirs = intake.open_session(group=other, profile=profile, text="Hi", sender=None)
    form = add(member, wanted, group=other.pk, context="session", session=theirs.pk).context["adminform"].form
    assert {"group", "session"} <= set(form.errors)
    assert list(AgentSession.objects.all()) == [theirs] and not ScheduledTask.objects.exists()


def test_a_task_is_removed_and_the_log_knows(member: Client, task: ScheduledTask) -> None:
    member.post(page(task, "delete"), {"post": "yes"})
    assert not ScheduledTask.objects.exists()
    assert AuditEntry.objects.get(action="task.remove").details["name"] == "Count the boats"


def test_the_list_costs_the_same_however_long_it_is(member: Client, wanted: dict[str, Any]) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert member.get(reverse(LIST)).status_code == 200
        return len(captured)

    add(member, wanted)
    member.get(reverse(LIST))  # reads what is read once, such as content types
    few = cost()
    for _ in range(10):
        add(member, wanted)
    assert cost() == few
