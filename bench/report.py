"""Results: kept in bench/results.json, one entry per bench, and told in docs/performance.md."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import redis

from bench.harness import Outcome, cluster

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
LIMITS = ROOT / "bench" / "limits.md"
Result = dict[str, Any]

HEAD = """# Performance

This page is made by `make bench` (`python -m bench [NAME …]`), which measures each figure on a real cluster with
PostgreSQL and Redis, beside a floor that is measured in the same run: what the same machine does without Berth.
Everything ran on one machine: the cluster's node, the databases, Berth, the clients. p50 and p99 are nearest-rank
percentiles over all samples but those of a warm-up. "Load" is the machine's load average in the minute before the
bench: more than a few tenths says that something else was at work there, and the times are worse for it.

| figure | Berth | floor | result | target | met |
|---|---|---|---|---|---|
"""


def keep(name: str, outcome: Outcome, load_before: float) -> Result:
    """Put an outcome in the place of the bench's last one; returns the new result."""
    result = asdict(outcome) | {"date": f"{datetime.now(UTC):%Y-%m-%d}", "load": load_before, "machine": machine()}
    results = read() | {name: result}
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return result


def read() -> dict[str, Result]:
    """The last result of each bench."""
    results: dict[str, Result] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results


def load() -> float:
    """The machine's load average of the last minute."""
    return round(os.getloadavg()[0], 1)


def machine() -> str:
    """What the figures were measured on."""
    with psycopg.connect(os.environ["TEST_DATABASE_URL"]) as connection:
        postgres = str(connection.info.parameter_status("server_version")).split()[0]
    memory = redis.Redis.from_url(os.environ["TEST_REDIS_URL"])
    versions = {
        "Python": platform.python_version(),
        "PostgreSQL": postgres,
        "Redis": memory.info("server")["redis_version"],
        "Kubernetes": cluster().get("/version")["gitVersion"].lstrip("v"),
    }
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{os.cpu_count()} cores ({processor()}), {platform.system()}; {installed}"


def processor() -> str:
    """The processor's name, as Linux knows it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def text(result: Result) -> str:
    """A result for a terminal."""
    lines = []
    for row in result["figures"]:
        lines += [f"  {row['name']}: {row['result']} (target {row['target']}: {'met' if row['met'] else 'NOT met'})"]
        lines += [f"    Berth {row['ours']}; floor {row['floor']}"]
    return "\n".join([*lines, *(f"    {note}" for note in result["notes"]), f"    load before {result['load']}"])


def write(descriptions: Mapping[str, str]) -> None:
    """Make docs/performance.md from what is kept; `descriptions` are the benches' docstrings, in the page's order."""
    results = read()
    rows = [row for name in descriptions if name in results for row in results[name]["figures"]]
    table = "".join(
        f"| {row['name']} | {row['ours']} | {row['floor']} | {row['result']} | {row['target']} | "
        f"{'yes' if row['met'] else '**no**'} |\n"
        for row in rows
    )
    parts = [HEAD + table]
    for name, words in descriptions.items():
        title, _, body = words.strip().partition(":")
        part = f"## {title}\n\n{title}:{body}\n"
        if name in results:
            result = results[name]
            notes = "".join(f"- {note}\n" for note in result["notes"])
            part += f"\n{notes}- Measured {result['date']} on {result['machine']}; load {result['load']}.\n"
        else:
            part += "\n- Not measured yet in this way.\n"
        parts.append(part)
    if LIMITS.exists():
        parts.append(LIMITS.read_text())
    PAGE.write_text("\n".join(parts))
