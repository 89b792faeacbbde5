"""Whose the processor was during a measurement: what limits a figure on a small machine."""

import time
from typing import Self

import psutil

# The first part whose words all stand in a process' command line gets its time.
PARTS = (
    ("web", ("runweb",)),
    ("worker", ("runtasks",)),
    ("watcher", ("runwatcher",)),
    ("couriers", ("-m courier",)),
    ("agents", ("workbench",)),
    ("the bench", ("-m bench",)),
    ("PostgreSQL", ("postgres",)),
    ("Redis", ("redis-server",)),
    ("Kubernetes", ("/kube ",)),
    ("containers", ("containerd",)),
)


class Cpu:
    """A context; afterwards `shares` tells how many cores each part used, over `seconds`."""

    def __enter__(self) -> Self:
        self.began, self.before = time.monotonic(), _times()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.began
        used: dict[str, float] = {}
        for key, (part, spent) in _times().items():
            used[part] = used.get(part, 0.0) + spent - self.before.get(key, (part, 0.0))[1]
        self.shares = {part: spent / self.seconds for part, spent in used.items()}

    def words(self) -> str:
        """The shares, the largest first, such as "web 0.81, PostgreSQL 0.20"."""
        ordered = sorted(self.shares.items(), key=lambda item: -item[1])
        return ", ".join(f"{part} {share:.2f}" for part, share in ordered if share >= 0.005)


def _times() -> dict[tuple[int, float], tuple[str, float]]:
    """By process (pid, start time): its part and the seconds of processor time that it has used."""
    found = {}
    for process in psutil.process_iter(["pid", "create_time", "cmdline", "name", "cpu_times"]):
        info = process.info
        if info["cpu_times"] is None:
            continue
        line = " ".join(info["cmdline"] or []) or f"{info['name']}"
        part = next((part for part, words in PARTS if all(word in line for word in words)), "everything else")
        found[info["pid"], info["create_time"]] = part, info["cpu_times"].user + info["cpu_times"].system
    return found
