"""Times at the edges of what can be told, wherever they come in; and every page bears any that is stored."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from controlplane import checks
from egress_policy.models import EgressRule
from groups import times
from groups.models import AgentGroup, AgentProfile
from schedules import execute, tasks
from schedules.models import ScheduledTask, TaskRequest
from sessions.lifecycle import transitions
from sessions.models import AgentSession
from tests.unit.test_api import Program, problem

FEW = effort(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EDGES = [
    "0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00",
    "9999-12-31T23:59:59", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59Z", "3000-01-01T00:00:00Z",
]  # fmt: skip
ZONES = ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/New_York"]
MOMENTS = st.one_of(
    st.sampled_from(EDGES),
    st.datetimes(timezones=st.none() | st.timezones()).map(lambda at: at.isoformat()),
    st.text(max_size=30),
    st.integers() | st.floats(),
)


@pytest.fixture
def member(people: dict[str, Any], profile: AgentProfile) -> Program:
    return Program(people["member"])


@pytest.fixture
def operator(people: dict[str, Any], profile: AgentProfile, client: Client) -> Client:
    client.force_login(people["operator"])
    return client


@FEW
@given(MOMENTS, st.sampled_from(ZONES))
@example("9999-12-31T23:59:59", "Pacific/Pago_Pago")
@example("0001-01-01T00:00:00", "Pacific/Kiritimati")
def test_a_time_of_a_program_is_kept_or_refused(member: Program, group: AgentGroup, at: Any, zone: str) -> None:
    said = {"prompt": "x", "profile": "workbench", "once_at": at, "time_zone": zone}
    answer = member.send("groups/harbour/tasks", json.dumps(said))
    assert answer.status_code in (201, 422), answer.content
    if answer.status_code == 201:
        assert member.read(f"tasks/{answer.json()['id']}").status_code == 200
        ScheduledTask.objects.all().delete()
    elif at in EDGES:
        assert problem(answer, 422)["errors"][0]["field"] == "once_at"


@FEW
@given(MOMENTS.map(str), st.sampled_from([*ZONES, ""]))
def test_a_time_of_an_agent_is_kept_or_refused(session: AgentSession, at: str, zone: str) -> None:
    AgentProfile.objects.update(environment={"TZ": zone})
    run = session.runs.first() or transitions.claim(session.pk, "local")
    asked = {"type": "schedule_task", "prompt": "x", "schedule_type": "once", "schedule_value": at}
    tasks.requested(TaskRequest.objects.create(session=session, run=run, text=json.dumps(asked)).pk)
    assert not TaskRequest.objects.exists()
    assert not session.events.filter(text__contains="Berth failed").exists()


@pytest.mark.parametrize(("day", "hour"), [("0001-01-01", "00:00:00"), ("9999-12-31", "23:59:59"), ("x", "\0")])
def test_a_time_in_a_form_is_refused_with_words(
    operator: Client, group: AgentGroup, profile: AgentProfile, day: str, hour: str
) -> None:
    said = {"group": group.pk, "prompt": "x", "kind": "once", "once_at_0": day, "once_at_1": hour, "time_zone": "UTC",
            "context": "fresh", "profile": profile.pk, "max_failures": 5}  # fmt: skip
    answer = operator.post("/admin/schedules/scheduledtask/add/", said)
    assert list(answer.context["adminform"].form.errors) == ["once_at"]
    rule = {"host": "example.com", "ports": "443", "until_0": day, "until_1": hour}
    answer = operator.post("/admin/reach/egressrule/add/", rule)
    assert list(answer.context["adminform"].form.errors) == ["until"]
    assert not ScheduledTask.objects.exists() and not EgressRule.objects.exists()


@pytest.mark.parametrize("at", [datetime.min, datetime.max], ids=["first", "last"])
@pytest.mark.parametrize("zone", [*ZONES, "Mars/Base"])
def test_a_page_bears_any_stored_time(
    operator: Client, member: Program, group: AgentGroup, profile: AgentProfile, at: datetime, zone: str
) -> None:
    at = at.replace(tzinfo=UTC)
    row = ScheduledTask.objects.create(
        group=group, prompt="x", kind="once", once_at=at, time_zone=zone, profile=profile, next_at=at, last_at=at
    )
    assert operator.get("/admin/schedules/scheduledtask/").status_code == 200
    assert operator.get(f"/admin/schedules/scheduledtask/{row.pk}/change/").status_code == 200
    assert member.read("groups/harbour/tasks").status_code == member.read(f"tasks/{row.pk}").status_code == 200
    execute.execute_due()
    assert operator.get(f"/admin/schedules/scheduledtask/{row.pk}/change/").status_code == 200


@pytest.mark.parametrize("at", [datetime.min, datetime.max], ids=["first", "last"])
def test_other_pages_bear_it_too(operator: Client, session: AgentSession, at: datetime) -> None:
    at = at.replace(tzinfo=UTC)
    run = transitions.claim(session.pk, "local")
    assert run
    session.events.update(at=at)
    session.messages.update(created_at=at)
    type(run).objects.update(claimed_at=at, queued_at=at)
    AgentSession.objects.update(created_at=at, updated_at=at)
    EgressRule.objects.create(host="example.com", until=at)
    message = session.messages.get()
    for page in ("agent_sessions/agentsession", "agent_sessions/message", "agent_sessions/run", "agent_sessions/event",
                 f"agent_sessions/agentsession/{session.pk}/change", f"agent_sessions/message/{message.pk}/change",
                 f"agent_sessions/run/{run.pk}/change", "reach/egressrule"):  # fmt: skip
        assert operator.get(f"/admin/{page}/").status_code == 200, page


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_audit_logs_filter_takes_any_day(operator: Client, day: str) -> None:
    assert operator.get(f"/admin/groups/auditentry/?at_from={day}&at_to={day}").status_code == 200


@pytest.mark.parametrize("at", EDGES)
def test_a_time_in_a_terminal_is_refused_with_words(db: None, at: str) -> None:
    with pytest.raises(CommandError, match="--since"):
        call_command("export_audit", "--since", at, stdout=io.StringIO())


def test_a_number_of_days_leads_to_a_time(db: None, settings: Any) -> None:
    with pytest.raises(CommandError, match="0 to 36500"):
        call_command("gc", "--days", "1000000000")
    settings.RETENTION_DAYS = settings.GROUP_GRACE_DAYS = 10**9
    assert [error.id for error in checks.limits()] == ["berth.E006", "berth.E006"]


@given(st.datetimes(timezones=st.timezones()))
def test_what_is_bounded_can_be_moved_anywhere(at: datetime) -> None:
    try:
        times.bounded(at)
    except ValueError:
        assert at.year < times.FIRST_YEAR or at.year > times.LAST_YEAR
        return
    for zone in ZONES:
        assert (at.astimezone(times.zone(zone)) + timedelta(days=366) - timezone.now()).days is not None
