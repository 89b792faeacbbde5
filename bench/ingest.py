"""Ingest: events stored per second by one `web` process, end to end over HTTP, in batches of 1,000 as a courier sends
them, from four runs at once; every batch is answered before the next.

The floor is the same rows put into a copy of the same table (same columns, checks and indexes, same PostgreSQL) by
psycopg, 1,000 rows in one INSERT and one commit, over one connection. The two take turns.
"""

import http.client
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg

from bench.cpu import Cpu
from bench.harness import Figure, Outcome, berth, fake_runs, median, percentile, rows, times
from testbed.stack import Stack

RUNS, BATCHES, BATCH, ROUNDS = 4, 15, 1000, 5
TARGET = 0.3
COLUMNS = "session_id, seq, run_id, number, kind, text, data, at"
TEXT = "line {}: some eighty characters of what an agent says while it works on its task\n"


def run() -> Outcome:
    """Measure; one row."""
    with berth(["web"]) as stack:
        with psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("CREATE TABLE bench_copy (LIKE agent_sessions_event INCLUDING ALL)")
        floors, ours, used = [], [], []
        for turn in range(ROUNDS + 1):
            runs = fake_runs(stack, RUNS)
            floor = _insert(stack, runs)
            with Cpu() as cpu:
                rate = _post(stack, runs)
            if turn:  # the first warms up
                floors.append(floor)
                ours.append(rate)
                used.append(cpu.words())
    ratio = median(ours) / median(floors)
    spreads = [f"{median(rates):,.0f}/s (p10 {percentile(rates, 0.1):,.0f}/s)" for rates in (ours, floors)]
    row = Figure("ingest", spreads[0], spreads[1], times(ratio), f"≥ {times(TARGET)}", ratio >= TARGET)
    return Outcome([row], [f"Cores used while events were posted (the last round): {used[-1]}."])


def _post(stack: Stack, runs: Sequence[tuple[str, str]]) -> float:
    """Post the events of all runs at once; return events per second. The requests are ready beforehand."""
    bodies = [_body(batch) for batch in range(BATCHES)]

    def courier(token: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
        for body in bodies:
            connection.request("POST", "/agent/v1/events", body, {"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {body!r}; see {stack.log}")

    rate = _rate(courier, [token for _, token in runs])
    query = "SELECT count(*) FROM agent_sessions_event WHERE session_id = ANY(%s::uuid[])"
    stored = rows(stack, query, [session for session, _ in runs])[0][0]
    if stored != RUNS * BATCHES * BATCH:
        raise RuntimeError(f"{stored} events stored")
    return rate


def _body(batch: int) -> bytes:
    numbers = range(batch * BATCH + 1, (batch + 1) * BATCH + 1)
    return json.dumps(
        {"events": [{"n": n, "kind": "stdout", "text": TEXT.format(n), "at": time.time()} for n in numbers]}
    ).encode()


def _insert(stack: Stack, runs: Sequence[tuple[str, str]]) -> float:
    """Insert the same rows directly; return rows per second."""
    now = datetime.now(UTC)
    statement = f"INSERT INTO bench_copy ({COLUMNS}) VALUES " + ", ".join(["(%s, %s, %s, %s, %s, %s, %s, %s)"] * BATCH)
    ids = dict(rows(stack, "SELECT session_id::text, id FROM agent_sessions_run"))
    batches: list[list[Any]] = []
    for session, _ in runs:
        for first in range(1, BATCHES * BATCH, BATCH):
            values: list[Any] = []
            for n in range(first, first + BATCH):
                values += [session, n, ids[session], n, "stdout", TEXT.format(n), "{}", now]
            batches.append(values)
    with psycopg.connect(stack.env["DATABASE_URL"]) as connection:
        connection.execute("TRUNCATE bench_copy")
        connection.commit()
        begin = time.monotonic()
        for values in batches:
            connection.execute(statement.encode(), values)
            connection.commit()
        return len(batches) * BATCH / (time.monotonic() - begin)


def _rate(work: Callable[[str], None], tokens: Sequence[str]) -> float:
    begin = time.monotonic()
    with ThreadPoolExecutor(len(tokens)) as pool:
        list(pool.map(work, tokens))
    return len(tokens) * BATCHES * BATCH / (time.monotonic() - begin)
