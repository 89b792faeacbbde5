"""A run as a program: real FIFOs, real wrapper, real courier, and the server of `courier_control_plane.py`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from courier.contracts import argv
from courier.wrapper import wrap
from testbed.courier_control_plane import TOKEN, Desk, Server
from testbed.waiting import wait_for

ROOT = Path(__file__).parent.parent


class Bench:
    """One run's folders and processes. Everything started here is ended here."""

    def __init__(self, folder: Path, contract: str, run: str = "run", desk: Desk | None = None) -> None:
        self.folder, self.contract, self.run = folder, contract, run
        self.desk = desk or Desk(own=run)
        self.server = Server(self.desk)
        self.port = self.server.server_address[1]
        self.token = folder / "token"
        self.token.write_text(TOKEN + "\n")
        self.pipes = folder / f"pipes-{run}"
        self.journals = folder / "journals"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "BERTH_URL": self.server.url,
            "BERTH_RUN": run,
            "BERTH_TOKEN_FILE": str(self.token),
            "BERTH_CONTRACT": contract,
            "BERTH_PIPES": str(self.pipes),
            "BERTH_JOURNAL": str(self.journals),
            "BERTH_IPC": str(folder / "ipc"),
            "BERTH_STOP_GRACE": "1",
            "BERTH_CGROUP": "",
            "BERTH_GROUP": "demo",
            "BERTH_SESSION": "session",
        }
        self.started: list[subprocess.Popen[bytes]] = []
        self.courier: subprocess.Popen[bytes] | None = None
        self.wrapper: subprocess.Popen[bytes] | None = None

    def start_courier(self, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / "courier.log").open("ab") as log:
            self.courier = subprocess.Popen(
                [sys.executable, "-m", "courier", *options], env=self.environment, stderr=log, stdin=subprocess.DEVNULL
            )
        self.started.append(self.courier)
        return self.courier

    def start_agent(self, *command: str, resume: str = "", shell: str = "sh") -> subprocess.Popen[bytes]:
        words = wrap(argv(self.contract, command, resume))
        words[0] = shell
        self.pipes.mkdir(exist_ok=True)
        self.wrapper = subprocess.Popen(
            words, env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.started.append(self.wrapper)
        return self.wrapper

    def python(self, program: str) -> subprocess.Popen[bytes]:
        """Start an agent that is a small Python program."""
        return self.start_agent(sys.executable, "-u", "-c", program)

    def kill_courier(self) -> None:
        assert self.courier is not None
        self.courier.kill()
        self.courier.wait()

    def end_courier(self, seconds: float = 10) -> int:
        assert self.courier is not None
        self.courier.send_signal(signal.SIGTERM)
        return self.courier.wait(seconds)

    def wait_for_kind(self, kind: str, count: int = 1, seconds: float = 15) -> None:
        wait_for(lambda: len(self.desk.of(kind)) >= count, seconds, f"{count} events {kind!r}")

    def clean_up(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM if process is self.wrapper else signal.SIGKILL)
        (self.pipes / "drained").touch() if self.pipes.exists() else None
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.server.stop()
