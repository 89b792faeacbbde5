"""Reconcile throughput: Jobs started per second by one worker process with four workers, from the moment at which 60
paused sessions of one group may start to the API server's word of the last Job.

Each is claimed, made, and followed to its end by the same workers meanwhile: its agent is `date` under the contract
`plain`, its courier calls, its run ends. The floor is the rate at which four client processes create Jobs of the same
manifests with the Secrets that they mount, two calls each, without anything of Berth; their couriers sleep and their
agents print the date. Pods start beside both. The two take turns.
"""

import dataclasses
import multiprocessing
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from bench.bare import SLEEP, BareJobs
from bench.harness import Figure, Outcome, berth, cluster, django, group, median, rows, times
from k8s_adapter import manifests, names
from k8s_adapter.client import Api
from k8s_adapter.config import KubernetesConfig
from runtimes.base import RunSpec, TransientFault
from testbed.stack import Stack
from testbed.waiting import wait_for

SESSIONS, WORKERS, ROUNDS, TARGET = 60, 4, 3, 0.5
JOBS = "/apis/batch/v1/jobs"
DATE = ["sh", "-c", "cat > /dev/null; date"]
RELEASE = """
import time
from django.db import transaction
from groups.models import AgentGroup
from sessions import work_queue
with transaction.atomic():
    AgentGroup.objects.filter(slug="{slug}").update(hold="")
    work_queue.request(work_queue.ADMIT, priority=work_queue.FIRST)
    result = time.time()
"""


def run() -> Outcome:
    """Measure; one row."""
    room = {"MAX_RUNS": "200", "MAX_RUNS_PER_GROUP": "200", "WORKERS": str(WORKERS)}
    with berth(**room) as stack, group(stack, max_runs=200) as slug:
        stack.profile("date", command=DATE, contract="plain", cpu_millis=100, memory_mib=32)
        session = stack.open("now", slug, "date")
        stack.wait_state(session, "idle")
        ours, floor = [], []
        for _ in range(ROUNDS):
            floor.append(_bare(stack, session))
            ours.append(_berth(stack, slug))
    ratio = median(ours) / median(floor)
    spreads = [f"{median(rates):.1f}/s ({min(rates):.1f} to {max(rates):.1f})" for rates in (ours, floor)]
    row = Figure("Jobs started", spreads[0], spreads[1], times(ratio), f"≥ {times(TARGET)}", ratio >= TARGET)
    return Outcome([row], [f"{ROUNDS} rounds of {SESSIONS} Jobs each."])


def _berth(stack: Stack, slug: str) -> float:
    """Jobs a second, once the group is resumed."""
    stack.python(
        f"from groups.models import AgentGroup; AgentGroup.objects.filter(slug={slug!r}).update(hold='paused')"
    )
    sessions = [stack.open("now", slug, "date") for _ in range(SESSIONS)]
    with made(f"{names.INSTALLATION}={stack.env['INSTALLATION']}") as seen:
        released = django(stack, RELEASE.format(slug=slug))
        wait_for(lambda: len(seen) == SESSIONS, 120, f"{SESSIONS} Jobs; see {stack.log}")
    for session in sessions:
        stack.wait_state(session, "idle", seconds=180)
    unclean = "SELECT 1 FROM agent_sessions_run WHERE removed_at IS NULL"
    wait_for(lambda: not rows(stack, unclean), 120, f"the end of the runs; see {stack.log}")
    return SESSIONS / (max(seen.values()) - released)


@contextmanager
def made(selector: str) -> Iterator[dict[str, float]]:
    """Watch for new Jobs; the times at which the API server told of each, by name."""
    seen: dict[str, float] = {}
    api, begun = cluster(), threading.Event()

    def follow() -> None:
        version = api.get(JOBS, labelSelector=selector)["metadata"]["resourceVersion"]
        begun.set()
        try:
            query = {"labelSelector": selector, "resourceVersion": version, "timeoutSeconds": "150"}
            for event in api.watch(JOBS, 150, **query):
                if event["type"] == "ADDED":
                    seen.setdefault(event["object"]["metadata"]["name"], time.time())
        except TransientFault:
            return

    threading.Thread(target=follow, daemon=True).start()
    begun.wait(10)
    yield seen


def _bare(stack: Stack, session: str) -> float:
    """Jobs a second, by as many clients as there are workers."""
    bare = BareJobs(stack, session, DATE)
    specs = [another(bare.spec) for _ in range(SESSIONS)]
    context = multiprocessing.get_context("fork")
    ready, begin = context.Barrier(WORKERS + 1), context.Event()
    clients = [
        context.Process(target=create, args=(specs[i::WORKERS], bare.config, ready, begin)) for i in range(WORKERS)
    ]
    for client in clients:
        client.start()
    ready.wait(30)
    begun = time.time()
    begin.set()
    for client in clients:
        client.join(120)
    took = time.time() - begun
    remove(bare, specs)
    return SESSIONS / took


def another(spec: RunSpec) -> RunSpec:
    """The same for another run."""
    return dataclasses.replace(
        spec, ref=dataclasses.replace(spec.ref, run=str(uuid.uuid4()), session=str(uuid.uuid4()))
    )


def create(specs: list[RunSpec], config: KubernetesConfig, ready: object, begin: object) -> None:
    """One client: the Secret, then the Job, of each spec."""
    api = cluster()
    api.get("/version")
    ready.wait()  # type: ignore[attr-defined]
    begin.wait()  # type: ignore[attr-defined]
    for spec in specs:
        job = manifests.make_job(spec, config)
        pod = job["spec"]["template"]["spec"]
        pod["containers"][0]["command"], pod["initContainers"][0]["command"] = DATE, SLEEP
        secrets, jobs = _places(spec)
        api.create(secrets, manifests.make_secret(spec, {}, config))
        api.create(jobs, job)


def _places(spec: RunSpec) -> tuple[str, str]:
    namespace = names.namespace(spec.ref.slug)
    return f"/api/v1/namespaces/{namespace}/secrets", f"/apis/batch/v1/namespaces/{namespace}/jobs"


def remove(bare: BareJobs, specs: list[RunSpec]) -> None:
    """Remove what `create` made, and wait for the end of its pods."""
    api: Api = bare.api
    for spec in specs:
        secrets, jobs = _places(spec)
        api.delete(f"{jobs}/{names.job(spec.ref.run)}")
        api.delete(f"{secrets}/{names.secret(spec.ref.run)}")
    selector = names.selector(bare.config.installation)
    wait_for(lambda: not api.get("/api/v1/pods", labelSelector=selector)["items"], 180, "the end of the bare pods")
