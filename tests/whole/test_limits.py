"""Limits of time and number, and what passes by itself: nobody waits for ever, and no outage uses up a try."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psutil
import pytest

from k8s_adapter import names
from k8s_adapter.client import Api
from k8s_adapter.config import KubernetesConfig
from testbed.stack import Stack
from testbed.waiting import wait_for
from tests import images

SETTINGS = {"MAX_RUNS": "20", "MAX_RUNS_PER_GROUP": "20", "RETRY_SECONDS": "1,1,1", "HEARTBEAT_SECONDS": "17"}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """SQLite and local processes, with short limits."""
    stack = Stack.embedded(tmp_path_factory.mktemp("limits"), **SETTINGS)
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, Redis and Kubernetes, with short limits."""
    for name in ("courier", "workbench"):
        images.build(name)
    stack = Stack.production(tmp_path_factory.mktemp("limits"), **SETTINGS)
    try:
        yield stack.up()
    finally:
        stack.down()


def verdicts(stack: Stack, session: str) -> list[str]:
    """The verdicts of the session's runs that ended."""
    return [run["verdict"] for run in stack.session(session)["runs"] if run["verdict"]]


def answered_without_a_second_try(stack: Stack, session: str) -> bool:
    """Whether the only message was answered by a run that counted as the first try."""
    begun = [e["data"]["attempt"] for e in stack.events(session) if "attempt" in e["data"]]
    return stack.get(f"sessions/{session}/messages")[0]["state"] == "answered" and set(begun) == {1}


def change(stack: Stack, slug: str, **fields: Any) -> None:
    """Change a group, as an operator does."""
    stack.python(f"from groups.models import AgentGroup; AgentGroup.objects.filter(slug={slug!r}).update(**{fields!r})")


def limit(stack: Stack, **fields: Any) -> None:
    """Change the installation's limits, as an operator does."""
    stack.python(f"from groups.models import Limits; Limits.objects.update_or_create(pk=1, defaults={fields!r})")


# --- time ---


def test_an_agent_that_works_without_a_word_is_ended(stack: Stack) -> None:
    sleeper = stack.profile("taciturn", turn_seconds=2, contract="plain", command=["sh", "-c", "sleep 300"])
    session = stack.open("good night", profile=sleeper)
    told = stack.wait_verdict(session, 90)
    assert told["verdict"] == "turn_timeout" and told["verdict_words"].startswith("Ended since the agent worked too")
    stack.wait_state(session, "failed")
    assert stack.get(f"sessions/{session}/messages")[0]["state"] == "failed"


def freeze_courier(session: str) -> None:
    """Stop a session's courier, wherever on this machine it runs, as a process that hangs would stand still."""
    frozen = 0
    for process in psutil.process_iter():
        try:
            if process.environ().get("BERTH_SESSION") == session and "courier" in process.cmdline():
                process.send_signal(signal.SIGSTOP)
                frozen += 1
        except psutil.Error:
            continue
    assert frozen, f"no courier of {session} runs"


def test_a_run_whose_courier_hangs_is_ended_and_tried_again(stack: Stack) -> None:
    session = stack.open("$ test -e hung || { touch hung; sleep 300; }; echo done")
    wait_for(lambda: any(e["kind"] == "tool" for e in stack.events(session)), 60, "the agent is at work")
    freeze_courier(session)
    assert stack.wait_verdict(session, 200)["verdict"] == "hung"
    assert "done" in stack.wait_result(session, 60)["text"]
    results = [event for event in stack.events(session) if event["kind"] == "result"]
    (message,) = stack.get(f"sessions/{session}/messages")
    assert len(results) == 1 and message["attempts"] == 2
    stack.post(f"sessions/{session}/stop")


# --- number ---


def test_a_paused_group_starts_nothing_until_it_is_resumed(stack: Stack) -> None:
    group = stack.group(hold="paused", hold_reason="a new volume")
    session = stack.open("hello", group)
    told = stack.wait_state(session, "queued")
    assert told["reason"] == "1st of 1 in the queue: the group is paused by an operator (a new volume)."
    change(stack, group, hold="")
    stack.wait_result(session)
    stack.post(f"sessions/{session}/stop")


def test_a_group_that_is_drained_ends_its_turns_and_keeps_what_waits(stack: Stack) -> None:
    group = stack.group()
    session = stack.open("/slow 3 to the end", group)
    stack.wait_state(session, "working")
    change(stack, group, hold="draining")
    assert stack.wait_verdict(session)["verdict"] == "closed"
    assert "to the end" in stack.text(session, "result")
    after = stack.session(session)["last_seq"]
    stack.send(session, "what waits")
    assert "being drained by an operator" in stack.wait_state(session, "queued")["reason"]
    change(stack, group, hold="")
    assert "what waits" in stack.wait_result(session, after=after)["text"]
    stack.post(f"sessions/{session}/stop")


def test_a_changed_limit_takes_effect_at_once_and_closes_nobody_who_works(stack: Stack) -> None:
    wait_for(lambda: active(stack) == "0", 60, "the runs of other tests are over")
    limit(stack, max_runs=1)
    sessions = [stack.open("/silent 300", stack.group()) for _ in range(3)]
    stack.wait_state(sessions[0], "working")
    assert stack.session(sessions[1])["reason"].startswith("1st of 2 in the queue: all 1 slots in use.")
    limit(stack, max_runs=2)
    stack.wait_state(sessions[1], "working")
    limit(stack, max_runs=1)
    assert stack.session(sessions[2])["reason"].startswith("1st of 1 in the queue: all 1 slots in use.")
    stack.post(f"sessions/{sessions[0]}/stop")
    stack.wait_state(sessions[0], "idle")
    assert [stack.session(each)["state"] for each in sessions[1:]] == ["working", "queued"]
    stack.post(f"sessions/{sessions[1]}/stop")
    stack.wait_state(sessions[2], "working")
    stack.post(f"sessions/{sessions[2]}/stop")
    stack.wait_state(sessions[2], "idle")
    limit(stack, max_runs=None)


def active(stack: Stack) -> str:
    """How many runs hold a slot."""
    return stack.python("from sessions.models import Run; print(Run.objects.active().count())").strip()


# --- what passes by itself ---


@contextmanager
def quota(stack: Stack, group: str) -> Iterator[None]:
    """The group's namespace may have no pod, until the end of the block."""
    api = Api(KubernetesConfig(installation=stack.env["INSTALLATION"], courier_image=""))
    quotas = f"/api/v1/namespaces/{names.namespace(group)}/resourcequotas"
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    api.create(quotas, body)
    wait_for(lambda: "hard" in api.get(f"{quotas}/none").get("status", {}), 30, "the quota is in force")
    yield
    api.delete(f"{quotas}/none")


def warm_group(stack: Stack) -> str:
    """A group that has its namespace, and no run."""
    group = stack.group()
    session = stack.open("hello", group)
    stack.wait_result(session)
    stack.post(f"sessions/{session}/stop")
    stack.wait_state(session, "idle")
    return group


@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.cluster
def test_a_group_whose_quota_is_used_up_waits_and_lets_others_go_first(production: Stack) -> None:
    full, other = warm_group(production), warm_group(production)
    wait_for(lambda: active(production) == "0", 60, "the runs of other tests are over")
    limit(production, max_runs=1)
    with quota(production, full):
        waiting = production.open("at last", full)
        told = wait_for(
            lambda: "exceeded quota" in production.session(waiting)["reason"] and production.session(waiting), 60
        )
        assert told["state"] == "starting"
        passing = production.open("hello", other)
        production.wait_result(passing, 90)
        assert "Comes back at" in production.session(waiting)["reason"]
    production.post(f"sessions/{passing}/stop")
    assert "at last" in production.wait_result(waiting, 120)["text"]
    production.wait_state(waiting, "waiting")
    assert set(verdicts(production, waiting)) == {"preempted"} and answered_without_a_second_try(production, waiting)
    production.post(f"sessions/{waiting}/stop")
    production.wait_state(waiting, "idle")
    limit(production, max_runs=None)


@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.cluster
def test_an_api_server_that_is_away_for_longer_than_a_start_may_take_uses_up_no_try(production: Stack) -> None:
    group = warm_group(production)
    profile = production.profile("hasty", start_seconds=20)
    with api_server_away():
        session = production.open("hello", group, profile)
        wait_for(lambda: "can't be reached" in production.session(session)["reason"], 30, "the fault is told")
        told = production.session(session)
        began = datetime.fromisoformat(told["created_at"]).timestamp()
        wait_for(lambda: time.time() - began > 25, 40, "more time than a start may take")
        assert production.session(session)["state"] == "starting"
        # The cluster's own controllers take up to a minute to notice that the API server is back.
        longer = f"AgentProfile.objects.filter(slug={profile!r}).update(start_seconds=300)"
        production.python(f"from groups.models import AgentProfile\n{longer}")
    production.wait_result(session, 150)
    production.wait_state(session, "waiting")
    assert verdicts(production, session) == [] and answered_without_a_second_try(production, session)
    production.post(f"sessions/{session}/stop")


@contextmanager
def api_server_away() -> Iterator[None]:
    """The cluster's API server is stopped."""
    tool = os.environ["CLUSTER_TOOL"]
    subprocess.run([tool, "stop", "apiserver"], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([tool, "start", "apiserver"], check=True, capture_output=True)
