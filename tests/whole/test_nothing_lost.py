"""Nothing lost, and nothing twice, whatever is killed: on the real cluster, with a real browser that stays open.

An agent prints numbered lines for a minute; meanwhile one thing is killed. Afterwards every line printed is in the
events once, in order, and the page shows all of it.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser

from testbed.stack import Follower, Stack
from testbed.waiting import wait_for
from tests import images

LINES, RATE = 200_000, 3_333
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.redis,
    pytest.mark.cluster,
    pytest.mark.browser,
    pytest.mark.timeout(600),
]
TRANSCRIPT = "() => document.querySelector('[data-part=transcript]').textContent"


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own: these tests kill its processes."""
    for name in ("courier", "workbench"):
        images.build(name)
    stack = Stack.production(tmp_path_factory.mktemp("faults"), MAX_RUNS="3", MAX_RUNS_PER_GROUP="3")
    try:
        yield stack.up()
    finally:
        stack.down()


def numbers_in(text: str) -> list[int]:
    """The numbers of the workbench's lines, in the order in which they stand."""
    return [int(n) for n in re.findall(r"line (\d+)\n", text)]


def progress(follower: Follower) -> int:
    """How many lines have come, roughly."""
    return follower.text("stdout").count("\n")


def kubectl(*words: str) -> str:
    """Ask the cluster."""
    return subprocess.run(["kubectl", *words], check=True, capture_output=True, text=True, timeout=60).stdout


def pod_of(session: str) -> tuple[str, str]:
    """The namespace and name of a session's pod."""
    words = ["get", "pods", "-A", "-l", f"berth/session={session}", "-o"]
    out = kubectl(*words, "jsonpath={.items[0].metadata.namespace} {.items[0].metadata.name}")
    namespace, name = out.split()
    return namespace, name


def kill_in_pod(session: str, pattern: str) -> None:
    """SIGKILL the processes of a pod whose command has `pattern`, from the node, as the kernel would."""
    namespace, name = pod_of(session)
    uid = kubectl("get", "pod", "-n", namespace, name, "-o", "jsonpath={.metadata.uid}")
    killed = 0
    for process in psutil.process_iter():
        try:
            inside = uid in Path(f"/proc/{process.pid}/cgroup").read_text()
            if inside and pattern in " ".join(process.cmdline()):
                process.kill()
                killed += 1
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue
    assert killed, f"nothing to kill in {name} that runs {pattern!r}"


def web_away(stack: Stack, session: str) -> None:
    """The web process is killed, and comes back after ten seconds."""
    stack.kill("web")
    pause(10)
    stack.start("web")
    stack.wait_for_web()


def worker_killed(stack: Stack, session: str) -> None:
    """The worker and its children are killed; a supervisor starts it again."""
    stack.kill("worker")
    stack.start("worker")


def watcher_killed(stack: Stack, session: str) -> None:
    """The watcher is killed; a supervisor starts it again."""
    stack.kill("watcher")
    stack.start("watcher")


def api_server_away(stack: Stack, session: str) -> None:
    """The cluster's API server is stopped for fifteen seconds."""
    subprocess.run([os.environ["CLUSTER_TOOL"], "stop", "apiserver"], check=True, capture_output=True)
    try:
        pause(15)
    finally:
        subprocess.run([os.environ["CLUSTER_TOOL"], "start", "apiserver"], check=True, capture_output=True)


def courier_killed(stack: Stack, session: str) -> None:
    """The courier's process is killed; the kubelet starts the container again."""
    kill_in_pod(session, "-m courier")


def pause(seconds: float) -> None:
    """The length of an outage: not a wait for anything."""
    try:
        wait_for(lambda: False, seconds)
    except AssertionError:
        return


class LivePage:
    """A session's live page that stays open."""

    def __init__(self, chromium: Browser, stack: Stack, session: str) -> None:
        self.context = chromium.new_context()
        name, _, value = stack.cookies().partition("=")
        self.context.add_cookies([{"name": name, "value": value, "url": stack.base}])
        self.page = self.context.new_page()
        self.page.goto(f"{stack.base}/admin/agent_sessions/agentsession/{session}/change/")

    def numbers(self) -> list[int]:
        """The lines that the page shows."""
        return numbers_in(self.page.evaluate(TRANSCRIPT))


def finish(stack: Stack, session: str, follower: Follower, page: LivePage) -> list[int]:
    """Wait for the end, then compare the events, the follower and the page; return the numbers."""
    wait_for(lambda: any(e["kind"] in ("result", "exit") for e in follower.events), 240, f"the end; see {stack.log}")
    stored = stack.events(session)
    assert [e["seq"] for e in stored] == list(range(1, len(stored) + 1))
    lines = numbers_in("".join(e["text"] for e in stored if e["kind"] == "stdout"))
    assert lines == list(range(1, LINES + 1))
    wait_for(lambda: follower.cursor >= stored[-1]["seq"], 60, "the follower has all")
    assert [e["seq"] for e in follower.events] == list(range(1, follower.cursor + 1))
    wait_for(lambda: len(page.numbers()) >= len(lines), 90, "the page shows all")
    assert page.numbers() == lines
    return lines


FAULTS = [web_away, worker_killed, watcher_killed, api_server_away, courier_killed]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_line_arrives_once_and_in_order(
    production: Stack, chromium: Browser, fault: Callable[[Stack, str], None]
) -> None:
    session = production.open(f"/lines {LINES} {RATE}")
    follower = Follower(production, session)
    page = LivePage(chromium, production, session)
    try:
        wait_for(lambda: progress(follower) > 20_000, 60, "the agent prints")
        fault(production, session)
        finish(production, session, follower, page)
        production.post(f"sessions/{session}/stop")
        assert production.wait_verdict(session, 120)["verdict"] == "stopped"
    finally:
        follower.close()
        page.context.close()


# Prints its lines over a minute, says on the other stream how far it got, then takes all the memory there is.
GLUTTON = f"""
import sys, time
start = time.monotonic()
for i in range(1, {LINES} + 1):
    sys.stdout.write(f"line {{i}}\\n")
    if i % {RATE} == 0:
        sys.stdout.flush()
        sys.stderr.write(f"wrote {{i}}\\n")
        time.sleep(max(0, start + i / {RATE} - time.monotonic()))
sys.stdout.flush()
hoard = [bytearray(2**20) for _ in range(10**6)]
"""


def test_an_agent_killed_for_its_memory_loses_nothing_that_it_wrote(production: Stack, chromium: Browser) -> None:
    profile = production.profile("glutton", memory_mib=96, command=["python3", "-c", GLUTTON])
    session = production.open("eat", profile=profile)
    follower = Follower(production, session)
    page = LivePage(chromium, production, session)
    try:
        assert production.wait_verdict(session, 240)["verdict"] == "oom"
        assert finish(production, session, follower, page) == list(range(1, LINES + 1))
        told = re.findall(r"wrote (\d+)", production.text(session, "stderr"))
        assert [int(n) for n in told] == list(range(RATE, LINES + 1, RATE))
    finally:
        follower.close()
        page.context.close()
