"""What the benches share: a Berth of their own, a group on the cluster, percentiles, what a bench returns."""

import contextlib
import json
import math
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from kubernetes import client, config

from k8s_adapter import names
from k8s_adapter.client import Api
from k8s_adapter.config import KubernetesConfig
from testbed.stack import Stack
from testbed.waiting import wait_for

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: what was measured, beside its floor and its target, in words."""

    name: str
    ours: str
    floor: str
    result: str  # what the target is about: a ratio, or percentiles
    target: str
    met: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one bench returns: its rows, and what else was seen while measuring, one sentence each."""

    figures: list[Figure]
    notes: list[str] = field(default_factory=list)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed (the nearest-rank method)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value, or the lower of the two in the middle."""
    return percentile(values, 0.5)


def times(value: float) -> str:
    """A ratio, for people."""
    return f"{value:.2f}\N{MULTIPLICATION SIGN}"


def ms(seconds: float) -> str:
    """Seconds as milliseconds, for people."""
    return f"{seconds * 1000:.0f} ms"


def spread(values: Sequence[float]) -> str:
    """How times in seconds are told: their p50, p99 and how many there were."""
    return f"p50 {ms(median(values))}, p99 {ms(percentile(values, 0.99))} of {len(values)}"


@contextlib.contextmanager
def berth(processes: Sequence[str] = ("web", "worker", "watcher"), **env: str) -> Iterator[Stack]:
    """A Berth on PostgreSQL, Redis and Kubernetes, with some of its processes; gone at the end with all it made."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        stack = Stack.production(Path(folder), LOG_LEVEL="INFO", **passed_on(), **env)
        try:
            stack.furnish()
            for name in processes:
                stack.start(name)
            stack.wait_for_web()
            yield stack
        except BaseException:
            print(*stack.log.read_text().splitlines()[-30:], sep="\n", file=sys.stderr)
            raise
        finally:
            stack.down()


def passed_on() -> dict[str, str]:
    """Settings that the caller of the benches may choose."""
    return {name: os.environ[name] for name in ("COURIER_IMAGE", "DATABASE_POOL", "WORKERS") if name in os.environ}


@contextlib.contextmanager
def group(stack: Stack, **fields: Any) -> Iterator[str]:
    """A group, by its slug; at the end its namespace is deleted, and waited for."""
    slug = stack.group(f"bench-{uuid.uuid4().hex[:8]}", **fields)
    try:
        yield slug
    finally:
        api, path = cluster(), f"/api/v1/namespaces/{names.namespace(slug)}"
        api.delete(path)
        selector = f"metadata.name={names.namespace(slug)}"
        wait_for(
            lambda: not api.get("/api/v1/namespaces", fieldSelector=selector)["items"], 120, f"the end of {selector}"
        )


def cluster(installation: str = "bench") -> Api:
    """The cluster's API, as the benches use it themselves."""
    return Api(KubernetesConfig(installation=installation, courier_image=""))


def rows(stack: Stack, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask the stack's database."""
    with psycopg.connect(stack.env["DATABASE_URL"]) as connection:
        return connection.execute(query.encode(), values).fetchall()


def pod_log(namespace: str, pod: str, **query: Any) -> Iterator[str]:
    """The lines of an agent container's log; with `follow=True` as they come, until it ends."""
    config.load_kube_config()
    read = client.CoreV1Api().read_namespaced_pod_log
    response: Any = read(pod, namespace, container=names.AGENT, _preload_content=False, **query)
    rest = b""
    for chunk in response.stream(amt=None):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode() for line in lines)


def django(stack: Stack, code: str) -> Any:
    """Run code in the stack's Django; it leaves JSON in `result`, which is returned."""
    return json.loads(stack.python(f"import json\n{code}\nprint(json.dumps(result))").splitlines()[-1])


RUNS = """
from django.utils import timezone
from groups.models import AgentGroup, AgentProfile
from sessions.lifecycle import run_tokens
from sessions.models import AgentSession, Run
result = []
for _ in range({count}):
    session = AgentSession.objects.create(
        group=AgentGroup.objects.get(slug="demo"), profile=AgentProfile.objects.get(slug="workbench"), last_run=1
    )
    run = Run.objects.create(session=session, number=1, runtime="local", state="working", started_at=timezone.now())
    result.append([str(session.pk), run_tokens.mint(run.pk)])
"""


def fake_runs(stack: Stack, count: int) -> list[tuple[str, str]]:
    """Rows of runs that execute nowhere, for a `web` that has no watcher: (session, the courier's token) of each."""
    return [(session, token) for session, token in django(stack, RUNS.format(count=count))]
