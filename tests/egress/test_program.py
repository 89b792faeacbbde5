"""The proxy as a program: settings, health, logs, reports that survive a error, and an orderly end."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from egress.settings import Settings, read_settings
from testbed import sites
from testbed.egress_control_plane import TOKEN, ControlPlane, Rules, authorization
from testbed.sites import Site
from testbed.waiting import wait_for
from tests.egress.conftest import HOST, LOOPBACK, OTHER, Make, Proxy, Reply, read_all

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


class Program:
    """A proxy process that may reach `localhost`."""

    def __init__(self, folder: Path, **env: str) -> None:
        (folder / "token").write_text(TOKEN)
        self.rules = Rules()
        self.control = ControlPlane(self.rules)
        self.port, self.health = free_port(), free_port()
        self.log = folder / "log"
        self.site = Site(sites.echo_tls)
        self.rules.allow("localhost", self.site.port)
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "BERTH_URL": self.control.url,
            "EGRESS_TOKEN_FILE": str(folder / "token"), "EGRESS_LISTEN": f"{LOOPBACK}:{self.port}",
            "EGRESS_HEALTH": str(self.health), "EGRESS_EXCEPTIONS": f"localhost={LOOPBACK}, localhost=::1",
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "egress"], env=environment | env, stderr=log)
        self.sockets: list[socket.socket] = []

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of an event; every line is JSON."""
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in found if line["event"] == event]

    def ready(self) -> "Program":
        wait_for(lambda: self.lines("listening"), 20)
        return self

    def tunnel(self) -> socket.socket:
        connection = socket.create_connection((LOOPBACK, self.port), timeout=30)
        self.sockets.append(connection)
        place = f"localhost:{self.site.port}"
        connection.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: x\r\n{authorization('run-a:secret-a')}\r\n".encode())
        assert Reply(connection.recv(1000)).status == 200
        context = sites.client_context()
        context.check_hostname = False
        secure = context.wrap_socket(connection, server_hostname="localhost")
        self.sockets.append(secure)
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"
        return secure

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.control.stop()
        self.site.close()
        for connection in self.sockets:
            connection.close()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    made: list[Program] = []

    def start(**env: str) -> Program:
        made.append(Program(tmp_path, **env))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_sigterm_lets_tunnels_go_on_takes_no_new_ones_and_exits_0(program: Callable[..., Program]) -> None:
    one = program().ready()
    secure = one.tunnel()
    one.process.send_signal(signal.SIGTERM)
    wait_for(lambda: one.lines("stopping"))
    with pytest.raises(OSError):
        socket.create_connection((LOOPBACK, one.port), timeout=5)
    secure.sendall(b"y")
    assert secure.recv(1) == b"y"
    secure.close()
    assert one.process.wait(30) == 0
    assert len(one.rules.ended("client")) == 1


def test_tunnels_that_outlast_the_grace_are_cut_and_reported(program: Callable[..., Program]) -> None:
    one = program(EGRESS_DRAIN_SECONDS="0.2").ready()
    secure = one.tunnel()
    one.process.send_signal(signal.SIGTERM)
    assert read_all(secure) == b""
    assert one.process.wait(30) == 0
    assert len(one.rules.ended("shutdown")) == 1


def test_the_log_is_json_lines_without_credentials(program: Callable[..., Program]) -> None:
    one = program().ready()
    one.tunnel().close()
    wait_for(lambda: one.lines("ended"))
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(30) == 0
    (opened,) = one.lines("opened")
    assert (opened["run"], opened["host"]) == ("run-a", "localhost")
    assert "secret-a" not in one.log.read_text()
    assert TOKEN not in one.log.read_text()


def test_health_tells_how_the_proxy_is(program: Callable[..., Program]) -> None:
    one = program().ready()
    one.tunnel()
    wait_for(lambda: one.rules.polls)
    with urllib.request.urlopen(f"http://{LOOPBACK}:{one.health}/healthz", timeout=10) as answer:
        state = json.load(answer)
    assert answer.status == 200
    assert (state["tunnels"], state["version"]) == (1, 7)


@pytest.mark.parametrize(
    "env",
    [
        {"EGRESS_TOKEN_FILE": "/nowhere"}, {"BERTH_URL": "ftp://x"}, {"EGRESS_TUNNELS": "many"},
        {"EGRESS_IDLE_SECONDS": "-1"}, {"EGRESS_EXCEPTIONS": "localhost"}, {"EGRESS_EXCEPTIONS": "a=b"},
        {"EGRESS_REFUSED": "10.0.0.0/99"}, {"EGRESS_LISTEN": "here"},
    ],
)  # fmt: skip
def test_wrong_settings_are_said_in_one_line(program: Callable[..., Program], env: dict[str, str]) -> None:
    one = program(**env)
    assert one.process.wait(30) == 2
    (line,) = one.log.read_text().splitlines()
    assert json.loads(line)["event"] == "can't start"


def test_settings_are_read_from_the_environment() -> None:
    given = {"BERTH_URL": "http://web:8000", "EGRESS_TOKEN_FILE": "/var/token"}
    assert read_settings(given) == Settings("http://web:8000", Path("/var/token"))
    more = {"EGRESS_LISTEN": "[::]:1", "EGRESS_EXCEPTIONS": "Registry.Internal.=10.0.0.5", "EGRESS_HEAD_SECONDS": "0.5"}
    settings = read_settings(given | more)
    assert (settings.listen, settings.head_seconds) == (("::", 1), 0.5)
    assert [(host, [str(one) for one in found]) for host, found in settings.exceptions.items()] == [
        ("registry.internal", ["10.0.0.5"])
    ]


def test_every_setting_has_a_row_in_the_documentation() -> None:
    page = (ROOT / "docs" / "egress.md").read_text()
    named = {"url": "BERTH_URL", "token_file": "EGRESS_TOKEN_FILE"}
    for field in Settings._fields:
        assert f"| `{named.get(field, f'EGRESS_{field.upper()}')}` |" in page


def test_reports_that_were_refused_come_again_with_the_same_ids(proxy: Proxy) -> None:
    site = proxy.site()
    proxy.rules.refuse_reports = 2
    proxy.secure(site.port).close()
    assert proxy.request("CONNECT", "new.example:443").status == 403
    (tunnel,) = wait_for(lambda: proxy.rules.ended("client"))
    (denial,) = wait_for(lambda: proxy.rules.denied("rule"))
    assert (tunnel["host"], denial["count"]) == (HOST, 1)


def test_reports_are_kept_while_the_control_plane_is_away_within_bounds(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egress.reports.MAX_WAITING", 3)
    proxy = make()
    site = proxy.site()
    proxy.rules.refuse_reports = 10**9
    for _ in range(5):
        proxy.secure(site.port).close()
    wait_for(lambda: not proxy.tunnels)
    assert len(proxy.server.state.reporter.ended) == 3
    proxy.rules.refuse_reports = 0
    wait_for(lambda: len(proxy.rules.ended("client")) == 3)


def test_a_wrong_token_is_said_and_nothing_is_let_out(make: Make, tmp_path: Path) -> None:
    proxy = make()
    site = proxy.site(host=OTHER)
    (tmp_path / "token").write_text("wrong")
    assert proxy.request("CONNECT", f"{OTHER}:{site.port}").status == 503
    (tmp_path / "token").write_text(TOKEN)
    assert proxy.secure(site.port, OTHER, OTHER)
