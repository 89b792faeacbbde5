"""Tunnels: what gets through, and what is closed before a byte of it reaches the server."""

import socket
import ssl

import pytest

from egress.channel import RECEIVE_SIZE, WRITE_BUFFER
from testbed import sites
from testbed.sites import Site
from testbed.waiting import wait_for
from tests.egress.conftest import HOST, UMLAUT, Proxy, read_all


def test_tls_to_an_allowed_host_gets_through_both_ways(proxy: Proxy) -> None:
    site = proxy.site()
    with proxy.secure(site.port) as secure:
        secure.sendall(b"hello")
        assert secure.recv(100) == b"hello"
        certificate = secure.getpeercert()
    assert certificate and ("DNS", HOST) in certificate["subjectAltName"]


def test_a_hello_that_comes_with_the_connect_is_not_lost(proxy: Proxy) -> None:
    site = proxy.site()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = sites.client_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    connection = proxy.connect()
    head = "Host: x\r\nProxy-Authorization: Basic cnVuLWE6c2VjcmV0LWE=\r\n\r\n"
    connection.sendall(f"CONNECT {HOST}:{site.port} HTTP/1.1\r\n{head}".encode() + outgoing.read())
    data = b""
    while b"\r\n\r\n\x16\x03" not in data:
        part = connection.recv(4096)
        assert part, data
        data += part
    assert data.startswith(b"HTTP/1.1 200 ")


def test_names_are_compared_without_case_and_final_dot(proxy: Proxy) -> None:
    site = proxy.site()
    with proxy.secure(site.port, host="SITE.Example.", name="SitE.exAmple") as secure:
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"
    assert {question["host"] for question in proxy.rules.asked} == {HOST}


def test_international_names_are_compared_as_a_labels(proxy: Proxy) -> None:
    site = proxy.site(host=UMLAUT)
    with proxy.secure(site.port, host="XN--bcher-KVA.example", name="bücher.example") as secure:
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"


def test_another_server_name_is_closed_before_a_byte_reaches_the_server(proxy: Proxy) -> None:
    site = proxy.site(sites.note)
    with pytest.raises(OSError):
        proxy.secure(site.port, name="other.example")
    (denial,) = wait_for(lambda: proxy.rules.denied("hello"))
    assert denial["host"] == HOST and "other.example" in denial["reason"]
    assert wait_for(lambda: proxy.rules.ended("hello"))
    assert site.raw == b""


def test_no_server_name_is_closed_before_a_byte_reaches_the_server(proxy: Proxy) -> None:
    site = proxy.site(sites.note)
    with pytest.raises(OSError):
        proxy.secure(site.port, name=None)
    assert wait_for(lambda: proxy.rules.denied("hello"))
    assert site.raw == b""


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"\x80\x2e\x01"]
)
def test_other_protocols_are_closed_before_a_byte_reaches_the_server(proxy: Proxy, words: bytes) -> None:
    site = proxy.site(sites.note)
    connection = proxy.tunnel(site.port)
    connection.sendall(words)
    assert read_all(connection) == b""
    (denial,) = wait_for(lambda: proxy.rules.denied("hello"))
    assert "not TLS" in denial["reason"]
    assert site.raw == b""


def test_a_server_that_speaks_first_is_not_heard(proxy: Proxy) -> None:
    def greet(connection: socket.socket, site: Site) -> None:
        connection.sendall(b"220 mail.example ESMTP\r\n")
        sites.note(connection, site)

    site = proxy.site(greet)
    connection = proxy.tunnel(site.port)
    wait_for(lambda: site.connections)
    connection.sendall(b"EHLO x\r\n")
    assert read_all(connection) == b""
    assert site.raw == b""


def test_a_second_hello_after_a_retry_must_name_the_host_too(proxy: Proxy) -> None:
    site = proxy.site(sites.note)
    connection = proxy.tunnel(site.port)
    first, second = (hello_for(name) for name in (HOST, "other.example"))
    connection.sendall(first)
    wait_for(lambda: bytes(site.raw) == first)
    connection.sendall(b"\x14\x03\x03\x00\x01\x01" + second)
    assert read_all(connection) == b""
    assert wait_for(lambda: proxy.rules.denied("hello"))
    assert bytes(site.raw) in (first, first + b"\x14\x03\x03\x00\x01\x01")


def hello_for(name: str) -> bytes:
    """The bytes with which a real client begins."""
    outgoing = ssl.MemoryBIO()
    client = sites.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_client_that_half_closes_gets_the_rest_of_the_answer(proxy: Proxy) -> None:
    answer = b"z" * 300_000

    def late(connection: socket.socket, site: Site) -> None:
        sites.note(connection, site)  # until the client has ended
        connection.sendall(answer)
        connection.close()

    site = proxy.site(late)
    connection = proxy.tunnel(site.port)
    connection.sendall(hello_for(HOST))
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == answer
    assert wait_for(lambda: proxy.rules.ended("client"))


def test_a_slow_reader_holds_the_sender_up_instead_of_filling_the_proxy(proxy: Proxy) -> None:
    sent = [0]

    def flood(connection: socket.socket, site: Site) -> None:
        connection.recv(100)
        while sent[0] < 256 * 1024 * 1024:
            sent[0] += connection.send(b"x" * 65536)

    site = proxy.site(flood)
    connection = proxy.tunnel(site.port)
    connection.sendall(hello_for(HOST))
    (tunnel,) = wait_for(lambda: [tunnel for tunnel in proxy.tunnels if tunnel.client.paused])
    assert tunnel.client.transport.get_write_buffer_size() <= WRITE_BUFFER + RECEIVE_SIZE
    assert sent[0] < 64 * 1024 * 1024
    connection.settimeout(None)
    got = 0
    while got < 16 * 1024 * 1024:
        got += len(connection.recv(1 << 20))


def test_bytes_are_counted_and_told_while_the_tunnel_is_open(proxy: Proxy) -> None:
    site = proxy.site()
    with proxy.secure(site.port) as secure:
        secure.sendall(b"x" * 100_000)
        got = 0
        while got < 100_000:
            got += len(secure.recv(65536))
        (live,) = wait_for(lambda: [one for one in proxy.rules.tunnels.values() if one["received"] > 100_000])
        assert live["ended"] is None and live["cause"] is None
        assert live["sent"] > 100_000
        assert (live["run"], live["host"], live["port"]) == ("run-a", HOST, site.port)
    (ended,) = wait_for(lambda: proxy.rules.ended("client"))
    assert ended["id"] == live["id"]
    assert ended["ended"] >= ended["opened"]
