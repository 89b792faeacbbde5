"""Watchers: 200 websockets on one session at 200 events a second for 20 s; from the time at which an event was posted
to the couriers' API, to the frame that holds it at each of the websockets.

`web` is alone, and the bench plays the courier: 10 events every 50 ms. The floor is the same with one websocket.
"""

import asyncio
import json
import time

import requests

from bench.cpu import Cpu
from bench.harness import Figure, Outcome, berth, fake_runs, percentile, spread
from bench.page import Page
from testbed.stack import Stack

WATCHERS, RATE, SECONDS, BATCH = 200, 200, 20, 10
P99 = 1.0  # seconds


def run() -> Outcome:
    """Measure; one row."""
    with berth(["web"], STREAMS_PER_PERSON="1000", STREAMS_PER_ADDRESS="1000") as stack:
        alone = fake_runs(stack, 2)
        cookie = stack.cookies()
        floor, missing = asyncio.run(_watch(stack, alone[0], cookie, 1, 5))
        with Cpu() as cpu:
            lags, lost = asyncio.run(_watch(stack, alone[1], cookie, WATCHERS, SECONDS))
    met = percentile(lags, 0.99) <= P99 and not lost + missing
    result = f"p99 {percentile(lags, 0.99):.2f} s, {lost} missing"
    row = Figure("watchers", spread(lags), spread(floor), result, "p99 ≤ 1 s, none missing", met)
    return Outcome([row], [f"Cores used meanwhile: {cpu.words()}."])


async def _watch(
    stack: Stack, run: tuple[str, str], cookie: str, watchers: int, seconds: int
) -> tuple[list[float], int]:
    """Lags in seconds, of every event at every page; and how many events did not come, or not in order."""
    session, token = run
    pages = [Page(stack, session, cookie) for _ in range(watchers)]
    for start in range(0, watchers, 20):
        await asyncio.gather(*(page.open() for page in pages[start : start + 20]))
    total = await asyncio.to_thread(_say, stack, token, seconds)
    await asyncio.gather(
        *(page.until(lambda event: event["seq"] == total, 30) for page in pages), return_exceptions=True
    )
    await asyncio.gather(*(page.close() for page in pages))
    lags = [at - float(event["text"]) for page in pages for at, event in page.arrivals]
    lost = sum(page.faults + total - len(page.arrivals) for page in pages)
    return lags, lost


def _say(stack: Stack, token: str, seconds: int) -> int:
    """Play the courier for so long; return how many events there were."""
    client, number, began = requests.Session(), 0, time.monotonic()
    client.headers["Authorization"] = f"Bearer {token}"
    while number < RATE * seconds:
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        now = time.time()
        events = [{"n": number + i, "kind": "text", "text": repr(now), "at": now} for i in range(1, BATCH + 1)]
        answer = client.post(f"{stack.base}/agent/v1/events", data=json.dumps({"events": events}), timeout=30)
        answer.raise_for_status()
        number += BATCH
    return number
