"""From bytes to events: when, how large, and cut where."""

import base64
import random

import pytest

from courier.contracts import make_contract
from courier.events import Event, encode, split, whole_characters
from courier.parser import CHUNK_INTERVAL, Parser
from tests.courier.test_contracts_recorded import settings, triple

SAID = b'{"type":"text","text":"x"}\n'


def raw_parser() -> Parser:
    return Parser("stderr")


def jsonl_parser(offset: int = 0, inside: bool = False) -> Parser:
    return Parser("stdout", offset, inside, make_contract("jsonl", settings()).read)


def nanoclaw_parser() -> Parser:
    contract = make_contract("nanoclaw", settings())
    return Parser("stdout", read=contract.read, marks=contract.marks)


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events]


def test_the_first_line_goes_out_at_once_and_the_next_ones_together() -> None:
    parser = raw_parser()
    parser.feed(b"one\n")
    assert texts(parser.events(10.0)) == ["one\n"]
    parser.feed(b"two\n")
    assert parser.events(10.01) == []
    assert parser.due() == pytest.approx(10.0 + CHUNK_INTERVAL)
    parser.feed(b"three\n")
    assert texts(parser.events(10.0 + CHUNK_INTERVAL)) == ["two\nthree\n"]
    assert parser.due() == float("inf")


def test_half_a_line_waits_for_its_end_but_not_for_long() -> None:
    parser = raw_parser()
    parser.feed(b"one\nname? ")
    assert texts(parser.events(10.0)) == ["one\n"]
    assert parser.due() == pytest.approx(10.0 + CHUNK_INTERVAL)
    assert texts(parser.events(10.0 + CHUNK_INTERVAL)) == ["name? "]


def test_half_a_character_waits_without_waking_anybody() -> None:
    parser = raw_parser()
    parser.feed("ü".encode()[:1])
    assert parser.events(10.0) == []
    assert parser.due() == float("inf")
    parser.feed("ü".encode()[1:] + b"\n")
    assert texts(parser.events(11.0)) == ["ü\n"]


def test_half_a_character_at_the_end_is_told_exactly() -> None:
    parser = raw_parser()
    parser.feed("ü".encode()[:1])
    (event,) = parser.events(10.0, final=True)
    assert base64.b64decode((event.data or {})["base64"]) == b"\xc3"


def test_chunks_end_at_a_line_where_they_can() -> None:
    parser = raw_parser()
    parser.feed((b"z" * 20_000 + b"\n") * 3)
    assert [len(text) for text in texts(parser.events(10.0))] == [20_001, 20_001]
    assert [len(text) for text in texts(parser.events(10.0 + CHUNK_INTERVAL))] == [20_001]


def test_a_structured_line_is_read_when_it_is_complete() -> None:
    parser = jsonl_parser()
    parser.feed(SAID[:10])
    assert parser.events(10.0) == []
    assert parser.events(99.0) == []
    parser.feed(SAID[10:])
    assert parser.events(99.1) == [Event("text", "x")]
    assert (parser.offset, parser.inside) == (len(SAID), False)


def test_a_structured_last_line_needs_no_newline() -> None:
    parser = jsonl_parser()
    parser.feed(SAID[:-1])
    assert parser.events(10.0, final=True) == [Event("text", "x")]


def test_the_rest_of_a_raw_line_is_raw_even_if_it_looks_structured() -> None:
    parser = jsonl_parser()
    parser.feed(b"> ")
    parser.events(10.0)
    assert texts(parser.events(11.0)) == ["> "]
    assert parser.inside
    parser.feed(SAID + SAID)
    assert parser.events(12.0) == [Event("stdout", SAID.decode()), Event("text", "x")]


def test_a_parser_that_starts_inside_a_line_takes_its_rest_as_raw() -> None:
    parser = jsonl_parser(offset=100, inside=True)
    parser.feed(SAID + SAID)
    assert parser.events(12.0) == [Event("stdout", SAID.decode()), Event("text", "x")]
    assert parser.offset == 100 + 2 * len(SAID)


def test_a_marked_block_is_one_unit_and_holds_its_offset() -> None:
    parser = nanoclaw_parser()
    block = triple(status="success", result="hi")
    parser.feed(b"raw\n" + block[:40])
    assert texts(parser.events(10.0)) == ["raw\n"]
    assert parser.offset == 4
    parser.feed(block[40:])
    assert [event.kind for event in parser.events(10.01)] == ["result", "turn"]
    assert parser.offset == 4 + len(block)


def test_a_block_without_its_end_is_raw_at_the_end() -> None:
    parser = nanoclaw_parser()
    parser.feed(b"---NANOCLAW_OUTPUT_START---\n{}")
    assert parser.events(10.0) == []
    assert texts(parser.events(10.1, final=True)) == ["---NANOCLAW_OUTPUT_START---\n{}"]


@pytest.mark.parametrize("seed", range(20))
def test_however_the_bytes_are_cut_and_wherever_it_restarts_they_come_once(seed: int) -> None:
    """A restart goes on with a fresh parser at the offset that was recorded with the last events."""
    chance = random.Random(seed)
    pieces = ["plain\n", "no end ", SAID.decode(), '{"odd": 1}\n', "ü€😀\n", '{"type":', "\n", "{", '{"type":"idle"}\n']
    data = "".join(chance.choices(pieces, k=400)).encode()
    parser, read, fed, now = jsonl_parser(), bytearray(), 0, 10.0
    while fed < len(data):
        step = chance.randint(1, 60)
        parser.feed(data[fed : fed + step])
        fed += step
        now += chance.choice([0.0, 0.01, 0.06])
        read += original(parser.events(now))
        if chance.random() < 0.1:
            parser, fed = jsonl_parser(parser.offset, parser.inside), parser.offset
            assert len(read) <= fed
    read += original(parser.events(now, final=True))
    removed = data.decode().replace('{"type":"idle"}\n', "")
    assert read.decode().replace('{"type":"idle"}\n', "") == removed


def original(events: list[Event]) -> bytes:
    """The bytes that events came from: a turn's end is left out, since only the first of several is told."""
    return b"".join(
        SAID if event.kind == "text" else event.text.encode() for event in events if event.kind in ("text", "stdout")
    )


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (b"abc", 3),
        ("aü".encode(), 3),
        ("aü".encode()[:-1], 1),
        ("a€".encode()[:-1], 1),
        ("a😀".encode()[:-1], 1),
        ("a😀".encode()[:-3], 1),
        (b"a\xff", 2),
        (b"a\x80\x80\x80\x80", 5),
        (b"\xc3", 0),
    ],
)
def test_characters_stay_whole(content: bytes, end: int) -> None:
    assert whole_characters(content, len(content)) == end


def test_an_event_is_one_line_without_tabs() -> None:
    line = encode(7, Event("text", "a\tb\nc"), 1.23456)
    assert line == b'{"n":7,"kind":"text","text":"a\\tb\\nc","at":1.235}'


def test_a_long_answer_is_split_between_characters() -> None:
    parts = split(Event("result", "a" + "€" * 200_000, {"source": "ipc"}))
    assert "".join(texts(parts)) == "a" + "€" * 200_000
    assert [part.data for part in parts] == [{"source": "ipc", "part": i, "parts": 3} for i in (1, 2, 3)]
