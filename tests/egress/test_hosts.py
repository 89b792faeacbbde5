"""Host names: one form for comparing, and which are IP addresses in disguise."""

import socket
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress import hosts


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Site.Example", "site.example"), ("site.example.", "site.example"), ("localhost", "localhost"),
        ("bücher.example", "xn--bcher-kva.example"), ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"), ("_dmarc.site.example", "_dmarc.site.example"),
        ("r3---sn-4g5e6nsz.site.example", "r3---sn-4g5e6nsz.site.example"),
    ],
)  # fmt: skip
def test_a_name_has_one_form(written: str, name: str) -> None:
    assert hosts.normalize(written) == name


@pytest.mark.parametrize(
    "written",
    [
        "", ".", "..", "a..b", ".a", "a.b..", "-a", "a-", "a b", "a\0b", "a/b", "a:1", "a@b", "a%00", "a" * 64,
        "a." * 127 + "a", "\uff53ite.example", "straße.example", "a\u3002b", "site\u200b.example", "\ud800.example",
        "[::1]", "*.example",
    ],
)  # fmt: skip
def test_what_is_no_name_is_an_error(written: str) -> None:
    with pytest.raises(ValueError):
        hosts.normalize(written)


@given(st.text(max_size=300))
def test_any_text_has_a_form_that_stays_as_it_is_or_is_an_error(text: str) -> None:
    try:
        name = hosts.normalize(text)
    except ValueError:
        return
    assert hosts.normalize(name) == name
    assert name.isascii() and name == name.lower() and len(name) <= 253


@given(st.ip_addresses(v=4), st.data())
def test_every_spelling_that_the_resolver_takes_for_an_address_is_a_literal(
    address: IPv4Address, data: st.DataObject
) -> None:
    number, parts = int(address), data.draw(st.integers(1, 4))
    values = [number >> (24 - 8 * place) & 0xFF for place in range(parts - 1)]
    values.append(number & ((1 << (32 - 8 * (parts - 1))) - 1))
    write = st.sampled_from([str, hex, lambda value: f"0{value:o}", lambda value: hex(value).upper().replace("X", "x")])
    text = ".".join(data.draw(write)(value) for value in values)
    assert socket.inet_aton(text) == address.packed
    assert hosts.is_literal(text) and hosts.is_literal(text + ".")


@pytest.mark.parametrize("host", ["1.site.example", "0x7f.example", "127.0.0.1.example", "a1", "xn--1.example", "1a"])
def test_a_name_with_numbers_in_it_is_no_literal(host: str) -> None:
    assert not hosts.is_literal(host)
