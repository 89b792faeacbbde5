"""How a run started and of what it was made, from Kubernetes objects: pure functions over plain dictionaries."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from k8s_adapter import names
from runtimes.base import Description, Notice
from runtimes.mask import mask, mask_user_info

Object = dict[str, Any]

LEAVE_OUT = ("managedFields", "resourceVersion", "generation", "uid", "selfLink")
BEGINNING = datetime.min.replace(tzinfo=UTC)


def describe(job: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Description:
    """Describe a run. The arguments are those of `diagnose.diagnose`."""
    pod = max(pods, key=lambda each: str(each["metadata"].get("creationTimestamp", "")), default=None)
    return Description(
        steps=_steps(pod, events) if pod else {},
        # Most tell seconds, some microseconds; within a second the order is that of the list, which is that of arrival.
        notices=tuple(sorted(map(_notice, events), key=lambda one: (one.at or BEGINNING).replace(microsecond=0))),
        manifest=manifest(job) if job else {},
    )


def manifest(job: Object) -> Object:
    """The Job as it was created: without status and the server's bookkeeping, and with secrets masked."""
    metadata = {key: value for key, value in job["metadata"].items() if key not in LEAVE_OUT}
    whole = {"apiVersion": "batch/v1", "kind": "Job"} | job | {"metadata": metadata}
    whole.pop("status", None)
    masked: Object = mask(whole)
    return masked


def _steps(pod: Object, events: Sequence[Object]) -> dict[str, datetime]:
    """When the start's steps were reached.

    Conditions and states tell seconds; the scheduler's event tells microseconds, so it goes first.
    """
    agent = f"spec.containers{{{names.AGENT}}}"
    steps = {
        "scheduled": _when(events, "Scheduled") or _condition_time(pod, "PodScheduled"),
        "pulled": _when(events, "Pulled", agent),
        "courier": _started(pod, "initContainerStatuses", names.COURIER),
        "started": _started(pod, "containerStatuses", names.AGENT),
    }
    return {name: at for name, at in steps.items() if at is not None}


def _when(events: Sequence[Object], reason: str, field_path: str = "") -> datetime | None:
    """The time of the first such event, of a container if `field_path` names one."""
    times = (
        _time(event.get("eventTime") or event.get("firstTimestamp") or event.get("lastTimestamp"))
        for event in events
        if event.get("reason") == reason and event.get("involvedObject", {}).get("fieldPath", "").startswith(field_path)
    )
    return min((each for each in times if each), default=None)


def _condition_time(pod: Object, kind: str) -> datetime | None:
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == kind and condition.get("status") == "True":
            return _time(condition.get("lastTransitionTime"))
    return None


def _started(pod: Object, kind: str, container: str) -> datetime | None:
    """When a container started, the first time if it was started anew."""
    for status in pod.get("status", {}).get(kind) or ():
        if status.get("name") == container:
            states = [status.get(key, {}) for key in ("lastState", "state")]
            each = (state.get(phase, {}).get("startedAt") for state in states for phase in ("terminated", "running"))
            return _time(next(filter(None, each), None))
    return None


def _notice(event: Object) -> Notice:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), *(event.get(key) for key in ("lastTimestamp", "eventTime")))
    return Notice(
        at=_time(next(filter(None, times), None)),
        reason=str(event.get("reason") or ""),
        text=mask_user_info(str(event.get("message") or "").strip()),
        count=int(series.get("count") or event.get("count") or 1),
    )


def _time(text: str | None) -> datetime | None:
    """An RFC 3339 time of Kubernetes, UTC. The epoch stands for a container that never started."""
    return datetime.fromisoformat(text) if text and not text.startswith("1970-") else None
