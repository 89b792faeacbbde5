"""A listener beside the control plane, on a port that no agent has business with: it notes who connects."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from isolation.environment import Endpoint

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ncanary"


class Listener:
    """Listens from `with` on. `peers` are the addresses of those who connected."""

    def __init__(self, towards: Endpoint) -> None:
        """`towards` is where pods find the control plane: the listener has this machine's address on the way there."""
        self.peers: list[str] = []
        self.endpoint = Endpoint(own_address(towards), 0)
        self._server: socket.socket | None = None

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.endpoint.address else socket.AF_INET
        self._server = socket.create_server((self.endpoint.address, 0), family=family)
        self.endpoint = Endpoint(self.endpoint.address, self._server.getsockname()[1])
        with socket.create_connection((self.endpoint.address, self.endpoint.port), 3):  # shows that it can be reached
            self._server.accept()[0].close()
        threading.Thread(target=self._listen, args=(self._server,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._server.close()

    def _listen(self, server: socket.socket) -> None:
        while True:
            try:
                connection, peer = server.accept()
            except OSError:
                return
            self.peers.append(str(peer[0]))
            with contextlib.suppress(OSError), connection:
                connection.sendall(ANSWER)


def own_address(towards: Endpoint) -> str:
    """This machine's address on the way to an endpoint; that endpoint's own, if it is here."""
    found = socket.getaddrinfo(towards.address, towards.port, type=socket.SOCK_DGRAM)
    family, _, _, _, address = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def accepts_connections(endpoint: Endpoint) -> bool:
    """Whether an endpoint accepts a connection from here."""
    try:
        socket.create_connection((endpoint.address, endpoint.port), 1.5).close()
    except OSError:
        return False
    return True
