"""Cold start: from the POST of a message to a session without a run, to the frame with the agent's first output event
on a websocket that was open before.

The floor is a bare Job with the manifest of the same run (same containers, images, volumes, limits and security; its
courier sleeps, its agent prints `date +%s.%N` at once), from the call that creates it to the time that its container
printed. Its Secret, the group's namespace and volume exist before. Agents: `date`, the floor's own program under the
contract `plain`, and the workbench, which is a Python program and takes its start-up time on top. The three take turns.

Starts come in two heaps about 0.9 s apart, the floor's too, most likely as the kubelet looks for changed containers
once a second before it starts the agent's. Turns that follow each other at once fall into that second alike, one agent
always early, another always late; so each start is preceded by a pause of random length below a second.
"""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.bare import BareJobs
from bench.harness import Figure, Outcome, berth, cluster, group, median, ms, percentile, rows, times
from bench.page import Page
from k8s_adapter import names
from runtimes.base import TransientFault
from sessions.choices import OUTPUT
from testbed.stack import Stack
from testbed.waiting import wait_for

ROUNDS, WARM_UP = 15, 2
TARGET = 1.3
PODS = "/api/v1/pods"
CPU_MILLIS = 500  # so that the node has room beside what else runs there
PRINT_TIME = ["sh", "-c", "date +%s.%N"]


def run() -> Outcome:
    """Measure; two rows and the parts of a start."""
    with berth() as stack, group(stack) as slug:
        stack.profile("date", command=PRINT_TIME, contract="plain", cpu_millis=CPU_MILLIS)
        stack.profile("bench", cpu_millis=CPU_MILLIS)
        return asyncio.run(_measure(stack, slug))


async def _measure(stack: Stack, slug: str) -> Outcome:
    cookie = stack.cookies()
    sessions = {}
    for profile in ("date", "bench"):
        sessions[profile] = await asyncio.to_thread(_first_run, stack, slug, profile)
    bare = BareJobs(stack, sessions["date"], PRINT_TIME)
    floors: list[float] = []
    starts: dict[str, list[dict[str, float]]] = {"date": [], "bench": []}
    for turn in range(WARM_UP + ROUNDS):
        await asyncio.sleep(random.random())
        floor = await asyncio.to_thread(_bare_start, bare)
        taken = {}
        for profile, session in sessions.items():
            await asyncio.sleep(random.random())
            taken[profile] = await _start(stack, session, cookie)
        if turn >= WARM_UP:
            floors.append(floor)
            for profile, parts in taken.items():
                starts[profile].append(parts)
    return _outcome(floors, starts)


def _first_run(stack: Stack, slug: str, profile: str) -> str:
    """Open a session, so that its page can be open, and so that the group is warm."""
    session = stack.open("/time", slug, profile)
    stack.wait_result(session)
    _end(stack, session)
    return session


def _bare_start(bare: BareJobs) -> float:
    """Seconds from the call that makes a bare Job to the time that it printed."""
    with bare.job() as (called, job):
        return float(next(bare.output(job))) - called


def _end(stack: Stack, session: str) -> None:
    """End the session's run, gracefully, and wait until nothing of it is left to disturb the next.

    A close that comes before the kubelet has told of the agent's start is a case of its own: not here.
    """
    api, query = cluster(), {"labelSelector": f"{names.SESSION}={session}"}
    if stack.wait_state(session, "waiting", "idle")["state"] == "waiting":
        wait_for(lambda: api.get(PODS, **query)["items"][0]["status"]["phase"] == "Running", 60, "the pod's start")
        stack.post(f"sessions/{session}/close")
    stack.wait_state(session, "idle")
    unclean = "SELECT 1 FROM agent_sessions_run WHERE session_id = %s AND removed_at IS NULL"
    wait_for(lambda: not rows(stack, unclean, session), 60, f"the end of {session}; see {stack.log}")
    wait_for(lambda: not api.get(PODS, **query)["items"], 60, f"the end of the pods of {session}")


async def _start(stack: Stack, session: str, cookie: str) -> dict[str, float]:
    """One start; seconds from the POST to each of its steps, in order."""
    after = stack.session(session)["last_seq"]
    page = Page(stack, session, cookie, after)
    await page.open()
    with steps(session) as seen:
        posted = time.time()
        await asyncio.to_thread(stack.send, session, "/time")
        answered = time.time()
        shown, event = await page.until(lambda event: event["kind"] in OUTPUT, 60)
    await page.close()
    query = "SELECT claimed_at, started_at FROM agent_sessions_run WHERE session_id = %s ORDER BY number DESC LIMIT 1"
    claimed, hello = rows(stack, query, session)[0]
    await asyncio.to_thread(_end, stack, session)
    times = {
        "POST answered": answered,
        "run claimed by a worker": claimed.timestamp(),
        **seen,
        "courier's hello stored": hello.timestamp(),
        "agent's own clock": float(event["text"].strip().strip("`")),
        "first output on the page": shown,
    }
    return {step: at - posted for step, at in times.items()}


@contextmanager
def steps(session: str) -> Iterator[dict[str, float]]:
    """Watch the Job and pod of a session; the times at which the API server told of their steps."""
    seen: dict[str, float] = {}
    api, selector = cluster(), f"{names.SESSION}={session}"
    ready = threading.Barrier(3)

    def follow(path: str, note: Any) -> None:
        version = api.get(path, labelSelector=selector)["metadata"]["resourceVersion"]
        ready.wait(10)
        query = {"labelSelector": selector, "resourceVersion": version, "timeoutSeconds": "30"}
        try:
            for event in api.watch(path, 40, **query):
                for step in note(event["object"]):
                    seen.setdefault(step, time.time())
        except TransientFault:
            return

    for path, note in (("/apis/batch/v1/jobs", lambda job: ["Job made"]), (PODS, pod_steps)):
        threading.Thread(target=follow, args=(path, note), daemon=True).start()
    ready.wait(10)
    yield seen


def pod_steps(pod: dict[str, Any]) -> list[str]:
    """The steps that a pod has taken, as far as its object tells."""
    found = ["pod made"]
    if pod["spec"].get("nodeName"):
        found.append("pod scheduled")
    for key, step in (("initContainerStatuses", "kubelet: courier runs"), ("containerStatuses", "kubelet: agent runs")):
        if any(not status["state"].get("waiting") for status in pod.get("status", {}).get(key, [])):
            found.append(step)
    return found


def _outcome(floors: list[float], starts: dict[str, list[dict[str, float]]]) -> Outcome:
    base = median(floors)
    figures, notes = [], []
    for profile, name in (("date", "cold start, agent `date`"), ("bench", "cold start, workbench")):
        totals = [parts["first output on the page"] for parts in starts[profile]]
        ratio = median(totals) / base
        ours = f"{median(totals):.2f} s (p90 {percentile(totals, 0.9):.2f} s)"
        floor = f"{base:.2f} s (p90 {percentile(floors, 0.9):.2f} s)"
        figures.append(Figure(name, ours, floor, times(ratio), f"≤ {times(TARGET)}", ratio <= TARGET))
        reached = {step: [parts[step] for parts in starts[profile] if step in parts] for step in starts[profile][0]}
        order = sorted((median(at), step) for step, at in reached.items())
        timeline = ", ".join(f"{step} {ms(at)}" for at, step in order)
        notes.append(f"{name}, medians of {len(totals)} from the POST: {timeline}.")
    return Outcome(figures, notes)
