"""What only the local runtime must do: own processes of which nobody is the parent."""

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from runtimes.base import Cause, Observed, PermanentFault, Phase, RunRef, SecretFile, TransientFault
from runtimes.local import processes
from runtimes.local.processes import ProcessRecord
from runtimes.local.runtime import LocalRuntime, ProcessStatus, diagnose
from testbed.waiting import wait_for
from tests.runtime.places import Crash, LocalPlace

SECONDS = 30


class Daemon:
    """A program that an agent starts so that it gets away: its parent ends, and it has nothing of the run's."""

    def __init__(self) -> None:
        self.seconds = str(random.randrange(10**6, 10**7))
        self.start = f"(setsid env -i sleep {self.seconds} >/dev/null 2>&1 </dev/null &)"

    def living(self) -> list[psutil.Process]:
        found = psutil.process_iter(["cmdline", "status"])
        return [each for each in found if each.info["cmdline"] == ["sleep", self.seconds]]


NOTE = ProcessRecord(1, 1000.0)
AT_1000 = datetime.fromtimestamp(1000, UTC)


def finished(place: LocalPlace, ref: RunRef) -> Observed:
    wait_for(lambda: place.runtime.observe(ref).phase is Phase.FINISHED, SECONDS, "the run to end")
    return place.runtime.observe(ref)


def agents(ref: RunRef) -> list[psutil.Process]:
    """The run's processes but for its courier."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("BERTH_RUN") == ref.run and "BERTH_TOKEN_FILE" not in environment:
                found.append(process)
        except psutil.Error:
            continue
    return found


JUDGED = [
    (
        ProcessStatus(None, False, False, None, False),
        Observed(Phase.PENDING, message="being started", courier_alive=False),
    ),
    (ProcessStatus(None, False, False, None, True), Observed(Phase.FINISHED, Cause.STOPPED, courier_alive=False)),
    (ProcessStatus(NOTE, True, True, None, False), Observed(Phase.RUNNING, started_at=AT_1000)),
    (ProcessStatus(NOTE, True, False, None, False), Observed(Phase.RUNNING, courier_alive=False, started_at=AT_1000)),
    (ProcessStatus(NOTE, False, True, 0, False), Observed(Phase.RUNNING, started_at=AT_1000)),
    (
        ProcessStatus(NOTE, False, False, 0, False),
        Observed(Phase.FINISHED, Cause.COMPLETED, "", 0, "", False, AT_1000),
    ),
    (
        ProcessStatus(NOTE, False, False, 137, False),
        Observed(Phase.FINISHED, Cause.AGENT_ERROR, "the agent ended with exit code 137", 137, "", False, AT_1000),
    ),
    (
        ProcessStatus(NOTE, False, False, 143, True),
        Observed(Phase.FINISHED, Cause.STOPPED, "", 143, "", False, AT_1000),
    ),
    (
        ProcessStatus(NOTE, False, False, None, False),
        Observed(
            Phase.FINISHED,
            Cause.VANISHED,
            "the agent's processes are gone and left no exit code",
            courier_alive=False,
            started_at=AT_1000,
        ),
    ),
]


@pytest.mark.parametrize(("look", "observed"), JUDGED)
def test_a_look_is_judged(look: ProcessStatus, observed: Observed) -> None:
    assert diagnose(look) == observed


def test_a_program_that_does_not_exist_is_refused(local: LocalPlace) -> None:
    spec, _ = local.spec("", command=("no-such-program",))
    with pytest.raises(PermanentFault, match="'no-such-program'") as fault:
        local.runtime.ensure(spec)
    assert fault.value.cause is Cause.REJECTED
    assert local.runtime.observe(spec.ref).phase is Phase.ABSENT


def test_a_secret_of_a_cluster_is_refused(local: LocalPlace) -> None:
    spec, _ = local.spec("true", secrets=(SecretFile("api-key", "kubernetes:keys/api"),))
    with pytest.raises(PermanentFault, match="api-key"):
        local.runtime.ensure(spec)


def test_a_folder_that_cannot_be_written_is_a_transient_fault(local: LocalPlace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec, _ = local.spec("true")
    with pytest.raises(TransientFault, match="data folder"):
        LocalRuntime(tmp_path / "file", "test").ensure(spec)


def test_token_and_secrets_are_for_their_user_alone(local: LocalPlace) -> None:
    spec, _ = local.spec("sleep 60", secrets=(SecretFile("key", local.put_secret("a", "b", "value")),))
    local.runtime.ensure(spec)
    folder = local.data / "runs" / spec.ref.run
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert (folder / "secrets" / "key").stat().st_mode & 0o777 == 0o400
    assert folder.stat().st_mode & 0o077 == 0
    assert spec.token not in (folder / "spec.json").read_text()


def test_processes_outlive_their_maker_and_are_nobodys_children(local: LocalPlace) -> None:
    spec, _ = local.spec("sleep 60")
    maker = os.fork()
    if maker == 0:
        local.runtime.ensure(spec)
        os._exit(0)
    os.waitpid(maker, 0)
    assert local.runtime.observe(spec.ref).phase is Phase.RUNNING
    wrapper = processes.read_pid_file(local.data / "runs" / spec.ref.run / "agent.pid")
    assert wrapper is not None
    assert wrapper.pid not in {child.pid for child in psutil.Process().children(recursive=True)}
    assert os.getsid(wrapper.pid) == wrapper.pid


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1])
def test_a_maker_killed_at_any_instant_neither_loses_nor_doubles_a_process(local: LocalPlace, delay: float) -> None:
    spec, line = local.spec("echo started; sleep 60")
    maker = os.fork()
    if maker == 0:
        signal.alarm(20)
        local.runtime.ensure(spec)
        os._exit(0)
    signal.sigtimedwait([], delay)
    os.kill(maker, signal.SIGKILL)
    os.waitpid(maker, 0)
    local.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    wrappers = [each for each in agents(spec.ref) if each.ppid() == 1 or os.getsid(each.pid) == each.pid]
    assert len([each for each in wrappers if "berth" in each.cmdline()]) == 1
    local.runtime.destroy(spec.ref)
    assert not local.leftovers(spec.ref)
    assert line.output() == "started\n"


def test_an_agent_whose_wrapper_was_killed_has_vanished_and_leaves_nothing(local: LocalPlace) -> None:
    spec, line = local.spec("echo started; sleep 60")
    local.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    note = processes.read_pid_file(local.data / "runs" / spec.ref.run / "agent.pid")
    assert note is not None
    os.kill(note.pid, signal.SIGKILL)
    assert finished(local, spec.ref).cause is Cause.VANISHED
    assert not agents(spec.ref)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    found = Daemon()
    yield found
    for process in found.living():
        process.kill()


def guards(ref: RunRef) -> list[psutil.Process]:
    """The outer guard of a run and the inner one."""
    every = processes.iter_marked("")
    found = [each for each, bears in every if bears.get("BERTH_RUN") == ref.run and processes.GUARD in bears]
    return sorted(found, key=lambda each: each.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="there are subreapers on Linux alone")
class TestNothingIsLeft:
    """Of an agent whose child has a session of its own, no parent, no environment and another name."""

    def test_when_it_ends(self, local: LocalPlace, daemon: Daemon) -> None:
        spec, line = local.spec(f"{daemon.start}; echo started; exit 3")
        local.runtime.ensure(spec)
        assert finished(local, spec.ref).exit_code == 3
        assert line.output() == "started\n" and daemon.living() == []

    @pytest.mark.parametrize("how", ["stop", "destroy", "destroy without its folder", "vanish"])
    @pytest.mark.parametrize("killed", [None, 0, 1], ids=["", "outer guard killed", "inner guard killed"])
    def test_however_it_is_ended(self, local: LocalPlace, daemon: Daemon, how: str, killed: int | None) -> None:
        spec, line = local.spec(f"{daemon.start}; echo started; sleep 60")
        local.runtime.ensure(spec)
        wait_for(lambda: "started" in line.output() and len(daemon.living()) == 1, SECONDS)
        pair = guards(spec.ref)
        assert len(pair) == 2
        if killed is not None:
            pair[killed].kill()
        folder = local.data / "runs" / spec.ref.run
        if how == "destroy without its folder":
            folder.rename(local.data / "elsewhere")
        if how == "vanish":
            note = processes.read_pid_file(folder / "agent.pid")
            with contextlib.suppress(ProcessLookupError):
                os.kill(note.pid if note else 0, signal.SIGKILL)
            finished(local, spec.ref)
        elif how == "stop":
            local.runtime.stop(spec.ref)
            finished(local, spec.ref)
        else:
            local.other_process().destroy(spec.ref)  # as after a restart of the control plane
        assert daemon.living() == [] and guards(spec.ref) == []
        local.runtime.destroy(spec.ref)
        assert not local.leftovers(spec.ref)

    def test_even_if_a_guard_was_stopped_by_it(self, local: LocalPlace, daemon: Daemon) -> None:
        spec, _ = local.spec(f"{daemon.start}; echo started; kill -STOP $(ps -o ppid= -p $PPID); sleep 60")
        local.runtime.ensure(spec)
        wait_for(lambda: "stopped" in [each.status() for each in guards(spec.ref)], SECONDS)
        local.runtime.destroy(spec.ref)
        assert daemon.living() == [] and not local.leftovers(spec.ref)


UNREADABLE = [
    ({"A": "x" * 200_000}, "Argument list too long"),
    ({"A": "a\0b"}, "null byte"),
    ({"A": "\ud800"}, "surrogates"),
    ({"PATH": "/nowhere"}, "No such file or directory"),
]


@pytest.mark.parametrize(("environment", "words"), UNREADABLE, ids=[words for _, words in UNREADABLE])
def test_what_the_system_will_never_execute_is_refused_in_its_words(
    local: LocalPlace, environment: dict[str, str], words: str
) -> None:
    spec, _ = local.spec("", command=("/bin/true",), environment=environment)
    for _ in range(2):
        with pytest.raises(PermanentFault, match=words) as fault:
            local.runtime.ensure(spec)
        assert fault.value.cause is Cause.REJECTED
    assert local.runtime.observe(spec.ref).phase is Phase.PENDING  # there never was an agent that could have vanished
    local.runtime.destroy(spec.ref)
    assert not local.leftovers(spec.ref)


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_the_run(local: LocalPlace) -> None:
    ours = ProcessRecord(os.getpid(), psutil.Process().create_time())
    assert processes.find(ours, "/any") is not None  # unmarked: the start time decides
    assert processes.find(ProcessRecord(os.getpid(), ours.started - 60), "/any") is None
    assert processes.find(None, "/any") is None


def test_a_run_whose_folder_was_deleted_is_still_found_and_destroyed(local: LocalPlace) -> None:
    spec, line = local.spec("echo started; sleep 60")
    local.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    folder = local.data / "runs" / spec.ref.run
    folder.rename(local.data / "elsewhere")
    assert list(local.runtime.runs()) == [spec.ref]
    assert local.runtime.observe(spec.ref).phase is Phase.RUNNING
    local.runtime.destroy(spec.ref)
    assert not local.leftovers(spec.ref)
    assert list(local.runtime.runs()) == []


def test_a_stop_before_the_agent_was_started_holds(local: LocalPlace) -> None:
    spec, line = local.spec("echo started")
    with local.crash_after(2), pytest.raises(Crash):
        local.runtime.ensure(spec)
    local.runtime.stop(spec.ref)
    local.runtime.ensure(spec)
    assert finished(local, spec.ref).cause is Cause.STOPPED
    assert line.output() == ""


def test_two_installations_beside_each_other_know_only_their_own(local: LocalPlace, tmp_path: Path) -> None:
    other = LocalRuntime(tmp_path / "other", "other")
    spec, _ = local.spec("sleep 60")
    local.runtime.ensure(spec)
    assert list(other.runs()) == []
    other.destroy(spec.ref)
    assert other.observe(spec.ref).phase is Phase.ABSENT
    assert local.runtime.observe(spec.ref).phase is Phase.RUNNING


def test_what_outlives_its_stop_is_killed_by_whoever_looks_later(local: LocalPlace) -> None:
    spec, line = local.spec("trap '' TERM; echo started; while :; do sleep 1; done", stop_grace_seconds=3000)
    local.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    local.runtime.stop(spec.ref)
    stopped = local.data / "runs" / spec.ref.run / "stopped"
    assert local.runtime.observe(spec.ref).phase is Phase.RUNNING
    os.utime(stopped, (0, 0))
    assert finished(local, spec.ref).cause is Cause.STOPPED
    assert not agents(spec.ref)


def test_a_data_folder_that_cannot_be_written_answers_no_ping(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the folder's place")

    with pytest.raises(TransientFault, match="data folder"):
        LocalRuntime(tmp_path, "test").ping()


@pytest.mark.parametrize("state_folder", ["/home/node/a/b/c", "/var/lib/state"])
@pytest.mark.parametrize("kind", ["link", "file", "link to nothing"])
def test_links_of_an_agent_in_its_state_folder_are_not_followed(
    local: LocalPlace, tmp_path: Path, state_folder: str, kind: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    spec, _ = local.spec("true", state_folder=state_folder)
    home = local.data / "groups" / local.slug / "state" / local.session
    home.mkdir(parents=True)
    above = home / "a" if "/a/" in state_folder else home / "state"
    if kind == "file":
        above.touch()
    else:
        above.symlink_to(elsewhere if kind == "link" else tmp_path / "nothing")
    local.runtime.ensure(spec)
    assert finished(local, spec.ref).cause is Cause.COMPLETED
    assert list(elsewhere.iterdir()) == [] and not (tmp_path / "nothing").exists()


ODD = [None, b"", b"\xff", b"[]", b"{}", b'{"pid": 1e400, "started": "x"}', b'{"ref": {"run": 1}}', b"9" * 5000]


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("name", ["spec.json", "agent.pid", "courier.pid", "guard.pid", "pipes/exit"])
def test_what_an_agent_does_to_its_runs_folder_hides_no_other_run(
    local: LocalPlace, name: str, content: bytes | None
) -> None:
    """A FIFO in place of a file would hold up for ever whoever reads it."""
    good, _ = local.spec("sleep 60")
    local.runtime.ensure(good)
    odd = local.data / "runs" / "00000000-0000-0000-0000-000000000000"
    (odd / "pipes").mkdir(parents=True)
    (odd / "spec.json").write_text((local.data / "runs" / good.ref.run / "spec.json").read_text())
    (odd / name).unlink(missing_ok=True)
    if content is None:
        os.mkfifo(odd / name)
    else:
        (odd / name).write_bytes(content)
    odd_ref = replace(good.ref, run=odd.name)
    local.runtime.observe(odd_ref)
    assert good.ref in local.runtime.runs() and good.ref in [
        resource.owner for resource in local.runtime.run_resources()
    ]
    assert next(iter(local.runtime.watch(threading.Event()))) is not None
    local.runtime.destroy(odd_ref)
    assert not odd.exists()
