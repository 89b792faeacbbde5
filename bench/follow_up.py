"""Follow-up: from the POST of a message to an agent that waits, to the time at which the agent read it (its own clock).

One session of the workbench, told `/time` again and again, each time when it waits. The floor is a request to the same
web process that does next to nothing (an inbox poll without a token, answered 401), which every sample is preceded by.
"""

import asyncio
import time

import requests

from bench.harness import Figure, Outcome, berth, group, median, percentile, spread
from bench.page import Page
from testbed.stack import Stack

SAMPLES, WARM_UP = 300, 20
P50, P99 = 0.050, 0.200  # seconds


def run() -> Outcome:
    """Measure; one row."""
    with berth() as stack, group(stack) as slug:
        stack.profile("bench", cpu_millis=500)
        session = stack.open("/time", slug, "bench")
        stack.wait_state(session, "waiting")
        return asyncio.run(_measure(stack, session))


async def _measure(stack: Stack, session: str) -> Outcome:
    page = Page(stack, session, stack.cookies())
    await page.open()
    took, floor, answered = [], [], []
    bare = requests.Session()
    for turn in range(WARM_UP + SAMPLES):
        begun = time.time()
        await asyncio.to_thread(bare.get, f"{stack.base}/agent/v1/inbox")
        start, posted = len(page.arrivals), time.time()
        await asyncio.to_thread(stack.send, session, "/time")
        accepted = time.time()
        _, result = await page.until(lambda event: event["kind"] == "result", 30, start)
        await page.until(lambda event: event["data"].get("state") == "idle", 30, start)
        if turn >= WARM_UP:
            took.append(float(result["text"]) - posted)
            floor.append(posted - begun)
            answered.append(accepted - posted)
    await page.close()
    met = median(took) <= P50 and percentile(took, 0.99) <= P99
    row = Figure("follow-up", spread(took), spread(floor), spread(took), "p50 ≤ 50 ms, p99 ≤ 200 ms", met)
    return Outcome([row], [f"The POST itself was answered after {spread(answered)}."])
