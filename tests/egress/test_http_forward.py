"""Plain HTTP: the URL's host counts, nothing of the proxy's own reaches the server, each request is judged."""

import socket

import pytest

from testbed import sites
from testbed.egress_control_plane import authorization
from testbed.sites import Site
from testbed.waiting import wait_for
from tests.egress.conftest import HOST, LOOPBACK, Proxy, Reply, read_all


def lines(site: Site) -> list[str]:
    """The request as the site got it, headers in lower case."""
    head = bytes(site.raw).partition(b"\r\n\r\n")[0].decode()
    first, *headers = head.split("\r\n")
    return [first, *(line.lower() for line in headers)]


def test_a_request_to_an_allowed_host_is_answered(proxy: Proxy) -> None:
    site = proxy.site(sites.hello_http)
    reply = proxy.request("GET", f"http://{HOST}:{site.port}/a/b?c=d%20e")
    assert (reply.status, reply.body) == (200, b"hello")
    assert lines(site)[0] == "GET /a/b?c=d%20e HTTP/1.1"
    assert b"X-Site: yes" in reply.head
    (tunnel,) = wait_for(lambda: proxy.rules.ended("server"))
    assert tunnel["sent"] > 0 and tunnel["received"] > 5


@pytest.mark.parametrize(("url", "path"), [("", "/"), ("/", "/"), ("?q=1", "/?q=1"), ("//x/../y", "//x/../y")])
def test_the_path_goes_on_as_it_was_written(proxy: Proxy, url: str, path: str) -> None:
    site = proxy.site(sites.hello_http)
    assert proxy.request("GET", f"HTTP://{HOST}:{site.port}{url}").status == 200
    assert lines(site)[0] == f"GET {path} HTTP/1.1"


def test_the_urls_host_counts_and_not_the_host_header(proxy: Proxy) -> None:
    site = proxy.site(sites.hello_http)
    reply = proxy.send(
        f"GET http://{HOST}:{site.port}/ HTTP/1.1\r\nHost: evil.example\r\n{authorization('run-a:secret-a')}\r\n"
    )
    assert reply.status == 200
    assert [line for line in lines(site) if line.startswith("host:")] == [f"host: {HOST}:{site.port}"]
    assert "evil" not in site.raw.decode()


def test_two_host_headers_get_400(proxy: Proxy) -> None:
    site = proxy.site(sites.hello_http)
    assert proxy.request("GET", f"http://{HOST}:{site.port}/", headers=f"Host: {HOST}\r\n").status == 400
    assert not site.connections


def test_what_is_for_the_proxy_alone_never_reaches_the_server(proxy: Proxy) -> None:
    site = proxy.site(sites.hello_http)
    headers = (
        "Connection: X-Secret, content-length, HOST\r\nProxy-Connection: keep-alive\r\nX-Secret: 1\r\n"
        "TE: trailers\r\nUpgrade: websocket\r\nKeep-Alive: 5\r\nAuthorization: Bearer mine\r\nContent-Length: 2\r\n"
    )
    reply = proxy.request("POST", f"http://{HOST}:{site.port}/", headers=headers, body="ab")
    assert reply.status == 200
    names = [line.partition(":")[0] for line in lines(site)[1:]]
    assert sorted(names) == ["authorization", "connection", "content-length", "host", "via"]
    assert "connection: close" in lines(site)
    assert b"secret-a" not in site.raw and b"cnVuLWE" not in site.raw
    assert b"keep-alive" not in reply.head.lower()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_carried(proxy: Proxy, chunked: bool) -> None:
    site = proxy.site(sites.note)
    body = b"\xff" * 250_000
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    connection = proxy.connect()
    head = f"POST http://{HOST}:{site.port}/ HTTP/1.1\r\nHost: x\r\n{authorization('run-a:secret-a')}".encode()
    connection.sendall(head + framing + b"\r\n\r\n" + sent)
    wait_for(lambda: site.raw.count(b"\xff") == len(body))  # chunks may be cut elsewhere
    site.connections[0].sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert Reply(read_all(connection)).status == 204


def test_expect_continue_is_asked_of_the_server(proxy: Proxy) -> None:
    site = proxy.site(sites.note)
    connection = proxy.connect()
    connection.sendall(
        f"PUT http://{HOST}:{site.port}/ HTTP/1.1\r\nHost: x\r\n{authorization('run-a:secret-a')}"
        "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n".encode()
    )
    wait_for(lambda: b"expect: 100-continue" in site.raw.lower())
    site.connections[0].sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.sendall(b"hello")
    wait_for(lambda: site.raw.endswith(b"hello"))
    site.connections[0].sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    assert Reply(read_all(connection)).status == 201


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 300000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_an_answer_of_any_framing_arrives_whole(proxy: Proxy, framing: bytes) -> None:
    body = b"x" * 300_000

    def answer(connection: socket.socket, site: Site) -> None:
        connection.recv(65536)
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if b"chunked" in framing else body
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + sent)
        connection.close()

    site = proxy.site(answer)
    reply = proxy.request("GET", f"http://{HOST}:{site.port}/")
    assert reply.status == 200
    assert reply.body.count(b"x") == 300_000


def test_an_answer_that_breaks_off_is_seen_to_be_broken(proxy: Proxy) -> None:
    def answer(connection: socket.socket, site: Site) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        connection.close()

    site = proxy.site(answer)
    assert not proxy.request("GET", f"http://{HOST}:{site.port}/").body.startswith(b"half\r\n")


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"]
)
def test_a_server_that_speaks_no_http_gives_502(proxy: Proxy, answer: bytes) -> None:
    def speak(connection: socket.socket, site: Site) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        connection.close()

    site = proxy.site(speak)
    assert proxy.request("GET", f"http://{HOST}:{site.port}/").status == 502


def test_each_request_of_a_connection_is_judged_for_itself(proxy: Proxy) -> None:
    site = proxy.site(sites.hello_http)
    first = f"GET http://{HOST}:{site.port}/ HTTP/1.1\r\nHost: x\r\n{authorization('run-a:secret-a')}\r\n"
    second = f"GET http://evil.example/ HTTP/1.1\r\nHost: x\r\n{authorization('run-a:secret-a')}\r\n"
    reply = proxy.send(first + second)
    assert reply.status == 200
    assert b"Connection: close" in reply.head
    assert reply.data.count(b"HTTP/1.1 ") == 1
    assert b"evil" not in site.raw


def test_a_head_request_is_refused_without_a_body(proxy: Proxy) -> None:
    reply = proxy.request("HEAD", "http://new.example/")
    assert (reply.status, reply.body) == (403, b"")


def test_a_redirect_is_the_clients_to_follow_and_judged_again(proxy: Proxy) -> None:
    def redirect(connection: socket.socket, site: Site) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n")

    site = proxy.site(redirect)
    assert proxy.request("GET", f"http://{HOST}:{site.port}/").status == 302
    assert proxy.request("GET", f"http://{LOOPBACK}/").status == 403


def test_python_urllib_goes_through_the_proxy(proxy: Proxy) -> None:
    import urllib.request

    site = proxy.site(sites.hello_http)
    address = f"http://run-a:secret-a@{LOOPBACK}:{proxy.server.port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": address}))
    with opener.open(f"http://{HOST}:{site.port}/", timeout=30) as answer:
        assert answer.read() == b"hello"
