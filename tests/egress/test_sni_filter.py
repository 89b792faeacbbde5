"""The server name in a TLS hello, as real clients write it, in any pieces, and in bytes that nobody should send."""

import ssl
import struct
from contextlib import suppress
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.sni_filter import HANDSHAKE, MAX_HELLO, HelloError, SniFilter

HOST = "site.example"


@cache
def hello(name: str | None = HOST, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = min(version, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def records(content: bytes, sizes: list[int], kind: int = HANDSHAKE) -> bytes:
    """The content in records of these sizes, the rest in one more."""
    made, start = b"", 0
    for size in [*sizes, len(content)]:
        part = content[start : start + size]
        if part:
            made += struct.pack("!BHH", kind, 0x0301, len(part)) + part
        start += size
    return made


def feed(one: SniFilter, data: bytes, cuts: list[int]) -> bytes:
    """Give the filter the data in pieces; return what passed."""
    passed, start = b"", 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        passed += one.feed(data[start:end])
        start = end
    return passed


def extension(number: int, content: bytes) -> bytes:
    return struct.pack("!HH", number, len(content)) + content


def names(*entries: tuple[int, bytes]) -> bytes:
    """A server_name extension's content."""
    listed = b"".join(struct.pack("!BH", kind, len(name)) + name for kind, name in entries)
    return struct.pack("!H", len(listed)) + listed


def made(*extensions: bytes, tail: bytes = b"") -> bytes:
    """A small hello with these extensions, as one record."""
    listed = b"".join(extensions)
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + struct.pack("!H", len(listed)) + listed
    return records(b"\x01" + len(body).to_bytes(3, "big") + body + tail, [])


SNI = extension(0, names((0, HOST.encode())))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@given(cuts=st.lists(st.integers(0, 5000), max_size=20), sizes=st.lists(st.integers(1, 300), max_size=20))
def test_a_real_hello_passes_unchanged_in_any_pieces_and_records(
    version: ssl.TLSVersion, cuts: list[int], sizes: list[int]
) -> None:
    data = records(hello(HOST, version)[5:], sizes)
    sni_filter = SniFilter(HOST)
    assert feed(sni_filter, data, cuts) == data
    assert sni_filter.hello_passed and not sni_filter.is_open


@given(cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_not_a_byte_passes_before_the_hello_is_whole(cuts: list[int]) -> None:
    assert feed(SniFilter(HOST), hello()[:-1], cuts) == b""


@pytest.mark.parametrize("name", ["other.example", "site.example.evil.example", "a.site.example", None])
@given(cuts=st.lists(st.integers(0, 5000), max_size=5))
def test_another_name_or_none_is_an_error(name: str | None, cuts: list[int]) -> None:
    with pytest.raises(HelloError):
        feed(SniFilter(HOST), hello(name), cuts)


@settings(max_examples=500)
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 5000), max_size=5))
def test_random_bytes_pass_never_and_raise_nothing_else(data: bytes, cuts: list[int]) -> None:
    with suppress(HelloError):
        assert feed(SniFilter(HOST), data, cuts) == b""


@settings(max_examples=500)
@given(
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.integers(0, 4000),
    more=st.binary(max_size=50),
    cuts=st.lists(st.integers(0, 5000), max_size=5),
)
def test_a_changed_hello_raises_nothing_else_and_passes_only_if_it_names_the_host(
    changes: list[tuple[int, int]], cut: int, more: bytes, cuts: list[int]
) -> None:
    data = bytearray(hello())
    for place, value in changes:
        data[place % len(data)] = value
    changed = bytes(data[: cut or None]) + more
    try:
        passed = feed(SniFilter(HOST), changed, cuts)
    except HelloError:
        return
    assert passed == changed[: len(passed)]
    assert not passed or HOST.encode() in passed.lower()


@settings(max_examples=300)
@given(extensions=st.lists(st.tuples(st.sampled_from([0, 0, 16, 42, 51]), st.binary(max_size=40)), max_size=6))
def test_extensions_of_any_content_raise_nothing_else(extensions: list[tuple[int, bytes]]) -> None:
    with pytest.raises(HelloError):
        SniFilter(HOST).feed(made(*(extension(number, content) for number, content in extensions)))


@pytest.mark.parametrize(
    "content",
    [
        names((0, HOST.encode()), (0, b"other.example")), names((0, b"other.example"), (0, HOST.encode())),
        names((1, HOST.encode())), names((0, b"")), names(), b"", names((0, HOST.encode())) + b"\0",
        names((0, b"site.example\0.evil.example")), names((0, b"site.example\xff")), names((0, b"x" * 300)),
        names((0, "\uff53ite.example".encode())),
    ],
)  # fmt: skip
def test_a_name_that_two_readers_could_take_for_different_ones_is_an_error(content: bytes) -> None:
    with pytest.raises(HelloError):
        SniFilter(HOST).feed(made(extension(0, content)))


@pytest.mark.parametrize(
    "data",
    [
        made(SNI, SNI), made(SNI, tail=b"\x01"), made(SNI, tail=made(SNI)[5:]), records(made(SNI)[5:], [3], 23),
        made(SNI)[:5] + b"\x02" + made(SNI)[6:], b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff", b"\x16\x02",
        records(made(SNI)[5:], [10])[:15] + b"\x15\x03\x03\x00\x02\x01\x00", b"G", b"\x80\x2e\x01\x00\x02",
        records(b"\x01\xff\xff\xff" + bytes(100), []),
    ],
)  # fmt: skip
def test_what_is_no_single_hello_is_an_error(data: bytes) -> None:
    with pytest.raises(HelloError):
        SniFilter(HOST).feed(data)


def test_a_hello_without_end_is_an_error_and_never_held_without_bound() -> None:
    sni_filter = SniFilter(HOST)
    with pytest.raises(HelloError):
        for _ in range(100):
            sni_filter.feed(records(b"\x01\x00\xff\xff" + bytes(16_000), []))
    assert len(sni_filter.hello) + len(sni_filter.partial_record) + len(sni_filter.records) < 3 * MAX_HELLO


CIPHER, ALERT = b"\x14\x03\x03\x00\x01\x01", b"\x15\x03\x03\x00\x02\x01\x00"
DATA, KEY_EXCHANGE = b"\x17\x03\x03\x00\x03abc", b"\x16\x03\x03\x00\x04\x10\x00\x00\x00"
EARLY = extension(42, b"")


@pytest.mark.parametrize("between", [b"", CIPHER, ALERT, CIPHER + ALERT])
@given(cuts=st.lists(st.integers(0, 5000), max_size=5))
def test_a_second_hello_is_compared_too(between: bytes, cuts: list[int]) -> None:
    sni_filter = SniFilter(HOST)
    data = hello() + between + hello()
    assert feed(sni_filter, data + DATA, cuts) == data + DATA
    assert sni_filter.is_open
    for second in (hello("other.example"), hello(None)):
        with pytest.raises(HelloError):
            feed(SniFilter(HOST), hello() + between + second, cuts)


def test_early_data_hides_no_second_hello() -> None:
    sni_filter = SniFilter(HOST)
    sni_filter.feed(made(SNI, EARLY) + DATA * 3)
    assert not sni_filter.is_open
    with pytest.raises(HelloError):
        sni_filter.feed(CIPHER + hello("other.example"))


@pytest.mark.parametrize("last", [CIPHER + DATA, DATA, KEY_EXCHANGE + CIPHER])
@given(cuts=st.lists(st.integers(0, 5000), max_size=5), rest=st.binary(max_size=100))
def test_once_the_handshake_goes_on_all_passes(last: bytes, cuts: list[int], rest: bytes) -> None:
    sni_filter = SniFilter(HOST)
    assert feed(sni_filter, hello() + last + rest, cuts) == hello() + last + rest
    assert sni_filter.is_open


@pytest.mark.parametrize(("name", "host"), [("SITE.example", HOST), ("bücher.example", "xn--bcher-kva.example")])
def test_names_are_compared_in_their_a_label_form(name: str, host: str) -> None:
    assert SniFilter(host).feed(made(extension(0, names((0, name.encode()))))) != b""
