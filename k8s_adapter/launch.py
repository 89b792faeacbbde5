"""Starts one program that outlives whoever asked for it: `python -I -S launch.py`, with the order as JSON on stdin.

An order is `{"argv", "environment", "folder", "pid_file", "log", "lock"}`. The program becomes the leader of a session
of its own, with init as its parent. It notes its pid itself, before it executes anything, and until then holds on to
the inherited lock (a file descriptor) and to our stderr: whoever gets that lock afterwards finds either the note or no
process at all, at whatever instant somebody was killed. Imports little, since every run waits for it.
"""

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Read the order, start the program and return at once."""
    order: dict[str, Any] = json.load(sys.stdin)
    if os.fork() > 0:
        return
    os.setsid()
    note = order["pid_file"] + ".new"
    with open(note, "w") as file:  # noqa: PTH123 (pathlib takes as long to import as all else here)
        json.dump({"pid": os.getpid(), "started": time.time()}, file)
    os.rename(note, order["pid_file"])  # noqa: PTH104
    os.set_inheritable(order["lock"], False)  # let go of at exec
    errors = os.dup(2)  # so is this one: its end tells that the program was executed, or why not
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os.chdir(order["folder"])
        os.execvpe(order["argv"][0], order["argv"], order["environment"])
    except OSError as error:
        os.write(errors, f"{order['argv'][0]}: {error}".encode())
        os._exit(127)


if __name__ == "__main__":
    main()
