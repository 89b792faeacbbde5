"""Relay: from the time at which an agent wrote a line (its own clock, in the line) to the frame that brings the line's
end to an open websocket: 20 sessions in 20 pods at 50 lines a second each for 30 s, one websocket for each.

The floor is the same lines from a bare pod, one alone, read from the API server by `pods/log?follow`: Kubernetes' own
way for output, which loses lines at rotation and reconnect.
"""

import asyncio
import json
import time
from collections.abc import Iterable

from bench.bare import BareJobs
from bench.cpu import Cpu
from bench.harness import Figure, Outcome, berth, group, median, percentile, spread
from bench.page import Page
from testbed.stack import Stack

SESSIONS, RATE, SECONDS = 20, 50, 30
P50, P99 = 0.100, 0.300  # seconds
POD = {"cpu_millis": 500, "memory_mib": 64}  # a tenth is reserved: 20 fit on a node of 2 cores


def run() -> Outcome:
    """Measure; one row."""
    limits = {"MAX_RUNS": str(SESSIONS + 1), "MAX_RUNS_PER_GROUP": str(SESSIONS + 1)}
    with berth(**limits) as stack, group(stack) as slug:
        stack.profile("bench", **POD)
        first = stack.open("/time", slug, "bench")
        stack.wait_state(first, "waiting", seconds=120)
        floor = _bare(stack, first)
        sessions = [first] + [stack.open("/time", slug, "bench") for _ in range(SESSIONS - 1)]
        for session in sessions:
            stack.wait_state(session, "waiting", seconds=300)
        lags, missing, cpu = asyncio.run(_measure(stack, sessions))
    met = median(lags) <= P50 and percentile(lags, 0.99) <= P99 and not missing
    result = f"{spread(lags)}, {missing} missing"
    row = Figure("relay", spread(lags), spread(floor), result, "p50 ≤ 100 ms, p99 ≤ 300 ms, none missing", met)
    return Outcome([row], [f"Cores used meanwhile: {cpu.words()}."])


async def _measure(stack: Stack, sessions: list[str]) -> tuple[list[float], int, Cpu]:
    cookie = stack.cookies()
    pages = [Page(stack, session, cookie) for session in sessions]
    await asyncio.gather(*(page.open() for page in pages))
    starts = [len(page.arrivals) for page in pages]
    command = f"/clock {SECONDS * RATE} {RATE}"
    with Cpu() as cpu:
        await asyncio.gather(*(asyncio.to_thread(stack.send, session, command) for session in sessions))
        ended = (
            page.until(lambda event: event["kind"] == "result" and "lines in" in event["text"], SECONDS + 60, start)
            for page, start in zip(pages, starts, strict=True)
        )
        await asyncio.gather(*ended)
    await asyncio.gather(*(page.close() for page in pages))
    found = [lags_of(page.lines()) for page in pages]
    missing = sum(SECONDS * RATE - len(lags) + page.faults for page, lags in zip(pages, found, strict=True))
    return [lag for lags in found for lag in lags], missing, cpu


def lags_of(lines: Iterable[tuple[float, str]]) -> list[float]:
    """Seconds between the writing of each `clock I TIME` line, which come in order, and its coming."""
    lags: list[float] = []
    for at, line in lines:
        words = line.split()
        if words[:1] == ["clock"] and int(words[1]) == len(lags) + 1:
            lags.append(at - float(words[2]))
    return lags


def _bare(stack: Stack, session: str) -> list[float]:
    """The lags of the same lines from a bare pod, through the API server."""
    message = json.dumps({"type": "message", "number": 1, "text": f"/clock {10 * RATE} {RATE}"})
    command = ["sh", "-c", f"sleep 3; echo '{message}' | python3 /opt/berth/workbench.py"]
    bare = BareJobs(stack, session, command)
    with bare.job() as (_, job):
        return lags_of((time.time(), line) for line in bare.output(job))
