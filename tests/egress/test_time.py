"""Everything ends in bounded time: the silent, the slow, the forgotten, and what is open when permission ends."""

import socket
import time

import pytest

from testbed import sites
from testbed.sites import Site
from testbed.waiting import wait_for
from tests.egress.conftest import HOST, OTHER, Make, Proxy, Reply, read_all
from tests.egress.test_connect import hello_for


def open_tunnel(proxy: Proxy, site: Site, host: str = HOST, user: str = "run-a:secret-a") -> socket.socket:
    """A tunnel through which bytes go."""
    secure = proxy.secure(site.port, host, host, user)
    secure.sendall(b"x")
    assert secure.recv(1) == b"x"
    return secure


def is_open(connection: socket.socket) -> bool:
    """Bytes still go through the tunnel, there and back."""
    try:
        connection.sendall(b"y")
        return connection.recv(1) == b"y"
    except OSError:
        return False


def up_to_date(proxy: Proxy) -> bool:
    """The proxy knows of the last change."""
    return bool(proxy.server.state.decisions.version == proxy.rules.version)


@pytest.mark.parametrize("sent", [b"", b"CONNECT site.exa", b"GET http://site.example/ HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_without_a_whole_request_gets_408(make: Make, sent: bytes) -> None:
    proxy = make(head_seconds=0.2)
    assert proxy.send(sent).status == 408


def test_a_client_that_dribbles_gets_408(make: Make) -> None:
    proxy = make(head_seconds=0.5)
    connection = proxy.connect()
    connection.settimeout(0.05)
    data = b""
    while not data:
        try:
            connection.sendall(b"G")
            data = connection.recv(100)
        except TimeoutError:
            pass
    assert Reply(data).status == 408


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_tunnel_without_a_hello_ends_and_the_server_got_nothing(make: Make, sent: bytes) -> None:
    proxy = make(hello_seconds=0.2)
    site = proxy.site(sites.note)
    connection = proxy.tunnel(site.port)
    connection.sendall(sent)
    assert read_all(connection) == b""
    assert wait_for(lambda: proxy.rules.denied("hello"))
    assert site.raw == b""


def test_a_silent_tunnel_ends(make: Make) -> None:
    proxy = make(idle_seconds=0.2)
    site = proxy.site()
    connection = proxy.secure(site.port)
    assert read_all(connection) == b""
    assert wait_for(lambda: proxy.rules.ended("idle"))


def test_a_half_closed_tunnel_that_stays_silent_ends(make: Make) -> None:
    proxy = make(half_seconds=0.2)

    def keep(connection: socket.socket, site: Site) -> None:
        sites.note(connection, site)  # and don't close

    site = proxy.site(keep)
    connection = proxy.tunnel(site.port)
    connection.sendall(hello_for(HOST))
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b""
    wait_for(lambda: not proxy.tunnels)


def test_a_server_that_never_answers_a_plain_request_ends(make: Make) -> None:
    proxy = make(idle_seconds=0.2)
    site = proxy.site(sites.note)
    assert proxy.request("GET", f"http://{HOST}:{site.port}/").data == b""
    assert wait_for(lambda: proxy.rules.ended("idle"))


def test_a_name_that_takes_too_long_to_resolve_gets_504(make: Make) -> None:
    proxy = make(dial_seconds=0.2)
    proxy.rules.allow(HOST)
    proxy.names.hang = True
    assert proxy.request("CONNECT", f"{HOST}:443").status == 504


def test_a_server_that_does_not_accept_gets_504_or_502(make: Make) -> None:
    proxy = make(dial_seconds=0.3)
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = full.getsockname()[1]
    filling = [socket.socket() for _ in range(4)]
    for one in filling:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    proxy.sockets += [full, *filling]
    proxy.names.addresses[HOST] = ["127.0.0.1"]
    proxy.rules.allow(HOST, port)
    assert proxy.request("CONNECT", f"{HOST}:{port}").status in (502, 504)


@pytest.mark.parametrize("manner", ["500", "hang"])
def test_without_a_decision_nothing_is_let_out(make: Make, manner: str) -> None:
    proxy = make(decide_seconds=0.3)
    site = proxy.site(sites.note)
    proxy.rules.manner = manner
    reply = proxy.request("CONNECT", f"{HOST}:{site.port}")
    assert reply.status == 503
    assert "nothing new is let out" in reply.text
    assert not site.connections


def test_without_a_control_plane_new_tunnels_are_refused_at_once_and_open_ones_end_later(make: Make) -> None:
    proxy = make(away_seconds=2)
    site = proxy.site()
    secure = open_tunnel(proxy, site)
    proxy.control.stop()
    wait_for(lambda: proxy.server.policy_sync.failed_since)
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 503
    assert is_open(secure)
    assert read_all(secure) == b""
    wait_for(lambda: not proxy.tunnels)


def test_a_control_plane_that_answers_nothing_counts_as_away(make: Make) -> None:
    proxy = make(away_seconds=2, decide_seconds=0.3)
    site = proxy.site()
    secure = open_tunnel(proxy, site)
    proxy.rules.manner = "hang"
    assert read_all(secure) == b""


def test_a_short_absence_costs_no_tunnel(make: Make) -> None:
    proxy = make(away_seconds=60)
    site = proxy.site()
    secure = open_tunnel(proxy, site)
    proxy.rules.manner = "500"
    proxy.rules.change()
    wait_for(lambda: proxy.server.policy_sync.failed_since)
    proxy.rules.manner = ""
    wait_for(lambda: up_to_date(proxy))
    assert is_open(secure)


def test_tunnels_are_judged_anew_after_a_long_silence_even_if_the_number_is_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egress.policy_sync.SILENCE", 0.1)
    proxy = make(away_seconds=60)
    site = proxy.site()
    secure = open_tunnel(proxy, site)
    proxy.rules.manner = "500"
    with proxy.rules.changed:
        proxy.server.state.decisions.version -= 1  # so that the poll that waits returns and the next one fails
        proxy.rules.version += 1
        proxy.rules.changed.notify_all()
    wait_for(lambda: proxy.server.policy_sync.failed_since)
    del proxy.rules.allowed["run-a", HOST, site.port]
    proxy.rules.manner = ""
    assert read_all(secure) == b""
    assert wait_for(lambda: proxy.rules.ended("revoked"))


def test_open_tunnels_of_a_rule_that_is_withdrawn_end_and_others_stay(proxy: Proxy) -> None:
    site, other = proxy.site(), proxy.site(host=OTHER)
    proxy.rules.allow(HOST, site.port, "run-b")
    mine, theirs = open_tunnel(proxy, site), open_tunnel(proxy, site, user="run-b:secret-b")
    elsewhere = open_tunnel(proxy, other, OTHER)
    proxy.rules.withdraw(HOST, site.port)
    assert read_all(mine) == b""
    assert is_open(theirs) and is_open(elsewhere)
    assert len(wait_for(lambda: proxy.rules.ended("revoked"))) == 1
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 403


def test_open_tunnels_of_a_run_that_is_over_end(proxy: Proxy) -> None:
    site, other = proxy.site(), proxy.site(host=OTHER)
    open_ones = [open_tunnel(proxy, site), open_tunnel(proxy, site), open_tunnel(proxy, other, OTHER)]
    del proxy.rules.credentials["run-a"]
    proxy.rules.change()
    for connection in open_ones:
        assert read_all(connection) == b""
    assert len(wait_for(lambda: len(proxy.rules.ended("revoked")) == 3 and proxy.rules.ended("revoked"))) == 3


def test_a_plain_request_under_way_ends_when_its_rule_is_withdrawn(proxy: Proxy) -> None:
    site = proxy.site(sites.note)
    connection = proxy.connect()
    head = "Host: x\r\nProxy-Authorization: Basic cnVuLWE6c2VjcmV0LWE=\r\n\r\n"
    connection.sendall(f"GET http://{HOST}:{site.port}/ HTTP/1.1\r\n{head}".encode())
    wait_for(lambda: site.raw)
    proxy.rules.withdraw(HOST, site.port)
    assert read_all(connection) == b""
    assert wait_for(lambda: proxy.rules.ended("revoked"))


def test_a_tunnel_that_is_being_dialled_when_its_rule_is_withdrawn_is_not_opened(proxy: Proxy) -> None:
    site = proxy.site()
    proxy.names.hang = True
    connection = proxy.connect()
    head = "Host: x\r\nProxy-Authorization: Basic cnVuLWE6c2VjcmV0LWE=\r\n\r\n"
    connection.sendall(f"CONNECT {HOST}:{site.port} HTTP/1.1\r\n{head}".encode())
    wait_for(lambda: proxy.names.asked)
    proxy.rules.withdraw(HOST, site.port)
    assert read_all(connection) == b""
    assert not site.connections


def test_revoked_tunnels_are_asked_for_again_until_there_is_an_answer(make: Make) -> None:
    proxy = make(decide_seconds=0.3)
    site = proxy.site()
    secure = open_tunnel(proxy, site)
    asked = len(proxy.rules.asked)
    real = proxy.rules.decide
    failures = iter(range(3))

    def fail_first(question: dict[str, object]) -> tuple[int, dict[str, object]]:
        proxy.rules.asked.append(question)
        return (500, {}) if next(failures, None) is not None else real(question)

    proxy.rules.decide = fail_first  # type: ignore[method-assign]
    proxy.rules.withdraw(HOST, site.port)
    assert read_all(secure) == b""
    assert len(proxy.rules.asked) >= asked + 4
    assert wait_for(lambda: proxy.rules.ended("revoked"))


def test_a_permission_for_a_time_ends_with_it(proxy: Proxy) -> None:
    site = proxy.site()
    proxy.rules.allow(HOST, site.port, until=time.time() + 1.5)
    secure = open_tunnel(proxy, site)
    assert read_all(secure) == b""
    assert wait_for(lambda: proxy.rules.ended("expired"))
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 403


def test_a_permission_that_is_extended_keeps_its_tunnels(proxy: Proxy) -> None:
    site = proxy.site()
    until = time.time() + 1.5
    proxy.rules.allow(HOST, site.port, until=until)
    secure = open_tunnel(proxy, site)
    proxy.rules.allow(HOST, site.port, until=until + 600)
    proxy.rules.change()
    wait_for(lambda: time.time() > until + 1)
    assert is_open(secure)


def test_an_approval_works_on_the_next_try(proxy: Proxy) -> None:
    site = proxy.site()
    del proxy.rules.allowed["run-a", HOST, site.port]
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 403
    proxy.rules.allow(HOST, site.port)
    proxy.rules.change()
    wait_for(lambda: up_to_date(proxy))
    assert is_open(open_tunnel(proxy, site))


def test_an_old_decision_that_arrives_after_a_change_is_asked_for_again(proxy: Proxy) -> None:
    site = proxy.site()
    proxy.secure(site.port)
    proxy.server.state.decisions.version += 1  # announced, but the decision on its way is older
    proxy.server.state.decisions.cache.clear()
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 503


def test_an_answer_is_used_again_for_some_seconds(proxy: Proxy) -> None:
    site = proxy.site()
    for _ in range(5):
        open_tunnel(proxy, site).close()
    assert len(proxy.rules.asked) == 1
