"""The proxy with its own loop in a thread, a control plane, sites; and a client that speaks to it over real sockets."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from egress.server import Server
from egress.settings import Settings
from testbed import sites
from testbed.egress_control_plane import TOKEN, ControlPlane, Rules, authorization
from testbed.sites import Site

HOST, OTHER, UMLAUT = "site.example", "other.example", "xn--bcher-kva.example"
LOOPBACK = "127.0.0.1"


class Names:
    """A resolver: name → addresses. `asked` are the names that were looked up; `hold` is waited for first."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.next: dict[str, list[str]] = {}  # what a name is to have after it was asked for once
        self.asked: list[str] = []
        self.hang = False

    async def resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        name = host.rstrip(".")
        self.asked.append(name)
        if self.hang:
            await asyncio.Event().wait()
        found = self.addresses.get(name)
        if found is None:
            raise socket.gaierror("no such name")
        self.addresses[name] = self.next.get(name, found)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]


class Reply:
    """What the proxy or a server answered: status, head and body."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.head, _, self.body = data.partition(b"\r\n\r\n")
        self.status = int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/") else 0
        self.text = self.body.decode(errors="replace")


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes, however it does."""
    data = bytearray()
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            data += part
    return bytes(data)


class Proxy:
    """A proxy in a thread. Everything made here is ended by `close`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        token = folder / "token"
        token.write_text(TOKEN + "\n")
        self.rules = Rules()
        self.control = ControlPlane(self.rules)
        self.names = Names()
        self.sites: list[Site] = []
        self.sockets: list[socket.socket] = []
        defaults: dict[str, Any] = {
            "url": self.control.url,
            "token_file": token,
            "listen": (LOOPBACK, 0),
            "health": 0,
            "exceptions": {name: frozenset({ip_address(LOOPBACK)}) for name in (HOST, OTHER, UMLAUT)},
            "drain_seconds": 0,
        }
        self.settings = Settings(**{**defaults, **settings})
        self.loop = asyncio.new_event_loop()
        self.loop.slow_callback_duration = 10
        self.problems: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server = Server(self.settings, self.names.resolve)
        self.call(self.server.start())

    def call(self, work: Any) -> Any:
        """Run a coroutine in the proxy's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def site(self, talk: Callable[[socket.socket, Site], None] = sites.echo_tls, host: str = HOST) -> Site:
        """Start a server that the host name leads to, and allow run-a to reach it."""
        site = Site(talk)
        self.sites.append(site)
        self.names.addresses[host] = [LOOPBACK]
        self.rules.allow(host, site.port)
        return site

    def connect(self) -> socket.socket:
        """A bare connection to the proxy."""
        connection = socket.create_connection((LOOPBACK, self.server.port), timeout=30)
        self.sockets.append(connection)
        return connection

    def send(self, data: bytes | str) -> Reply:
        """Send bytes, and return all that comes back until the proxy closes."""
        connection = self.connect()
        connection.sendall(data.encode() if isinstance(data, str) else data)
        return Reply(read_all(connection))

    def request(
        self, method: str, target: str, *, user: str = "run-a:secret-a", headers: str = "", body: str = ""
    ) -> Reply:
        """Make one request and return the whole answer."""
        return self.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization(user)}{headers}\r\n{body}")

    def tunnel(self, port: int, host: str = HOST, user: str = "run-a:secret-a") -> socket.socket:
        """CONNECT, and return the connection once the proxy said 200."""
        connection = self.connect()
        target = f"{host}:{port}"
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization(user)}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = connection.recv(1)
            assert part, head
            head += part
        assert Reply(head).status == 200, head + read_all(connection)
        return connection

    def secure(
        self, port: int, host: str = HOST, name: str | None = HOST, user: str = "run-a:secret-a"
    ) -> ssl.SSLSocket:
        """A tunnel with TLS in it, whose hello names `name`."""
        context = sites.client_context()
        if name is None:
            context.check_hostname = False
        secured = context.wrap_socket(self.tunnel(port, host, user), server_hostname=name)
        self.sockets.append(secured)
        return secured

    @property
    def tunnels(self) -> list[Any]:
        """What is open in the proxy."""
        return list(self.server.state.tunnels.by_id.values())

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()
        self.call(self.server.stop())
        tasks = self.call(self._tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.control.stop()
        for site in self.sites:
            site.close()
        assert not self.server.handlers
        assert tasks == [], tasks
        assert self.problems == []

    async def _tasks(self) -> list[Any]:
        """What is left over when the proxy has ended."""
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


Make = Callable[..., Proxy]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that starts a proxy with some settings."""
    made: list[Proxy] = []

    def start(**settings: Any) -> Proxy:
        made.append(Proxy(tmp_path, **settings))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def proxy(make: Make) -> Proxy:
    """A proxy as it comes."""
    return make()
