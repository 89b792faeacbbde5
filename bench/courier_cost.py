"""Courier: what one costs beside its agent. The real program with its wrapper, as local processes, against a control
plane that stores in memory.

Idle: the agent waits; resident memory (VmRSS) and processor time over 30 s with the long poll open. Load: 60 s of
2,000 lines a second; the highest VmRSS. Saturation: the agent prints lines of 60 bytes, raw and then as JSON events, as
fast as it is let (a FIFO holds it up), until all is stored. The floor is the resident memory of the same Python that
only sleeps.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.harness import Figure, Outcome
from testbed.courier_run import Bench
from testbed.stack import WORKBENCH
from testbed.waiting import wait_for

IDLE_SECONDS, LOAD_SECONDS, LOAD_RATE = 30, 60, 2000
RSS, CPU = 30 * 1024 * 1024, 0.01
RAW = "what an agent says while it works, sixty bytes with its end"
FLOODS = {"raw lines": (RAW, 2_000_000), "JSON events": (json.dumps({"type": "text", "text": RAW[:33]}), 200_000)}


def run() -> Outcome:
    """Measure; two rows."""
    floor = _python()
    with _courier() as (bench, process):
        idle, share = _idle(process)
        loaded = _load(bench, process)
        floods = [_flood(bench, process, name) for name in FLOODS]
        worst = max(idle, loaded)
    memory = f"idle {_mib(idle)}, after load {_mib(loaded)}"
    figures = [
        Figure("courier, memory", memory, f"bare Python {_mib(floor)}", _mib(worst), "≤ 30 MiB", worst <= RSS),
        Figure("courier, idle CPU", f"{share:.2%}", "0 %", f"{share:.2%} of a core", "≤ 1 %", share <= CPU),
    ]
    return Outcome(figures, floods)


def _mib(size: float) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"


def _python() -> int:
    with subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1) as bare:
        assert bare.stdout
        bare.stdout.readline()
        rss = psutil.Process(bare.pid).memory_info().rss
        bare.kill()
    return int(rss)


@contextmanager
def _courier() -> Iterator[tuple[Bench, psutil.Process]]:
    """A courier and a workbench that has answered its first message."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), "jsonl")
        try:
            started = bench.start_courier()
            bench.start_agent(*WORKBENCH)
            bench.desk.say("/time")
            bench.wait_for_kind("result")
            yield bench, psutil.Process(started.pid)
        finally:
            bench.clean_up()


def _spent(process: psutil.Process) -> float:
    """Seconds of processor time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _idle(process: psutil.Process) -> tuple[int, float]:
    time.sleep(2)  # what follows an answer
    before = _spent(process)
    time.sleep(IDLE_SECONDS)
    return int(process.memory_info().rss), (_spent(process) - before) / IDLE_SECONDS


def _load(bench: Bench, process: psutil.Process) -> int:
    """Let the agent print at a steady rate; return the most resident memory seen."""
    bench.desk.say(f"/lines {LOAD_SECONDS * LOAD_RATE} {LOAD_RATE}")
    worst = 0

    def ended() -> bool:
        nonlocal worst
        worst = max(worst, process.memory_info().rss)
        return len(bench.desk.of("result")) >= 2

    wait_for(ended, LOAD_SECONDS * 3, "the result of the load")
    return worst


def _flood(bench: Bench, process: psutil.Process, name: str) -> str:
    """Let the agent print as fast as it can, until all is stored; return in words how fast that was."""
    line, count = FLOODS[name]
    results, before, begin = len(bench.desk.of("result")), _spent(process), time.monotonic()
    bench.desk.say(f"$ yes '{line}' | head -n {count}")
    wait_for(lambda: len(bench.desk.of("result")) > results, 300, f"the result of {name}")
    seconds = time.monotonic() - begin
    return f"At most {count / seconds:,.0f} {name} a second, for {(_spent(process) - before) / seconds:.2f} of a core."
