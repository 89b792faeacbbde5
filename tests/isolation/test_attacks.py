"""The hostile agent's attacks get through where nothing is in their way: else their refusals would prove nothing.

Only what harms nobody is tried on the machine of the tests: connections to servers made here, files made here.
"""

import contextlib
import hashlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation.attacks import agent, control_plane, files, network, proxy, resources
from isolation.attacks.base import Attempt, Blocked, Inconclusive, Success, run_attack, run_concurrently

ROOT = Path(__file__).parents[2]
AGENT = [sys.executable, "-m", "isolation.attacks.agent"]


@pytest.fixture
def listener() -> Iterator[int]:
    """A TCP port that takes whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def echo() -> Iterator[int]:
    """A UDP port that answers each datagram with itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            data, peer = server.recvfrom(2048)
            server.sendto(data, peer)

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def site() -> Iterator[str]:
    """A web server: /open, /login-first, and 401 for all else, also as a proxy that lets everybody through."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = {"/open": 200, "/away": 302, "/login-first": 302}.get(self.path, 401)
            status = 200 if self.path.startswith("http://") else status
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/admin/login/?next=/" if self.path == "/login-first" else "/elsewhere")
            self.end_headers()

        def do_CONNECT(self) -> None:
            self.send_response(200 if "open" in self.path else 403)
            self.end_headers()
            self.wfile.write(b"SSH-2.0-server\r\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def told() -> Iterator[Callable[..., str]]:
    """Makes a server that answers each request in one way, once it has taken so much of its body; gives its URL."""
    servers: list[socket.socket] = []

    def make(status: int, location: str = "", takes: int = 0) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        words = f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    talk = server.accept()[0]
                    with talk, contextlib.suppress(OSError):
                        left = takes + len(talk.recv(1024))
                        while left > 0 and takes and (data := talk.recv(65536)):
                            left -= len(data)
                        talk.sendall(words.encode() if status else b"")
                        talk.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield make
    for server in servers:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_connections(listener: int, echo: int) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    assert "connected" in network.tcp("127.0.0.1", listener).detail
    assert str(listener) in network.tcp_any([("127.0.0.1", port), ("127.0.0.1", listener)]).detail
    for attack in (lambda: network.tcp("127.0.0.1", port), lambda: network.tcp_any([("127.0.0.1", port)])):
        with pytest.raises(Blocked, match="refused"):
            attack()
    assert "answered 5 bytes" in network.udp("127.0.0.1", echo, "hello").detail


def test_a_resolver_is_asked_with_one_packet(echo: int) -> None:
    assert "for a.example" in network.dns("127.0.0.1", "a.example", echo).detail
    query = network.dns_query("a.example")
    assert query[2:] == bytes.fromhex("01000001000000000000") + b"\1a\7example\0" + bytes.fromhex("00010001")


def test_names() -> None:
    assert "localhost is" in network.resolve(["localhost"]).detail


def test_paths_of_the_control_plane(site: str) -> None:
    for path in ("/open", "/away"):
        assert path in control_plane.http_path(site, ["/closed", path]).detail
    with pytest.raises(Blocked, match=r"/closed 401, /login-first 302 \(to the login\)"):
        control_plane.http_path(site, ["/closed", "/login-first"])
    with pytest.raises(Blocked, match="401"):
        control_plane.websocket(site, "/ws")


@pytest.mark.parametrize(
    ("status", "location"), [(302, "//stranger.invalid/admin/login/"), (302, "/admin/login/?next=/admin/"), (404, "")]
)
def test_a_root_path_that_is_believed(told: Callable[..., str], status: int, location: str) -> None:
    url = told(status, location)
    if "stranger" in location:
        assert "stranger.invalid" in control_plane.root_path(url).detail
    else:
        with pytest.raises(Blocked, match=f"answered {status}"):
            control_plane.root_path(url)


def test_a_server_that_goes_wrong(told: Callable[..., str]) -> None:
    assert "answered 500" in control_plane.odd_requests(told(500), [("GET", "/%00")]).detail
    with pytest.raises(Blocked, match="answered with 404"):
        control_plane.odd_requests(told(404), [("GET", "/%00"), ("POST", "//")])


def test_a_body_from_nobody(told: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "BODY_MIB", 6)
    assert "took 6 MiB" in control_plane.large_body(told(200, takes=1 << 30)).detail
    with pytest.raises(Blocked, match="after"):
        control_plane.large_body(told(413, takes=0))


def test_requests_that_are_never_finished(
    listener: int, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane, "UNFINISHED", 5)
    monkeypatch.setattr(control_plane, "UNFINISHED_SECONDS", 0.2)
    assert "5 unfinished" in control_plane.unfinished(f"http://127.0.0.1:{listener}").detail
    monkeypatch.setattr(control_plane, "UNFINISHED_SECONDS", 5)
    with pytest.raises(Blocked, match="were ended"):
        control_plane.unfinished(told(0))


def test_services_by_their_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "service.sock")
    monkeypatch.setattr(files, "SERVICES", ("/nonexistent", path))
    monkeypatch.setattr(files, "WALK_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(path)
        service.listen()
        assert "service.sock" in files.unix_sockets([]).detail
    with pytest.raises(Blocked, match="can be connected to"):
        files.unix_sockets(["/", "\0"])


def test_odd_lines_are_whole_and_bounded(capfd: pytest.CaptureFixture[str]) -> None:
    told = resources.odd_lines()
    printed = capfd.readouterr().out.splitlines()
    assert f"{len(resources.ODD)} odd lines" in told.detail and max(map(len, printed)) > resources.MIB
    assert sum(map(len, printed)) < 8 * resources.MIB
    kinds = [value["type"] for line in printed if line.startswith('{"type": "') for value in [json.loads(line)]]
    assert "idle" not in kinds and {"tool", "usage", "session", "text"} <= set(kinds)


def test_the_proxy(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Inconclusive):
        monkeypatch.delenv("HTTPS_PROXY", raising=False)
        proxy.connect(["open.example"], 443)
    monkeypatch.setenv("HTTPS_PROXY", site.replace("://", "://run:secret@"))
    assert "open.example" in proxy.connect(["closed.example", "open.example"], 443).detail
    with pytest.raises(Blocked, match="403"):
        proxy.connect(["closed.example"], 443)
    assert "answered" in proxy.raw("open.example", 443, "SSH-2.0-me\r\n").detail
    assert "200" in proxy.plain_http(["http://closed.example/"], ["open.example"]).detail
    with pytest.raises(Blocked, match="closed before an answer"):
        proxy.fetch("open.example", 443)


def test_credentials_for_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://run:secret@127.0.0.1:1")
    lines = {kind: proxy.authorization(kind) for kind in ("own", "forged", "none", "other")}
    assert len(set(lines.values())) == 4 and lines["none"] == ""


def test_files(tmp_path: Path) -> None:
    (tmp_path / "marker.txt").write_text("b's")
    (tmp_path / "own").mkdir()
    assert str(tmp_path / "own") in files.own([str(tmp_path / "own")]).detail
    assert "3 bytes" in files.read([str(tmp_path / "no"), str(tmp_path / "marker.txt")]).detail
    assert "made a file" in files.write([str(tmp_path)]).detail
    assert "../marker.txt" in files.symlinks(str(tmp_path / "own"), ["../no", "../marker.txt"]).detail
    with pytest.raises(Blocked, match="none of 1"):
        files.symlinks(str(tmp_path / "own"), ["../no"])
    with pytest.raises(Blocked, match="No such file or directory: "):
        files.read([str(tmp_path / "no")])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["marker.txt", "own"]


def test_what_looks_like_a_couriers_token_is_told_as_a_digest(tmp_path: Path) -> None:
    token = f"{'0' * 8}-0000-0000-0000-{'0' * 12}.{'a' * 64}"
    (tmp_path / "environ").write_text(f"A=1\0TOKEN={token}\0B=2")
    found = files.token_digests([str(tmp_path / "no"), str(tmp_path / "environ")])
    assert found == [hashlib.sha256(token.encode()).hexdigest()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_looking_for_a_token_takes_nothing_out_of_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"the answer of another attempt")
    os.close(writer)
    assert files.token_digests([f"/proc/self/fd/{reader}"]) == []
    assert os.read(reader, 100) == b"the answer of another attempt"
    os.close(reader)


def test_a_volume_larger_than_its_claim_is_not_called_refused(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="enforces no size"):
        resources.volume(str(tmp_path), 0)
    with pytest.raises(Blocked, match="its claim asks for"):
        resources.volume(str(tmp_path), 10**6)


def test_an_attempt_is_bounded_and_ends_with_all_that_it_started() -> None:
    reader, writer = os.pipe()

    def hang() -> Success:
        os.close(reader)
        subprocess.run(["sleep", "60"], pass_fds=[writer])
        return Success("never")

    attempts = [Attempt("slow", hang, {}, 0.5), Attempt("quick", lambda: Success("there"), {}, 5)]
    os.close(writer)
    slow, quick = run_concurrently(attempts)
    assert (slow["outcome"], slow["detail"]) == ("error", "no answer within 0.5 s")
    assert quick == {"check": "quick", "outcome": "succeeded", "detail": "there"}
    assert os.read(reader, 1) == b""  # nobody holds it any more
    os.close(reader)


def test_an_attempt_that_another_ended_is_made_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ended(path: str, always: bool = False) -> Success:
        if always or not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Success("there")

    monkeypatch.setattr(agent, "ATTACKS", {"ended": ended, "tcp": lambda: Success("here")})
    checks = [
        {"check": "a", "attack": "ended", "parameters": {"path": str(tmp_path / "a")}},
        {"check": "b", "attack": "tcp", "parameters": {}},
        {"check": "c", "attack": "ended", "parameters": {"path": str(tmp_path / "c"), "always": True}},
    ]
    assert agent.run_checks(checks) == "3 attempts"
    told = {line["check"]: line for line in map(json.loads, capfd.readouterr().out.splitlines())}
    assert [told[name]["outcome"] for name in "abc"] == ["succeeded", "succeeded", "error"]
    assert "by signal 9, for the second time" in told["c"]["detail"]


def test_outcomes() -> None:
    def denied() -> Success:
        raise PermissionError(1, "Operation not permitted")

    def wrong() -> Success:
        raise ValueError("x")

    assert run_attack(denied, {}) == {"outcome": "refused", "detail": "Operation not permitted"}
    assert run_attack(wrong, {}) == {"outcome": "error", "detail": "ValueError: x"}


def test_what_takes_more_than_its_share_runs_alone() -> None:
    checks: list[dict[str, Any]] = [{"check": str(n), "attack": "tcp"} for n in range(14)]
    checks += [{"check": "fill", "attack": "fill"}, {"check": "flood", "attack": "flood"}]
    assert [len(batch) for batch in agent.batches(checks)] == [12, 2, 1, 1]


def converse(*lines: dict[str, Any], end: bool = True) -> list[dict[str, Any]]:
    said = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run(AGENT, cwd=ROOT, input=said, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_agent_needs_nothing_but_the_standard_library() -> None:
    """As in its image, which has neither Django nor the rest of Berth."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import isolation.attacks.agent\n"
        "print(*(name for name in sys.modules if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    imported = subprocess.run([sys.executable, "-IS", "-c", program], capture_output=True, text=True, check=True).stdout
    modules = set(imported.split()) - {"__main__", "isolation", "isolation.attacks"}
    assert "isolation.attacks.agent" in modules
    assert [name for name in modules if not name.startswith("isolation.attacks.")] == []


def test_outside_of_a_container_nothing_is_attacked() -> None:
    order = json.dumps({"role": "attacker", "checks": [{"check": "a", "attack": "trace", "parameters": {}}]})
    said = converse({"type": "message", "number": 1, "text": order}, {"type": "close"})
    assert "this is no container" in said[0]["text"] and said[1] == {"type": "idle", "number": 1}


def test_a_message_that_is_no_order_is_answered() -> None:
    said = converse({"type": "message", "number": 1, "text": "hello"})
    assert "Send a JSON object" in said[0]["text"]


def test_the_neighbour_tells_who_came(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "BERTH_WORKSPACE": str(tmp_path)}
    process = subprocess.Popen(
        AGENT,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    order = {"role": "bystander", "marker": "marker.txt", "port": port}
    process.stdin.write(json.dumps({"type": "message", "number": 1, "text": json.dumps(order)}).encode() + b"\n")
    process.stdin.flush()
    ready = json.loads(process.stdout.readline())
    assert ready["name"] == "ready" and ready["digest"] and (tmp_path / "marker.txt").exists()
    assert "connected" in network.tcp("127.0.0.1", port).detail
    assert "answered" in network.udp("127.0.0.1", port, "hello").detail
    process.stdin.close()
    said = [json.loads(line) for line in process.stdout]
    process.stdout.close()
    assert process.wait(10) == 0
    ticks = [each for each in said if each.get("name") == "tick"]
    assert [tick["number"] for tick in ticks] == list(range(1, len(ticks) + 1)) and ticks[0]["heard"] == 0
    assert sum(each.get("name") == "heard" for each in said) == 2
    assert said[-2]["text"].startswith("heard 2 strangers") and not (tmp_path / "marker.txt").exists()
