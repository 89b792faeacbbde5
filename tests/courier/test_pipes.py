"""The folder that courier and agent share is the agent's too: what it puts there instead of a FIFO leads nowhere."""

import os
from pathlib import Path

import pytest

from courier.pipes import VANISHED, Pipes


@pytest.fixture
def pipes(tmp_path: Path) -> Pipes:
    return Pipes(tmp_path / "pipes")


def plant(pipes: Pipes, name: str, target: Path) -> None:
    """What an agent can do: put a link in the place of a FIFO."""
    (pipes.folder / name).unlink(missing_ok=True)
    (pipes.folder / name).symlink_to(target)


@pytest.mark.parametrize("name", ["out", "err", "bell"])
def test_a_link_is_not_read_and_ends_no_later_courier(pipes: Pipes, tmp_path: Path, name: str) -> None:
    token = tmp_path / "token"
    token.write_text("of the courier")
    plant(pipes, name, token)
    again = Pipes(pipes.folder)
    assert (again.folder / name).is_fifo() and not (again.folder / name).is_symlink()
    assert again.exit_code(seen=True) == VANISHED


@pytest.mark.parametrize("name", ["in", "ctl"])
def test_a_folder_in_the_place_of_a_fifo_is_no_wrapper(pipes: Pipes, name: str) -> None:
    (pipes.folder / name).unlink()
    (pipes.folder / name).mkdir()
    assert not pipes.attach()
    assert pipes.exit_code(seen=True) == VANISHED
    assert (Pipes(pipes.folder).folder / name).is_fifo()


@pytest.mark.parametrize("name", ["in", "ctl"])
def test_a_link_is_not_written_to(pipes: Pipes, tmp_path: Path, name: str) -> None:
    journal = tmp_path / "journal"
    journal.write_text("of another run")
    reader = os.open(pipes.folder / "ctl", os.O_RDONLY | os.O_NONBLOCK)
    plant(pipes, name, journal)
    attached = pipes.attach()
    assert not attached or pipes.write(b"x", begun=False) == 0
    assert pipes.control("eof") is (name == "in")
    assert journal.read_text() == "of another run"
    os.close(reader)


def test_a_file_in_the_place_of_a_fifo_is_left_alone(pipes: Pipes) -> None:
    (pipes.folder / "ctl").unlink()
    (pipes.folder / "ctl").write_text("mine")
    assert not pipes.wrapper_lives() and not pipes.control("eof")
    assert pipes.exit_code(seen=True) == VANISHED
    assert (pipes.folder / "ctl").read_text() == "mine"


def test_the_last_word_makes_no_file_elsewhere(pipes: Pipes, tmp_path: Path) -> None:
    plant(pipes, "drained", tmp_path / "made")
    pipes.mark_drained()
    assert not (tmp_path / "made").exists()


def test_the_last_word_can_be_said_twice(pipes: Pipes) -> None:
    pipes.mark_drained()
    pipes.mark_drained()
    assert (pipes.folder / "drained").exists()
