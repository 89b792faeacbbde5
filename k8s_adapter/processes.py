"""Processes that outlive their maker: started once, found again, and ended with all that they started.

A process is found again by the pid and start time in its note (see `launch.py`); what a run's processes started
themselves, by its session or by a mark in its environment. psutil alone is used, so that it works on macOS too.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from k8s_adapter.runtime import Cause, TransientFault

MARK = "BERTH_RUN_FOLDER"  # in the environment of every process of a run: the run's folder
LAUNCH_SECONDS = 20.0
# A program notes its start time itself, milliseconds after the kernel did; the clock may have been set in between.
START_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Note:
    """What a started program wrote of itself."""

    pid: int
    started: float  # seconds since the epoch


def start(
    argv: Sequence[str], environment: Mapping[str, str], folder: Path, pid_file: Path, log: Path, lock: int
) -> None:
    """Start `argv` in `folder`, detached, with its note in `pid_file`. See `launch.py`.

    `lock` is the descriptor of the file whose lock the caller holds. Returns once the program was executed. Raises
    TransientFault if that can't be done.
    """
    order = {
        "argv": list(argv),
        "environment": dict(environment),
        "folder": str(folder),
        "pid_file": str(pid_file),
        "log": str(log),
        "lock": lock,
    }
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={},  # nothing of the control plane's own may be seen in a process list
            pass_fds=(lock,),
            start_new_session=True,
            timeout=LAUNCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise TransientFault(Cause.UNREACHABLE, f"no process can be started: {error}") from error
    if done.returncode != 0 or done.stderr:
        words = done.stderr.decode(errors="replace")[-500:]
        raise TransientFault(Cause.UNREACHABLE, f"no process can be started: {words}")


def read_note(pid_file: Path) -> Note | None:
    """Return the note of a program that was started; None if none was."""
    try:
        raw = json.loads(pid_file.read_text())
    except FileNotFoundError:
        return None
    return Note(raw["pid"], raw["started"])


def living(note: Note | None, mark: str) -> psutil.Process | None:
    """Return the process of a note, if it still lives and is not another that was given its pid.

    The mark in its environment decides; where there is none to read (macOS hides it for its own programs; just before
    the program is executed), the start time does.
    """
    if note is None:
        return None
    try:
        process = psutil.Process(note.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with contextlib.suppress(psutil.AccessDenied):
            if found := process.environ().get(MARK):
                return process if found == mark else None
        return process if abs(process.create_time() - note.started) < START_SECONDS else None
    except psutil.Error:
        return None


def marked(prefix: str) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Every living process whose mark starts with `prefix`, and its environment. Looks at all processes: some 10 ms."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(MARK, "").startswith(prefix) and process.status() != psutil.STATUS_ZOMBIE:
                yield process, environment
        except psutil.Error:  # gone meanwhile, or another user's
            continue


def members(mark: str, notes: Iterable[Note | None]) -> list[psutil.Process]:
    """Every living process of a run: those that bear its mark, those noted, their children and their sessions."""
    found = {process.pid: process for process, environment in marked(mark) if environment[MARK] == mark}
    leaders = [process for note in notes if (process := living(note, mark)) is not None]
    for leader in leaders:
        with contextlib.suppress(psutil.Error):
            found |= {process.pid: process for process in (leader, *leader.children(recursive=True))}
    sessions = {leader.pid for leader in leaders}
    for process in psutil.process_iter() if sessions else ():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
    return list(found.values())


def kill(mark: str, notes: Sequence[Note | None], seconds: float = 5.0) -> None:
    """Kill every process of a run, and look again until there is none. Raises TransientFault if some won't die."""
    end = time.monotonic() + seconds
    while remaining := members(mark, notes):
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if time.monotonic() > end:
            pids = [process.pid for process in remaining]
            raise TransientFault(Cause.UNREACHABLE, f"processes that can't be killed: {pids}")
        time.sleep(0.01)


@contextlib.contextmanager
def locked(path: Path, seconds: float = 10.0) -> Iterator[int]:
    """Hold the lock of a file, made if need be; yields its descriptor. Raises TransientFault after `seconds`.

    The lock belongs to the open file, not to us: a program being started shares it until it has noted itself.
    """
    end = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
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


def _is(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
