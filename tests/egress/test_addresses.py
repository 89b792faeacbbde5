"""Which addresses may be dialled."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egress.addresses import NotPublic, allowed_addresses, is_public

# As the specification lists them, not as the code does.
LISTED = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3", "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8",
    "64:ff9b::/96", "2002::/16",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "223.255.255.255", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1",
    "2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "2001:4860:4860::8888", "::ffff:8.8.8.8",
]  # fmt: skip


def inside(network: str) -> st.SearchStrategy[IPv4Address | IPv6Address]:
    """Addresses of a network, its ends among them."""
    found = ip_network(network)
    first, last = int(found.network_address), int(found.broadcast_address)
    kind = IPv4Address if found.version == 4 else IPv6Address
    return st.one_of(st.sampled_from([first, last]), st.integers(first, last)).map(kind)


@given(st.sampled_from(LISTED).flatmap(inside))
def test_no_address_of_a_listed_network_is_public(address: IPv4Address | IPv6Address) -> None:
    assert not is_public(address)


@given(st.sampled_from([text for text in LISTED if "." in text]).flatmap(inside))
def test_nor_is_its_ipv4_mapped_form_or_another_that_carries_it(address: IPv4Address) -> None:
    number = int(address)
    for carried in (f"::ffff:{address}", f"::{address}", f"64:ff9b::{address}"):
        assert not is_public(ip_address(carried))
    assert not is_public(IPv6Address((0x2002 << 112) | (number << 80)))


@given(st.ip_addresses(v=4))
def test_an_ipv4_mapped_address_is_judged_as_its_ipv4(address: IPv4Address) -> None:
    assert is_public(ip_address(f"::ffff:{address}")) == is_public(address)


@given(st.ip_addresses())
@example(ip_address("192.88.99.1"))
def test_what_python_calls_not_global_is_never_public(address: IPv4Address | IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    assert not is_public(address) or (mapped or address).is_global


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_public_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.lists(st.sampled_from(PUBLIC), max_size=5), st.sampled_from(LISTED).flatmap(inside), st.integers(0, 5))
def test_one_address_that_is_not_public_refuses_the_name(
    public: list[str], address: IPv4Address | IPv6Address, place: int
) -> None:
    found = [*public[:place], str(address), *public[place:]]
    with pytest.raises(NotPublic, match=str(address)):
        allowed_addresses("site.example", found, {})


@given(st.lists(st.text(max_size=20), min_size=1))
def test_what_is_no_address_refuses_the_name(found: list[str]) -> None:
    def is_address(text: str) -> bool:
        try:
            return bool(ipaddress.ip_address(text))
        except ValueError:
            return False

    if not all(is_address(text) for text in found):
        with pytest.raises(NotPublic):
            allowed_addresses("site.example", found, {})


def test_an_exception_is_for_one_host_and_one_address() -> None:
    exceptions = {"registry.internal": {ip_address("10.0.0.5")}}
    assert allowed_addresses("registry.internal", ["10.0.0.5", "::ffff:10.0.0.5"], exceptions) == ["10.0.0.5"]
    for host, found in (("registry.internal", "10.0.0.6"), ("a.registry.internal", "10.0.0.5")):
        with pytest.raises(NotPublic):
            allowed_addresses(host, [found], exceptions)


def test_networks_of_the_operator_are_refused_too_in_their_mapped_form_as_well() -> None:
    refused = (ip_network("93.184.216.0/24"), ip_network("2606:4700::/32"))
    for address in ("93.184.216.34", "::ffff:93.184.216.34", "2606:4700::1"):
        assert not is_public(ip_address(address), refused)
