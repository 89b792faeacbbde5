"""Recovery: from the SIGKILL of the worker and all its children, at a random instant within 0.3 s after a message was
accepted, to the message's answer; the worker is started again at once, as a supervisor does.

The floor is the same start undisturbed: from an instant chosen in the same way to the answer. The two take turns, and
each is a run of its own of a group that has its volume.
"""

import random
import time

from bench.harness import Figure, Outcome, berth, group, median, percentile
from testbed.stack import Stack
from testbed.waiting import wait_for

KILLS, WARM_UP, WITHIN, TARGET = 20, 1, 0.3, 15.0


def run() -> Outcome:
    """Measure; one row."""
    room = {"MAX_RUNS": "20", "MAX_RUNS_PER_GROUP": "20"}
    with berth(**room) as stack, group(stack) as slug:
        stack.profile("date", command=["sh", "-c", "cat > /dev/null; date"], contract="plain", cpu_millis=500)
        stack.wait_state(stack.open("now", slug, "date"), "idle")
        ours, floor = [], []
        for turn in range(WARM_UP + KILLS):
            undisturbed, disturbed = _answer(stack, slug, kill=False), _answer(stack, slug, kill=True)
            if turn >= WARM_UP:
                floor.append(undisturbed)
                ours.append(disturbed)
    spreads = [f"p50 {median(s):.1f} s, p95 {percentile(s, 0.95):.1f} s of {KILLS}" for s in (ours, floor)]
    result = percentile(ours, 0.95)
    row = Figure(
        "recovery of a killed worker",
        spreads[0],
        spreads[1],
        f"p95 {result:.1f} s",
        f"p95 ≤ {TARGET:.0f} s",
        result <= TARGET,
    )
    return Outcome([row], [f"The longest took {max(ours):.1f} s, the shortest {min(ours):.1f} s."])


def _answer(stack: Stack, slug: str, *, kill: bool) -> float:
    """Seconds from the kill, or from the instant at which it might have been, to the answer."""
    session = stack.open("now", slug, "date")
    time.sleep(random.uniform(0, WITHIN))
    instant = time.time()
    if kill:
        stack.kill("worker")
        stack.start("worker")
    wait_for(lambda: _answered(stack, session), 120, f"the answer of {session}; see {stack.log}")
    took = time.time() - instant
    stack.wait_state(session, "idle")
    runs = stack.session(session)["runs"]
    results = [event for event in stack.events(session) if event["kind"] == "result"]
    if (len(runs), len(results)) != (1, 1):
        raise RuntimeError(f"{session}: {len(runs)} runs, {len(results)} answers; see {stack.log}")
    return took


def _answered(stack: Stack, session: str) -> bool:
    return any(event["kind"] == "result" for event in stack.events(session))
