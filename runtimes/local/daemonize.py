"""Starts one program that outlives whoever asked for it: `python -I -S daemonize.py`, with a request as JSON on stdin.

A request is `{"argv", "environment", "folder", "pid_file", "log", "lock", "umask", "guard"}`. The program becomes the
leader of a session of its own, with init as its parent. It writes its pid file itself, before it executes anything, and
until then holds on to the inherited lock (a file descriptor) and to our stderr: whoever gets that lock afterwards finds
either the pid file or no process at all, at whatever instant somebody was killed. If the program can't be executed, the
pid file goes and stderr says why: `{"permanent", "message"}`. Imports little, since every run waits for it.

With a `guard` (a pid file of their own; Linux alone) two subreapers stay between init and the program, the second the
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
PAUSE = 0.001  # seconds between two rounds over children that are being killed


def main() -> None:
    """Read the request, start the program and return at once."""
    request: dict[str, Any] = json.load(sys.stdin)
    if os.fork() > 0:
        return
    os.umask(request["umask"])
    if request["guard"]:
        os.setsid()
        write_pid_file(request["guard"])
        add_subreapers(request["lock"])
    os.setsid()
    write_pid_file(request["pid_file"])
    execute(request)


def write_pid_file(path: str) -> None:
    """Write who this process is, whole or not at all."""
    with open(path + ".new", "w") as file:  # noqa: PTH123 (pathlib takes as long to import as all else here)
        json.dump({"pid": os.getpid(), "started": time.time()}, file)
    os.rename(path + ".new", path)  # noqa: PTH104


def execute(request: dict[str, Any]) -> None:
    """Become the program. Returns never."""
    os.set_inheritable(request["lock"], False)  # let go of at exec
    errors = os.dup(2)  # so is this one: its end tells that the program was executed, or why not
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(request["folder"])
    except OSError as error:
        report_failure(request, errors, False, str(error))
    program = request["argv"][0]
    try:
        os.execvpe(program, request["argv"], request["environment"])
    except OSError as error:
        report_failure(request, errors, error.errno not in PASSING, f"{program}: {error.strerror}")
    except ValueError as error:  # a NUL, half a surrogate, a name without one
        report_failure(request, errors, True, f"{program}: {error}")


def report_failure(request: dict[str, Any], errors: int, permanent: bool, message: str) -> None:
    """Say why the program can't be executed, and that there never was one. Ends this process."""
    os.unlink(request["pid_file"])  # noqa: PTH108
    os.write(errors, json.dumps({"permanent": permanent, "message": message}).encode())
    os._exit(127)


def add_subreapers(lock: int) -> None:
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
            supervise(child, above)
        above = me
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def supervise(child: int, above: int) -> None:
    """Wait for the end of the child, or of the guard above if there is one; then kill all. Ends this process."""

    def ended(*_: Any) -> None:
        raise SystemExit

    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # whoever started us waits for the end of our stderr
        os.dup2(null, number)
    signal.signal(signal.SIGTERM, ended)
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
