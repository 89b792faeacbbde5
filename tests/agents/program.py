"""An agent of contract `jsonl` as a process, with all it said so far."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.waiting import wait_for

WORKBENCH = Path(__file__).parents[2] / "agents" / "workbench.py"


class Program:
    """Runs the workbench with a workspace and a state folder of its own. As a context manager it leaves no process."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.workspace, self.state = folder / "workspace", folder / "state"
        self.workspace.mkdir(exist_ok=True)
        self.out, self.err = bytearray(), bytearray()
        self._number = 0
        berth = {"BERTH_WORKSPACE": str(self.workspace), "BERTH_STATE": str(self.state), "BERTH_SESSION": "s1"}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKBENCH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], **berth, **environment},
            start_new_session=True,
        )
        pairs = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=self._collect, args=pair, daemon=True) for pair in pairs]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    @staticmethod
    def _collect(stream: Any, into: bytearray) -> None:
        while data := os.read(stream.fileno(), 65536):
            into += data

    def write(self, *values: dict[str, Any] | bytes) -> None:
        """Write lines in one go, so that the agent reads them together."""
        lines = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
        assert self.process.stdin
        self.process.stdin.write(b"".join(line + b"\n" for line in lines))
        self.process.stdin.flush()

    def message(self, text: str) -> dict[str, Any]:
        """Return the next message, numbered from 1, without sending it."""
        self._number += 1
        return {"type": "message", "number": self._number, "text": text}

    def send(self, text: str) -> int:
        """Send a message and return its number."""
        self.write(self.message(text))
        return self._number

    def ask(self, text: str) -> str:
        """Send a message, wait for the end of its turn, and return its answer."""
        number = self.send(text)
        self.wait(lambda: {"type": "idle", "number": number} in self.events(), f"the end of the turn of {text!r}")
        return self.answers()[-1]

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Return the JSON lines so far, of one kind if one is given."""
        values = [json.loads(line) for line in bytes(self.out).split(b"\n")[:-1] if line.startswith(b'{"type"')]
        return [value for value in values if not kind or value["type"] == kind]

    def answers(self) -> list[str]:
        """Return the texts of the results so far."""
        return [event["text"] for event in self.events("result")]

    def raw(self) -> bytes:
        """Return what came on stdout beside the JSON lines."""
        return b"".join(line for line in bytes(self.out).splitlines(keepends=True) if not line.startswith(b'{"type"'))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until `condition` holds."""
        wait_for(condition, 20, f"{what}; stdout {bytes(self.out)[-500:]!r}, stderr {bytes(self.err)[-500:]!r}")

    def end(self, *, close: bool = True) -> int:
        """Close the input (unless told not to), wait for the program's end and return its exit status."""
        if close and self.process.stdin:
            self.process.stdin.close()
        status = self.process.wait(20)
        for reader in self._readers:
            reader.join(10)
        return status
