"""Starts one program that outlives whoever asked for it: `python -I -S daemonize.py`, with the order as JSON on stdin.

An order is `{"argv", "environment", "folder", "pid_file", "log", "lock", "umask", "guard"}`. The program becomes the
leader of a session of its own, with init as its parent. It notes its pid itself, before it executes anything, and
until then holds on to the inherited lock (a file descriptor) and to our stderr: whoever gets that lock afterwards finds
either the note or no process at all, at whatever instant somebody was killed. A program that can't be executed takes
its note back and says why: `{"lasting", "words"}`. Imports little, since every run waits for it.

With a `guard` (the path of its own note; Linux alone) two subreapers stay between init and the program, the second the
child of the first (https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html). Whatever loses its parent
is given to them, in whatever session, by whatever name, so that nothing outlives the program: once it has ended, and
when they are told to end (SIGTERM), they kill what they have until there is none. Either one does so when the other is
killed.
"""

import errno
import json
import os
import signal
import sys
import time
from typing import Any

# Reasons of execve(2) that pass by themselves; all others are of the program, its arguments or its environment.
PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETXTBSY, errno.EINTR}
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
PAUSE = 0.001  # between two looks at children that are being killed


def main() -> None:
    """Read the order, start the program and return at once."""
    order: dict[str, Any] = json.load(sys.stdin)
    if os.fork() > 0:
        return
    os.umask(order["umask"])
    if order["guard"]:
        os.setsid()
        note(order["guard"])
        guard(order["lock"])
    os.setsid()
    note(order["pid_file"])
    execute(order)


def note(path: str) -> None:
    """Write who this process is, whole or not at all."""
    with open(path + ".new", "w") as file:  # noqa: PTH123 (pathlib takes as long to import as all else here)
        json.dump({"pid": os.getpid(), "started": time.time()}, file)
    os.rename(path + ".new", path)  # noqa: PTH104


def execute(order: dict[str, Any]) -> None:
    """Become the program. Returns never."""
    os.set_inheritable(order["lock"], False)  # let go of at exec
    errors = os.dup(2)  # so is this one: its end tells that the program was executed, or why not
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(order["folder"])
    except OSError as error:
        refuse(order, errors, False, str(error))
    program = order["argv"][0]
    try:
        os.execvpe(program, order["argv"], order["environment"])
    except OSError as error:
        refuse(order, errors, error.errno not in PASSING, f"{program}: {error.strerror}")
    except ValueError as error:  # a NUL, half a surrogate, a name without one
        refuse(order, errors, True, f"{program}: {error}")


def refuse(order: dict[str, Any], errors: int, lasting: bool, words: str) -> None:
    """Say why the program can't be executed, and that there never was one. Ends this process."""
    os.unlink(order["pid_file"])  # noqa: PTH108
    os.write(errors, json.dumps({"lasting": lasting, "words": words}).encode())
    os._exit(127)


def guard(lock: int) -> None:
    """Put two subreapers above this process. Returns in what is to become the program."""
    import ctypes  # what needs no guard need not wait for it

    prctl = ctypes.CDLL(None).prctl
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # heard once it is known what to do
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    above = 0
    for _ in range(2):
        prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if above:
            prctl(SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        me = os.getpid()
        child = os.fork()
        if child > 0:
            os.close(lock)
            watch(child, above)
        above = me
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def watch(child: int, above: int) -> None:
    """Wait for the end of the child, or of the guard above if there is one; then kill all. Ends this process."""

    def over(*_: Any) -> None:
        raise SystemExit

    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # whoever started us waits for the end of our stderr
        os.dup2(null, number)
    signal.signal(signal.SIGTERM, over)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        while (not above or os.getppid() == above) and os.wait()[0] != child:
            pass
    except SystemExit:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        for pid in children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            os._exit(0)
        time.sleep(PAUSE)


def children() -> list[int]:
    """This process's own children; theirs become its own once they are gone."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children") as file:  # noqa: PTH123 (needs CONFIG_PROC_CHILDREN)
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == me]  # noqa: PTH208


def parent_of(pid: str) -> int:
    """The parent of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    main()
