"""Starts beside runs that wait: Jobs made per second by one worker process with four workers, when 100 sessions of one
group are released at once while 0, 100, 500 and 1,000 of its runs wait already, for the cluster's quota or for a node.

On a control plane without nodes (KUBECONFIG) no container takes the machine's time: a Job exists, its pod waits for a
node, or for the namespace's quota, and Berth follows both. From the moment of the release to the API server's word of
the last Job. The floor is the rate at which four client processes create Jobs of the same manifests with the Secrets
that they mount, two calls each, without anything of Berth, before each round. Beside it: the most rows that the task
queue held during a round, against the sessions that had something to do; and what worker and watcher use of a processor
while 1,000 runs wait and nothing happens.
"""

import dataclasses
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psutil

from bench.bare import BareJobs
from bench.harness import Figure, Outcome, berth, django, group, median, rows, times
from bench.reconcile import DATE, another, create, made, remove
from k8s_adapter import names
from k8s_adapter.config import KubernetesConfig
from runtimes.base import RunRef, RunSpec
from testbed.stack import Stack
from testbed.waiting import wait_for

RELEASED, WAITING, WORKERS = 100, (0, 100, 500, 1000), 4
REST_SECONDS = 60
AT_ONCE = 20  # rows whose Jobs are made before the watcher misses them
SPREAD, RATIO, AT_REST = 0.8, 0.3, 0.1  # of the first round's rate; of the bare client's; cores
QUOTA_PODS = 200  # the rest waits for the quota
OPEN = """
from groups.models import AgentGroup, AgentProfile
from sessions.lifecycle import intake
group, profile = AgentGroup.objects.get(slug="{slug}"), AgentProfile.objects.get(slug="date")
for _ in range({count}):
    intake.open_session(group=group, profile=profile, text="now", sender=None)
result = None
"""
ROWS = """
from django.utils import timezone
from groups.models import AgentGroup, AgentProfile
from sessions.models import AgentSession, Run
group, profile = AgentGroup.objects.get(slug="{slug}"), AgentProfile.objects.get(slug="date")
new = [AgentSession(group=group, profile=profile, last_run=1, attempts=1, state="starting") for _ in range({count})]
sessions = AgentSession.objects.bulk_create(new)
now = timezone.now()
runs = [Run(session=each, number=1, runtime="kubernetes", state="starting", made_at=now) for each in sessions]
result = [[str(run.pk), str(run.session_id), str(group.pk), group.slug] for run in Run.objects.bulk_create(runs)]
"""
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
QUEUE = "SELECT count(*) FROM agent_sessions_workitem"


def run() -> Outcome:
    """Measure; four rows."""
    room = {"MAX_RUNS": "5000", "MAX_RUNS_PER_GROUP": "5000", "WORKERS": str(WORKERS), "START_SECONDS": "36000"}
    plenty = {"max_runs": 5000, "quota_cpu_millis": 900_000, "quota_memory_mib": 900_000}
    with (
        berth(**room) as stack,
        group(stack, quota_pods=QUOTA_PODS, **plenty) as slug,
        group(stack, quota_pods=5000, **plenty) as other,
    ):
        stack.profile("date", command=DATE, contract="plain", cpu_millis=100, memory_mib=32)
        bare = BareJobs(stack, _first(stack, other), DATE)
        ours, floor, queued, notes = [], [], [], []
        for waiting in WAITING:
            if missing := waiting - _alive(stack, slug):
                _wait_already(stack, bare, slug, missing)
            _settled(stack)
            floor.append(_bare(bare))
            with most_rows(stack) as most:
                ours.append(_release(stack, slug, RELEASED))
            queued.append(most[0])
            print(f"  {waiting}: {ours[-1]:.1f}/s, bare {floor[-1]:.1f}/s", flush=True)
            notes.append(f"beside {waiting}: {ours[-1]:.1f}/s, bare {floor[-1]:.1f}/s, at most {most[0]} rows queued")
        _settled(stack)
        rest = _at_rest(stack)
        print(f"  at rest: {rest:.3f} cores", flush=True)
    slowest, ratio = min(ours) / ours[0], min(o / f for o, f in zip(ours, floor, strict=True))
    bound = max(WAITING) + RELEASED
    figures = [
        Figure(
            "starts beside 1,000 that wait",
            f"{ours[-1]:.1f}/s",
            f"{median(floor):.1f}/s",
            times(ratio),
            f"≥ {times(RATIO)}",
            ratio >= RATIO,
        ),
        Figure(
            "the same, beside none",
            f"{ours[0]:.1f}/s",
            f"{floor[0]:.1f}/s",
            f"slowest round {slowest:.2f} of the first",
            f"≥ {SPREAD}",
            slowest >= SPREAD,
        ),
        Figure(
            "task queue meanwhile",
            f"{max(queued)} rows",
            f"{bound} sessions",
            f"{max(queued)} rows",
            f"≤ {bound}",
            max(queued) <= bound,
        ),
        Figure(
            "1,000 that wait, at rest",
            f"{rest:.3f} cores",
            "0",
            f"{rest:.3f} cores",
            f"≤ {AT_REST}",
            rest <= AT_REST,
        ),
    ]
    return Outcome(figures, [f"{each.capitalize()}." for each in notes])


def _wait_already(stack: Stack, bare: BareJobs, slug: str, count: int) -> None:
    """So many more runs of a group that wait: rows and Jobs as Berth makes them, made by bare clients for speed."""
    config = dataclasses.replace(bare.config, installation=stack.env["INSTALLATION"])
    for start in range(0, count, AT_ONCE):
        refs = django(stack, ROWS.format(slug=slug, count=min(AT_ONCE, count - start)))
        _create([dataclasses.replace(bare.spec, ref=RunRef(*each)) for each in refs], config)


def _first(stack: Stack, slug: str) -> str:
    """A session whose Job was made: its group's namespace exists, and its spec can be copied."""
    session = stack.open("now", slug, "date")
    wait_for(lambda: _alive(stack, slug) == 1, 60, f"the first Job; see {stack.log}")
    return session


def _alive(stack: Stack, slug: str) -> int:
    """How many runs of a group have their Jobs."""
    query = (
        "SELECT count(*) FROM agent_sessions_run r JOIN agent_sessions_agentsession s ON s.id = r.session_id "
        "JOIN groups_agentgroup g ON g.id = s.group_id WHERE r.state = 'starting' AND g.slug = %s"
    )
    return int(rows(stack, query, slug)[0][0])


def _release(stack: Stack, slug: str, count: int) -> float:
    """Jobs a second, once a paused group's sessions may start."""
    stack.python(
        f"from groups.models import AgentGroup; AgentGroup.objects.filter(slug={slug!r}).update(hold='paused')"
    )
    before = _alive(stack, slug)
    django(stack, OPEN.format(slug=slug, count=count))
    _settled(stack)
    with made(f"{names.INSTALLATION}={stack.env['INSTALLATION']}") as seen:
        released = django(stack, RELEASE.format(slug=slug))
        wait_for(lambda: len(seen) == count, 600, f"{count} Jobs, not {len(seen)}; see {stack.log}")
    wait_for(lambda: _alive(stack, slug) >= before + count, 120, f"the runs' rows; see {stack.log}")
    return count / (max(seen.values()) - released)


def _settled(stack: Stack) -> None:
    """Until the task queue has been empty."""
    wait_for(lambda: rows(stack, QUEUE)[0][0] == 0, 300, f"an empty task queue; see {stack.log}")


@contextmanager
def most_rows(stack: Stack) -> Iterator[list[int]]:
    """The most rows that the task queue held, in a list of one."""
    most, over = [0], Event()

    def follow() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], int(rows(stack, QUEUE)[0][0]))

    thread = Thread(target=follow)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def _at_rest(stack: Stack) -> float:
    """Cores that worker and watcher use."""
    before, began = _spent(stack), time.monotonic()
    time.sleep(REST_SECONDS)
    return (_spent(stack) - before) / (time.monotonic() - began)


def _spent(stack: Stack) -> float:
    """Seconds of processor time that the stack's worker and watcher have used."""
    total = 0.0
    for name in ("worker", "watcher"):
        whole = psutil.Process(stack.processes[name].pid)
        for process in [whole, *whole.children(recursive=True)]:
            used = process.cpu_times()
            total += used.user + used.system
    return total


def _bare(bare: BareJobs) -> float:
    """Jobs a second, by as many clients as there are workers."""
    specs = [another(bare.spec) for _ in range(RELEASED)]
    took = _create(specs, bare.config)
    remove(bare, specs)
    return RELEASED / took


def _create(specs: list[RunSpec], config: KubernetesConfig) -> float:
    """Make the Secrets and Jobs by as many clients as there are workers; the seconds that it took."""
    context = multiprocessing.get_context("fork")
    ready, begin = context.Barrier(WORKERS + 1), context.Event()
    clients = [context.Process(target=create, args=(specs[i::WORKERS], config, ready, begin)) for i in range(WORKERS)]
    for client in clients:
        client.start()
    ready.wait(60)
    begun = time.time()
    begin.set()
    for client in clients:
        client.join(600)
    return time.time() - begun
