"""The couriers' door, as a courier sees it: an ASGI application spoken to in full."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from controlplane.asgi import application
from runtimes.base import Cause
from sessions.choices import Intent, RunState
from sessions.lifecycle import intake, run_tokens, transitions
from sessions.models import AgentSession, Run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


async def call(run: Run | None, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
    address, _, query = path.partition("?")
    token = token or (run_tokens.mint(run.pk) if run else "")
    scope = {
        "type": "http",
        "method": method,
        "path": f"/agent/v1/{address}",
        "query_string": query.encode(),
        "headers": [(b"authorization", f"Bearer {token}".encode())] if token else [],
    }
    app = ApplicationCommunicator(application, scope)
    await app.send_input({"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()})
    start = await app.receive_output(10)
    content = await app.receive_output(10)
    return start["status"], json.loads(content["body"])


def ask(run: Run | None, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
    return asyncio.run(call(run, method, path, body, token))


def event(n: int, kind: str = "stdout", text: str = "x", **data: Any) -> dict[str, Any]:
    return {"n": n, "kind": kind, "text": text, "at": 1.0, "data": data}


def test_hello_starts_the_run(run: Run) -> None:
    told = ask(run, "POST", "hello", {"version": 1})
    assert told == (200, {"run": str(run.pk), "session": str(run.session_id), "stored": 0})
    run.refresh_from_db()
    assert run.state == RunState.STARTING and run.started_at and run.seen_at


def test_a_run_that_waited_for_the_quota_and_starts_gives_its_slot_to_nobody(run: Run) -> None:
    Run.objects.update(state=RunState.STARTING, waits_cause=Cause.QUOTA, waits_for="exceeded quota")
    ask(run, "POST", "hello", {"version": 1})
    assert not transitions.request_end(run.pk, Intent.PREEMPT, only_idle=True)


@pytest.mark.parametrize("token", ["", "nonsense", f"{uuid.uuid4()}.{'0' * 64}"])
def test_a_wrong_token_opens_nothing(run: Run, token: str) -> None:
    assert ask(None, "POST", "hello", {}, token)[0] == 401


def test_a_token_opens_its_own_run_only(run: Run) -> None:
    stolen = f"{run.pk}.{run_tokens.mint(uuid.uuid4()).partition('.')[2]}"
    assert ask(None, "POST", "hello", {}, stolen)[0] == 401


def test_a_run_that_is_over_is_gone(run: Run) -> None:
    Run.objects.filter(pk=run.pk).move(RunState.ENDED, ended_at=run.claimed_at, verdict="completed")
    assert ask(run, "POST", "hello", {})[0] == 410
    assert ask(run, "GET", "inbox")[0] == 410
    assert ask(run, "POST", "events", {"events": [event(1)]})[0] == 410


def test_events_are_stored_and_answered_with_the_highest_number(run: Run) -> None:
    assert ask(run, "POST", "events", {"events": [event(1), event(2)]}) == (200, {"stored": 2})
    assert ask(run, "POST", "events", {"events": [event(2), event(3)]}) == (200, {"stored": 3})
    status, told = ask(run, "POST", "events", {"events": [event(9)]})
    assert (status, told["stored"]) == (409, 3)
    assert ask(run, "POST", "hello", {})[1]["stored"] == 3


@pytest.mark.parametrize("body", [[], {}, {"events": 5}, {"events": [event(1, "message")]}, {"events": [{}]}])
def test_what_is_not_the_protocol_is_bad_input(run: Run, body: Any) -> None:
    status, told = ask(run, "POST", "events", body)
    assert status == 422 and told["detail"]


def test_an_earlier_run_of_the_group_may_be_drained(run: Run, session: AgentSession) -> None:
    Run.objects.filter(pk=run.pk).move(RunState.ENDED, ended_at=run.claimed_at, verdict="vanished")
    intake.post_message(session, "again", sender=None)
    following = transitions.claim(session.pk, "local")
    left = {"run": str(run.pk), "events": [event(1, text="last words")]}
    assert ask(following, "POST", "events", left) == (200, {"stored": 1})
    assert session.events.get(kind="stdout").run == run


def test_a_run_of_another_group_is_not_there(run: Run, profile: Any) -> None:
    from groups.models import AgentGroup

    other = intake.open_session(group=AgentGroup.objects.create(slug="b"), profile=profile, text="x", sender=None)
    stranger = transitions.claim(other.pk, "local")
    assert stranger
    assert ask(run, "POST", "events", {"run": str(stranger.pk), "events": [event(1)]})[0] == 404
    assert ask(run, "POST", "events", {"run": "x", "events": [event(1)]})[0] == 404


def test_the_inbox_gives_what_waits(run: Run) -> None:
    status, told = ask(run, "GET", "inbox?after=0&wait=25")
    assert status == 200 and told["command"] is None
    assert [(m["number"], m["text"], m["sender"]) for m in told["messages"]] == [(1, "Hello", "member")]
    assert ask(run, "GET", "inbox?after=1&wait=0")[1] == {"messages": [], "command": None}
    assert ask(run, "GET", "inbox?after=0&limit=0&wait=0")[1]["messages"] == []
    assert ask(run, "GET", "inbox?after=x")[0] == 422


def test_a_long_poll_wakes_for_a_message(run: Run, session: AgentSession) -> None:
    from sessions.db_executor import in_thread

    async def both() -> tuple[int, Any]:
        poll = asyncio.ensure_future(call(run, "GET", "inbox?after=1&wait=20"))
        await in_thread(intake.post_message, session, "more", sender=None)
        return await asyncio.wait_for(poll, 10)

    assert [m["text"] for m in asyncio.run(both())[1]["messages"]] == ["more"]


@pytest.mark.parametrize(
    ("intent", "command"), [(Intent.CLOSE, "close"), (Intent.IDLE, "close"), (Intent.STOP, "stop")]
)
def test_a_command_is_told_once_and_ends_the_messages(run: Run, intent: Intent, command: str) -> None:
    transitions.request_end(run.pk, intent)
    assert ask(run, "GET", "inbox?after=0&wait=20")[1] == {"messages": [], "command": command}
    assert ask(run, "GET", f"inbox?after=0&wait=0&command={command}")[1]["command"] == command


def test_other_addresses_are_not_there(run: Run) -> None:
    assert ask(run, "GET", "elsewhere")[0] == 404
    assert ask(run, "GET", "events")[0] == 404
