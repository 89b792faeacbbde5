"""Stacks to test as a whole: the embedded one everywhere, the production one where there is all that it needs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.stack import ROOT, Stack
from tests import images

PRODUCTION = (pytest.mark.postgres, pytest.mark.redis, pytest.mark.cluster)
LIMITS = {"MAX_RUNS": "20", "MAX_RUNS_PER_GROUP": "20"}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """SQLite, the in-memory channel layer and local processes."""
    stack = Stack.embedded(tmp_path_factory.mktemp("embedded"), **LIMITS)
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, Redis and Kubernetes."""
    for name in ("courier", "workbench"):
        images.build(name)
    stack = Stack.production(tmp_path_factory.mktemp("production"), **LIMITS)
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture(params=["embedded", pytest.param("production", marks=PRODUCTION)])
def stack(request: pytest.FixtureRequest) -> Stack:
    """Each of the two in turn."""
    chosen: Stack = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A stand-in for a model's API, reached by pods; gives its port."""
    import os

    program = os.environ["MODEL_STUB"]
    process = subprocess.Popen(
        [sys.executable, program, "--host", "0.0.0.0", "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout
        yield int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.wait()


def log_of(stack: Stack) -> str:
    """What the stack's processes logged."""
    return Path(stack.log).read_text(errors="replace")
