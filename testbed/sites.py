"""Servers of the outside world for tests: they note each byte that reaches them."""

import datetime
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES = ("site.example", "*.site.example", "other.example", "xn--bcher-kva.example")


@cache
def certificate() -> Path:
    """A file with a key and a certificate that it signed itself, for NAMES."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAMES[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = Path(mkdtemp()) / "site.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def server_context() -> ssl.SSLContext:
    """A TLS server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate())
    return context


def client_context() -> ssl.SSLContext:
    """A TLS client's side, which trusts the certificate."""
    return ssl.create_default_context(cafile=str(certificate()))


class Site:
    """Accepts connections; `talk` serves each. `raw` is what came over TCP, with TLS or without."""

    def __init__(self, talk: Callable[[socket.socket, "Site"], None]) -> None:
        self.talk = talk
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.raw = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self.talk(connection, self)

    def close(self) -> None:
        """Close all."""
        for one in (self.listener, *self.connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def echo_tls(connection: socket.socket, site: Site) -> None:
    """TLS, then what comes goes back, until the client ends."""
    site.raw += connection.recv(1, socket.MSG_PEEK)
    with server_context().wrap_socket(connection, server_side=True) as secure:
        while data := secure.recv(65536):
            secure.sendall(data)


def note(connection: socket.socket, site: Site) -> None:
    """Note all that comes, and say nothing."""
    while data := connection.recv(65536):
        site.raw += data


def hello_http(connection: socket.socket, site: Site) -> None:
    """Answer one HTTP request that has no body, or one with Content-Length; `raw` is the request."""
    while b"\r\n\r\n" not in site.raw:
        data = connection.recv(65536)
        if not data:
            return
        site.raw += data
    head, _, body = bytes(site.raw).partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        data = connection.recv(65536)
        site.raw += data
        body += data
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\nX-Site: yes\r\n\r\nhello")
    connection.close()
