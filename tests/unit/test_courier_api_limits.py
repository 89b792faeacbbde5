"""What the couriers' door takes of one run: so many events and bytes a second, of its own group's ended runs alone."""

import asyncio
import json
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from controlplane.asgi import application
from sessions.choices import Intent, RunState
from sessions.courier_api import endpoints
from sessions.lifecycle import intake, run_tokens, transitions
from sessions.models import AgentSession, Run
from tests.unit.test_courier_api import ask, event

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(session: AgentSession, settings: Any) -> Run:
    settings.DOOR_EVENTS_PER_SECOND, settings.DOOR_KIB_PER_SECOND = 10, 100
    endpoints._run_throttle.cache_clear()
    found = transitions.claim(session.pk, "local")
    assert found
    return found


async def post(run: Run, body: Any) -> tuple[int, dict[bytes, bytes], Any]:
    """As a courier posts events; with the answer's headers."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/agent/v1/events",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {run_tokens.mint(run.pk)}".encode())],
    }
    app = ApplicationCommunicator(application, scope)
    await app.send_input({"type": "http.request", "body": json.dumps(body).encode()})
    start = await app.receive_output(10)
    content = await app.receive_output(10)
    return start["status"], dict(start["headers"]), json.loads(content["body"])


def test_a_run_that_says_too_much_is_told_when_to_come_again(run: Run) -> None:
    flood = {"events": [event(n) for n in range(1, 131)]}
    assert asyncio.run(post(run, flood))[0] == 200
    status, headers, told = asyncio.run(post(run, {"events": [event(131)]}))
    assert status == 429 and "come again" in told["detail"]
    assert 3 <= int(headers[b"retry-after"]) <= 4
    run.refresh_from_db()
    assert run.last_number == 130


def test_the_limit_shows_in_the_session_once(run: Run) -> None:
    ask(run, "POST", "events", {"events": [event(n) for n in range(1, 131)]})
    for _ in range(3):
        assert ask(run, "POST", "events", {"events": [event(131)]})[0] == 429
    said = run.session.events.filter(kind="state", text__contains="limited")
    assert [one.text for one in said] == ["Output is limited to 10 events and 100 KiB a second: the agent waits."]


def test_bytes_count_too(run: Run) -> None:
    assert ask(run, "POST", "events", {"events": [event(n, text="x" * 200_000) for n in range(1, 7)]})[0] == 200
    assert ask(run, "POST", "events", {"events": [event(7)]})[0] == 429


def test_the_inbox_and_other_runs_go_on(run: Run, profile: Any) -> None:
    ask(run, "POST", "events", {"events": [event(n) for n in range(1, 131)]})
    assert ask(run, "POST", "events", {"events": [event(131)]})[0] == 429
    assert ask(run, "GET", "inbox?after=0&wait=0")[0] == 200
    second = intake.open_session(group=run.session.group, profile=profile, text="x", sender=None)
    other = transitions.claim(second.pk, "local")
    assert other
    assert ask(other, "POST", "events", {"events": [event(1)]})[0] == 200


def test_what_is_larger_than_a_request_may_be_is_refused_unread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "BODY_MAX", 1000)
    assert ask(run, "POST", "events", {"events": [event(1, text="x" * 2000)]})[0] == 413
    assert ask(run, "POST", "hello", {"version": "x" * 2000})[0] == 413


@pytest.mark.parametrize("wait", ["nan", "inf", "-inf"])
def test_a_poll_without_an_end_is_bad_input(run: Run, wait: str) -> None:
    assert ask(run, "GET", f"inbox?after=0&wait={wait}")[0] == 422


def test_nesting_without_end_is_bad_input(run: Run) -> None:
    async def deep() -> int:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/agent/v1/events",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {run_tokens.mint(run.pk)}".encode())],
        }
        app = ApplicationCommunicator(application, scope)
        await app.send_input({"type": "http.request", "body": b"[" * 200_000})
        start: dict[str, int] = await app.receive_output(10)
        return start["status"]

    assert asyncio.run(deep()) == 422


def test_an_active_run_is_written_to_by_its_own_courier_alone(run: Run, profile: Any) -> None:
    second = intake.open_session(group=run.session.group, profile=profile, text="x", sender=None)
    neighbour = transitions.claim(second.pk, "local")
    assert neighbour
    forged = {"run": str(run.pk), "events": [event(1, kind="result", text="forged")]}
    assert ask(neighbour, "POST", "events", forged)[0] == 404
    assert not run.session.events.filter(text="forged").exists()
    Run.objects.filter(pk=run.pk).update(state=RunState.ENDED, verdict="completed", ended_at=run.claimed_at)
    assert ask(neighbour, "POST", "events", forged)[0] == 200


@pytest.mark.parametrize("kind", ["message", "state", "nonsense", "", None, 7])
def test_a_courier_cannot_speak_for_people_or_for_berth(run: Run, kind: Any) -> None:
    assert ask(run, "POST", "events", {"events": [event(1, kind=kind)]})[0] == 422


def test_a_token_dies_with_its_run(run: Run) -> None:
    transitions.request_end(run.pk, Intent.STOP)
    Run.objects.filter(pk=run.pk).update(state=RunState.ENDED, verdict="completed", ended_at=run.claimed_at)
    for method, path in [("POST", "hello"), ("GET", "inbox"), ("POST", "events")]:
        assert ask(run, method, path, {"events": [event(1)]} if path == "events" else {})[0] == 410


def test_what_is_nested_deeply_is_stored_as_far_as_it_is_sane(run: Run) -> None:
    deep: Any = "the bottom"
    for _ in range(400):
        deep = [deep]
    assert ask(run, "POST", "events", {"events": [event(1, kind="tool", text="x", input=deep)]})[0] == 200
    stored = json.dumps(run.session.events.get(kind="tool").data)
    assert "nested too deeply" in stored and "the bottom" not in stored
