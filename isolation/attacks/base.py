"""How one attempt is made: in a process of its own, for a few seconds at most, with one answer."""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

SECONDS = 5.0  # for one attempt, whatever it does
REFUSED, SUCCEEDED, ERROR = "refused", "succeeded", "error"


class Blocked(Exception):
    """What was attempted was refused; `str()` says how, `data` holds what else is worth knowing."""

    def __init__(self, detail: str, **data: Any) -> None:
        super().__init__(detail)
        self.data = data


class Inconclusive(Exception):
    """The attempt proves nothing here; `str()` says why."""


class Success:
    """What an attempt achieved, in words, with `data` for programs."""

    def __init__(self, detail: str, **data: Any) -> None:
        self.detail, self.data = detail, data


class Attempt:
    """A child that makes one attempt. It leads a process group, so that all it starts ends with it."""

    def __init__(self, check: str, attack: Callable[..., Any], parameters: dict[str, Any], seconds: float) -> None:
        self.check, self.answer = check, b""
        self.end = time.monotonic() + seconds
        self.seconds = seconds
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.setpgid(0, 0)
            os.write(writer, json.dumps(run_attack(attack, parameters)).encode())
            os._exit(0)
        os.close(writer)

    def finish(self) -> dict[str, Any]:
        """End the child, with all that it started, and return the report: check, outcome, detail and more.

        A report is `silent` if the child gave no answer: it says nothing of what was tried.
        """
        for target in (lambda: os.killpg(self.pid, signal.SIGKILL), lambda: os.kill(self.pid, signal.SIGKILL)):
            try:
                target()
            except ProcessLookupError:
                continue
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.reader)
        try:
            report = json.loads(self.answer)
        except ValueError:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            late = f"no answer within {self.seconds:g} s"
            detail = late if time.monotonic() >= self.end else f"it was ended {how}"
            report = {"outcome": ERROR, "detail": detail, "silent": True}
        return {"check": self.check, **report}


def run_attack(attack: Callable[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Make an attempt here and now, and return its outcome, in words and as data."""
    try:
        success = attack(**parameters)
    except Blocked as blocked:
        return {"outcome": REFUSED, "detail": str(blocked), **blocked.data}
    except Inconclusive as inconclusive:
        return {"outcome": ERROR, "detail": str(inconclusive), "untested": True}
    except OSError as error:
        return {"outcome": REFUSED, "detail": error.strerror or str(error) or type(error).__name__}
    except Exception as error:
        return {"outcome": ERROR, "detail": f"{type(error).__name__}: {error}"}
    return {"outcome": SUCCEEDED, "detail": success.detail, **success.data}


def run_concurrently(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """Wait for attempts that run side by side, each within its time, and return their reports in their order."""
    waiting = {attempt.reader: attempt for attempt in attempts}
    while waiting:
        left = min(attempt.end for attempt in waiting.values()) - time.monotonic()
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, left))
        for fd in ready:
            data = os.read(fd, 65536)
            waiting[fd].answer += data
            if not data:
                del waiting[fd]
        now = time.monotonic()
        waiting = {fd: attempt for fd, attempt in waiting.items() if attempt.end > now}
    return [attempt.finish() for attempt in attempts]
