"""What objects of a real cluster say of a run. `fixtures/kubernetes/*.json` were recorded from one."""

import copy
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from k8s_adapter.diagnose import diagnose, needs_events
from runtimes.base import Cause, Observed, Phase

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "kubernetes"


def recorded(name: str) -> dict[str, Any]:
    objects: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return objects


def diagnosed(name: str) -> Observed:
    return diagnose(**recorded(name))


CASES = [
    # name, phase, cause, words that must be there, exit code
    (
        "image_pull",
        Phase.PENDING,
        Cause.IMAGE_PULL,
        'failed to resolve reference "registry.local/no-such-image:1"',
        None,
    ),
    ("unschedulable", Phase.PENDING, Cause.UNSCHEDULABLE, "0/1 nodes are available: 1 Insufficient cpu", None),
    ("pod_security", Phase.PENDING, Cause.REJECTED, 'violates PodSecurity "restricted', None),
    ("limit_range", Phase.PENDING, Cause.REJECTED, "maximum memory usage per Container is 100Mi", None),
    ("quota", Phase.PENDING, Cause.QUOTA, "exceeded quota: small, requested: limits.memory=608Mi", None),
    ("failed_mount", Phase.PENDING, Cause.MOUNT, 'secret "gone" not found', None),
    ("completed", Phase.FINISHED, Cause.COMPLETED, "", 0),
    ("agent_error", Phase.FINISHED, Cause.AGENT_ERROR, "exit code 3", 3),
    ("no_such_command", Phase.FINISHED, Cause.AGENT_ERROR, "exit code 127", 127),
    ("no_shell", Phase.FINISHED, Cause.REJECTED, '"sh": executable file not found', 128),
    ("oom", Phase.FINISHED, Cause.OOM, "it used more memory than its limit of 64Mi", 137),
    ("running", Phase.RUNNING, None, "", None),
    ("deadline", Phase.FINISHED, Cause.DEADLINE, "active longer than specified deadline", None),
    ("stopped", Phase.FINISHED, Cause.STOPPED, "", None),
    ("evicted", Phase.FINISHED, Cause.EVICTED, 'Usage of EmptyDir volume "tmp" exceeds the limit', None),
    ("evicted_by_api", Phase.FINISHED, Cause.EVICTED, "", None),
    ("vanished", Phase.FINISHED, Cause.VANISHED, "somebody deleted", None),
    ("deleted_while_running", Phase.RUNNING, None, "its Job is deleted", None),
    ("invalid_image_name", Phase.PENDING, Cause.IMAGE_PULL, "repository name (Not A Name) must be lowercase", None),
    ("root_image", Phase.PENDING, Cause.REJECTED, "container has runAsNonRoot and image will run as root", None),
    ("courier_crashes", Phase.PENDING, None, "the courier does not start", None),
    ("admission_policy", Phase.PENDING, Cause.REJECTED, "denied request: every pod needs a label cost-centre", None),
    ("kubelet_refused", Phase.FINISHED, Cause.UNSCHEDULABLE, "Node didn't have enough resource: cpu", None),
    ("preempted_by_priority", Phase.FINISHED, Cause.EVICTED, "to accommodate a higher priority pod", 143),
    ("node_silent", Phase.RUNNING, None, "node node-1 does not answer", None),
    ("node_lost", Phase.RUNNING, Cause.NODE_LOST, "Taint manager: deleting due to NoExecute taint", None),
    ("node_came_back", Phase.FINISHED, Cause.NODE_LOST, "Taint manager: deleting due to NoExecute taint", 143),
    ("namespace_terminating", Phase.RUNNING, None, "its pod is ending", None),
    ("namespace_deleted", Phase.FINISHED, Cause.VANISHED, "somebody deleted the run's pod", None),
]


@pytest.mark.parametrize(("name", "phase", "cause", "words", "code"), CASES, ids=[case[0] for case in CASES])
def test_a_recorded_run(name: str, phase: Phase, cause: Cause | None, words: str, code: int | None) -> None:
    seen = diagnosed(name)
    assert (seen.phase, seen.cause) == (phase, cause)
    assert words in seen.message
    if code is not None:
        assert seen.exit_code == code


LAUNCHED = [
    ('exec: "sh": executable file not found in $PATH: unknown', Cause.REJECTED, Cause.REJECTED),
    ("exec /bin/sh: argument list too long: unknown", Cause.REJECTED, Cause.REJECTED),
    ("failed to create shim task: context deadline exceeded", Cause.UNSCHEDULABLE, None),
    ('failed to reserve container name "agent_x": name is reserved for "y"', Cause.UNSCHEDULABLE, None),
    ("mkdir /run/containerd/io: no space left on device", Cause.UNSCHEDULABLE, None),
]


@pytest.mark.parametrize(("words", "ended", "waiting"), LAUNCHED)
@pytest.mark.parametrize("reason", ["StartError", "RunContainerError", "CreateContainerError"])
def test_a_refusal_of_the_container_runtime_is_final_unless_its_node_was_short_of_something(
    reason: str, words: str, ended: Cause, waiting: Cause | None
) -> None:
    pod = recorded("no_shell")
    (status,) = pod["pods"][0]["status"]["containerStatuses"]
    if reason == "StartError":
        status["state"]["terminated"]["message"] = words
        seen = diagnose(**pod)
        assert (seen.phase, seen.cause, seen.message) == (Phase.FINISHED, ended, words)
    else:
        status["state"] = {"waiting": {"reason": reason, "message": words}}
        pod["pods"][0]["status"]["phase"] = "Pending"
        pod["job"]["status"] = {}
        seen = diagnose(**pod)
        assert (seen.phase, seen.cause, seen.message) == (Phase.PENDING, waiting, words)


@pytest.mark.parametrize(
    ("message", "code", "cause"),
    [
        ("exec /usr/bin/sh: argument list too long\n", 255, Cause.REJECTED),
        ("exec /usr/bin/sh: exec format error", 255, Cause.REJECTED),
        ("exec /usr/bin/sh: argument list too long\n", 1, Cause.REJECTED),
        ("exec /usr/bin/sh: argument list too long", 2, Cause.AGENT_ERROR),
        ("exec /usr/bin/make: argument list too long", 1, Cause.AGENT_ERROR),
        ("so I said:\nexec /usr/bin/sh: argument list too long", 255, Cause.AGENT_ERROR),
    ],
)
def test_a_program_that_runc_could_not_execute_is_no_agent_that_failed(message: str, code: int, cause: Cause) -> None:
    run = recorded("agent_error")
    for status in run["pods"][0]["status"]["containerStatuses"]:
        status["state"]["terminated"] |= {"message": message, "exitCode": code}
    assert diagnose(**run).cause is cause


def test_every_recording_has_a_case() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {case[0] for case in CASES}


def test_nothing_there_is_absent() -> None:
    assert diagnose(None, [], []) == Observed(Phase.ABSENT)


def test_an_end_has_its_times() -> None:
    seen = diagnosed("completed")
    assert seen.started_at
    assert seen.started_at.tzinfo is not None


def test_a_job_without_a_pod_waits() -> None:
    objects = recorded("running")
    seen = diagnose(objects["job"], [], [])
    assert (seen.phase, seen.cause, seen.message) == (Phase.PENDING, None, "waiting for its pod to be made")


def test_a_pod_that_nobody_scheduled_yet_waits() -> None:
    objects = recorded("unschedulable")
    objects["pods"][0]["status"].pop("conditions")
    seen = diagnose(**objects)
    assert (seen.phase, seen.cause) == (Phase.PENDING, None)


def test_a_rejection_is_forgotten_once_there_is_a_pod() -> None:
    rejected, running = recorded("pod_security"), recorded("running")
    seen = diagnose(running["job"], running["pods"], rejected["events"])
    assert seen.phase is Phase.RUNNING


def test_a_stop_or_deadline_explains_an_exit_code() -> None:
    """An agent that was told to end may well end with 143, or with 0."""
    for name, cause in (("stopped", Cause.STOPPED), ("deadline", Cause.DEADLINE)):
        for code in (0, 1, 143):
            objects = recorded(name)
            objects["pods"][0]["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] = code
            seen = diagnose(**objects)
            assert (seen.phase, seen.cause, seen.exit_code) == (Phase.FINISHED, cause, code)


def test_a_stop_that_came_too_late_changes_nothing() -> None:
    for name, cause in (("completed", Cause.COMPLETED), ("agent_error", Cause.AGENT_ERROR), ("oom", Cause.OOM)):
        objects = recorded(name)
        objects["job"]["spec"]["suspend"] = True
        assert diagnose(**objects).cause is cause


def test_a_dead_courier_is_told() -> None:
    objects = recorded("running")
    assert diagnose(**objects).courier_alive
    status = objects["pods"][0]["status"]["initContainerStatuses"][0]
    status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}}
    seen = diagnose(**objects)
    assert (seen.phase, seen.courier_alive) == (Phase.RUNNING, False)


def test_a_pod_that_should_go_from_a_node_that_does_not_answer_is_lost() -> None:
    """Such a node may never come back, and then the pod stays for ever."""
    objects = recorded("node_silent")
    objects["pods"][0]["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    seen = diagnose(**objects)
    assert (seen.phase, seen.cause, seen.message) == (Phase.RUNNING, Cause.NODE_LOST, "node node-1 does not answer")


def test_a_lost_node_is_told_without_the_job_and_before_the_start() -> None:
    objects = recorded("node_lost")
    assert diagnose(None, objects["pods"], []).cause is Cause.NODE_LOST
    objects["pods"][0]["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ContainerCreating"}}
    seen = diagnose(**objects)
    assert (seen.phase, seen.cause) == (Phase.PENDING, Cause.NODE_LOST)


def test_without_a_limit_it_was_the_nodes_memory() -> None:
    objects = recorded("oom")
    del objects["pods"][0]["spec"]["containers"][0]["resources"]["limits"]
    assert diagnose(**objects).message == "its node ran out of memory"


def test_of_several_pods_the_newest_counts() -> None:
    objects = recorded("completed")
    older = copy.deepcopy(recorded("agent_error")["pods"][0])
    older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    assert diagnose(objects["job"], [*objects["pods"], older], []).cause is Cause.COMPLETED


def test_events_are_asked_for_only_when_they_may_help() -> None:
    job = recorded("running")["job"]
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    soon, later = created + timedelta(seconds=1), created + timedelta(seconds=5)
    waiting = Observed(Phase.PENDING)
    assert not needs_events(job, waiting, soon)
    assert needs_events(job, waiting, later)
    assert not needs_events(job, Observed(Phase.PENDING, Cause.IMAGE_PULL), later)
    assert not needs_events(job, Observed(Phase.RUNNING), later)
    assert not needs_events(job, Observed(Phase.FINISHED, Cause.COMPLETED), later)
    assert needs_events(job, Observed(Phase.FINISHED, Cause.VANISHED), later)
    assert not needs_events(None, Observed(Phase.ABSENT), datetime.now(UTC))
