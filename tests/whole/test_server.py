"""The server of `web` under attack, by raw sockets.

What is too large, too slow or one too many is refused; a health check and an ordinary request are answered meanwhile.
"""

import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from testbed.stack import ROOT, free_port
from testbed.waiting import wait_for

PROXY = "127.0.0.9"
ENV = {
    "HEAD_SECONDS": "1",
    "BODY_SECONDS": "1",
    "MAX_CONNECTIONS": "200",
    "CONNECTIONS_PER_ADDRESS": "50",
    "PROXIES": "1",
    "PROXY_NETWORKS": f"{PROXY}/32",
    "ALLOWED_HOSTS": "localhost",
    "RUNTIME": "local",
    "LOG_LEVEL": "INFO",
}


class Web:
    """A server of its own, with small limits."""

    def __init__(self, folder: Path, *command: str, files: tuple[int, int] = (0, 0), **env: str) -> None:
        self.log = folder / f"{uuid.uuid4().hex}.log"
        env = os.environ | ENV | {"SECRET_KEY": "x" * 50, "DATA_DIR": str(folder)} | env
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files)) if files[0] else None
        for _ in range(3):  # a port that was free may be somebody's source port by the time
            self.port = free_port()
            with self.log.open("ab") as log:
                words = [sys.executable, *command, str(self.port)]
                self.process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log, preexec_fn=limit)
            wait_for(lambda: self.answers() or self.process.poll() is not None, 90, f"a server; see {self.log}")
            if self.process.poll() is None:
                return
        raise AssertionError(self.log.read_text())

    def answers(self) -> bool:
        try:
            return self.ask("/healthz")[0] == 200
        except OSError:
            return False

    def end(self) -> None:
        self.process.terminate()
        try:
            assert self.process.wait(20) == 0, self.log.read_text()
        finally:
            self.process.kill()
        assert "Traceback" not in self.log.read_text()

    def open(self, address: str = "127.0.0.1") -> socket.socket:
        """A connection from an address of this machine."""
        return socket.create_connection(("127.0.0.1", self.port), 10, (address, 0))

    def say(self, *pieces: bytes, address: str = "127.0.0.1") -> bytes:
        """What is answered to these bytes, up to the end of the connection."""
        with self.open(address) as one:
            try:
                for piece in pieces:
                    one.sendall(piece)
            except OSError:
                pass  # it hung up on us, and may have said why
            return rest(one)

    def ask(self, path: str, *headers: str, method: str = "GET", address: str = "127.0.0.1") -> tuple[int, str]:
        """One request; status and all of the answer."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        answer = self.say("\r\n".join(lines).encode(), address=address).decode()
        return int(answer.split(" ", 2)[1] if answer else 0), answer

    def json(self, path: str, *headers: str, address: str = "127.0.0.1") -> Any:
        """The answer of the application in tests/echo.py."""
        return json.loads(self.ask(path, "Content-Length: 0", *headers, address=address)[1].partition("\r\n\r\n")[2])


def rest(one: socket.socket) -> bytes:
    """All that still comes."""
    found = b""
    try:
        while piece := one.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def status(answer: bytes) -> int:
    assert b"\r\nConnection: close\r\n" in answer and b"application/problem+json" in answer, answer
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The real one. What is asked of it here needs no database."""
    started = Web(tmp_path_factory.mktemp("web"), "manage.py", "runweb", "-p")
    yield started
    started.end()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The same server before an application of the tests."""
    started = Web(tmp_path_factory.mktemp("echo"), "-m", "tests.echo", CONNECTIONS_PER_ADDRESS="500")
    yield started
    started.end()


HEAD = b"POST /api/v1/groups HTTP/1.1\r\nHost: localhost\r\n"
DOOR = b"POST /agent/v1/events HTTP/1.1\r\nHost: localhost\r\n"
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"

# --- time ---


def test_a_slow_head_is_given_up(web: Web) -> None:
    assert status(web.say(b"GET /healthz HTTP/1.1\r\nHost: lo")) == 408


def test_a_head_that_comes_byte_by_byte_is_given_up(web: Web) -> None:
    with web.open() as one:
        one.settimeout(0.1)
        for _ in range(200):
            try:
                one.sendall(b"G")
                if one.recv(100).startswith(b"HTTP/1.1 408 "):
                    return
            except TimeoutError:
                continue
    raise AssertionError("it was never given up")


def test_who_says_nothing_is_hung_up_on(web: Web) -> None:
    assert web.say() == b""


@pytest.mark.parametrize("how", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_slow_body_is_given_up(web: Web, how: bytes) -> None:
    assert status(web.say(HEAD + how + b"\r\n\r\n3\r\nabc\r\n")) == 408


# --- size ---


@pytest.mark.parametrize(
    "path", ["agent/v1/events", "broker/v1/anthropic/v1/messages", "egress/v1/report", "admin/login/"]
)
def test_800_mib_without_a_token_are_refused_after_the_head(web: Web, path: str) -> None:
    """Nothing of the body is sent here: the answer does not wait for it."""
    answer = web.say(f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {800 << 20}\r\n\r\n".encode())
    assert int(answer.split(b" ", 2)[1]) in (401, 403, 404, 413) and b"\r\nConnection: close\r\n" in answer


def test_without_a_token_the_body_is_not_asked_for(web: Web) -> None:
    expect = b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"
    assert web.say(DOOR + expect).startswith(b"HTTP/1.1 401 ")
    with web.open() as one:
        one.sendall(HEAD + b"Connection: close\r\n" + expect)
        assert one.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.sendall(b"0123456789")
        assert rest(one).startswith(b"HTTP/1.1 405 ")


def test_an_endless_body_is_cut_off(web: Web) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    assert status(web.say(head, *[CHUNK] * 100)) == 413
    answer = web.say(DOOR + b"Transfer-Encoding: chunked\r\n\r\n", *[CHUNK] * 100)
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("head", "refusal"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /" + b"a" * 100_000, 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"b" * 10_000 + b"\r\n") * 4 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000, 431),
        (b"GET / HTTP/1.1\r\nA: b\r\n" + b" folded\r\n" * 5000, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 5000, 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /?\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello", 400),
    ],
)  # fmt: skip
def test_a_head_that_is_none(web: Web, head: bytes, refusal: int) -> None:
    assert status(web.say(head)) == refusal
    assert web.ask("/healthz")[0] == 200


def test_refusals_are_logged_once_in_a_while(web: Web) -> None:
    for _ in range(30):
        web.say(b"nonsense\r\n\r\n")
    assert 1 <= web.log.read_text().count("status=400") < 10


# --- number ---


def test_one_address_does_not_keep_others_out(web: Web) -> None:
    with ExitStack() as held:
        for _ in range(300):
            held.enter_context(web.open("127.0.0.2"))
        assert web.ask("/healthz")[0] == 200
        assert web.ask("/healthz", address="127.0.0.2")[0] == 200
        assert web.ask("/api/v1/groups")[0] == 401
        answer = web.say(b"GET /api/v1/groups HTTP/1.1\r\nHost: localhost\r\n\r\n", address="127.0.0.2")
        assert status(answer) == 503 and b"\r\nRetry-After: 5\r\n" in answer
    wait_for(lambda: web.ask("/api/v1/groups", address="127.0.0.2")[0] == 401, 10)


def test_many_addresses_with_unfinished_requests_keep_nobody_out(web: Web) -> None:
    with ExitStack() as held:
        for number in range(400):
            one = held.enter_context(web.open(f"127.0.1.{number % 200 + 1}"))
            one.sendall(b"POST /api/v1/groups HTTP/1.1\r\n")
        assert web.ask("/healthz")[0] == 200
        assert web.ask("/api/v1/groups")[0] == 401


def test_when_all_are_at_work_a_health_check_is_answered(web: Web) -> None:
    """Nobody who is at work is put out for another one."""
    head = HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000  # 6 s until it is too slow
    with ExitStack() as held:
        addresses = (f"127.0.1.{number % 200 + 1}" for number in itertools.count())

        def one_more() -> None:
            held.enter_context(one := web.open(next(addresses)))
            with suppress(OSError):  # put out for the next one, before its head was read
                one.sendall(head)

        for _ in range(200):
            one_more()
        wait_for(lambda: one_more() or web.ask("/api/v1/groups")[0] == 503, 10)
        assert web.ask("/healthz")[0] == 200


def test_a_proxy_is_not_one_client(web: Web) -> None:
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(web.open(PROXY))
        assert web.ask("/api/v1/groups", address=PROXY)[0] == 401


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A server that may open few files, and has patience."""
    folder = tmp_path_factory.mktemp("few")
    limits = {"MAX_CONNECTIONS": "4000", "CONNECTIONS_PER_ADDRESS": "4000", "HEAD_SECONDS": "60", "BODY_SECONDS": "60"}
    started = Web(folder, "-m", "tests.echo", files=(128, 500), **limits)
    yield started
    started.process.kill()
    started.process.wait()


def test_the_limit_of_open_files_is_raised_and_kept_to(few: Web) -> None:
    limits = Path(f"/proc/{few.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3] == "500"
    with ExitStack() as held:
        for _ in range(700):
            held.enter_context(few.open())
        assert few.ask("/healthz")[0] == 200
    assert "fewer connections than MAX_CONNECTIONS" in few.log.read_text()


def test_it_ends_beside_unfinished_requests(few: Web) -> None:
    with few.open() as head, few.open() as body, few.open() as flood:
        head.sendall(b"GET / HT")
        body.sendall(b"POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        flood.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: few.json("/")["told"]["sent"], 10)
        few.end()


# --- who says what ---


def test_headers_of_a_proxy_are_believed_from_a_proxy(echo: Web) -> None:
    sent = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "Forwarded: for=1.2.3.4"]
    sent += ["Daphne-Root-Path: //evil.example", "X_Forwarded_For: 1.2.3.4", "X-Other: yes"]
    direct, proxied = echo.json("/", *sent), echo.json("/", *sent, address=PROXY)
    assert direct["root_path"] == proxied["root_path"] == ""
    assert {name for name, _ in direct["headers"]} == {"host", "connection", "content-length", "x-other"}
    assert ["x-forwarded-proto", "https"] in proxied["headers"] and ["x-forwarded-for", "1.2.3.4"] in proxied["headers"]
    assert not {"daphne-root-path", "x_forwarded_for"} & {name for name, _ in proxied["headers"]}


def test_no_client_says_where_berth_lives(web: Web) -> None:
    code, answer = web.ask("/admin/", "Daphne-Root-Path: //evil.example")
    assert code == 302 and "evil" not in answer


def test_the_status_line_knows_its_status(web: Web) -> None:
    answer = web.say(b"POST /agent/v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    from controlplane.server import PHRASES

    assert PHRASES[422].startswith(b"Unprocessable ")


# --- the pace of the other side ---


def test_a_body_is_taken_as_the_application_takes_it(echo: Web) -> None:
    with echo.open() as one:
        one.settimeout(1)
        one.sendall(b"POST /idle HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n")
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        rest_of_it = b"x" * 900_000
        sent = 0
        try:
            while sent < len(rest_of_it):
                sent += one.send(rest_of_it[sent : sent + 4096])
        except TimeoutError:
            pass
    before = echo.json("/")["told"]["taken"]
    size = 30_000_000
    head = b"POST /drain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    assert echo.say(head, b"x" * size).startswith(b"HTTP/1.1 200 ")
    assert echo.json("/")["told"]["taken"] - before == size


def still(echo: Web) -> int:
    """How much was sent to readers that don't read, when it grows no more."""
    last = -1

    def same() -> bool:
        nonlocal last
        before, last = last, echo.json("/")["told"]["sent"]
        time.sleep(0.2)
        return last == before > 0

    wait_for(same, 20, "no end of what is sent to who does not read")
    return last


def test_who_does_not_read_is_not_written_for(echo: Web) -> None:
    with echo.open() as one:
        one.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        before = still(echo)
        assert before < 16 << 20
        with connect(f"ws://127.0.0.1:{echo.port}/", max_queue=1, max_size=None, close_timeout=0.1) as page:
            page.send("flood")
            assert still(echo) - before < 32 << 20


def test_a_page_sends_small_frames(echo: Web) -> None:
    with connect(f"ws://127.0.0.1:{echo.port}/") as page:
        page.send("x" * 60_000)
        assert page.recv(5) == "60000"
        page.send("x" * 70_000)
        with pytest.raises(ConnectionClosed):
            page.recv(5)
    with connect(f"ws://127.0.0.1:{echo.port}/") as page:
        page.send(["x" * 40_000, "y" * 40_000])
        with pytest.raises(ConnectionClosed):
            page.recv(5)


def test_requests_follow_one_another_on_a_connection(echo: Web) -> None:
    one_more = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert echo.say(b"GET /drain HTTP/1.1\r\nHost: localhost\r\n\r\n", last).count(b"HTTP/1.1 200 OK") == 2
    assert echo.say(one_more.replace(b" / ", b" /drain ") * 3 + last).count(b"HTTP/1.1 200 OK") == 4


def test_an_address_that_is_taken_is_said(web: Web) -> None:
    words = [sys.executable, "manage.py", "runweb", "-p", str(web.port)]
    env = os.environ | ENV | {"SECRET_KEY": "x" * 50, "DATA_DIR": str(web.log.parent)}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "in use" in done.stderr
