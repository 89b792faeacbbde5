"""How a run started and of what it was made, from Kubernetes objects: pure functions over plain dictionaries."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from k8s_adapter import names
from runtimes.base import Description, Notice

Object = dict[str, Any]

MASK = "********"
# A name that says that the value is a secret; one that says that it is only the way to it.
SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|authorization|private|signature|api_?key|access_?key|(^|_)(key|auth|pat|dsn)($|_)",
    re.IGNORECASE,
)
PLACE_NAME = re.compile(r"_(file|path|dir|folder)$|^berth_secrets$", re.IGNORECASE)
# The person and password of an address: RFC 3986, section 3.2.1.
USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
# A command's `--api-key=value`, or `API_KEY=value` before it.
OPTION = re.compile(r"(?P<name>[\w-]+)=.+", re.DOTALL)
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


def mask(value: Any) -> Any:
    """A copy of JSON in which what looks like a secret is written as asterisks.

    Looks at the names of environment variables and of a command's options, and at passwords in addresses. References
    to secrets stay: they hold no value.
    """
    if isinstance(value, Mapping):
        if set(value) == {"name", "value"}:  # an environment variable of a container
            return {"name": value["name"], "value": _masked(str(value["name"]), value["value"])}
        environment = value.get("environment")  # of a RunSpec
        whole = {key: mask(each) for key, each in value.items()}
        if isinstance(environment, Mapping):
            whole["environment"] = {name: _masked(name, each) for name, each in environment.items()}
        return whole
    if isinstance(value, list | tuple):
        options = ["", *(each if isinstance(each, str) and each.startswith("-") else "" for each in value)]
        return [_masked(before, each) for before, each in zip(options, value, strict=False)]
    if not isinstance(value, str):
        return value
    if (option := OPTION.fullmatch(value)) and _tells(option["name"]):
        return f"{option['name']}={MASK}"
    return USER_INFO.sub(f"{MASK}@", value)


def _masked(name: str, value: Any) -> Any:
    """The value of a variable or option of this name."""
    return MASK if isinstance(value, str) and value and _tells(name) else mask(value)


def _tells(name: str) -> bool:
    """Whether a value of this name is a secret."""
    plain = name.lstrip("-").replace("-", "_")
    return bool(SECRET_NAME.search(plain)) and not PLACE_NAME.search(plain)


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
        text=USER_INFO.sub(f"{MASK}@", str(event.get("message") or "").strip()),
        count=int(series.get("count") or event.get("count") or 1),
    )


def _time(text: str | None) -> datetime | None:
    """An RFC 3339 time of Kubernetes, UTC. The epoch stands for a container that never started."""
    return datetime.fromisoformat(text) if text and not text.startswith("1970-") else None
