"""The outside of a cluster, on this machine: a site that speaks TLS, the egress proxy with names that play tricks, and
a way to PostgreSQL that pods would reach if nothing kept them from it."""

import asyncio
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from testbed.stack import ROOT
from testbed.waiting import wait_for

NODE = os.environ.get("TEST_NODE_IP", "127.0.0.1")
ALLOWED, PRIVATE, CNAME, REBINDING = (f"{name}.berth.example" for name in ("allowed", "private", "cname", "rebinding"))
ANOTHER = "127.0.0.2"  # of this machine too, where nothing listens


class Site:
    """A TLS server of the outside world; `/redirect` leads to an address of this machine."""

    def __init__(self, folder: Path) -> None:
        pem = folder / "site.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", f"/CN={ALLOWED}", "-days", "2", "-keyout", str(pem), "-out", f"{pem}.crt"]
        subprocess.run([*command, *names], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{pem}.crt", str(pem))
        self.server = http.server.ThreadingHTTPServer((NODE, 0), Pages)
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()


class Pages(http.server.BaseHTTPRequestHandler):
    """What the site answers."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", f"https://{NODE}:6443/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the outside world")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Way:
    """A port of this machine's address that leads to a port of its loopback."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.server = socket.create_server((NODE, 0))
        self.port = int(self.server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        self.server.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self.server.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.to))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            other.close()


class Proxy:
    """The egress proxy as a process, with the resolver below."""

    def __init__(self, folder: Path, url: str, token: str, port: int, health: int) -> None:
        file = folder / "egress-token"
        file.write_text(token)
        self.log = folder / "egress.log"
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TEST_NODE_IP": NODE, "BERTH_URL": url,
            "EGRESS_TOKEN_FILE": str(file), "EGRESS_LISTEN": f"{NODE}:{port}", "EGRESS_HEALTH": str(health),
            "EGRESS_EXCEPTIONS": f"{ALLOWED}={NODE},{REBINDING}={ANOTHER}",
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.whole.outside"], env=env, stderr=log, cwd=ROOT
            )
        wait_for(lambda: b"listening" in self.log.read_bytes(), 20, f"the proxy; see {self.log}")

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


_looks = count()


async def resolve(name: str, port: int, **_: Any) -> Sequence[Any]:
    """As `loop.getaddrinfo`, for the names of this module: an alias has its target's address, as it always has there.

    The one that is rebound has an address that its host may have, then this machine's, and so on in turn.
    """
    found = {
        ALLOWED: NODE,
        PRIVATE: NODE,
        CNAME: NODE,
        REBINDING: (ANOTHER, NODE)[next(_looks) % 2] if name.rstrip(".") == REBINDING else "",
    }
    address = found.get(name.rstrip("."))
    if address is None:
        raise OSError(f"no such name: {name}")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


async def main() -> None:
    """Serve as `python -m egress` does."""
    from egress.server import Server
    from egress.settings import read_settings

    server = Server(read_settings(), resolve)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
