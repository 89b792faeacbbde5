"""Runs as programs, which end with the test (testbed/courier_run.py)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.courier_control_plane import Desk
from testbed.courier_run import Bench

Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a run for a contract."""
    made: list[Bench] = []

    def make(contract: str, run: str = "run", desk: Desk | None = None) -> Bench:
        made.append(Bench(tmp_path, contract, run, desk))
        return made[-1]

    yield make
    for one in made:
        one.clean_up()
