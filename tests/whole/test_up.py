"""`manage.py up`, which `make run` starts: one command for all of Berth, and Ctrl-C for its end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from testbed.stack import ROOT, free_port
from testbed.waiting import wait_for


class Up:
    """The command in a terminal of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.log = folder / f"up-{port}.log"
        self.data = folder / "v a+r#?%41é;$X'"  # a path, whatever it would mean in a URL or to a shell
        self.mark = str(self.data)
        environment = {name: os.environ[name] for name in ("PATH", "HOME")}
        environment |= {"DATA_DIR": self.mark, "PORT": str(port), "SECRET_KEY": "k" * 50, "ADMIN_PASSWORD": "pass-word"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def says(self, words: str) -> bool:
        return words in self.log.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def left(self) -> list[str]:
        """Processes that still have this installation's data in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if any(self.mark in value for value in process.environ().values()):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found


def test_it_answers_a_first_message_ends_everything_and_keeps_the_data(tmp_path: Path) -> None:
    port = free_port()
    first = Up(tmp_path, port)
    wait_for(lambda: first.says("Berth is up"), 90, f"see {first.log}")
    assert first.says("admin │ Hello!") and first.says("agent │ Got message 1")
    assert first.says("admin  pass-word") and first.says(f"http://localhost:{port}/admin/")
    assert {each.name for each in tmp_path.iterdir()} == {first.data.name, first.log.name}
    assert first.data.stat().st_mode & 0o077 == 0 and (first.data / "berth.sqlite3").stat().st_mode & 0o077 == 0

    before = set(first.left())
    beside = Up(tmp_path, free_port())
    assert beside.process.wait(60) == 1 and set(first.left()) == before
    told = beside.log.read_text().strip().splitlines()
    assert len(told) == 1 and f"in use by process {first.process.pid}" in told[0] and "DATA_DIR=" in told[0]

    assert first.end() == 0
    assert first.left() == []
    assert "Traceback" not in first.log.read_text()

    first.data.chmod(0o755)  # as earlier versions made it
    second = Up(tmp_path, port)
    wait_for(lambda: second.says("Berth is up"), 90, f"see {second.log}")
    assert second.says("agent │ Got message 2")
    assert second.says("others of this machine could read it") and second.data.stat().st_mode & 0o077 == 0
    assert second.end() == 0 and second.left() == []


def test_a_taken_port_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = Up(tmp_path, port)
        assert up.process.wait(60) == 1
    told = up.log.read_text().strip().splitlines()
    assert len(told) == 1 and f"Port {port} is taken" in told[0] and f"PORT={port + 1} DATA_DIR=" in told[0]


@pytest.mark.parametrize(("name", "value"), [("PORT", "abc"), ("MAX_RUNS", "many"), ("DATA_DIR", "/dev/null/x")])
def test_a_wrong_setting_is_one_line(name: str, value: str) -> None:
    environment = {"PATH": os.environ["PATH"], "SECRET_KEY": "k" * 50, name: value}
    command = [sys.executable, "manage.py", "check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and name in done.stderr and len(done.stderr.strip().splitlines()) == 1
