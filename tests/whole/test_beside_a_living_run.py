"""What is changed beside a living run, and an agent that does not end: through the front door, with real processes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from testbed.stack import Stack
from testbed.waiting import wait_for
from tests.whole.test_mounts import mount

# Says what it is told, ends each turn, and has a child that keeps it from ending.
CLINGING = """
import json, subprocess, sys
child = subprocess.Popen(["sleep", "3600"])
for line in sys.stdin:
    said = json.loads(line)
    if said["type"] == "message":
        print(json.dumps({"type": "result", "text": said["text"]}), flush=True)
        print(json.dumps({"type": "idle", "number": said["number"]}), flush=True)
child.wait()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose agents have 1 s to end once they were asked to."""
    stack = Stack.embedded(
        tmp_path_factory.mktemp("beside"), MAX_RUNS="9", MAX_RUNS_PER_GROUP="9", CLOSE_SECONDS="1", IDLE_SECONDS="3"
    )
    try:
        yield stack.up()
    finally:
        stack.down()


def courier(session: str) -> psutil.Process | None:
    """The courier of a session's run."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("BERTH_SESSION") == session and "BERTH_TOKEN_FILE" in environment:
            return process
    return None


def test_a_courier_comes_back_to_a_run_beside_which_everything_was_changed(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    group, profile = stack.group(), stack.profile("changing", idle_seconds=600)
    mount(stack, group, f"r-{group}", "folder", str(tmp_path), "data")
    session = stack.open("/slow 5 the answer, once", group, profile)
    wait_for(lambda: any(e["kind"] == "delivered" for e in stack.events(session)), 60, "the message is delivered")
    stack.python(
        "from groups.models import *\n"
        f"AgentProfile.objects.filter(slug={profile!r}).update(memory_mib=4096, contract='plain', idle_seconds=1)\n"
        f"GroupMount.objects.filter(group__slug={group!r}).update(state='refused')"
    )
    lost = courier(session)
    assert lost
    lost.kill()
    answer = stack.wait_result(session)
    assert answer["text"] == "the answer, once"
    told: dict[str, Any] = stack.session(session)
    assert [run["verdict"] for run in told["runs"]] == [None]
    stack.post(f"sessions/{session}/close")
    assert stack.wait_verdict(session)["verdict"] == "closed"


@pytest.mark.parametrize("how", ["closed", "idle"])
def test_an_agent_that_was_asked_to_close_and_does_not_end_is_ended(stack: Stack, how: str) -> None:
    profile = stack.profile(f"clinging-{how}", command=[sys.executable, "-c", CLINGING])
    session = stack.open("hello", profile=profile)
    stack.wait_result(session)
    if how == "closed":
        stack.post(f"sessions/{session}/close")
    run = stack.wait_verdict(session)
    assert (run["verdict"], stack.session(session)["state"]) == (how, "idle")
