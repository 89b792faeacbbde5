"""Who is connected, who makes room, and what is said of the refused."""

from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from controlplane.connections import SPARE, Connections, RefusalLog
from sessions.client_address import client_network, is_proxy


def test_an_address_has_its_share_and_others_theirs() -> None:
    held: Connections[int] = Connections(most=10, most_each=2)
    assert [held.add(n, "a") for n in range(3)] == [[], [], []]
    assert [held.is_spare(n) for n in range(3)] == [False, False, True]
    assert not held.add(3, "b") and not held.is_spare(3)
    held.remove(0)
    held.add(4, "a")
    assert not held.is_spare(4)


def test_a_proxy_counts_for_all_alone() -> None:
    held: Connections[int] = Connections(most=3, most_each=1)
    for number in range(3):
        held.add(number, None)
        held.head_received(number)
        assert not held.is_spare(number)
    held.add(3, None)
    assert held.is_spare(3)


def test_who_owes_a_head_for_longest_makes_room() -> None:
    held: Connections[int] = Connections(most=3, most_each=3)
    for number, address in enumerate("abc"):
        held.add(number, address)
    held.head_received(0)
    assert held.add(3, "d") == [1] and not held.is_spare(3)
    held.head_awaited(0)  # its answer is given
    assert held.add(4, "d") == [2]
    for number in (0, 3, 4):
        held.head_received(number)
    assert held.add(5, "e") == [] and held.is_spare(5)


def test_who_has_his_share_puts_nobody_out() -> None:
    held: Connections[int] = Connections(most=2, most_each=1)
    held.add(0, "a")
    held.add(1, "b")
    assert held.add(2, "a") == [] and held.is_spare(2)


def test_the_oldest_spare_one_is_put_out() -> None:
    held: Connections[int] = Connections(most=1, most_each=1)
    for number in range(SPARE + 1):
        assert held.add(number, "a") == []
    assert held.add(SPARE + 1, "a") == [1]
    assert len(held.all()) == 1 + SPARE


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "head_awaited", "head_received", "remove"]),
            st.integers(0, 9),
            st.sampled_from("ab"),
        )
    )
)
def test_no_limit_is_ever_passed(moves: list[tuple[str, int, str]]) -> None:
    held: Connections[int] = Connections(most=4, most_each=3)
    for move, one, address in moves:
        if move != "add":
            getattr(held, move)(one)
        elif one not in held.all():
            for out in held.add(one, address):
                assert out != one and out not in held.all()
        within = [each for each in held.all() if not held.is_spare(each)]
        assert len(within) <= 4
    for one in held.all():
        held.remove(one)
    assert held.add(10, "a") == [] and not held.is_spare(10)


def test_refusals_are_counted_and_told_in_bounds() -> None:
    refusals = RefusalLog()
    with structlog.testing.capture_logs() as logs:
        for second in range(25):
            refusals.add(413, "a", float(second))
        refusals.add(408, "b", 25.0)
    assert [(line["status"], line["count"]) for line in logs] == [(413, 1), (413, 10), (413, 10), (408, 1)]


@pytest.mark.parametrize(
    ("address", "one"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_is_one_client(address: str, one: str) -> None:
    assert client_network(address) == one


@pytest.mark.parametrize(
    ("proxies", "networks", "address", "believed"),
    [
        (0, [], "10.0.0.1", False),
        (0, ["10.0.0.0/8"], "10.0.0.1", False),
        (1, [], "203.0.113.9", True),
        (1, ["10.0.0.0/8", "2001:db8::/32"], "10.0.0.1", True),
        (1, ["10.0.0.0/8", "2001:db8::/32"], "::ffff:10.0.0.1", True),
        (1, ["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", True),
        (1, ["10.0.0.0/8"], "203.0.113.9", False),
        (1, ["10.0.0.0/8"], "", False),
    ],
)
def test_who_is_a_proxy(settings: Any, proxies: int, networks: list[str], address: str, believed: bool) -> None:
    settings.PROXIES, settings.PROXY_NETWORKS = proxies, networks
    assert is_proxy(address) == believed
