"""Processes that outlive their maker: started once, found again, and ended with all that they started.

A process is found again by the pid and start time in its pid file (see `daemonize.py`); what a run's processes started
themselves, by its session or by a mark in its environment. psutil alone is used, so that it works on macOS too.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from runtimes.base import Cause, PermanentFault, RuntimeFault, TransientFault
from runtimes.local.paths import read_limited

MARK = "BERTH_RUN_FOLDER"  # in the environment of every process of a run: the run's folder
GUARD = "BERTH_GUARD"  # in that of the subreapers above an agent, besides what tells whose they are
OWNERS = (MARK, "BERTH_RUN", "BERTH_SESSION", "BERTH_GROUP_ID", "BERTH_GROUP")
START_TIMEOUT_SECONDS = 20.0
# A program writes its start time itself, milliseconds after the kernel did; the clock may have been set in between.
START_SECONDS = 5.0
GUARD_SECONDS = 2.0  # that guards have to kill what is theirs, before they are killed themselves
UMASK = 0o077
AGENT_UMASK = 0o022  # as in a pod: what it writes to a mount is for those that it was mounted for


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A started program, as it wrote its pid file."""

    pid: int
    started: float  # seconds since the epoch


def start(
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    pid_file: Path,
    log: Path,
    lock: int,
    guard: Path | None = None,
) -> None:
    """Start `argv` in `folder`, detached, with its pid and start time in `pid_file`. See `daemonize.py`.

    `lock` is the descriptor of the file whose lock the caller holds. With a `guard`, the pid file of its subreapers,
    nothing that the program starts outlives it, on Linux. Returns once the program was executed. Raises TransientFault
    if that can't be done now, and PermanentFault REJECTED if it never can, with the system's words.
    """
    guarded = guard is not None and sys.platform == "linux"
    request = {
        "argv": list(argv),
        "environment": dict(environment),
        "folder": str(folder),
        "pid_file": str(pid_file),
        "log": str(log),
        "lock": lock,
        "umask": AGENT_UMASK if guard else UMASK,
        "guard": str(guard) if guarded else "",
    }
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("daemonize.py"))]
    marks = {name: environment[name] for name in OWNERS if name in environment} | {GUARD: "1"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=marks if guarded else {},  # nothing of the control plane's own may be seen in a process list
            pass_fds=(lock,),
            start_new_session=True,
            timeout=START_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise TransientFault(Cause.UNREACHABLE, f"no process can be started: {error}") from error
    if done.returncode != 0 or done.stderr:
        raise _start_fault(done.stderr)


def _start_fault(stderr: bytes) -> RuntimeFault:
    """The fault that `daemonize.py` means by its stderr: JSON, or what a Python says that could not even start."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        raw = json.loads(stderr)
        if raw["permanent"]:
            return PermanentFault(Cause.REJECTED, f"the agent can't be executed: {raw['message']}")
        return TransientFault(Cause.UNREACHABLE, f"no process can be started: {raw['message']}")
    return TransientFault(Cause.UNREACHABLE, f"no process can be started: {stderr.decode(errors='replace')[-500:]}")


def read_pid_file(pid_file: Path) -> ProcessRecord | None:
    """Return what a started program wrote of itself; None if none was started."""
    try:
        raw = json.loads(read_limited(pid_file))
        pid, started = int(raw["pid"]), float(raw["started"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):  # none, or not as `daemonize.py` wrote it
        return None
    return ProcessRecord(pid, started) if 0 < pid < 2**31 else None


def find(record: ProcessRecord | None, mark: str) -> psutil.Process | None:
    """Return the process of a pid file, if it still lives and is not another that was given its pid.

    The mark in its environment decides; where there is none to read (macOS hides it for its own programs; just before
    the program is executed), the start time does.
    """
    if record is None:
        return None
    try:
        process = psutil.Process(record.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with contextlib.suppress(psutil.AccessDenied):
            if found := process.environ().get(MARK):
                return process if found == mark else None
        return process if abs(process.create_time() - record.started) < START_SECONDS else None
    except psutil.Error:
        return None


def iter_marked(prefix: str) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Every living process whose mark starts with `prefix`, and its environment. Looks at all processes: some 10 ms."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(MARK, "").startswith(prefix) and process.status() != psutil.STATUS_ZOMBIE:
                yield process, environment
        except psutil.Error:  # gone meanwhile, or another user's
            continue


def of_run(mark: str, known: Iterable[ProcessRecord | None]) -> list[psutil.Process]:
    """Every living process of a run: those that bear its mark, the `known` ones, their children and their sessions.

    What lost its parent, its session and its mark is a child of the run's guard, which bears the mark.
    """
    leaders = {process.pid for record in known if (process := find(record, mark)) is not None}
    every: dict[int, psutil.Process] = {}
    found, parents = set(leaders), dict[int, int]()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            every[process.pid], parents[process.pid] = process, process.ppid()
            if os.getsid(process.pid) in leaders or process.environ().get(MARK) == mark:
                found.add(process.pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [every[pid] for pid in found if pid in every]


def kill_all(mark: str, known: Sequence[ProcessRecord | None], seconds: float = 5.0) -> None:
    """Kill every process of a run, and look again until there is none. Raises TransientFault if some won't die.

    Guards are told to end, and do so when all that is theirs is gone: what they alone know of would be lost with them.
    """
    began = time.monotonic()
    while remaining := of_run(mark, known):
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                if _is_guard(process) and time.monotonic() < began + GUARD_SECONDS:
                    process.send_signal(signal.SIGCONT)  # an agent may have stopped it
                    process.terminate()
                else:
                    process.kill()
        if time.monotonic() > began + seconds:
            pids = [process.pid for process in remaining]
            raise TransientFault(Cause.UNREACHABLE, f"processes that can't be killed: {pids}")
        time.sleep(0.01)


def _is_guard(process: psutil.Process) -> bool:
    return GUARD in process.environ()


@contextlib.contextmanager
def file_lock(path: Path, seconds: float = 10.0) -> Iterator[int]:
    """Hold the lock of a file, made if need be; yields its descriptor. Raises TransientFault after `seconds`.

    The lock belongs to the open file, not to us: a program being started shares it until it has written its pid file.
    """
    end = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(path, descriptor):
                break
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(descriptor)
                raise TransientFault(Cause.UNREACHABLE, f"another process holds {path.name}") from None
            time.sleep(0.01)
        os.close(descriptor)  # taken, or deleted by the holder before us
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _same_file(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
