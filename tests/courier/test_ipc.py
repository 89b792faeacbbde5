"""The folder of files that an agent shares with its courier: what it, or an earlier one, may have put there."""

import os
from pathlib import Path

import pytest

from courier import ipc
from courier.ipc import Ipc


@pytest.mark.parametrize("name", ["input", "messages", "tasks"])
@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "fifo"])
def test_what_stands_in_the_place_of_a_folder_is_put_away(tmp_path: Path, name: str, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "ipc" / name
    place.parent.mkdir()
    if kind == "file":
        place.touch()
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(elsewhere if kind == "link" else tmp_path / "nothing")
    one = Ipc(tmp_path / "ipc")
    one.write({"a.json": b"{}"})
    assert list(one.files()) == []
    assert place.is_dir() and not place.is_symlink() and not list(elsewhere.iterdir())


def test_a_close_of_an_earlier_run_is_put_away_whatever_it_is(tmp_path: Path) -> None:
    one = Ipc(tmp_path)
    (tmp_path / "input" / "_close").mkdir()
    Ipc(tmp_path)
    one.write({"_close": b""})
    assert (tmp_path / "input" / "_close").is_file()
    Ipc(tmp_path)
    assert not (tmp_path / "input" / "_close").exists()


def test_a_fifo_under_the_name_of_a_file_that_is_written_holds_nobody_up(tmp_path: Path) -> None:
    one = Ipc(tmp_path)
    os.mkfifo(tmp_path / "input" / "._close.new")
    one.write({"_close": b"x"})
    assert (tmp_path / "input" / "_close").read_bytes() == b"x"


def test_many_files_are_taken_in_order_a_few_at_a_time(tmp_path: Path) -> None:
    one = Ipc(tmp_path)
    for number in range(250):
        (tmp_path / "tasks" / f"{number:04d}.json").write_text(str(number))
    for number in range(200):
        (tmp_path / "tasks" / f"0000-{number}.json").mkdir()  # what is no file is in nobody's way
    taken: list[bytes] = []
    while files := list(one.files()):
        assert len(files) <= ipc.MAX_FILES
        for outbox, name, content in files:
            taken.append(content)
            one.remove(outbox, name)
    assert taken == [str(number).encode() for number in range(250)]


def test_large_files_are_taken_a_few_at_a_time(tmp_path: Path) -> None:
    one = Ipc(tmp_path)
    for number in range(5):
        with (tmp_path / "messages" / f"{number}.json").open("wb") as file:
            file.truncate(ipc.FILE_LIMIT)
    assert [name for _, name, _ in one.files()] == ["0.json", "1.json"]
