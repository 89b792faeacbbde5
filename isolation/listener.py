"""A listener beside the control plane, on a port that no agent has business with: it notes who connects."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from isolation.environment import Place

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ncanary"


class Canary:
    """Listens from `with` on. `heard` has the addresses of those who connected."""

    def __init__(self, towards: Place) -> None:
        """`towards` is where pods call home: the canary is found at that address, or at the one that leads there."""
        self.heard: list[str] = []
        self.place = Place(own_address(towards), 0)
        self._server: socket.socket | None = None

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.place.address else socket.AF_INET
        self._server = socket.create_server((self.place.address, 0), family=family)
        self.place = Place(self.place.address, self._server.getsockname()[1])
        with socket.create_connection((self.place.address, self.place.port), 3):  # else it would hear nobody
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
                talk, peer = server.accept()
            except OSError:
                return
            self.heard.append(str(peer[0]))
            with contextlib.suppress(OSError), talk:
                talk.sendall(ANSWER)


def own_address(towards: Place) -> str:
    """This machine's address on the way to a place; that place's own, if it is here."""
    found = socket.getaddrinfo(towards.address, towards.port, type=socket.SOCK_DGRAM)
    family, _, _, _, address = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def answers(place: Place) -> bool:
    """Whether anybody answers at a place, from here."""
    try:
        socket.create_connection((place.address, place.port), 1.5).close()
    except OSError:
        return False
    return True
