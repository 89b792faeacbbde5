"""Whatever instruction a worker is killed at, the next one goes on: no second execution, no orphan, no lost message.

A worker takes a start, or an end, and is killed before its n-th effect, for every n (tests/faults.py). Then the
ordinary worker comes back: every message is answered once, by the one run that it should have.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from k8s_adapter import names
from k8s_adapter.client import Api
from k8s_adapter.config import KubernetesConfig
from runtimes.base import TransientFault
from testbed.stack import Stack
from testbed.waiting import wait_for
from tests import images
from tests.faults import Faults
from tests.whole.conftest import PRODUCTION

ROOM = {"MAX_RUNS": "200", "MAX_RUNS_PER_GROUP": "200", "GROUP_PODS": "500", "GROUP_MEMORY_MIB": "500000"}
ROOM |= {"GROUP_CPU_MILLIS": "500000"}
# Notes each of its starts in the workspace, then repeats what it was told.
ECHO = ["sh", "-c", 'echo "$BERTH_RUN" >> starts; cat']
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """SQLite and local processes, with slots for all rounds at once."""
    yield from running(Stack.embedded(tmp_path_factory.mktemp("recovery"), **ROOM))


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, Redis and Kubernetes, with slots for all rounds at once."""
    for name in ("courier", "workbench"):
        images.build(name)
    yield from running(Stack.production(tmp_path_factory.mktemp("recovery"), **ROOM))


def running(stack: Stack) -> Iterator[Stack]:
    """A stack with an agent that repeats what it is told."""
    try:
        stack.up()
        stack.profile("echo", command=ECHO, contract="plain", cpu_millis=200, memory_mib=64)
        yield stack
    finally:
        stack.down()


@contextmanager
def faulty(stack: Stack) -> Iterator[Faults]:
    """The stack's worker is away, and one that is killed works in its place. Afterwards the ordinary one is back."""
    stack.kill("worker")
    with Faults(stack) as faults:
        try:
            yield faults
        finally:
            stack.start("worker")


class Jobs:
    """Every Job that the cluster ever had of a stack."""

    def __init__(self, stack: Stack) -> None:
        self.made: dict[str, set[str]] = {}
        self._api = Api(KubernetesConfig(installation=stack.env["INSTALLATION"], courier_image=""))
        self._selector = names.selector(stack.env["INSTALLATION"])
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        path = "/apis/batch/v1/jobs"
        version = self._api.get(path, labelSelector=self._selector)["metadata"]["resourceVersion"]
        while True:
            try:
                query = {"labelSelector": self._selector, "resourceVersion": version, "timeoutSeconds": "60"}
                for event in self._api.watch(path, 90, **query):
                    about = event["object"]["metadata"]
                    version = about["resourceVersion"]
                    if event["type"] == "ADDED":
                        self.made.setdefault(about["labels"][names.RUN], set()).add(about["uid"])
            except TransientFault:
                continue


@pytest.fixture
def jobs(stack: Stack) -> Jobs | None:
    """What the cluster makes during the test; None where there is no cluster."""
    return Jobs(stack) if stack.env["RUNTIME"] == "kubernetes" else None


def every_effect(faults: Faults, task: str, sessions: Iterator[str]) -> dict[str, str]:
    """A task for one session after the other, killed before its last effect, the last but one … the first.

    In this order, since what a kill leaves unclaimed would be claimed by the next round, as its own. A task that had
    less to do than the first one (what its run told meanwhile is read in fewer steps) ends before a number it doesn't
    reach. Returns where each session's worker was killed.
    """
    whole = next(sessions)
    counted = faults.run(task, whole)
    places = {whole: "not killed"}
    for number in range(len(counted.effects), 0, -1):
        session = next(sessions)
        told = faults.run(task, session, number)
        assert told.killed == (len(told.effects) == number), f"{task} of {session}, effect {number}: {told.effects}"
        places[session] = f"{task}, before {number}: {told.effects[-1]}" if told.killed else "not killed"
    unhurt = list(places.values()).count("not killed")
    assert unhurt <= 1 + len(counted.effects) // 4, f"most rounds end by a kill: {places}"
    return places


def settled(stack: Stack, places: dict[str, str], verdict: str = "completed") -> None:
    """Each session was answered once, in one run, and nothing of it is left."""
    for session, place in places.items():
        try:
            stack.wait_state(session, "idle", seconds=90)
        except AssertionError as error:
            raise AssertionError(f"killed in {place}: {error}") from error
        told = stack.session(session)
        assert [run["verdict"] for run in told["runs"]] == [verdict], place
        told_of = kinds(stack, session)
        assert (told_of["result"], told_of["delivered"]) == (1, 1), place
        assert [(m["state"], m["attempts"]) for m in stack.get(f"sessions/{session}/messages")] == [("answered", 1)]
    with Faults(stack) as faults:
        wait_for(lambda: not faults.runs() & places.keys(), 60, "nothing is left in the runtime")


def once(stack: Stack, places: dict[str, str], jobs: Jobs | None, group: str = "") -> None:
    """Each session's agent was started once, by one Job."""
    asked = stack.open("$ cat starts", group)
    starts = Counter(stack.wait_result(asked)["text"].split())
    stack.post(f"sessions/{asked}/stop")
    assert {starts[run] for run in runs_of(stack, places)} == {1}
    if jobs:
        assert {len(jobs.made[run]) for run in runs_of(stack, places)} == {1}


def runs_of(stack: Stack, places: dict[str, str]) -> list[str]:
    """The ids of the sessions' runs."""
    code = f"from sessions.models import Run\nfor r in Run.objects.filter(session__in={list(places)!r}): print(r.pk)"
    return stack.python(code).split()


def opened(stack: Stack, group: str = "") -> Iterator[str]:
    """As many new sessions as are asked for."""
    while True:
        yield stack.open("echo", group, "echo")


def test_a_start_goes_on_wherever_its_worker_is_killed(stack: Stack, jobs: Jobs | None) -> None:
    group = stack.group(max_runs=200)
    stack.wait_state(warm(stack, group), "idle")
    with faulty(stack) as faults:
        places = every_effect(faults, "reconcile", opened(stack, group))
    print(*places.values(), sep="\n")
    settled(stack, places)
    once(stack, places, jobs, group)


def warm(stack: Stack, group: str) -> str:
    """A session that was answered, so that the group has its ground."""
    session = stack.open("echo", group, "echo")
    stack.wait_result(session)
    return session


def test_an_end_goes_on_wherever_its_worker_is_killed(stack: Stack, jobs: Jobs | None) -> None:
    group = stack.group(max_runs=200)
    stack.wait_state(warm(stack, group), "idle")
    with faulty(stack) as faults:
        (first,) = finished(faults, stack, group, 1)
        counted = len(faults.run("reconcile", first).effects)
        ended = finished(faults, stack, group, counted + 1)
        places = every_effect(faults, "reconcile", iter(ended))
    print(*places.values(), sep="\n")
    settled(stack, places)
    once(stack, places, jobs, group)


def finished(faults: Faults, stack: Stack, group: str, count: int) -> list[str]:
    """Sessions whose agents have ended, which no worker has noticed."""
    sessions = []
    for _ in range(count):
        sessions.append(stack.open("echo", group, "echo"))
        faults.run("reconcile", sessions[-1])
    for session in sessions:
        wait_for(lambda s=session: "exit" in kinds(stack, s), 90, f"the exit of {session}'s agent; see {stack.log}")
        wait_for(lambda s=session: faults.phase(s) == "finished", 60, f"the end of {session}'s run")
    return sessions


def kinds(stack: Stack, session: str) -> Counter[str]:
    """How many events there are of each kind."""
    return Counter(event["kind"] for event in stack.events(session))


@pytest.mark.parametrize("_", [pytest.param(None, marks=PRODUCTION)])
def test_a_groups_first_start_goes_on_wherever_its_worker_is_killed(production: Stack, _: Any) -> None:
    ground = (
        "apply namespaces", "apply networkpolicies", "apply limitranges", "apply resourcequotas",
        "create persistentvolumeclaims", "create secrets",
    )  # fmt: skip
    groups = [production.group(max_runs=200) for _ in range(2 + len(ground))]
    with faulty(production) as faults:
        places = {}
        effects = []
        # Twice undisturbed: the very first start of an installation makes rows that all others find.
        for group, name in zip(groups, ("", "", *ground), strict=True):
            session = production.open("echo", group, "echo")
            number = effects.index(name) + 1 if name else 0
            told = faults.run("reconcile", session, number)
            effects = effects if name else told.effects
            assert told.killed == bool(name) and (not name or told.effects[-1] == name)
            places[session] = f"before {name}"
    settled(production, places)
