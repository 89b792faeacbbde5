"""A message becomes a streamed answer: on a laptop's stack and on production's, by the same tests."""

import json
import re
from typing import Any

import pytest
import requests

from testbed.stack import Follower, Stack
from testbed.waiting import wait_for


def test_a_message_is_answered_and_a_follow_up_finds_the_agent_waiting(stack: Stack) -> None:
    session = stack.open("hello there")
    answer = stack.wait_result(session)
    assert "hello there" in answer["text"]
    told = stack.wait_state(session, "waiting")
    assert told["runs"][0]["first_output_at"] and told["reason"].startswith("The agent waits for a follow-up")
    stack.send(session, "$ echo again; pwd")
    assert "again" in stack.wait_result(session, after=answer["seq"])["text"]
    assert len(stack.session(session)["runs"]) == 1
    stack.post(f"sessions/{session}/close")
    run = stack.wait_verdict(session)
    assert (run["verdict"], run["exit_code"]) == ("closed", 0)
    assert "Closed by admin as asked." in run["verdict_words"]


def test_a_later_message_resumes_in_a_new_run(stack: Stack) -> None:
    session = stack.open("$ echo kept > note")
    first = stack.wait_result(session)
    stack.post(f"sessions/{session}/close")
    stack.wait_verdict(session)
    stack.send(session, "$ cat note")
    assert "kept" in stack.wait_result(session, after=first["seq"])["text"]
    ids = {e["data"]["id"] for e in stack.events(session) if e["kind"] == "session"}
    assert len(stack.session(session)["runs"]) == 2 and len(ids) == 1
    stack.post(f"sessions/{session}/stop")


def test_two_pages_see_the_same_in_order(stack: Stack) -> None:
    session = stack.open("/lines 3000 3000")
    pages = [Follower(stack, session) for _ in range(2)]
    stack.wait_result(session)
    stack.post(f"sessions/{session}/stop")
    stack.wait_verdict(session)
    last = stack.events(session)[-1]["seq"]
    for page in pages:
        wait_for(lambda page=page: page.cursor == last, 20, "the page shows all")
        page.close()
        assert [e["seq"] for e in page.events] == list(range(1, last + 1))
        numbers = [int(n) for n in re.findall(r"^line (\d+)", page.text("stdout"), re.MULTILINE)]
        assert numbers == list(range(1, 3001))


def test_events_as_server_sent_events_go_on_where_they_were_left(stack: Stack) -> None:
    session = stack.open("one")
    stack.wait_result(session)
    stack.wait_state(session, "waiting")
    seen = stack.events(session)

    def follow(last: str, until: int) -> list[dict[str, Any]]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        path = f"{stack.base}/api/v1/sessions/{session}/events"
        found = []
        with stack.api.get(path, headers=headers, stream=True, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))
                    if found[-1]["seq"] >= until:
                        return found
        return found

    assert follow("", seen[-1]["seq"]) == seen
    stack.send(session, "two")
    stack.wait_result(session, after=seen[-1]["seq"])
    rest = follow(str(seen[-1]["seq"]), seen[-1]["seq"] + 3)
    assert [e["seq"] for e in rest] == [seen[-1]["seq"] + n for n in (1, 2, 3)]
    assert rest[0]["kind"] == "message"
    stack.post(f"sessions/{session}/stop")


def test_stop_ends_a_busy_agent_now(stack: Stack) -> None:
    session = stack.open("/silent 300")
    stack.wait_state(session, "working")
    stack.post(f"sessions/{session}/stop")
    run = stack.wait_verdict(session)
    assert run["verdict"] == "stopped" and run["verdict_words"].startswith("Stopped by admin.")
    assert stack.session(session)["state"] == "idle"


def test_close_lets_the_turn_finish(stack: Stack) -> None:
    session = stack.open("/slow 3 slowly but surely")
    stack.wait_state(session, "working")
    stack.post(f"sessions/{session}/close")
    run = stack.wait_verdict(session)
    assert run["verdict"] == "closed" and "slowly but surely" in stack.text(session, "result")


@pytest.mark.parametrize(("message", "code"), [("/exit 3", 3), ("/crash", 1)])
def test_an_agent_that_fails_says_so(stack: Stack, message: str, code: int) -> None:
    session = stack.open(message)
    run = stack.wait_verdict(session)
    assert (run["verdict"], run["exit_code"]) == ("agent_error", code)
    told = stack.session(session)
    assert told["state"] in ("retrying", "starting") and f"exit code {code}" in run["verdict_words"]
    stack.post(f"sessions/{session}/stop")


def test_a_waiting_agent_is_closed_when_it_waited_long_enough(stack: Stack) -> None:
    profile = stack.profile("patient", idle_seconds=2)
    session = stack.open("hello", profile=profile)
    run = stack.wait_verdict(session)
    assert run["verdict"] == "idle" and "waiting long enough" in run["verdict_words"]
    assert stack.session(session)["state"] == "idle"


def test_a_run_ends_at_its_deadline(stack: Stack) -> None:
    profile = stack.profile("hurried", deadline_seconds=5)
    session = stack.open("/silent 300", profile=profile)
    run = stack.wait_verdict(session, 90)
    assert run["verdict"] == "deadline" and "time limit" in run["verdict_words"]


def test_who_waits_for_a_slot_is_told_the_place(stack: Stack) -> None:
    group = stack.group(max_runs=1)
    first = stack.open("/silent 300", group)
    stack.wait_state(first, "working")
    second = stack.open("hello", group)
    told = stack.wait_state(second, "queued")
    assert told["reason"].startswith("1st of 1 in the queue: group at its limit of 1.")
    stack.post(f"sessions/{first}/stop")
    stack.wait_result(second)
    stack.post(f"sessions/{second}/stop")


def test_an_idle_agent_gives_way_to_who_waits(stack: Stack) -> None:
    group = stack.group(max_runs=1)
    first = stack.open("hello", group)
    stack.wait_state(first, "waiting")
    second = stack.open("hello", group)
    stack.wait_result(second)
    assert "make room" in stack.wait_verdict(first)["verdict_words"]
    stack.post(f"sessions/{second}/stop")


def test_bytes_that_are_no_text_arrive_whole(stack: Stack) -> None:
    session = stack.open("/bytes")
    stack.wait_result(session)
    raw = [e for e in stack.events(session) if e["kind"] == "stdout" and "base64" in e["data"]]
    assert raw and all("\ufffd" in e["text"] or "\0" not in e["text"] for e in raw)
    stack.post(f"sessions/{session}/stop")


def test_the_plain_contract_makes_any_program_an_agent(stack: Stack) -> None:
    image = {} if stack.env["RUNTIME"] == "local" else {"image": "registry.local/python:3.13"}
    profile = stack.profile("shout", contract="plain", command=["tr", "a-z", "A-Z"], **image)
    session = stack.open("quietly", profile=profile)
    assert stack.wait_result(session)["text"].strip() == "QUIETLY"
    assert stack.wait_verdict(session)["verdict"] == "completed"
    stack.send(session, "and again")
    assert stack.wait_verdict(session, run=2)["verdict"] == "completed"
    results = [e["text"] for e in stack.events(session) if e["kind"] == "result"]
    assert " ".join(results).split() == ["QUIETLY", "AND", "AGAIN"]


def test_metrics_of_a_run_are_in_order(stack: Stack) -> None:
    session = stack.open("hi")
    stack.wait_result(session)
    run = stack.session(session)["runs"][0]
    assert run["started_at"] <= run["first_output_at"] and run["ended_at"] is None
    stack.post(f"sessions/{session}/stop")


def test_the_door_is_no_way_in_for_people(stack: Stack) -> None:
    assert requests.post(f"{stack.base}/agent/v1/hello", json={}, timeout=10).status_code == 401
    assert stack.api.post(f"{stack.base}/agent/v1/hello", json={}, timeout=10).status_code == 401
