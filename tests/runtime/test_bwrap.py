"""A confined local agent: what it can't reach, what it can, and that it otherwise lives and ends as any other."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtimes.base import Cause, EgressAccess, FolderSource, Mount, Observed, PermanentFault, Phase, RunRef, SecretFile
from runtimes.local import bwrap, processes
from runtimes.local.programs import Confinement
from runtimes.local.runtime import LocalRuntime
from runtimes.secret_sources import AllowedSources
from testbed.stack import free_port
from testbed.waiting import wait_for
from tests.runtime.home import Home, Line
from tests.runtime.places import LocalPlace

SECONDS = 30


class ConfinedPlace(LocalPlace):
    """Local processes in sandboxes."""

    def other_process(self) -> LocalRuntime:
        reach, confinement = AllowedSources(folder=str(self.data)), Confinement(as_root=os.geteuid() == 0)
        return LocalRuntime(self.data, "test", secrets=reach, confinement=confinement)


@pytest.fixture
def place(home: Home, tmp_path: Path) -> Iterator[ConfinedPlace]:
    found = ConfinedPlace(home, tmp_path / "data")
    found.data.mkdir()
    yield found
    found.clean()


@pytest.fixture
def proxy() -> Iterator[int]:
    """What stands for a proxy: answers each connection with what it got, in capitals; gives its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                while data := client.recv(65536):
                    client.sendall(data.upper())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def finished(place: LocalPlace, ref: RunRef) -> Observed:
    wait_for(lambda: place.runtime.observe(ref).phase is Phase.FINISHED, SECONDS, "the run to end")
    return place.runtime.observe(ref)


def said(place: ConfinedPlace, script: str, **changes: object) -> Line:
    """What a run of a script told, to its end."""
    spec, line = place.spec(script, **changes)
    place.runtime.ensure(spec)
    finished(place, spec.ref)
    wait_for(lambda: line.exit_code() is not None, SECONDS, "the exit event")
    return line


def python(code: str) -> str:
    return f"python3 -c '{code}' 2>&1"


@pytest.mark.bwrap
def test_it_reaches_nothing_on_the_network(place: ConfinedPlace, proxy: int) -> None:
    code = (
        "import socket\n"
        f'for host in (("127.0.0.1", {proxy}), ("127.0.0.1", {place.home.port}), ("192.0.2.1", 443)):\n'
        "    try: socket.create_connection(host, 3); print('reached')\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "print(sorted(name for _, name in socket.if_nameindex()))"
    ).replace("'", '"')
    words = said(place, python(code)).output()
    assert "reached" not in words and words.count("Error") == 3
    assert "lo" in words and "eth" not in words


@pytest.mark.bwrap
def test_the_proxy_is_the_one_way_out(place: ConfinedPlace, proxy: int) -> None:
    code = (
        "import os, socket, urllib.parse\n"
        'url = urllib.parse.urlsplit(os.environ["https_proxy"]); print(url.username, url.password, url.port)\n'
        "one = socket.create_connection((url.hostname, url.port)); one.sendall(b'hello ' * 50000)\n"
        "one.shutdown(socket.SHUT_WR); got = b''\n"
        "while data := one.recv(65536): got += data\n"
        "print(len(got), got[:6])"
    ).replace("'", '"')
    # Not to be written before all of it is read: the far end answers while it listens.
    script = python(code.replace("50000", "500"))
    spec, line = place.spec(script, egress=EgressAccess(f"http://127.0.0.1:{proxy}", "hush"))
    place.runtime.ensure(spec)
    finished(place, spec.ref)
    wait_for(lambda: line.exit_code() is not None, SECONDS, "the exit event")
    assert f"{spec.ref.run} hush 3128" in line.output()
    assert "3000 b'HELLO '" in line.output()
    assert "hush" not in (place.data / "runs" / spec.ref.run / "spec.json").read_text()


@pytest.mark.bwrap
def test_without_a_proxy_there_is_no_way_out(place: ConfinedPlace) -> None:
    line = said(place, "env | grep -c _proxy=; ls /run/berth 2>&1")
    assert line.output().startswith("0") and "No such file" in line.output()


@pytest.mark.bwrap
def test_it_writes_to_its_own_folders_alone(place: ConfinedPlace) -> None:
    script = (
        'for each in /etc /usr /opt "$BERTH_SECRETS" "$BERTH_EXTRA"; do'
        ' touch "$each/mark" 2>/dev/null && echo "$each"; done;'
        'for each in /tmp "$HOME" "$BERTH_WORKSPACE" "$BERTH_IPC" "$BERTH_STATE"; do'
        ' touch "$each/mark" && echo ok; done'
    )
    line = said(place, script)
    assert line.output().split() == ["ok"] * 5
    assert not Path("/tmp/mark").exists()
    assert (place.data / "groups" / place.slug / "group" / "mark").exists()


@pytest.mark.bwrap
def test_it_sees_nothing_of_other_groups_homes_and_processes(place: ConfinedPlace, tmp_path: Path) -> None:
    (place.data / "berth.sqlite3").write_text("rows")
    (place.data / "groups" / "other" / "group").mkdir(parents=True)
    checkout = Path(bwrap.__file__).resolve().parents[2]
    script = (
        f"ls {place.data}; ls {place.data}/groups; ls -A {Path.home()} | grep -v '^\\.venv$' | head -3;"
        f"cat {checkout}/.env 2>/dev/null; ls -d /proc/[0-9]* | wc -l; ls /run"
    )
    words = said(place, script).output().split()
    assert words[:3] == ["groups", "runs", place.slug]
    assert "SECRET_KEY" not in words and "berth.sqlite3" not in words and "other" not in words
    assert max(int(word) for word in words if word.isdigit()) < 10


@pytest.mark.bwrap
def test_nothing_is_there_that_was_not_thought_of(place: ConfinedPlace, proxy: int) -> None:
    checkout = Path(bwrap.__file__).resolve().parents[2]
    script = (
        "cd /; echo of root: *; echo of var: /var/* /run/*; ls -A / > /mark 2>/dev/null && echo written;"
        f"echo of the checkout: $(ls {checkout}); echo of its runtimes: $(ls {checkout}/runtimes/*);"
        "echo sockets: $(find / -type s 2>/dev/null); echo devices: $(find / -xdev -type b 2>/dev/null)"
    )
    line = said(place, script, egress=EgressAccess(f"http://127.0.0.1:{proxy}", "hush"))
    told = dict(each.split(":", 1) for each in line.output().splitlines())
    rooms = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "nix", "proc", "run", "sbin", "tmp", "usr", "var"}
    ways = {path.parts[1] for path in (place.data, checkout, Path(sys.prefix), Path(sys.base_prefix))}
    assert set(told["of root"].split()) <= rooms | ways
    assert told["of var"].split() == ["/var/tmp", "/run/berth"]
    assert told["of the checkout"].split() == ["agents", "isolation", "runtimes"]
    assert told["of its runtimes"].split() == ["socket_proxy.py"]
    assert told["sockets"].split() == ["/run/berth/egress.sock"] and told["devices"] == ""


@pytest.mark.bwrap
def test_what_is_hidden_stays_so_in_a_mount_that_has_it(place: ConfinedPlace, tmp_path: Path) -> None:
    (place.data / "berth.sqlite3").write_text("rows")
    (tmp_path / "shared").mkdir()
    mounts = (Mount("all", "all", FolderSource(str(tmp_path)), read_only=False),)
    line = said(place, f'ls "$BERTH_EXTRA/all/"; echo in it; ls {place.data}; touch {tmp_path}/new', mounts=mounts)
    assert line.output().split() == ["data", "shared", "in", "it", "groups", "runs"]
    assert (tmp_path / "new").exists()


@pytest.mark.bwrap
def test_the_kernel_is_not_to_be_changed_from_in_it(place: ConfinedPlace) -> None:
    script = (
        "cd /proc/sys/kernel; for each in core_pattern hostname; do cat $each >$each && echo $each; done;"
        "echo b >/proc/sysrq-trigger && echo sysrq;"
        "unshare -r true && echo user; unshare -m true && echo mount; unshare true && echo threads;"
        "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status"
    )
    assert said(place, f"{{ {script}; }} 2>/dev/null").output().split() == [
        "threads", "NoNewPrivs:", "1", "Seccomp:", "2",
    ]  # fmt: skip


@pytest.mark.bwrap
def test_secrets_and_mounts_are_there_and_only_read_where_that_is_said(place: ConfinedPlace, tmp_path: Path) -> None:
    root = tmp_path / "shared"
    for name in ("ro", "rw"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name)
    mounts = (
        Mount("one", "one", FolderSource(str(root), "ro")),
        Mount("two", "two", FolderSource(str(root), "rw"), read_only=False),
    )
    secret = SecretFile("key", place.put_secret("a", "b", "value"))
    script = (
        'cat "$BERTH_SECRETS/key" "$BERTH_EXTRA/one/file" "$BERTH_EXTRA/two/file"; echo;'
        'touch "$BERTH_EXTRA/one/new" 2>/dev/null || echo refused; touch "$BERTH_EXTRA/two/new" && echo written;'
        f"ls {root}"
    )
    words = said(place, script, mounts=mounts, secrets=(secret,)).output().split()
    assert words[:3] == ["valuerorw", "refused", "written"]
    assert sorted(words[3:]) == ["ro", "rw"]  # nothing else of the root is there
    assert (root / "rw" / "new").exists() and not (root / "ro" / "new").exists()


@pytest.mark.bwrap
def test_it_has_no_rights_over_the_machine(place: ConfinedPlace) -> None:
    line = said(place, "grep CapEff /proc/self/status; mount -t tmpfs none /mnt 2>&1; kill -0 $PPID && echo alone")
    assert "0000000000000000" in line.output() and "mounted" not in line.output()


@pytest.mark.bwrap
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
def test_its_exit_code_is_its_own(place: ConfinedPlace, script: str, code: int) -> None:
    assert said(place, script).exit_code() == code


@pytest.mark.bwrap
def test_a_stop_lets_it_end_by_itself(place: ConfinedPlace) -> None:
    script = 'trap "echo last words; exit 3" TERM; echo ready; while :; do sleep 0.1; done'
    spec, line = place.spec(script)
    place.runtime.ensure(spec)
    wait_for(lambda: "ready" in line.output(), SECONDS, "the agent")
    place.runtime.stop(spec.ref)
    assert finished(place, spec.ref).cause is Cause.STOPPED
    wait_for(lambda: line.exit_code() is not None, SECONDS, "the exit event")
    assert "last words" in line.output() and line.exit_code() == 3


@pytest.mark.bwrap
def test_a_stop_ends_one_that_will_not(place: ConfinedPlace, proxy: int) -> None:
    script = 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
    spec, line = place.spec(script, egress=EgressAccess(f"http://127.0.0.1:{proxy}", "hush"))
    place.runtime.ensure(spec)
    wait_for(lambda: "ready" in line.output(), SECONDS, "the agent")
    place.runtime.stop(spec.ref)
    assert finished(place, spec.ref).cause is Cause.STOPPED
    place.runtime.destroy(spec.ref)
    assert place.leftovers(spec.ref) == []


@pytest.mark.bwrap
def test_a_relay_that_died_is_started_anew(place: ConfinedPlace, proxy: int) -> None:
    spec, _ = place.spec("sleep 300", egress=EgressAccess(f"http://127.0.0.1:{proxy}", "hush"))
    place.runtime.ensure(spec)
    note = place.data / "runs" / spec.ref.run / "socket_proxy.pid"
    first = note.read_text()
    wait_for(lambda: place.runtime.observe(spec.ref).phase is Phase.RUNNING, SECONDS, "the agent")
    place.runtime.ensure(spec)
    assert note.read_text() == first
    for process, _ in list(processes.iter_marked(str(place.data / "runs" / spec.ref.run))):
        if "socket_proxy.py" in " ".join(process.cmdline()) and "outside" in process.cmdline():
            process.kill()
            process.wait(5)
    place.runtime.ensure(spec)
    assert note.read_text() != first


def test_without_bubblewrap_the_start_is_refused(place: ConfinedPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwrap, "PROGRAM", "no-such-bwrap")
    spec, _ = place.spec("true")
    with pytest.raises(PermanentFault, match="bubblewrap is not installed"):
        place.runtime.ensure(spec)


def test_root_is_refused_unless_an_operator_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwrap, "PROGRAM", "sh")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "runs as root" in bwrap.unusable_reason(as_root=False) and bwrap.unusable_reason(as_root=True) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bwrap.unusable_reason(as_root=False) == ""


@pytest.mark.bwrap
def test_a_program_that_the_sandbox_does_not_show_is_refused(place: ConfinedPlace, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools" / "tool"
    tool.write_text("#!/bin/sh\necho seen")
    tool.chmod(0o755)
    spec, line = place.spec("", command=(str(tool),))
    with pytest.raises(PermanentFault, match="LOCAL_BWRAP_FOLDERS"):
        place.runtime.ensure(spec)
    confinement = Confinement(readable=(tool.parent,), as_root=os.geteuid() == 0)
    LocalRuntime(place.data, "test", confinement=confinement).ensure(spec)
    finished(place, spec.ref)
    wait_for(lambda: line.exit_code() is not None, SECONDS, "the exit event")
    assert line.output() == "seen\n"


def test_an_unconfined_agent_is_told_of_the_proxy_itself(home: Home, tmp_path: Path) -> None:
    place = LocalPlace(home, tmp_path)
    access = EgressAccess("http://proxy.test:3128", "secret")
    spec, line = place.spec("echo $HTTPS_PROXY $http_proxy; echo $no_proxy $NODE_USE_ENV_PROXY")
    try:
        place.runtime.ensure(replace(spec, egress=access))
        finished(place, spec.ref)
        wait_for(lambda: line.exit_code() is not None, SECONDS, "the exit event")
    finally:
        place.clean()
    url = f"http://{spec.ref.run}:[redacted:egress-credential]@proxy.test:3128"  # which the courier takes out
    assert line.output().split() == [url, url, "localhost,127.0.0.1,::1", "1"]


def test_a_connection_may_come_before_the_relay_outside_listens(tmp_path: Path, proxy: int) -> None:
    code = (
        "import socket, sys\n"
        "with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20) as proxy:\n"
        "    proxy.sendall(b'early')\n"
        "    print('connected', flush=True)\n"
        "    print(proxy.recv(100))"
    )
    relay = [sys.executable, "-I", "-S", str(bwrap.SOCKET_PROXY)]
    inner = [*relay, "inside", "way", str(port := free_port()), "--", sys.executable, "-c", code, str(port)]
    with subprocess.Popen(inner, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as agent:
        assert agent.stdout
        assert agent.stdout.readline() == "connected\n"
        outer = subprocess.Popen([*relay, "outside", "way", "127.0.0.1", str(proxy)], cwd=tmp_path)
        try:
            assert agent.stdout.readline() == "b'EARLY'\n"
        finally:
            outer.kill()
            outer.wait(5)
            os.killpg(agent.pid, signal.SIGKILL)
