"""RunLimits of a run: tunnels at a time, connects a minute, bytes. One run's use is not another's."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from egress.connection_handler import PENDING_PER_ADDRESS
from egress.limits import RateLimiter, RunLimits
from testbed import sites
from testbed.sites import Site
from testbed.waiting import wait_for
from tests.egress.conftest import HOST, Make, Proxy, read_all
from tests.egress.test_connect import hello_for


def test_a_run_has_so_many_tunnels_at_a_time(make: Make) -> None:
    proxy = make(tunnels=2)
    site = proxy.site()
    proxy.rules.allow(HOST, site.port, "run-b")
    first, _ = proxy.secure(site.port), proxy.secure(site.port)
    reply = proxy.request("CONNECT", f"{HOST}:{site.port}")
    assert reply.status == 429
    assert b"Retry-After: " in reply.head
    proxy.secure(site.port, user="run-b:secret-b")
    first.close()
    wait_for(lambda: len(proxy.tunnels) == 2)
    proxy.secure(site.port)


def test_a_run_has_so_many_connects_a_minute_and_another_run_has_its_own(make: Make) -> None:
    proxy = make(connects=5)
    target = "new.example:443"
    assert proxy.request("CONNECT", target, user="run-b:secret-b").status == 403
    statuses = [proxy.request("CONNECT", target).status for _ in range(10)]
    assert statuses[:6] == [403] * 6  # the first is counted for the address
    assert statuses[-1] == 429
    assert proxy.request("CONNECT", target, user="run-b:secret-b").status == 403


def test_wrong_credentials_use_up_nothing_of_the_run_that_they_name(make: Make) -> None:
    proxy = make(connects=5)
    target = "new.example:443"
    assert proxy.request("CONNECT", target).status == 403
    statuses = [proxy.request("CONNECT", target, user="run-a:wrong").status for _ in range(10)]
    assert 429 in statuses and 407 in statuses
    assert proxy.request("CONNECT", target).status == 403


def test_a_run_has_so_many_bytes(make: Make) -> None:
    proxy = make(bytes=1_000_000)

    def flood(connection: socket.socket, site: Site) -> None:
        connection.recv(100)
        while True:
            connection.sendall(b"x" * 65536)

    site = proxy.site(flood)
    connection = proxy.tunnel(site.port)
    connection.sendall(hello_for(HOST))
    assert len(read_all(connection)) < 2_000_000
    assert wait_for(lambda: proxy.rules.ended("bytes"))
    assert proxy.request("CONNECT", f"{HOST}:{site.port}").status == 429


def test_plain_requests_count_too(make: Make) -> None:
    proxy = make(bytes=100)
    site = proxy.site(sites.hello_http)
    proxy.request("GET", f"http://{HOST}:{site.port}/")
    assert wait_for(lambda: proxy.rules.ended("bytes"))


def test_connections_that_ask_for_nothing_are_bounded(proxy: Proxy) -> None:
    proxy.sockets += [proxy.connect() for _ in range(PENDING_PER_ADDRESS)]
    wait_for(lambda: len(proxy.server.handlers) == PENDING_PER_ADDRESS)
    assert proxy.request("CONNECT", f"{HOST}:443").status == 429


def test_nothing_is_kept_of_a_client_that_is_gone(proxy: Proxy) -> None:
    site = proxy.site()
    proxy.secure(site.port).close()
    proxy.request("CONNECT", "new.example:443")
    proxy.connect().close()
    wait_for(lambda: not proxy.server.handlers)
    state = proxy.server.state
    assert (state.tunnels.by_id, state.pending, state.decisions.in_flight) == ({}, {}, {})
    wait_for(lambda: not (state.reporter.ended or state.reporter.denials or state.reporter.unconfirmed))


@given(st.integers(1, 100), st.lists(st.floats(0, 30), max_size=300))
def test_no_pattern_of_tries_gets_more_than_the_rate(limit: int, pauses: list[float]) -> None:
    rate, now, taken = RateLimiter(limit), 1000.0, 0
    for pause in pauses:
        now += pause
        taken += rate.take("run", now)
        rate.prune(now)
    assert taken <= limit + (now - 1000.0) * limit / 60 + 1e-6


def test_a_limit_of_0_is_none() -> None:
    limits, rate = RunLimits(0, 0), RateLimiter(0)
    usage = limits.open("run", 0)
    usage.bytes = 1 << 60
    assert limits.exceeded("run") == ""
    assert all(rate.take("run", 0) for _ in range(10_000))


def test_runs_that_are_over_are_forgotten() -> None:
    limits, rate = RunLimits(1, 1), RateLimiter(5)
    limits.open("open", 0), limits.open("over", 0), limits.close("over", 0)
    rate.take("run", 0)
    limits.prune(100_000)
    rate.prune(100_000)
    assert set(limits.usage) == {"open"}
    assert rate.buckets == {}
