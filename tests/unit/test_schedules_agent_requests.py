"""What agents ask for: for their own group alone, and answered either way."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from groups.models import AgentGroup, AgentProfile, AuditEntry
from schedules import agent_requests, due_tasks, tasks
from schedules.choices import Context, Kind, TaskState
from schedules.models import ScheduledTask, TaskRequest
from sessions.courier_api import ingest
from sessions.events.event_log import NewEvent
from sessions.lifecycle import intake
from sessions.models import AgentSession, Message, Run, WorkItem
from sessions.signals import swept, task_asked

NINE = {"type": "schedule_task", "prompt": "Count the boats", "schedule_type": "cron", "schedule_value": "0 9 * * *"}
Ask = Callable[..., None]


@pytest.fixture
def run(session: AgentSession) -> Run:
    session.last_run = 1
    session.save()
    return Run.objects.create(session=session, number=1, runtime="local", state="working")


@pytest.fixture
def ask(run: Run) -> Ask:
    """An agent asks, and is answered."""

    def asked(request: Any = None, of: Run = run, **more: Any) -> None:
        text = request if isinstance(request, str) else json.dumps((request or {}) | more)
        task_asked.send(None, session_id=of.session_id, run_id=of.pk, text=text)
        tasks.requested(TaskRequest.objects.latest("pk").pk)

    return asked


def asked(run: Run, *texts: dict[str, Any]) -> list[int]:
    """Requests that wait, in their order."""
    for text in texts:
        task_asked.send(None, session_id=run.session_id, run_id=run.pk, text=json.dumps(text))
    return list(TaskRequest.objects.order_by("pk").values_list("pk", flat=True))


def said(session: AgentSession) -> str:
    """The last event that Berth wrote of its own."""
    event = session.events.filter(kind="state").order_by("-seq").first()
    return event.text if event else ""


def answers(session: AgentSession) -> list[str]:
    """What the agent was told."""
    return list(session.messages.filter(idempotency_key__startswith="task:").values_list("text", flat=True))


def elsewhere(profile: AgentProfile, **more: Any) -> tuple[AgentSession, Run]:
    """A session of another group, with a run."""
    group = AgentGroup.objects.create(slug="pier", name="Pier", **more)
    session = intake.open_session(group=group, profile=profile, text="Hi", sender=None)
    return session, Run.objects.create(session=session, number=1, runtime="local", state="working")


def test_a_task_is_made_as_asked(ask: Ask, session: AgentSession) -> None:
    ask(NINE, taskId="task-1-abc", targetJid=str(session.pk), createdBy="harbour")

    task = ScheduledTask.objects.get()
    assert (task.group, task.prompt, task.kind, task.cron) == (session.group, "Count the boats", Kind.CRON, "0 9 * * *")
    assert (task.context, task.session, task.agents_id) == (Context.SESSION, session, "task-1-abc")
    assert task.state == TaskState.ACTIVE and task.next_at
    event = session.events.order_by("-seq")[0]
    assert event.kind == "state" and str(task.pk) in event.text and "Count the boats" in event.text
    assert event.data == {"task": str(task.pk), "next_at": task.next_at.isoformat()}
    assert answers(session) == [] and not TaskRequest.objects.exists()
    assert AuditEntry.objects.get(action="task.create").target == str(task.pk)


def test_an_isolated_task_gets_a_fresh_session_of_the_same_profile(ask: Ask, session: AgentSession) -> None:
    ask(NINE, context_mode="isolated")
    task = ScheduledTask.objects.get()
    assert (task.context, task.session, task.profile) == (Context.FRESH, None, session.profile)


def test_an_interval_is_in_milliseconds(ask: Ask) -> None:
    ask(NINE, schedule_type="interval", schedule_value="300000")
    assert ScheduledTask.objects.get().every_seconds == 300


@pytest.mark.parametrize(
    ("value", "clock", "instant"),
    [
        ("2099-07-01T09:00:00", "", datetime(2099, 7, 1, 9, tzinfo=UTC)),
        ("2030-07-01T09:00:00", "Europe/Berlin", datetime(2030, 7, 1, 7, tzinfo=UTC)),
        ("2030-07-01T09:00:00", ":Europe/Berlin", datetime(2030, 7, 1, 7, tzinfo=UTC)),
        ("2030-07-01T09:00:00+02:00", "", datetime(2030, 7, 1, 7, tzinfo=UTC)),
    ],
)
def test_once_is_read_by_the_agents_own_clock(
    ask: Ask, profile: AgentProfile, value: str, clock: str, instant: datetime
) -> None:
    AgentProfile.objects.update(environment={"TZ": clock} if clock else {})
    ask(NINE, schedule_type="once", schedule_value=value)
    assert ScheduledTask.objects.get().once_at == instant


@pytest.mark.parametrize("clock", ["Mars/Base", "UTC+2", "CET-1CEST", ":", "::UTC", "/etc/localtime"])
def test_a_clock_that_cant_be_read_is_refused_and_never_taken_for_utc(
    ask: Ask, session: AgentSession, profile: AgentProfile, clock: str
) -> None:
    AgentProfile.objects.update(environment={"TZ": clock})
    ask(NINE)
    assert "variable TZ" in said(session) and "Use a name such as Europe/Berlin" in answers(session)[0]
    assert not ScheduledTask.objects.exists()
    with pytest.raises(ValidationError, match="no time zone"):
        AgentProfile(slug="x", command=["true"], environment={"TZ": clock}).clean_fields()


def test_a_cron_is_read_by_the_agents_own_clock(ask: Ask) -> None:
    AgentProfile.objects.update(environment={"TZ": "America/New_York"})
    ask(NINE)
    assert ScheduledTask.objects.get().time_zone == "America/New_York"


@pytest.mark.parametrize("name", ["its own", "berths"])
def test_its_own_task_is_paused_resumed_and_cancelled(ask: Ask, session: AgentSession, name: str) -> None:
    ask(NINE, taskId="task-1-abc")
    task_id = "task-1-abc" if name == "its own" else str(ScheduledTask.objects.get().pk)

    ask(type="pause_task", taskId=task_id)
    assert ScheduledTask.objects.get().state == TaskState.PAUSED and "Paused" in said(session)
    ask(type="resume_task", taskId=task_id)
    assert ScheduledTask.objects.get().state == TaskState.ACTIVE and "Resumed" in said(session)
    ask(type="cancel_task", taskId=task_id)
    assert not ScheduledTask.objects.exists() and "Cancelled" in said(session)
    assert answers(session) == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("torn {", "no JSON object"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ({"type": "register_group", "jid": "x"}, "there is no 'register_group'"),
        ({"prompt": "x"}, "there is no None"),
        (NINE | {"prompt": " "}, "no prompt"),
        (NINE | {"prompt": 7}, "no prompt"),
        (NINE | {"schedule_type": "yearly"}, "cron, interval or once"),
        (NINE | {"schedule_type": ["cron"]}, "cron, interval or once"),
        (NINE | {"schedule_value": "61 * * * *"}, "its minute can"),
        (NINE | {"schedule_value": None}, "no cron expression"),
        (NINE | {"schedule_type": "interval", "schedule_value": "1 h"}, "Use milliseconds"),
        (NINE | {"schedule_type": "interval", "schedule_value": "59999"}, "at least 60 seconds"),
        (NINE | {"schedule_type": "interval", "schedule_value": "9" * 14}, "at most"),
        (NINE | {"schedule_type": "once", "schedule_value": "tomorrow"}, "is no time"),
        (NINE | {"schedule_type": "once", "schedule_value": "2020-01-01T00:00:00"}, "is over"),
        (NINE | {"context_mode": "shared"}, "group or isolated"),
        ({"type": "pause_task", "taskId": "task-9"}, "there is no task 'task-9'"),
        ({"type": "cancel_task"}, "there is no task"),
        ({"type": "resume_task", "taskId": {"id": 1}}, "there is no task"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_to_people_and_to_the_agent(
    ask: Ask, session: AgentSession, asked: Any, words: str
) -> None:
    ask(asked)
    assert not ScheduledTask.objects.exists() and not TaskRequest.objects.exists()
    assert words in said(session) and "was refused" in said(session)
    [answer] = answers(session)
    assert words in answer and answer.startswith("Your request to ")


@pytest.mark.parametrize("target", ["pier", "session", "nowhere"])
@pytest.mark.parametrize("field", ["targetJid", "groupFolder"])
def test_another_groups_tasks_are_not_for_this_one(
    ask: Ask, session: AgentSession, profile: AgentProfile, target: str, field: str
) -> None:
    other, _ = elsewhere(profile)
    ask(NINE, **{field: str(other.pk) if target == "session" else target})
    assert not ScheduledTask.objects.exists()
    assert "only do this for its own group" in answers(session)[0]


def test_another_groups_task_is_not_found(ask: Ask, session: AgentSession, profile: AgentProfile) -> None:
    _, run = elsewhere(profile)
    ask(NINE, of=run, taskId="theirs")
    theirs = ScheduledTask.objects.get()
    for name in ("theirs", str(theirs.pk)):
        for kind in ("pause_task", "resume_task", "cancel_task"):
            ask(type=kind, taskId=name)
    theirs.refresh_from_db()
    assert theirs.state == TaskState.ACTIVE
    assert all("own group" in answer for answer in answers(session)) and answers(session)


def test_the_main_group_asks_for_any(ask: Ask, session: AgentSession, profile: AgentProfile) -> None:
    _, run = elsewhere(profile, is_main=True)
    ask(NINE, of=run, targetJid="harbour", taskId="a")
    ask(NINE, of=run, targetJid=str(session.pk), taskId="b")
    ask(NINE, of=run, taskId="c")

    made = {task.agents_id: task for task in ScheduledTask.objects.all()}
    assert {name: (task.group.slug, task.context) for name, task in made.items()} == {
        "a": ("harbour", Context.FRESH),
        "b": ("harbour", Context.SESSION),
        "c": ("pier", Context.SESSION),
    }
    assert made["b"].session == session
    ask(type="cancel_task", taskId=str(made["b"].pk), of=run)
    assert set(ScheduledTask.objects.values_list("agents_id", flat=True)) == {"a", "c"}


def test_of_two_tasks_with_one_name_the_main_group_means_its_own(ask: Ask, profile: AgentProfile) -> None:
    ask(NINE, taskId="same")
    _, run = elsewhere(profile, is_main=True)
    ask(NINE, taskId="same", of=run)
    ask(type="cancel_task", taskId="same", of=run)
    assert ScheduledTask.objects.get().group.slug == "harbour"


def test_a_name_is_given_once(ask: Ask, session: AgentSession) -> None:
    ask(NINE, taskId="same")
    ask(NINE, taskId="same")
    assert ScheduledTask.objects.count() == 1 and "of this id already" in answers(session)[0]


def test_a_group_has_so_many_active_tasks_and_no_more(ask: Ask, session: AgentSession, settings: LazySettings) -> None:
    settings.SCHEDULES_PER_GROUP = 2
    for _ in range(3):
        ask(NINE)
    assert ScheduledTask.objects.count() == 2
    assert "2 active tasks, which is its limit" in answers(session)[0]


def test_refusals_are_no_endless_conversation(ask: Ask, session: AgentSession, run: Run) -> None:
    for _ in range(8):
        ask("torn")
    assert len(answers(session)) == 5
    assert session.events.filter(kind="state", text__contains="was refused").count() == 8

    Run.objects.update(state="ended", ended_at=timezone.now())
    later = Run.objects.create(session=session, number=2, runtime="local", state="working")
    ask("torn", of=later)
    assert len(answers(session)) == 5

    intake.post_message(session, "What are you doing?", sender=None)
    ask("torn", of=later)
    ask("torn")
    assert len(answers(session)) == 6  # the first run had its five


def test_a_request_is_stored_with_its_event_and_answered_once(session: AgentSession, run: Run) -> None:
    ingest.ingest(run.pk, [NewEvent("task", json.dumps(NINE), number=1)])
    ingest.ingest(run.pk, [NewEvent("task", json.dumps(NINE), number=1)])

    request = TaskRequest.objects.get()
    assert WorkItem.objects.filter(key=f"schedules.tasks.requested {request.pk}").exists()
    tasks.requested(request.pk)
    tasks.requested(str(request.pk))
    assert ScheduledTask.objects.count() == 1


def test_a_request_whose_task_was_lost_is_found_by_the_sweep(session: AgentSession, run: Run) -> None:
    task_asked.send(None, session_id=session.pk, run_id=run.pk, text=json.dumps(NINE))
    WorkItem.objects.all().delete()
    due_tasks.queued_at.clear()
    swept.send(None)
    assert not WorkItem.objects.exists()

    TaskRequest.objects.update(created_at=timezone.now() - timedelta(minutes=1))
    swept.send(None)
    assert [row.key for row in WorkItem.objects.all()] == [f"schedules.tasks.requested {TaskRequest.objects.get().pk}"]


def test_a_worker_killed_while_it_answers_has_done_nothing(
    session: AgentSession, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for a SIGKILL."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    task_asked.send(None, session_id=session.pk, run_id=run.pk, text=json.dumps(NINE))
    request = TaskRequest.objects.get()
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "record", die)
        with pytest.raises(Killed):
            agent_requests.handle(request.pk)
    assert not ScheduledTask.objects.exists()
    assert agent_requests.handle(request.pk) and not agent_requests.handle(request.pk)
    assert ScheduledTask.objects.count() == 1


def test_a_request_that_cannot_be_handled_is_refused_and_gone(
    ask: Ask, session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(agent_requests, "_carry_out", fail)
    ask(NINE)
    assert "Berth failed to handle it" in said(session) and not TaskRequest.objects.exists()


def test_a_deleted_groups_agent_asks_in_vain(ask: Ask, session: AgentSession) -> None:
    AgentGroup.objects.update(deleted_at=timezone.now())
    ask(NINE)
    assert not ScheduledTask.objects.exists() and "deleted" in said(session)


def test_an_answer_has_no_sender_but_berth(ask: Ask, session: AgentSession) -> None:
    ask("torn")
    assert Message.objects.get(idempotency_key__startswith="task:").sender is None


PAIRS = [
    request
    for number in range(20)
    for request in (NINE | {"taskId": f"t{number}"}, {"type": "cancel_task", "taskId": f"t{number}"})
]


def test_what_was_asked_first_is_done_first_whichever_is_taken_up_first(run: Run, session: AgentSession) -> None:
    for pk in reversed(asked(run, *PAIRS)):
        tasks.requested(pk)
    assert not ScheduledTask.objects.exists() and not TaskRequest.objects.exists()
    words = session.events.filter(kind="state").order_by("seq").values_list("text", flat=True)
    assert [word.split()[0] for word in words] == ["Scheduled", "Cancelled"] * 20


@pytest.mark.django_db(transaction=True)
def test_workers_beside_each_other_keep_the_order(run: Run, session: AgentSession) -> None:
    def work(pk: int) -> None:
        tasks.requested(pk)
        connection.close()

    pks = asked(run, *PAIRS)
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(work, random.Random(1).sample(pks, len(pks))))
    assert not ScheduledTask.objects.exists() and not TaskRequest.objects.exists()
    words = session.events.filter(kind="state").order_by("seq").values_list("text", flat=True)
    assert [word.split()[0] for word in words] == ["Scheduled", "Cancelled"] * 20


def test_one_that_fails_holds_up_no_later_one(run: Run, session: AgentSession) -> None:
    """Of a row that an older version wrote, say: here the session's profile can't be read."""
    _, second = asked(run, NINE, {"type": "pause_task", "taskId": "none"})
    AgentProfile.objects.update(environment=["no", "mapping"])
    tasks.requested(second)
    assert not TaskRequest.objects.exists()
    words = list(session.events.filter(kind="state").order_by("seq").values_list("text", flat=True))
    assert "Berth failed to handle it" in words[0] and "there is no task 'none'" in words[1]
