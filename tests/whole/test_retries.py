"""What fails is tried again by itself, for a while; then a person decides. No message is lost or answered twice."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.stack import Stack
from testbed.waiting import wait_for
from tests import images

SETTINGS = {"MAX_RUNS": "20", "MAX_RUNS_PER_GROUP": "20", "RETRY_SECONDS": "1,1,1"}
TRIES = 4


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """SQLite and local processes, with short pauses between tries."""
    stack = Stack.embedded(tmp_path_factory.mktemp("retries"), **SETTINGS)
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, Redis and Kubernetes, with short pauses between tries."""
    for name in ("courier", "workbench"):
        images.build(name)
    stack = Stack.production(tmp_path_factory.mktemp("retries"), **SETTINGS)
    try:
        yield stack.up()
    finally:
        stack.down()


def crashing_until(name: str, words: str) -> str:
    """A message whose agent dies of it as long as the workspace has no file of that name."""
    return f"$ test -e {name} || kill -9 $PPID; echo {words}"


def crashing_once(name: str, words: str) -> str:
    """A message whose first agent dies of it."""
    return f"$ test -e {name} || {{ touch {name}; kill -9 $PPID; }}; echo {words}"


def messages(stack: Stack, session: str) -> list[Any]:
    """The session's messages."""
    told: list[Any] = stack.get(f"sessions/{session}/messages")
    return told


def results(stack: Stack, session: str) -> list[str]:
    """The answers, in their order."""
    return [event["text"] for event in stack.events(session) if event["kind"] == "result"]


def verdicts(stack: Stack, session: str) -> list[str]:
    """The verdicts of the session's runs that ended."""
    return [run["verdict"] for run in stack.session(session)["runs"] if run["verdict"]]


def test_a_message_whose_agent_crashed_is_tried_again_and_answered_once(stack: Stack) -> None:
    session = stack.open(crashing_once("first", "answered"))
    stack.wait_result(session, 90)
    stack.wait_state(session, "waiting")
    assert verdicts(stack, session) == ["agent_error"] and len(results(stack, session)) == 1
    (message,) = messages(stack, session)
    assert (message["state"], message["attempts"], message["reason"]) == ("answered", 2, "")
    told = [event["text"] for event in stack.events(session) if event["kind"] == "state"]
    assert f"Run 2 starts, try 2 of {TRIES}." in told
    stack.post(f"sessions/{session}/stop")


def test_between_two_tries_the_session_says_when_the_next_is(stack: Stack) -> None:
    session = stack.open("/exit 3")
    told = stack.wait_state(session, "retrying", seconds=90)
    assert re.match(rf"Try 2 of {TRIES} at \d\d:\d\d:\d\d UTC\. The agent ended with exit code 3", told["reason"])
    stack.post(f"sessions/{session}/stop")
    assert stack.wait_state(session, "idle")
    assert messages(stack, session)[0]["state"] == "cancelled"


def test_a_message_that_kills_every_agent_fails_and_the_next_keeps_its_place(stack: Stack) -> None:
    session = stack.open(crashing_until("cured", "one"))
    stack.wait_state(session, "retrying", seconds=90)
    stack.send(session, "two")
    told = stack.wait_state(session, "failed", seconds=180)
    assert told["reason"].startswith(f"Tried {TRIES} times. The agent ended with exit code 137")
    assert verdicts(stack, session) == ["agent_error"] * TRIES
    poison, other = messages(stack, session)
    assert (poison["state"], poison["attempts"]) == ("failed", TRIES) and "exit code 137" in poison["reason"]
    assert other["state"] in ("failed", "queued") and results(stack, session) == []

    cure = stack.open("$ touch cured")
    stack.wait_result(cure)
    stack.post(f"sessions/{cure}/stop")
    stack.post(f"sessions/{session}/retry")
    wait_for(lambda: len(results(stack, session)) == 2, 90, f"both answers; {stack.session(session)}")
    assert ["one" in results(stack, session)[0], "two" in results(stack, session)[1]] == [True, True]
    assert [m["state"] for m in messages(stack, session)] == ["answered", "answered"]
    stack.post(f"sessions/{session}/stop")


def test_a_failed_message_can_be_discarded(stack: Stack) -> None:
    session = stack.open("/exit 3")
    stack.wait_state(session, "failed", seconds=180)
    discarded = stack.api.delete(f"{stack.base}/api/v1/sessions/{session}/messages/1", timeout=30).json()
    assert (discarded["state"], discarded["reason"]) == ("cancelled", "It was discarded by admin.")
    refused = stack.api.post(f"{stack.base}/api/v1/sessions/{session}/retry", timeout=30)
    assert refused.status_code == 422 and "nothing to retry" in refused.json()["detail"]
    stack.send(session, "and now something else")
    assert "something else" in stack.wait_result(session)["text"]
    stack.post(f"sessions/{session}/stop")


def test_a_message_that_no_agent_has_can_be_taken_back(stack: Stack) -> None:
    group = stack.group(hold="paused")
    session = stack.open("hello", group)
    stack.send(session, "and more")
    path = f"{stack.base}/api/v1/sessions/{session}/messages"
    assert stack.api.delete(f"{path}/1", timeout=30).json()["reason"] == "It was taken back by admin."
    assert stack.session(session)["state"] == "queued"
    assert stack.api.delete(f"{path}/2", timeout=30).json()["state"] == "cancelled"
    assert stack.session(session)["state"] == "idle"
    again = stack.api.delete(f"{path}/2", timeout=30)
    assert again.status_code == 422 and again.json()["detail"] == "Message 2 is cancelled already."


def test_messages_are_answered_in_their_order_whatever_crashes_between(stack: Stack) -> None:
    session = stack.open("$ echo answer 1")
    for number in range(2, 6):
        crash = crashing_once(f"order-{number}", f"answer {number}")
        stack.send(session, crash if number % 2 == 0 else f"$ echo answer {number}")
    wait_for(lambda: len(results(stack, session)) == 5, 120, f"five answers; {stack.session(session)}")
    numbers = [re.findall(r"answer (\d)", text)[-1] for text in results(stack, session)]
    assert numbers == list("12345")
    assert verdicts(stack, session) == ["agent_error"] * 2
    assert [m["state"] for m in messages(stack, session)] == ["answered"] * 5
    stack.post(f"sessions/{session}/stop")


def test_a_start_that_is_refused_is_not_tried_again(embedded: Stack) -> None:
    session = embedded.open("hello", profile=embedded.profile("absent", command=["no-such-program"]))
    told = embedded.wait_state(session, "failed")
    assert verdicts(embedded, session) == ["rejected"] and "'no-such-program'" in told["reason"]
    assert messages(embedded, session)[0]["state"] == "queued"
