"""The agent's wrapper by itself, with the FIFOs in the hands of the test, in every shell that is here."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from courier.wrapper import wrap
from testbed.waiting import wait_for

SHELLS = [[shell, *rest] for shell, *rest in (["dash"], ["bash", "--posix"], ["busybox", "ash"]) if shutil.which(shell)]
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


class Held:
    """A wrapper with its FIFOs."""

    def __init__(self, folder: Path, shell: list[str], *command: str, path: str = "", cgroup: str = "") -> None:
        self.folder = folder
        self.fds: dict[str, int] = {}
        environment = {"PATH": path or os.environ["PATH"], "BERTH_PIPES": str(folder), "BERTH_STOP_GRACE": "1"}
        environment["BERTH_CGROUP"] = cgroup
        self.process = subprocess.Popen(
            [*shell, *wrap(command)[1:]], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def make_fifos(self) -> None:
        for name in ("in", "out", "err", "bell", "ctl"):
            os.mkfifo(self.folder / name)
        for name in ("out", "err"):
            self.fds[name] = os.open(self.folder / name, os.O_RDONLY | os.O_NONBLOCK)

    def write(self, name: str, data: bytes) -> None:
        with (self.folder / name).open("wb") as fifo:
            fifo.write(data)

    def read(self, name: str = "out") -> bytes:
        try:
            return os.read(self.fds[name], 65536)
        except BlockingIOError:
            return b""

    def status(self) -> int:
        """Let the wrapper end; returns the status that it noted, and ended with."""
        noted = wait_for(lambda: (self.folder / "exit").exists() and (self.folder / "exit").read_text(), what="exit")
        (self.folder / "drained").touch()
        assert self.process.wait(10) == int(noted)
        return int(noted)

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for fd in self.fds.values():
            os.close(fd)


@pytest.fixture(params=SHELLS, ids=[shell[0] for shell in SHELLS])
def shell(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


@pytest.fixture
def held(tmp_path: Path, shell: list[str]) -> Iterator[list[Held]]:
    made: list[Held] = []
    yield made
    for one in made:
        one.clean_up()


def start(held: list[Held], folder: Path, shell: list[str], *command: str, path: str = "", cgroup: str = "") -> Held:
    held.append(Held(folder, shell, *command, path=path, cgroup=cgroup))
    held[-1].make_fifos()
    return held[-1]


def test_the_input_reaches_the_agent_and_eof_ends_it(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    run = start(held, tmp_path, shell, "cat")
    run.write("in", b"some ")
    run.write("in", b"words")  # another writer: the first one's end was no end of file
    assert wait_for(run.read) in (b"some ", b"some words")
    run.write("ctl", b"eof\n")
    assert run.status() == 0


@pytest.mark.parametrize(("program", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$", 137)])
def test_the_agents_status_is_noted(
    held: list[Held], tmp_path: Path, shell: list[str], program: str, status: int
) -> None:
    assert start(held, tmp_path, shell, "sh", "-c", program).status() == status


@pytest.mark.parametrize("file", ["memory.peak", "memory/memory.max_usage_in_bytes"])
def test_the_peak_of_memory_is_noted(held: list[Held], tmp_path: Path, shell: list[str], file: str) -> None:
    peak = tmp_path / "cgroup" / file
    peak.parent.mkdir(parents=True)
    peak.write_text("1048576\n")
    run = start(held, tmp_path, shell, "sh", "-c", "exit 3", cgroup=str(tmp_path / "cgroup"))
    assert run.status() == 3
    assert (tmp_path / "peak").read_text() == "1048576\n"


@pytest.mark.parametrize("cgroup", ["", "/nowhere"])
def test_without_a_cgroup_of_its_own_there_is_no_peak(
    held: list[Held], tmp_path: Path, shell: list[str], cgroup: str
) -> None:
    assert start(held, tmp_path, shell, "sh", "-c", "exit 0", cgroup=cgroup).status() == 0
    assert not (tmp_path / "peak").exists()


def test_a_command_that_is_not_there_says_so(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    run = start(held, tmp_path, shell, "no-such-command")
    assert b"no-such-command" in wait_for(lambda: run.read("err"))
    assert run.status() == 127


@pytest.mark.parametrize("how", ["word", "signal"])
def test_term_lets_the_agent_end_itself(held: list[Held], tmp_path: Path, shell: list[str], how: str) -> None:
    run = start(held, tmp_path, shell, "sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; sleep 60 & wait")
    wait_for(run.read)
    if how == "word":
        run.write("ctl", b"term\n")
    else:
        run.process.send_signal(signal.SIGTERM)
    assert wait_for(run.read) == b"bye\n"
    assert run.status() == 5


def test_an_agent_that_ignores_term_is_killed_after_the_grace(
    held: list[Held], tmp_path: Path, shell: list[str]
) -> None:
    run = start(held, tmp_path, shell, "sh", "-c", DEAF)
    wait_for(run.read)
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGTERM)
    assert run.status() == 137


def test_kill_ends_it_at_once(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    run = start(held, tmp_path, shell, "sh", "-c", DEAF)
    wait_for(run.read)
    run.write("ctl", b"kill\n")
    assert run.status() == 137


def test_what_the_agent_started_ends_with_it(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    run = start(held, tmp_path, shell, "sh", "-c", "sleep 60 & echo $!")
    child = int(wait_for(run.read))
    run.status()
    wait_for(lambda: not alive(child), what="the end of the agent's child")


def test_a_term_before_the_fifos_are_there_ends_the_wrapper(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    held.append(Held(tmp_path, shell, "cat"))
    run = held[-1]
    wait_for(lambda: b"berth" in Path(f"/proc/{run.process.pid}/cmdline").read_bytes(), what="the shell")
    wait_for(lambda: "sleep" in children(run.process.pid), what="the first nap")
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(5) == 143


def test_it_waits_for_a_courier_that_comes_late(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    held.append(Held(tmp_path, shell, "echo", "hello"))
    run = held[-1]
    wait_for(lambda: "sleep" in children(run.process.pid), what="the first nap")
    run.make_fifos()
    assert wait_for(run.read) == b"hello\n"
    assert run.status() == 0


def test_output_outlives_a_courier_that_is_gone(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    run = start(held, tmp_path, shell, "sh", "-c", "read word; echo one; echo two")
    for name in ("out", "err"):
        os.close(run.fds.pop(name))
    run.write("in", b"go\n")
    wait_for(lambda: (tmp_path / "exit").exists())
    run.fds["out"] = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
    assert run.read() == b"one\ntwo\n"
    assert run.status() == 0


def test_the_agent_inherits_nothing_but_its_streams(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    run = start(held, tmp_path, shell, "ls", "/proc/self/fd")
    assert wait_for(run.read).split() == [b"0", b"1", b"2", b"3"]  # 3 is the folder that ls reads
    run.status()


def test_it_works_where_there_is_no_setsid(held: list[Held], tmp_path: Path, shell: list[str]) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "sleep", "mv", "cat"):
        (tools / name).symlink_to(shutil.which(name) or "")
    run = start(held, tmp_path, [shutil.which(shell[0]) or "", *shell[1:]], "sh", "-c", DEAF, path=str(tools))
    wait_for(run.read)
    run.write("ctl", b"term\n")
    assert run.status() == 137


def children(pid: int) -> str:
    """Return the command lines of a process's children."""
    out = ""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                out += Path(f"/proc/{child}/cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return out


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
