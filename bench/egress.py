"""Egress: what the proxy costs between an agent and the outside. The real program, with a control plane that answers
from memory and a TLS server, each a process of its own; everything on this machine.

CONNECT: from the TCP connection to the first byte through TLS, through the proxy and without it by turns; the floor is
the one without. The name is looked up in the hosts file, so no name server's time is in it. Decisions are kept, as for
any host that was asked for in the last seconds; what a fresh one costs beside that is told below. 200 MB: from the
server to the client through TLS, best of 10 by turns. Memory: resident memory (VmRSS) with 1,000 tunnels open, each of
which has carried a handshake's bytes; the floor is the proxy before.
"""

import multiprocessing
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from bench.harness import Figure, Outcome, median, percentile, times
from testbed.egress_control_plane import TOKEN, ControlPlane, Rules, authorization
from testbed.sites import Site, server_context
from testbed.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
CONNECTS, FRESH, ROUNDS, TUNNELS = 500, 200, 10, 1000
SIZE, PART = 200 * 1024 * 1024, 256 * 1024  # bytes
EXTRA, SHARE, RSS = 0.002, 0.8, 100 * 1024 * 1024  # the targets: seconds, ratio, bytes
ALLOWED = [("run", "secret"), *((f"run-{number}", f"secret-{number}") for number in range(FRESH))]
Dial = Callable[..., socket.socket]


def run() -> Outcome:
    """Measure; three rows."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        site = stack.enter_context(_process(_serve_site))
        control = stack.enter_context(_process(_serve_control, site))
        proxy, process = stack.enter_context(_proxy(Path(folder), control))
        direct: Dial = lambda: _direct(site)  # noqa: E731
        through: Dial = lambda user="run:secret": _through(proxy, site, user)  # noqa: E731
        rows, notes = _connects(direct, through, process)
        rows.append(_bytes(direct, through))
        rows.append(_memory(through, process))
    return Outcome(rows, notes)


def _connects(direct: Dial, through: Dial, process: psutil.Process) -> tuple[list[Figure], list[str]]:
    for dial in (direct, through) * 20:  # warm up
        _first_byte(dial)
    spent = sum(process.cpu_times()[:2])
    pairs = [(_first_byte(direct), _first_byte(through)) for _ in range(CONNECTS)]
    spent = (sum(process.cpu_times()[:2]) - spent) / CONNECTS
    floor, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    extra = median(ours) - median(floor)
    fresh = [_first_byte(lambda number=number: through(f"run-{number}:secret-{number}")) for number in range(FRESH)]
    met = extra <= EXTRA
    row = Figure("egress, CONNECT", _spread(ours), _spread(floor), f"p50 +{extra * 1000:.2f} ms", "p50 ≤ +2 ms", met)
    notes = [
        f"With a decision that was not kept: {_spread(fresh)}, of which the control plane here takes next to nothing.",
        f"A CONNECT takes {spent * 1000:.2f} ms of the proxy's processor time.",
    ]
    return [row], notes


def _bytes(direct: Dial, through: Dial) -> Figure:
    pairs = [(_rate(direct), _rate(through)) for _ in range(ROUNDS)]
    floor, ours = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    share, target = ours / floor, f"≥ {times(SHARE)}"
    return Figure("egress, 200 MB", _speed(ours), _speed(floor), times(share), target, share >= SHARE)


def _memory(through: Dial, process: psutil.Process) -> Figure:
    before = process.memory_info().rss
    opened = [through() for _ in range(TUNNELS)]
    after = process.memory_info().rss
    for connection in opened:
        connection.close()
    name = f"egress, {TUNNELS:,} tunnels"
    return Figure(name, _mib(after), f"before {_mib(before)}", _mib(after), "≤ 100 MiB", after <= RSS)


def _first_byte(dial: Dial) -> float:
    begin = time.perf_counter()
    connection = dial()
    connection.sendall(b"e")
    assert connection.recv(1) == b"e"
    end = time.perf_counter()
    connection.close()
    return end - begin


def _rate(dial: Dial) -> float:
    """Bytes a second, of 200 MB."""
    with dial() as connection:
        buffer, got = bytearray(PART), 0
        begin = time.perf_counter()
        connection.sendall(b"d")
        while got < SIZE:
            got += connection.recv_into(buffer)
        return SIZE / (time.perf_counter() - begin)


def _direct(site: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", site))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _client().wrap_socket(connection, server_hostname="localhost")


def _through(proxy: int, site: int, user: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    place = f"localhost:{site}"
    connection.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization(user)}\r\n".encode())
    answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return _client().wrap_socket(connection, server_hostname="localhost")


CONTEXT: list[ssl.SSLContext] = []


def _client() -> ssl.SSLContext:
    """One client's side for all, which takes any certificate."""
    if not CONTEXT:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        CONTEXT.append(context)
    return CONTEXT[0]


@contextmanager
def _process(serve: Callable[..., None], *arguments: int) -> Iterator[int]:
    """A process that serves until it is ended; gives its port."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def _serve_site(pipe: Connection) -> None:
    """TLS: "e" is sent back, "d" is answered with 200 MB."""
    context = server_context()

    def talk(connection: socket.socket, _: Site) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(connection, server_side=True) as secure:
            while word := secure.recv(1):
                for part in [word] if word == b"e" else [bytes(PART)] * (SIZE // PART):
                    secure.sendall(part)

    pipe.send(Site(talk).port)
    pipe.recv()


def _serve_control(pipe: Connection, site: int) -> None:
    rules = Rules(credentials=dict(ALLOWED))
    for name, _ in ALLOWED:
        rules.allow("localhost", site, name)
    pipe.send(ControlPlane(rules).server_address[1])
    pipe.recv()


@contextmanager
def _proxy(folder: Path, control: int) -> Iterator[tuple[int, psutil.Process]]:
    """The proxy, as a program."""
    (folder / "token").write_text(TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = int(one.getsockname()[1])
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "BERTH_URL": f"http://127.0.0.1:{control}",
        "EGRESS_TOKEN_FILE": str(folder / "token"), "EGRESS_LISTEN": f"127.0.0.1:{port}", "EGRESS_HEALTH": "0",
        "EGRESS_EXCEPTIONS": "localhost=127.0.0.1,localhost=::1", "EGRESS_TUNNELS": "0", "EGRESS_CONNECTS": "0",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "egress"], env=environment, stderr=log)
    try:
        wait_for(lambda: b'"listening"' in (folder / "log").read_bytes(), 20, "the proxy")
        yield port, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def _spread(values: list[float]) -> str:
    return f"p50 {median(values) * 1000:.2f} ms, p99 {percentile(values, 0.99) * 1000:.1f} ms of {len(values)}"


def _speed(rate: float) -> str:
    return f"{rate / 1e6:,.0f} MB/s"


def _mib(size: float) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"
