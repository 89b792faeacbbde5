"""Of an object of a cluster, what `diagnose` reads of it: a pod of 10 KB becomes one of 1 KB.

Whatever does not have the shape that it should have is left out, so what comes out can be read by `diagnose`.
"""

from typing import Any

Object = dict[str, Any]

TEXT = 4096  # characters; the kubelet's own limit for a termination message
ITEMS = 50  # of a list: containers, conditions

_STATE = {
    "running": {"startedAt": str},
    "waiting": {"reason": str, "message": str},
    "terminated": {
        "exitCode": int,
        "reason": str,
        "message": str,
        "startedAt": str,
        "finishedAt": str,
    },
}
_CONDITIONS = [{"type": str, "status": str, "reason": str, "message": str, "lastTransitionTime": str}]
_STATUSES = [{"name": str, "image": str, "state": _STATE, "lastState": _STATE}]
_JOB = {
    "metadata": {"name": str, "creationTimestamp": str},
    "spec": {"suspend": bool},
    "status": {"conditions": _CONDITIONS},
}
_POD = {
    "metadata": {
        "name": str,
        "creationTimestamp": str,
        "deletionTimestamp": str,
        "deletionGracePeriodSeconds": int,
    },
    "spec": {"nodeName": str, "containers": [{"name": str, "resources": {"limits": {"memory": str}}}]},
    "status": {
        "phase": str,
        "reason": str,
        "message": str,
        "conditions": _CONDITIONS,
        "initContainerStatuses": _STATUSES,
        "containerStatuses": _STATUSES,
    },
}
_EVENT = {
    "reason": str,
    "message": str,
    "series": {"lastObservedTime": str},
    "lastTimestamp": str,
    "eventTime": str,
    "firstTimestamp": str,
}


def slim_job(job: Object) -> Object:
    """What is read of a batch/v1 Job."""
    return _with_all_parts(_select(job, _JOB))


def slim_pod(pod: Object) -> Object:
    """What is read of a v1 Pod."""
    return _with_all_parts(_select(pod, _POD))


def slim_event(event: Object) -> Object:
    """What is read of a v1 Event."""
    found: Object = _select(event, _EVENT) or {}
    return found


def _with_all_parts(picked: Any) -> Object:
    """With the three parts that every object has."""
    return {"metadata": {}, "spec": {}, "status": {}} | (picked or {})


def _select(value: Any, shape: Any) -> Any:
    """Of `value` what has the shape; None if it has another."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return None
        found = {key: _select(value[key], inner) for key, inner in shape.items() if key in value}
        return {key: inner for key, inner in found.items() if inner is not None}
    if isinstance(shape, list):
        if not isinstance(value, list):
            return None
        return [each for each in (_select(each, shape[0]) for each in value[:ITEMS]) if each is not None]
    if shape is str:
        return value[:TEXT] if isinstance(value, str) else None
    if shape is int:
        return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None
    return value if isinstance(value, shape) else None
