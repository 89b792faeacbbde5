"""Soak: 300 sessions in six groups on the cluster for ten minutes, while every few seconds the worker, the watcher,
`web` or a courier is killed by SIGKILL, and now and then the API server is stopped; what was killed is started again at
once, as a supervisor does.

Each session gets a few messages at random times; a request that gets no answer is sent again with the same key. Then
the faults end. Afterwards each message must have been answered exactly once and in order, and nothing may be left in
the cluster that the database doesn't know. It is run by hand, `python -m bench soak`; SOAK_SESSIONS and SOAK_SECONDS
make it smaller.
"""

import contextlib
import os
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil
import requests

from bench.harness import Figure, Outcome, berth, cluster, rows
from k8s_adapter import names
from testbed.stack import Stack
from testbed.waiting import wait_for

SESSIONS = int(os.environ.get("SOAK_SESSIONS", "300"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
GROUPS, MESSAGES, SLOTS, EVERY, PATIENCE = 6, 4, 12, 8.0, 1200.0
SETTINGS = {"MAX_RUNS": str(SLOTS), "MAX_RUNS_PER_GROUP": "4", "RETRY_SECONDS": "1,2,4,8,16"}
FAULTS = {"worker": 4, "watcher": 3, "web": 3, "courier": 4, "API server": 1}  # how often, in proportion


def run() -> Outcome:
    """Soak; one row."""
    chance = random.Random()
    with berth(**SETTINGS) as stack:
        stack.profile("soak", cpu_millis=200, memory_mib=96)
        groups = [stack.group(f"{stack.tenant}-{number}", max_runs=4) for number in range(GROUPS)]
        sessions = [stack.open(text(number, 1), groups[number % GROUPS], "soak") for number in range(SESSIONS)]
        end, done = time.monotonic() + SECONDS, Counter[str]()
        faults = threading.Thread(target=_faults, args=(stack, set(sessions), chance, end, done))
        faults.start()
        sent = _send(stack, sessions, chance, end)
        faults.join()
        stack.wait_for_web()
        begun = time.monotonic()
        wait_for(lambda: not _open(stack), PATIENCE, f"the answers to all messages; see {stack.log}")
        settled = time.monotonic() - begun
        wrong = _judge(stack, sessions, sent)
        wrong += _left(stack, sessions)
    for words in wrong:
        print(f"  {words}")
    total = sum(sent.values())
    kills = ", ".join(f"{name} {count} times" for name, count in sorted(done.items()))
    result = f"{len(wrong)} wrong of {total} messages"
    row = Figure(
        f"soak of {SESSIONS} sessions", f"{total} messages in {SECONDS:.0f} s", "0 wrong", result, "0", not wrong
    )
    notes = [f"Killed: {kills}.", f"The last answer came {settled:.0f} s after the last fault."]
    return Outcome([row], notes + [f"Wrong: {words}." for words in wrong[:20]])


def text(session: int, message: int) -> str:
    """A message that says in its answer which one it was."""
    return f"$ sleep 0.{(session + message) % 7}; echo mark-{session}-{message}."


def _send(stack: Stack, sessions: list[str], chance: random.Random, end: float) -> dict[str, int]:
    """Send messages at random times until the end; how many each session got, the first among them."""
    sent = dict.fromkeys(sessions, 1)
    times = sorted(
        (time.monotonic() + chance.random() * (end - time.monotonic()), number)
        for number in range(len(sessions))
        for _ in range(chance.randrange(MESSAGES))
    )
    for at, number in times:
        time.sleep(max(0.0, at - time.monotonic()))
        session = sessions[number]
        sent[session] += 1
        _surely(stack, session, text(number, sent[session]), key=f"message-{sent[session]}")
    return sent


def _surely(stack: Stack, session: str, words: str, key: str) -> None:
    """Send a message until it is accepted: `web` may be away, or die of a fault before it answers."""

    def accepted() -> bool:
        try:
            return stack.send(session, words, key) > 0
        except requests.RequestException:
            return False

    wait_for(accepted, 120, f"a message of {session} is accepted; see {stack.log}")


def _faults(stack: Stack, sessions: set[str], chance: random.Random, end: float, done: Counter[str]) -> None:
    """One fault after the other, until the end."""
    kinds, weights = list(FAULTS), list(FAULTS.values())
    while (pause := chance.uniform(EVERY / 2, EVERY * 1.5)) < end - time.monotonic():
        time.sleep(pause)
        kind = chance.choices(kinds, weights)[0]
        fault: Callable[[], bool] = {
            "courier": lambda: _kill_courier(sessions, chance),
            "API server": lambda: _stop_api_server(chance),
        }.get(kind, lambda kind=kind: _kill(stack, kind))  # type: ignore[misc]
        if fault():
            done[kind] += 1


def _kill(stack: Stack, name: str) -> bool:
    """Kill a process of the stack and its children, and start it again."""
    stack.kill(name)
    stack.start(name)
    return True


def _kill_courier(sessions: set[str], chance: random.Random) -> bool:
    """Kill one courier in its container; the kubelet starts it again."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("BERTH_SESSION") in sessions and "courier" in process.cmdline():
                found.append(process)
    with contextlib.suppress(psutil.Error):
        if found:
            chance.choice(found).kill()
    return bool(found)


def _stop_api_server(chance: random.Random) -> bool:
    """Stop the API server for some seconds."""
    tool = os.environ["CLUSTER_TOOL"]
    subprocess.run([tool, "stop", "apiserver"], check=True, capture_output=True)
    time.sleep(chance.uniform(0, 10))
    subprocess.run([tool, "start", "apiserver"], check=True, capture_output=True)
    return True


def _open(stack: Stack) -> int:
    """How many messages are not answered yet."""
    time.sleep(1)
    query = "SELECT count(*) FROM agent_sessions_message WHERE state IN ('queued', 'delivered')"
    return int(rows(stack, query)[0][0])


def _judge(stack: Stack, sessions: list[str], sent: dict[str, int]) -> list[str]:
    """What is wrong with the answers."""
    wrong = []
    for number, session in enumerate(sessions):
        expected = [str(message) for message in range(1, sent[session] + 1)]
        results = [event["text"] for event in stack.events(session) if event["kind"] == "result"]
        answered = [mark for result in results for mark in re.findall(rf"mark-{number}-(\d+)\.", result)]
        states = [message["state"] for message in stack.get(f"sessions/{session}/messages")]
        if answered != expected or states != ["answered"] * len(expected) or len(results) != len(expected):
            wrong.append(f"session {session}: {len(expected)} messages, answers to {answered}, states {states}")
    return wrong


def _left(stack: Stack, sessions: list[str]) -> list[str]:
    """Close everything; then what the cluster still has of runs."""
    for session in sessions:
        if stack.session(session)["state"] not in ("idle", "failed"):
            stack.post(f"sessions/{session}/close")
    active = "SELECT session_id, state FROM agent_sessions_run WHERE state <> 'ended' OR removed_at IS NULL"
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not rows(stack, active), 180)
    wrong = [f"session {session}: its run is still {state}" for session, state in rows(stack, active)]
    api, query = cluster(), {"labelSelector": f"{names.INSTALLATION}={stack.env['INSTALLATION']},{names.RUN}"}
    paths = ("/apis/batch/v1/jobs", "/api/v1/pods", "/api/v1/secrets")

    def found() -> list[str]:
        items = [item for path in paths for item in api.get(path, **query)["items"]]
        return [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in items]

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not found(), 120)
    return wrong + [f"{name} is left in the cluster" for name in found()]
