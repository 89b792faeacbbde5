"""What Kubernetes objects say of a run. One pure function, `diagnose`, and its parts, over plain dictionaries.

The order of the tests matters and is the point of this file: what was asked for (deadline, stop) comes before what it
led to (a signal's exit code), and what happened to the pod before what happened in it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from k8s_adapter import names
from k8s_adapter.client import QUOTA_MARKS
from runtimes.base import Cause, Observed, Phase

Object = dict[str, Any]

# Reasons of a waiting container: pkg/kubelet/images/types.go and pkg/kubelet/container/sync_result.go of Kubernetes.
PULL_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
CREATE_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError"}
# Reasons of a terminated container that never ran: its command could not be executed.
START_REASONS = {"StartError", "ContainerCannotRun"}
# What a container runtime says of a node that is short of something, or slow. All else that it says of a container that
# can't be made or started (no such program, too long arguments, a NUL in the environment) is of the profile.
NODE_FAILURES = (
    "context deadline exceeded",
    "DeadlineExceeded",
    "failed to reserve container name",
    "name is reserved",
    "resource temporarily unavailable",
    "device or resource busy",
    "no space left on device",
    "cannot allocate memory",
    "too many open files",
)
# What runc itself leaves in a container's log, and as its status, when the last step fails: execve(2) of the wrapper's
# shell. The status was seen to be 1; later versions end with 255.
RUNC_FAILED = frozenset({1, 255})
NOT_EXECUTED = re.compile(r"exec \S*/sh: (argument list too long|exec format error|invalid argument|permission denied)")
# Reasons of the condition DisruptionTarget: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/
NODE_LOST_REASONS = {"DeletionByTaintManager", "DeletionByPodGC"}
# A pod that waits for longer than this gets its events listed; most have started by then.
EVENTS_AFTER = timedelta(seconds=2)


def diagnose(job: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observed:
    """What is to be observed of a run.

    `job` is the run's batch/v1 Job, or None if there is none; `pods` its pods, of any age; `events` the core/v1 Events
    of both, in any order, and may be empty (see `needs_events`).
    """
    seen = _diagnose(job, pods, events)
    return replace(seen, message=seen.message.strip().removesuffix(" ."))  # as a kubelet or a log may end it


def _diagnose(job: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observed:
    pod = max(pods, key=lambda each: str(each["metadata"].get("creationTimestamp", "")), default=None)
    if job is None:
        return _orphan(pod)
    conditions = _conditions(job)
    if pod is not None and _is_finished(pod):
        return _finished(job, pod, events)
    if "Complete" in conditions or "Failed" in conditions or ("Suspended" in conditions and pod is None):
        return _finished(job, pod, events)
    if pod is None:
        return _without_pod(events)
    if _has_started(_status(pod, names.AGENT)):
        return _running(pod)
    return _pending(pod, events)


def needs_events(job: Object | None, seen: Observed, now: datetime) -> bool:
    """Whether events might say more than `seen`, which was diagnosed without them. They cost two more calls."""
    if job is None:
        return False
    if seen.phase is Phase.PENDING:
        created = _time(job["metadata"].get("creationTimestamp")) or now
        return seen.cause is None and now - created > EVENTS_AFTER
    return seen.phase is Phase.FINISHED and seen.cause is Cause.VANISHED


def _orphan(pod: Object | None) -> Observed:
    """The Job is gone. Its pod may have a minute of grace left, in which the agent still writes to the workspace."""
    if pod is None or _is_finished(pod):
        return Observed(Phase.ABSENT)
    phase = Phase.RUNNING if _has_started(_status(pod, names.AGENT)) else Phase.PENDING
    lost = _node_lost_message(pod)
    message = lost or "its Job is deleted, its pod is ending"
    return Observed(phase, Cause.NODE_LOST if lost else None, message, courier_alive=_courier_alive(pod))


def _without_pod(events: Sequence[Object]) -> Observed:
    """The Job controller has made no pod yet, or may not."""
    failed = _newest(events, {"FailedCreate"})
    message = str(failed.get("message", ""))
    cause = None
    if any(mark in message for mark in QUOTA_MARKS):
        cause = Cause.QUOTA
    elif any(mark in message for mark in ("violates PodSecurity", "is forbidden", "denied the request", "is invalid")):
        cause = None if "is being terminated" in message else Cause.REJECTED
    return Observed(Phase.PENDING, cause, message or "waiting for its pod to be made")


def _pending(pod: Object, events: Sequence[Object]) -> Observed:
    """The pod exists and the agent has not started: why?"""
    if lost := _node_lost_message(pod):
        return Observed(Phase.PENDING, Cause.NODE_LOST, lost)
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        message = scheduled.get("message", "")
        volume = "persistentvolumeclaim" in message.lower()
        return Observed(Phase.PENDING, Cause.MOUNT if volume else Cause.UNSCHEDULABLE, message)
    for name in (names.MOUNTS, names.COURIER, names.AGENT):
        status = _status(pod, name)
        waiting = status.get("state", {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in PULL_REASONS:
            return Observed(Phase.PENDING, Cause.IMAGE_PULL, _pull_message(status, message, events))
        if reason in CREATE_REASONS:
            # The second: a folder of a volume that can't be mounted, such as a link that leads out of it.
            missing = reason == "CreateContainerConfigError" and ("not found" in message or "subPath" in message)
            if _is_node_failure(message):
                return Observed(Phase.PENDING, message=message)  # the kubelet tries again
            return Observed(Phase.PENDING, Cause.MOUNT if missing else Cause.REJECTED, message or reason)
        if reason == "CrashLoopBackOff":
            message = f"the {name} does not start: {_last_message(status) or message}"
            return Observed(Phase.PENDING, message=message, courier_alive=name != names.COURIER)
    newest = _newest(events)
    if newest.get("reason") in ("FailedMount", "FailedAttachVolume"):
        return Observed(Phase.PENDING, Cause.MOUNT, newest.get("message", ""))
    if not scheduled:
        return Observed(Phase.PENDING, message="waiting for the scheduler")
    return Observed(Phase.PENDING, message=newest.get("message") or "its containers are being started")


def _pull_message(status: Object, message: str, events: Sequence[Object]) -> str:
    """The registry's own message, which an older kubelet keeps to an event once it says no more than "Back-off"."""
    if message and not message.rstrip().endswith(f'"{status.get("image", "")}"'):
        return message
    return str(_newest(events, {"Failed"}).get("message") or message or status.get("image", ""))


def _running(pod: Object) -> Observed:
    """The agent has started and the pod is not over: the agent lives, or the courier ships its last words."""
    agent = _status(pod, names.AGENT)
    state = agent.get("state", {})
    started = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    lost = _node_lost_message(pod)
    ending = "its pod is ending" if pod["metadata"].get("deletionTimestamp") else ""
    return Observed(
        Phase.RUNNING,
        cause=Cause.NODE_LOST if lost else None,
        message=lost or ending or _node_silent_message(pod),
        courier_alive=_courier_alive(pod),
        started_at=_time(started),
    )


def _finished(job: Object, pod: Object | None, events: Sequence[Object]) -> Observed:
    agent = _terminated(_status(pod, names.AGENT)) if pod else {}
    cause, message = _end_cause(job, pod, agent, events)
    return Observed(
        Phase.FINISHED,
        cause=cause,
        message=message,
        exit_code=agent.get("exitCode"),
        last_lines=str(agent.get("message", "")),
        courier_alive=False,
        started_at=_time(agent.get("startedAt")),
    )


def _end_cause(job: Object, pod: Object | None, agent: Object, events: Sequence[Object]) -> tuple[Cause, str]:
    """Why a run that is over ended, and the cluster's message for it."""
    conditions = _conditions(job)
    failed = conditions.get("Failed") or conditions.get("FailureTarget") or {}
    if failed.get("reason") == "DeadlineExceeded":
        return Cause.DEADLINE, str(failed.get("message", ""))
    suspended = job["spec"].get("suspend") and not conditions.keys() & {"Complete", "Failed"}
    if suspended and (pod is None or not agent or _was_deleted_alive(pod, agent)):  # else it had ended before
        return Cause.STOPPED, ""
    if agent.get("exitCode") == 0 or (pod is None and "Complete" in conditions):
        return Cause.COMPLETED, ""
    if agent.get("reason") == "OOMKilled":
        return Cause.OOM, _memory_message(pod)
    if pod is not None:
        target = _condition(pod, "DisruptionTarget")
        status = pod.get("status", {})
        if target.get("reason") in NODE_LOST_REASONS or status.get("reason") == "NodeLost":
            return Cause.NODE_LOST, str(target.get("message") or status.get("message", ""))
        if target or status.get("reason") in ("Evicted", "Preempting", "NodeShutdown", "Terminated"):
            return Cause.EVICTED, str(status.get("message") or target.get("message", ""))
        if status.get("reason") and not agent:  # the kubelet refused the pod, such as OutOfcpu, NodeAffinity
            return Cause.UNSCHEDULABLE, str(status.get("message") or status["reason"])
    check = _terminated(_status(pod or {}, names.MOUNTS))
    if check.get("exitCode"):
        return Cause.MOUNT, str(check.get("message") or f"exit code {check['exitCode']}")
    if agent.get("reason") in START_REASONS:
        message = str(agent.get("message", ""))
        return Cause.UNSCHEDULABLE if _is_node_failure(message) else Cause.REJECTED, message
    if agent.get("exitCode") in RUNC_FAILED and NOT_EXECUTED.fullmatch(str(agent.get("message", "")).strip()):
        return Cause.REJECTED, str(agent["message"])
    if agent and not (pod and _was_deleted_alive(pod, agent)):
        return Cause.AGENT_ERROR, f"the agent ended with exit code {agent.get('exitCode')}"
    return _vanished(events)


def _is_node_failure(message: str) -> bool:
    return any(failure in message for failure in NODE_FAILURES)


def _memory_message(pod: Object | None) -> str:
    """Of an agent that was killed for its memory. Where it has no limit of its own, it was the node's that ran out."""
    containers: Iterable[Object] = (pod or {}).get("spec", {}).get("containers") or ()
    agent = next((each for each in containers if each.get("name") == names.AGENT), {})
    limit = (agent.get("resources", {}).get("limits") or {}).get("memory")
    return f"it used more memory than its limit of {limit}" if limit else "its node ran out of memory"


def _was_deleted_alive(pod: Object, agent: Object) -> bool:
    """Whether the pod was deleted before its agent ended, which makes the exit code that of a SIGTERM."""
    metadata = pod["metadata"]
    gone = _time(metadata.get("deletionTimestamp"))  # when it is to be gone: the grace has been added
    ended = _time(agent.get("finishedAt"))
    if gone is None or ended is None:
        return False
    return ended >= gone - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)


def _vanished(events: Sequence[Object]) -> tuple[Cause, str]:
    """The pod left nothing behind; events may still know what took it."""
    if lost := _newest(events, {"TaintManagerEviction"}):
        return Cause.NODE_LOST, str(lost.get("message", ""))
    if evicted := _newest(events, {"Evicted", "Preempted", "EvictionByEvictionAPI"}):
        return Cause.EVICTED, str(evicted.get("message", ""))
    return Cause.VANISHED, "somebody deleted the run's pod"


def _node_lost_message(pod: Object) -> str:
    """Why the node of a pod that is not over is taken for lost, "" if it is not.

    The cluster has given it up, which takes it five minutes, or can't tell it to end the pod, as somebody asked.
    """
    target = _condition(pod, "DisruptionTarget")
    if target.get("reason") in NODE_LOST_REASONS:
        return str(target.get("message") or target["reason"])
    return _node_silent_message(pod) if pod["metadata"].get("deletionTimestamp") else ""


def _node_silent_message(pod: Object) -> str:
    """In words, that the pod's node does not answer; "" if it does."""
    ready = [_condition(pod, kind).get("status") for kind in ("Ready", "ContainersReady")]
    # The node controller sets the first, the kubelet alone the second.
    return f"node {pod['spec'].get('nodeName', '')} does not answer" if ready == ["False", "True"] else ""


def _is_finished(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _conditions(job: Object) -> dict[str, Object]:
    """The conditions of a Job that are true, by type."""
    every = job.get("status", {}).get("conditions") or ()
    return {each["type"]: each for each in every if each.get("status") == "True"}


def _condition(pod: Object, kind: str) -> Object:
    every: Iterable[Object] = pod.get("status", {}).get("conditions") or ()
    return next((each for each in every if each.get("type") == kind), {})


def _status(pod: Object, container: str) -> Object:
    """The status of a container, wherever it is listed; {} before there is one."""
    status = pod.get("status", {})
    every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return next((each for each in every if each.get("name") == container), {})


def _has_started(status: Object) -> bool:
    state = status.get("state", {})
    return bool(state.get("running") or state.get("terminated"))


def _terminated(status: Object) -> Object:
    found: Object = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return found


def _last_message(status: Object) -> str:
    return str((status.get("lastState", {}).get("terminated") or {}).get("message", ""))


def _courier_alive(pod: Object) -> bool:
    return bool(_status(pod, names.COURIER).get("state", {}).get("running"))


def _newest(events: Sequence[Object], reasons: set[str] | None = None) -> Object:
    """The newest event, of these reasons if any are given; {} if there is none."""
    some = [event for event in events if reasons is None or event.get("reason") in reasons]
    return max(some, key=_event_time, default={})


def _event_time(event: Object) -> datetime:
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        *(event.get(key) for key in ("lastTimestamp", "eventTime", "firstTimestamp")),
    )
    return _time(next(filter(None, times), None)) or datetime.min.replace(tzinfo=UTC)


def _time(text: str | None) -> datetime | None:
    """An RFC 3339 time of Kubernetes, UTC. The epoch stands for a container that never started."""
    return datetime.fromisoformat(text) if text and not text.startswith("1970-") else None
