"""A worker that is killed at a chosen instant: before its n-th effect on the world, by SIGKILL.

`python -m tests.faults`, with a stack's environment, does one task for each line of its input, in a child that it
forks; `Faults` is the other end. Effects are what outlives a process: statements that write, commits, calls to the
cluster that change it, files and folders that are made or removed, processes that are started or signalled. Between two
of them a process only reads and thinks, so "before the next" is also "right after the last".

The task is taken out of the queue before it begins, as the broker does: what was killed does not come back by itself.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Self

from testbed.stack import ROOT, Stack

WRITES = ("INSERT", "UPDATE", "DELETE", "WITH")
# Audit events (https://docs.python.org/3/library/audit_events.html) are raised before the deed.
FILES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"})
_kill = os.kill


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one task: whether it was killed, and the names of its effects, the one it didn't live to last."""

    killed: bool
    effects: list[str]


class Faults:
    """Does tasks in place of a stack's worker, and kills itself as it is told."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __enter__(self) -> Self:
        self._log: IO[bytes] = self._stack.log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults"],
            cwd=ROOT,
            env=self._stack.env | {"DJANGO_SETTINGS_MODULE": "controlplane.settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)
        self._log.close()

    def run(self, task: str, session: str, kill: int = 0) -> Round:
        """Do a function of `sessions.tasks` for a session; killed before effect `kill`, from 1; never for 0."""
        return Round(**self._ask(do=task, session=session, kill=kill))

    def phase(self, session: str) -> str:
        """How far the session's last run is, as its runtime sees it."""
        return str(self._ask(do="phase", session=session)["phase"])

    def runs(self) -> set[str]:
        """The sessions of which the runtime has anything."""
        return set(self._ask(do="owned")["sessions"])

    def _ask(self, **order: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the faulty worker ended; see {self._stack.log}"
        told = json.loads(answer)
        assert "error" not in told, f"{told['error']}; see {self._stack.log}"
        return told


class Counter:
    """Counts effects, names them to `told`, and kills the process before the one that was chosen."""

    def __init__(self, told: int, kill: int) -> None:
        self.told, self.kill, self.count = told, kill, 0

    def effect(self, name: str) -> None:
        """An effect is about to happen."""
        self.count += 1
        os.write(self.told, f"{name}\n".encode())
        if self.count == self.kill:
            _kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Stand in front of every effect of this process."""
        from django.conf import settings
        from django.db import connection
        from django.db.backends.base.base import BaseDatabaseWrapper

        from k8s_adapter.client import Api

        connection.execute_wrappers.append(self._statement)
        self._before(BaseDatabaseWrapper, "_commit", lambda *_: "COMMIT")
        for method in ("create", "patch", "apply", "replace", "delete"):
            self._before(Api, method, lambda _, path, *__, m=method: f"{m} {_kind(path)}")
        self._before(os, "kill", lambda _, number: f"signal {number}")
        self._after(subprocess.Popen, "__init__", "process started")
        folder = str(settings.DATA_DIR)
        sys.addaudithook(lambda event, words: self._audit(event, words, folder))

    def _statement(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.lstrip().upper().startswith(WRITES):
            words = sql.replace('"', "").split()
            self.effect(" ".join(words[: 2 if words[0] == "UPDATE" else 3]))
        return execute(sql, params, many, context)

    def _before(self, owner: Any, method: str, name: Callable[..., str]) -> None:
        do = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.effect(name(*args))
            return do(*args, **kwargs)

        setattr(owner, method, counted)

    def _after(self, owner: Any, method: str, name: str) -> None:
        """For what goes on by itself once it was begun: a program that was started has not read its order yet."""
        do = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> None:
            do(*args, **kwargs)
            self.effect(name)

        setattr(owner, method, counted)

    def _audit(self, event: str, words: tuple[Any, ...], folder: str) -> None:
        if event == "subprocess.Popen":
            self.effect("process")
        elif event in FILES:
            reads = event == "open" and not words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            below = isinstance(words[-1], int) and event in ("os.remove", "os.rmdir") and words[-1] >= 0
            if not reads and (below or str(words[0]).startswith(folder)):
                self.effect(f"{event} {os.path.basename(str(words[0]))}")  # noqa: PTH119 (may be a file descriptor)


def _kind(path: str) -> str:
    """The kind of object that a path of the API server is about."""
    parts = path.split("/")
    kinds = (
        "namespaces", "networkpolicies", "limitranges", "resourcequotas", "persistentvolumes",
        "persistentvolumeclaims", "secrets", "jobs", "pods",
    )  # fmt: skip
    return next(part for part in reversed(parts) if part in kinds)


def do(order: dict[str, Any], told: int) -> dict[str, Any]:
    """What the child does."""
    from django.conf import settings

    from sessions import tasks
    from sessions.lifecycle import runtime_factory
    from sessions.models import Run, WorkItem

    runtime = runtime_factory.get(settings.RUNTIME)
    if order["do"] == "phase":
        return {"phase": runtime.observe(Run.objects.filter(session=order["session"]).latest("number").ref).phase}
    if order["do"] == "owned":
        return {"sessions": [ref.session for ref in runtime.runs()]}
    WorkItem.objects.all().delete()
    Counter(told, order["kill"]).install()
    getattr(tasks, order["do"])(order["session"])
    return {}


def child(order: dict[str, Any], told: int, answer: int) -> None:
    """Do what is ordered, and never return: what the parent has open stays as it is."""
    try:
        result = do(order, told)
    except Exception as error:
        import traceback

        traceback.print_exc()
        result = {"error": repr(error)}
    os.write(answer, json.dumps(result).encode())
    sys.stderr.flush()
    os._exit(0)


def serve(orders: IO[str], answers: IO[str]) -> None:
    """A child for each order. This process itself has no connection to anything."""
    for line in orders:
        order = json.loads(line)
        told, telling = os.pipe()
        answer, answering = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(order, telling, answering)
        os.close(telling)
        os.close(answering)
        with os.fdopen(told) as names, os.fdopen(answer) as result:
            effects, raw = names.read().splitlines(), result.read()
        _, status = os.waitpid(pid, 0)
        reply = json.loads(raw or "{}")
        if order["do"] not in ("phase", "owned") and "error" not in reply:
            reply = {"killed": os.WIFSIGNALED(status), "effects": effects}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def main() -> None:
    """Set Django up, keep the standard output for answers, and serve."""
    import django

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    django.setup()
    import sessions.tasks

    with contextlib.suppress(ImportError):
        import kubernetes  # noqa: F401 (takes longer than all else: once, here, not in each child)
    assert sessions.tasks
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
