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


class Refused(Exception):
    """The attempt came to nothing; `str()` says how, `data` holds what else is worth knowing."""

    def __init__(self, words: str, **data: Any) -> None:
        super().__init__(words)
        self.data = data


class Untested(Exception):
    """The attempt says nothing here; `str()` says why."""


class Got:
    """What an attempt got, in words, with more for programs."""

    def __init__(self, words: str, **data: Any) -> None:
        self.words, self.data = words, data


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
            os.write(writer, json.dumps(outcome(attack, parameters)).encode())
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
            told = json.loads(self.answer)
        except ValueError:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            late = f"no answer within {self.seconds:g} s"
            words = late if time.monotonic() >= self.end else f"it was ended {how}"
            told = {"outcome": ERROR, "detail": words, "silent": True}
        return {"check": self.check, **told}


def outcome(attack: Callable[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Make an attempt here and now, and return its outcome, in words and as data."""
    try:
        got = attack(**parameters)
    except Refused as refused:
        return {"outcome": REFUSED, "detail": str(refused), **refused.data}
    except Untested as words:
        return {"outcome": ERROR, "detail": str(words), "untested": True}
    except OSError as error:
        return {"outcome": REFUSED, "detail": error.strerror or str(error) or type(error).__name__}
    except Exception as error:
        return {"outcome": ERROR, "detail": f"{type(error).__name__}: {error}"}
    return {"outcome": SUCCEEDED, "detail": got.words, **got.data}


def together(attempts: list[Attempt]) -> list[dict[str, Any]]:
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
