"""Taking more than one's share: of disks, of tasks, of the way out of what is printed. Bounded, and given back."""

import contextlib
import json
import os
import signal
import threading
from typing import Any

from isolation.attacks.base import Blocked, Inconclusive, Success

MIB = 1024 * 1024
BLOCK = 8 * MIB
MOST_MIB = 600  # of disk or memory
MOST_TASKS = 2000
STACK = 64 * 1024
FLOOD_SECONDS, FLOOD_MIB = 3.0, 24
LARGE = 3  # lines of a MiB and more
# Any JSON in any place of what a courier reads. No answer and no turn's end is among them: those would be believed.
VALUES: list[Any] = [None, True, -1, 10**400, 1.5, float("inf"), float("nan"), [], {}, [[]], {"a": {}}, "\0", "\ud800"]
ODD = [
    *(json.dumps({"type": value}) for value in VALUES),
    *(json.dumps({"type": "tool", "name": value}) for value in VALUES),
    *(json.dumps({"type": "tool", "name": "odd", "phase": value, "id": value, "input": value}) for value in VALUES),
    *(json.dumps({"type": "session", "id": value}) for value in VALUES if not isinstance(value, str)),
    *(json.dumps({"type": "usage", "input_tokens": value, "message": {"id": value}}) for value in VALUES),
    *(json.dumps({"type": "result", "text": value}) for value in VALUES if not isinstance(value, str)),
    "[" * 5000, '{"type":' * 2000, "null", '"x"', "[1]", "{", "\ufeff{}", "\x1b[0m{}",
]  # fmt: skip


def fill(path: str) -> Success:
    """Fill a file system whose size is limited, up to 600 MiB, and empty it again."""
    name, size = os.path.join(os.path.expanduser(path), f".proof-{os.getpid()}"), 0
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(name)  # it goes with the process, however that ends
    try:
        while size < MOST_MIB * MIB:
            os.posix_fallocate(fd, size, BLOCK)
            size += BLOCK
    except OSError as error:
        raise Blocked(f"{path} took {size // MIB} MiB, then: {error.strerror}") from None
    finally:
        os.close(fd)
    return Success(f"{path} took {size // MIB} MiB and would take more")


def volume(path: str, claimed_gib: int) -> Success:
    """Compare the size of a volume's file system with what its claim asks for: nothing is filled."""
    found = os.statvfs(path)
    size = found.f_blocks * found.f_frsize / (1024 * MIB)
    if size <= claimed_gib * 1.1:
        raise Blocked(f"its file system has {size:.1f} GiB, its claim asks for {claimed_gib}")
    words = f"this storage enforces no size: the file system has {size:.0f} GiB, the claim asks for {claimed_gib}"
    raise Inconclusive(words)


def tasks() -> Success:
    """Make tasks until there are 2,000, or the kernel says no. Threads, which count as processes do and are small."""
    threading.stack_size(STACK)
    end, count = threading.Event(), 0
    try:
        while count < MOST_TASKS:
            threading.Thread(target=end.wait, daemon=True).start()
            count += 1
    except RuntimeError as error:
        raise Blocked(f"{count} tasks, then: {error}") from None
    finally:
        end.set()
    limit = _pids_limit()
    if limit:
        raise Blocked(f"the container's limit is {limit}; it was not tried beyond {count}")
    raise Inconclusive(f"no limit was met with {count} tasks: set the kubelet's podPidsLimit")


def _pids_limit() -> int:
    """The container's own limit; 0 if it has none below the node's. A user's is no pod's: all pods share it."""
    with open("/proc/sys/kernel/pid_max") as file:
        node = int(file.read())
    for path in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            if (limit := int(file.read())) < node:
                return limit
    return 0


def memory_limit(memory_mib: int) -> Success:
    """Whether the container may use no more memory than its profile says."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            limit = int(file.read())
            if limit > memory_mib * MIB:
                raise Blocked(f"it may use {limit // MIB} MiB")
            return Success(f"it may use {limit // MIB} MiB")
    raise Blocked("no limit of memory is to be seen")


def flood() -> Success:
    """Print as fast as it goes, for 3 s or 24 MiB. Who is made to wait longer is interrupted."""
    signal.signal(signal.SIGALRM, _raise_time_up)
    signal.setitimer(signal.ITIMER_REAL, FLOOD_SECONDS)
    block, sent = (b"flood " * 20 + b"\n") * 64, 0
    try:
        while sent < FLOOD_MIB * MIB:
            sent += os.write(1, block)
    except TimeUp:
        pass
    return Success(f"printed {sent // MIB} MiB", bytes=sent)


def odd_lines() -> Success:
    """Print lines that look as if they were for the courier, and are not. Who hears of this attempt survived them."""
    size = 0
    for line in (*ODD, *(json.dumps({"type": kind, "text": value}) for kind in ("text", "error") for value in VALUES)):
        size += os.write(1, line.encode() + b"\n")
    for _ in range(LARGE):
        large = json.dumps({"type": "tool", "name": "large", "phase": "result", "id": "l", "output": "x" * MIB})
        left = memoryview(large.encode() + b"\n")
        while left:
            written = os.write(1, left)
            left, size = left[written:], size + written
    return Success(f"printed {len(ODD)} odd lines and {LARGE} large ones, {size // 1024} KiB, and was heard")


class TimeUp(Exception):
    """The time is over."""


def _raise_time_up(*_: Any) -> None:
    raise TimeUp


ATTACKS: dict[str, Any] = {
    "fill": fill,
    "volume": volume,
    "tasks": tasks,
    "limits": memory_limit,
    "flood": flood,
    "odd_lines": odd_lines,
}
