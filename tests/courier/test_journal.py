"""The journal: what is in it after a kill at any place, and what its reader hands to the shipper."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from courier.events import Event
from courier.journal import Journal, segments
from courier.journal_reader import JournalReader
from courier.spool import Spool
from courier.transcript import Transcript
from tests.courier.test_contracts_recorded import settings

LIMIT = 512 * 1024 * 1024


def journal(folder: Path, limit: int = LIMIT) -> Journal:
    return Journal(folder, limit, {"name": "jsonl"})


def everything(folder: Path, after: int = 0) -> list[dict[str, Any]]:
    """All events of a journal, as a shipper would read them."""
    reader, found = JournalReader(folder), []
    while batch := reader.batch(after):
        found += [json.loads(event) for _, event in batch]
        after = batch[-1][0]
    return found


def fill(one: Journal, count: int, text: str = "x") -> None:
    for number in range(count):
        one.append([Event("stdout", f"{text}{number}")], {"at": number})


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    fill(journal(tmp_path), 3)
    again = journal(tmp_path)
    assert (again.last, again.state["at"]) == (3, 2)
    fill(again, 2)
    assert [event["n"] for event in everything(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_record_that_is_torn_anywhere_is_as_if_never_written(tmp_path: Path) -> None:
    one = journal(tmp_path)
    fill(one, 2)
    (path,) = tmp_path.glob("journal-*")
    whole = path.stat().st_size
    one.append([Event("stdout", "a"), Event("stdout", "b")], {"at": 9})
    content = path.read_bytes()
    for size in range(whole, len(content)):
        path.write_bytes(content[:size])
        again = journal(tmp_path)
        assert (again.last, again.state["at"]) == (2, 1)
        again.append([Event("stdout", "c")], {"at": 3})
        assert [event["text"] for event in everything(tmp_path)] == ["x0", "x1", "c"]


def test_a_new_file_that_is_torn_is_dropped(tmp_path: Path) -> None:
    fill(journal(tmp_path), 2)
    (tmp_path / "journal-000000000003").write_bytes(b'{"n":3,"st')
    again = journal(tmp_path)
    assert (again.last, again.state["at"]) == (2, 1)


def test_stored_files_are_deleted_but_for_the_last(tmp_path: Path) -> None:
    one = journal(tmp_path, limit=8 * 10_000)
    fill(one, 100, "x" * 500)
    firsts = segments(tmp_path)
    assert len(firsts) > 3
    one.forget(firsts[2] - 1)
    assert segments(tmp_path) == firsts[2:]
    one.forget(100)
    assert segments(tmp_path) == firsts[-1:]
    again = journal(tmp_path)
    assert (again.last, again.state["at"]) == (100, 99)


def test_a_batch_has_at_most_1000_events_and_1_mib(tmp_path: Path) -> None:
    one = journal(tmp_path)
    one.append([Event("stdout", str(number)) for number in range(2500)], {})
    reader = JournalReader(tmp_path)
    assert [len(reader.batch(after)) for after in (0, 1000, 2000, 2500)] == [1000, 1000, 500, 0]
    one.append([Event("stdout", "y" * 200_000) for _ in range(12)], {})
    assert [len(reader.batch(after)) for after in (2500, 2505, 2510)] == [5, 5, 2]
    one.append([Event("tool", "t", {"output": "z" * 3_000_000})], {})
    assert len(reader.batch(2512)) == 1


def test_a_reader_follows_its_writer_from_file_to_file(tmp_path: Path) -> None:
    one, reader, after = journal(tmp_path, limit=8 * 4096), JournalReader(tmp_path), 0
    for number in range(200):
        one.append([Event("stdout", f"{number} " + "x" * 300)], {})
        batch = reader.batch(after)
        assert [n for n, _ in batch] == [number + 1]
        after = number + 1
        one.forget(after)


def test_a_reader_goes_back_when_it_is_asked_to(tmp_path: Path) -> None:
    fill(journal(tmp_path), 10)
    reader = JournalReader(tmp_path)
    assert len(reader.batch(8)) == 2
    assert [number for number, _ in reader.batch(3)] == [4, 5, 6, 7, 8, 9, 10]


def test_a_full_volume_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, real, fails = journal(tmp_path), os.pwrite, [True, True]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if fails:
            fails.pop()
            real(fd, data[:10], offset)
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    fill(one, 1)
    assert [event["text"] for event in everything(tmp_path)] == ["x0"]


def test_above_the_bound_only_what_matters_is_kept(tmp_path: Path) -> None:
    one = journal(tmp_path, limit=20_000)
    fill(one, 100, "x" * 300)
    one.append([Event("turn", data={"state": "idle"}), Event("text", "lost")], {})
    one.forget(one.last)
    one.close_gap({})
    events = everything(tmp_path)[-3:]
    assert [event["kind"] for event in events] == ["gap", "turn", "gap"]
    assert events[2]["data"] == {"events": 1, "bytes": 4}
    kept = sum(event["kind"] == "stdout" for event in everything(tmp_path))
    assert kept + events[0]["data"]["events"] <= 100


def write_fifo(folder: Path, data: bytes) -> tuple[int, int]:
    """A FIFO that holds `data`: its reading and its writing end."""
    os.mkfifo(folder / "fifo")
    reading = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(folder / "fifo", os.O_WRONLY)
    os.write(writing, data)
    return reading, writing


@pytest.mark.parametrize("splice", [True, False], ids=["splice", "read and write"])
def test_a_spool_takes_what_a_fifo_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splice: bool) -> None:
    if not splice:
        monkeypatch.delattr(os, "splice", raising=False)
    reading, writing = write_fifo(tmp_path, b"hello")
    spool = Spool(tmp_path, "out", 0)
    assert spool.fill(reading) == 5
    with pytest.raises(BlockingIOError):
        spool.fill(reading)
    os.write(writing, b" there")
    os.close(writing)
    assert (spool.fill(reading), spool.fill(reading)) == (6, 0)
    assert spool.read() == b"hello there"
    assert Spool(tmp_path, "out", 6).read() == b"there"
    os.close(reading)


def test_a_spools_files_are_deleted_when_they_are_consumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("courier.spool.SEGMENT", 10)
    reading, writing = write_fifo(tmp_path, b"0123456789")
    spool = Spool(tmp_path, "out", 0)
    spool.fill(reading)
    os.write(writing, b"abcdefghij")
    spool.fill(reading)
    assert (spool.read(), spool.read()) == (b"0123456789", b"abcdefghij")
    spool.forget(9)
    assert len(list(tmp_path.glob("out-*"))) == 2
    spool.forget(10)
    assert [path.name[-2:] for path in tmp_path.glob("out-*")] == ["10"]
    assert Spool(tmp_path, "out", 15).read() == b"fghij"
    os.close(reading)
    os.close(writing)


def test_a_journal_cut_at_any_place_tells_the_same_again(tmp_path: Path) -> None:
    """The spool is whole; the journal ends anywhere. Going on gives the events of a run that was never killed."""
    said = '{"type":"text","text":"a"}\nraw ü line\n{"type":"session","id":"s"}\n{"type":"idle"}\nrest'
    first = tmp_path / "first"
    first.mkdir()
    (first / "out-000000000000000").write_bytes(said.encode() * 3)
    one = Transcript(first, settings(BERTH_CONTRACT="jsonl"))
    one.record(one.contract.delivered(1))
    one.end(0)
    wanted = [(event["kind"], event.get("text"), event.get("data")) for event in everything(first)]
    (path,) = first.glob("journal-*")
    content = path.read_bytes()
    start = content.index(b"\n", content.index(b"delivered"))
    for size in range(start + 1, len(content) + 1, 7):
        copy = tmp_path / str(size)
        shutil.copytree(first, copy)
        (copy / path.name).write_bytes(content[:size])
        again = Transcript(copy, settings(BERTH_CONTRACT="plain"))
        again.end(0)
        again.close()
        assert [(event["kind"], event.get("text"), event.get("data")) for event in everything(copy)] == wanted
        shutil.rmtree(copy)
