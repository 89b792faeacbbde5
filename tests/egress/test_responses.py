"""Who is turned away, with which status and words, and what the control plane is told of it."""

import socket

import pytest

from testbed import sites
from testbed.waiting import wait_for
from tests.egress.conftest import HOST, LOOPBACK, OTHER, Make, Proxy

LITERALS = (
    "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "017700000001", "127.0.0.1.",
    "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "8.8.8.8", "[2606:4700:4700::1111]",
)  # fmt: skip
PRIVATE = (
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.20.0.1", "192.0.0.8", "192.168.0.1",
    "198.18.0.1", "224.0.0.1", "255.255.255.255", "10.96.0.1", "::", "::1", "fd00:ec2::254", "fe80::1", "ff02::1",
    "64:ff9b::a00:1", "2002:a00:1::", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::10.0.0.1", "fe80::1%eth0",
)  # fmt: skip


@pytest.mark.parametrize(
    "user", ["", "run-a", "run-a:", "run-a:wrong", "run-a:secret-b", "run-b:secret-a", "nobody:secret-a", ":secret-a"]
)
@pytest.mark.parametrize("method", ["CONNECT", "GET"])
def test_no_wrong_or_anothers_credential_gets_407(proxy: Proxy, method: str, user: str) -> None:
    site = proxy.site(sites.note)
    place = f"{HOST}:{site.port}"
    reply = proxy.request(method, place if method == "CONNECT" else f"http://{place}/", user=user)
    assert reply.status == 407
    assert b'Proxy-Authenticate: Basic realm="berth"' in reply.head
    assert not site.connections


@pytest.mark.parametrize(
    "line",
    [
        "Proxy-Authorization: Bearer secret-a", "Proxy-Authorization: Basic %%%", "Proxy-Authorization: Basic",
        "Proxy-Authorization: Basic cnVuLWE6c2VjcmV0LWE=\r\nProxy-Authorization: Basic cnVuLWI6c2VjcmV0LWI=",
        "Authorization: Basic cnVuLWE6c2VjcmV0LWE=",
    ],
)  # fmt: skip
def test_a_credential_that_is_none_gets_407(proxy: Proxy, line: str) -> None:
    assert proxy.request("CONNECT", f"{HOST}:443", user="", headers=f"{line}\r\n").status == 407
    assert proxy.rules.asked == []


def test_an_expired_credential_gets_407(make: Make) -> None:
    proxy = make()
    site = proxy.site()
    proxy.secure(site.port).close()
    del proxy.rules.credentials["run-a"]
    proxy.rules.change()
    wait_for(lambda: proxy.server.state.decisions.version == proxy.rules.version)
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 407


def test_a_host_that_is_not_listed_gets_403_that_says_which_rule_is_missing_and_where_to_ask(proxy: Proxy) -> None:
    proxy.names.addresses["new.example"] = ["93.184.216.34"]
    reply = proxy.request("CONNECT", "new.example:443")
    assert reply.status == 403
    assert "no egress rule of this run allows new.example:443" in reply.text
    assert "Ask for it on the group's page." in reply.text
    assert b"no egress rule of this run allows new.example:443" in reply.head.splitlines()[0]
    assert proxy.names.asked == []
    (denial,) = wait_for(lambda: proxy.rules.denied("rule"))
    assert (denial["run"], denial["host"], denial["port"], denial["count"]) == ("run-a", "new.example", 443, 1)


def test_a_host_that_is_listed_for_another_run_gets_403(proxy: Proxy) -> None:
    site = proxy.site()
    assert proxy.request("CONNECT", f"{HOST}:{site.port}", user="run-b:secret-b").status == 403
    assert not site.connections


@pytest.mark.parametrize("port", [22, 25, 8443])
def test_a_port_that_is_not_listed_gets_403(proxy: Proxy, port: int) -> None:
    proxy.rules.allow(HOST)
    reply = proxy.request("CONNECT", f"{HOST}:{port}")
    assert reply.status == 403
    assert f"{HOST}:{port}" in reply.text


def test_connect_to_port_80_gets_403_whatever_the_rules_say(proxy: Proxy) -> None:
    proxy.rules.allow(HOST, 80)
    assert proxy.request("CONNECT", f"{HOST}:80").status == 403
    assert wait_for(lambda: proxy.rules.denied("port"))


def test_many_refusals_of_one_host_are_told_as_one_with_a_count(proxy: Proxy) -> None:
    for _ in range(5):
        assert proxy.request("CONNECT", "new.example:443").status == 403
    wait_for(lambda: sum(denial["count"] for denial in proxy.rules.denied("rule")) == 5)
    assert len(proxy.rules.denials) <= 2  # a report may fall between them


def test_a_refusal_is_never_told_of_a_run_whose_credential_was_not_shown(proxy: Proxy) -> None:
    assert proxy.request("CONNECT", "127.0.0.1:443", user="run-b:wrong").status == 407
    assert proxy.request("CONNECT", "127.0.0.1:443").status == 403
    wait_for(lambda: proxy.rules.denied("literal"))
    assert {denial["run"] for denial in proxy.rules.denials.values()} == {"run-a"}


@pytest.mark.parametrize("method", ["CONNECT", "GET"])
@pytest.mark.parametrize("literal", LITERALS)
def test_an_ip_literal_in_any_spelling_gets_403_even_if_a_rule_names_it(
    proxy: Proxy, literal: str, method: str
) -> None:
    site = proxy.site(sites.note)
    host = literal.strip("[]").rstrip(".")
    proxy.rules.allow(host, site.port)
    proxy.names.addresses[host] = [LOOPBACK]
    place = f"{literal}:{site.port}"
    reply = proxy.request(method, place if method == "CONNECT" else f"http://{place}/")
    assert reply.status == 403
    assert "Name the host instead" in reply.text
    assert not site.connections


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_with_an_address_that_is_not_public_gets_403_alone_and_among_public_ones(
    proxy: Proxy, address: str
) -> None:
    for number, found in enumerate(([address], ["93.184.216.34", address], [address, "2606:4700:4700::1111"])):
        name = f"inside{number}.example"
        proxy.names.addresses[name] = found
        proxy.rules.allow(name)
        reply = proxy.request("CONNECT", f"{name}:443")
        assert reply.status == 403
        assert address not in reply.text  # what the names of a cluster lead to is not the agent's affair
    wait_for(lambda: len(proxy.rules.denied("address")) == 3)
    assert all(address in denial["reason"] for denial in proxy.rules.denials.values())


def test_an_exception_is_for_that_host_and_that_address_only(proxy: Proxy) -> None:
    site = proxy.site(sites.note)
    proxy.names.addresses |= {"else.example": [LOOPBACK], OTHER: ["127.0.0.2"]}
    for host in ("else.example", OTHER):
        proxy.rules.allow(host, site.port)
        assert proxy.request("CONNECT", f"{host}:{site.port}").status == 403
    assert not site.connections


def test_networks_that_the_operator_names_are_refused_too(make: Make) -> None:
    from ipaddress import ip_network

    proxy = make(refused=(ip_network("93.184.216.0/24"),))
    proxy.names.addresses["node.example"] = ["93.184.216.34"]
    proxy.rules.allow("node.example")
    assert proxy.request("CONNECT", "node.example:443").status == 403


def test_the_judged_address_is_dialled_even_if_the_name_has_another_one_by_then(proxy: Proxy) -> None:
    site = proxy.site()
    proxy.names.next[HOST] = ["10.0.0.1"]
    with proxy.secure(site.port) as secure:
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"
    assert proxy.names.asked == [HOST]
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 403


def test_of_several_addresses_the_first_that_answers_is_taken(make: Make) -> None:
    from ipaddress import ip_address

    proxy = make(exceptions={HOST: frozenset({ip_address(LOOPBACK), ip_address("127.0.0.9")})})
    site = proxy.site()
    proxy.names.addresses[HOST] = ["127.0.0.9", LOOPBACK]
    with proxy.secure(site.port) as secure:
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"


def test_names_that_do_not_resolve_and_ports_where_nobody_listens_get_502(proxy: Proxy) -> None:
    proxy.rules.allow("nowhere.example")
    assert proxy.request("CONNECT", "nowhere.example:443").status == 502
    with socket.create_server((LOOPBACK, 0)) as closed:
        port = closed.getsockname()[1]
    proxy.names.addresses[HOST] = [LOOPBACK]
    proxy.rules.allow(HOST, port)
    assert proxy.request("CONNECT", f"{HOST}:{port}").status == 502


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET https://site.example/ HTTP/1.1", 400),
        ("GET ftp://site.example/ HTTP/1.1", 400),
        ("GET / HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 400),
        ("TRACE http://site.example/ HTTP/1.1", 405),
        ("CONNECT site.example HTTP/1.1", 400),
        ("CONNECT site.example: HTTP/1.1", 400),
        ("CONNECT :443 HTTP/1.1", 400),
        ("CONNECT site.example:0 HTTP/1.1", 400),
        ("CONNECT site.example:65536 HTTP/1.1", 400),
        ("CONNECT site.example:99999999999 HTTP/1.1", 400),
        ("CONNECT site.example:+443 HTTP/1.1", 400),
        ("CONNECT site.example:443/ HTTP/1.1", 400),
        ("CONNECT http://site.example:443 HTTP/1.1", 400),
        ("CONNECT " + "a" * 300 + ":443 HTTP/1.1", 400),
        ("CONNECT " + "a." * 150 + "example:443 HTTP/1.1", 400),
        ("CONNECT " + "a" * 70_000 + ":443 HTTP/1.1", 431),
        ("GET http://" + "a" * 70_000 + "/ HTTP/1.1", 431),
        ("CONNECT site%00.example:443 HTTP/1.1", 400),
        ("CONNECT user@site.example:443 HTTP/1.1", 400),
        ("GET http://user:pass@site.example/ HTTP/1.1", 400),
        ("GET http://site.example%00.evil.example/ HTTP/1.1", 400),
        ("GET http://site.example\\@evil.example/ HTTP/1.1", 400),
        ("GET http://site.example#@evil.example/ HTTP/1.1", 400),
        ("GET http:///path HTTP/1.1", 400),
        ("GET http://[::1 HTTP/1.1", 400),
        ("GET http://[::1%25eth0]/ HTTP/1.1", 400),
        ("GET http://site..example/ HTTP/1.1", 400),
        ("GET http://-site.example/ HTTP/1.1", 400),
        ("GET http://b\u00fccher.example/ HTTP/1.1", 400),
        ("GET  http://site.example/ HTTP/1.1", 400),
        ("GET http://site.example/", 400),
        ("\x16\x03\x01\x00\x05hello", 400),
    ],
)
def test_requests_that_no_proxy_takes_get_4xx(proxy: Proxy, line: str, status: int) -> None:
    site = proxy.site(sites.note)
    proxy.rules.allow(HOST, 80)
    reply = proxy.send(f"{line}\r\nHost: x\r\nProxy-Authorization: Basic cnVuLWE6c2VjcmV0LWE=\r\n\r\n")
    assert reply.status == status, reply.data
    assert not site.connections
    assert proxy.names.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n", "Content-Length : 5\r\n", "Host : evil.example\r\n", "Content-Length: -1\r\n",
        "Content-Length: five\r\n", "Transfer-Encoding: gzip\r\n", "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Host: y\r\n", "X: a\x00b\r\n", "no colon\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["CONNECT", "POST"])
def test_heads_that_could_be_read_in_two_ways_get_400(proxy: Proxy, method: str, headers: str) -> None:
    site = proxy.site(sites.note)
    place = f"{HOST}:{site.port}"
    target = place if method == "CONNECT" else f"http://{place}/"
    assert proxy.request(method, target, headers=headers, body="hello").status == 400
    assert not site.connections


def test_a_body_that_is_no_chunks_gets_400(proxy: Proxy) -> None:
    site = proxy.site(sites.note)
    headers = "Transfer-Encoding: chunked\r\n"
    reply = proxy.request("POST", f"http://{HOST}:{site.port}/", headers=headers, body="zz\r\nhello\r\n0\r\n\r\n")
    assert reply.status == 400


def test_connect_with_a_body_gets_400(proxy: Proxy) -> None:
    assert proxy.request("CONNECT", f"{HOST}:443", headers="Content-Length: 5\r\n", body="hello").status == 400
