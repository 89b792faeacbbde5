"""Code run inside a stack's Django by one process that stays, since to start Django takes seconds of a processor.

`python -m testbed.shell`, with the stack's environment, runs the code of each line of its input, a JSON string, in a
namespace of its own, and answers with a line: a JSON object of `output`, what the code printed, and `error`, its
traceback or "". It keeps no connection to the database from one line to the next. `Shell` is the other end.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

SECONDS = 240  # that code may take


class Shell:
    """Starts the process when it is first needed, and anew when the environment is another."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._env: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(self, code: str, env: dict[str, str]) -> str:
        """Run the code; return its standard output, or raise AssertionError with its traceback."""
        with self._lock:
            process = self._running(env)
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(code) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                self._end()
                raise AssertionError(f"{code}\nended its interpreter, or took over {SECONDS} s; see {self._log}")
        answer = json.loads(line)
        if answer["error"]:
            raise AssertionError(f"{code}\n{answer['output']}{answer['error']}")
        return str(answer["output"])

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self, env: dict[str, str]) -> subprocess.Popen[str]:
        if self._process and (self._process.poll() is not None or self._env != env):
            self._end()
        if self._process is None:
            self._env = dict(env)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "testbed.shell"],
                    cwd=Path(__file__).resolve().parent.parent,
                    env=env | {"DJANGO_SETTINGS_MODULE": "controlplane.settings"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        return self._process

    def _end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def main() -> None:
    """Answer line after line, until the input ends."""
    import django

    django.setup()
    from django.db import connections

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what programs print that the code starts is no answer
    for line in sys.stdin:
        output, error = io.StringIO(), ""
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(output):
                exec(compile(json.loads(line), "<stack>", "exec"), {"__name__": "__main__"})
        except Exception:
            error = traceback.format_exc()
        finally:
            connections.close_all()
            signal.alarm(0)
        answers.write(json.dumps({"output": output.getvalue(), "error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
