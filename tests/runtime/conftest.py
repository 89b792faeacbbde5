"""Fixtures of the runtimes' tests."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.home import Home
from tests.runtime.places import KubernetesPlace, LocalPlace, Place

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """A control plane to call home to."""
    server = Home()
    yield server
    server.close()


@pytest.fixture(scope="session")
def courier_image() -> str:
    """The courier's image: TEST_COURIER_IMAGE, or built now."""
    if image := os.environ.get("TEST_COURIER_IMAGE"):
        return image
    file = ROOT / "images/courier/Dockerfile"
    command = [os.environ["CLUSTER_TOOL"], "build", str(ROOT), "-t", "courier", "--file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return "registry.local/courier:latest"


@pytest.fixture
def local(home: Home, tmp_path: Path) -> Iterator[LocalPlace]:
    """A local runtime with a group of its own."""
    place = LocalPlace(home, tmp_path)
    yield place
    place.clean()


@pytest.fixture
def cluster(home: Home, courier_image: str) -> Iterator[KubernetesPlace]:
    """A Kubernetes runtime with an installation and a group of its own."""
    place = KubernetesPlace(home, courier_image)
    yield place
    place.clean()


@pytest.fixture(params=["local", pytest.param("cluster", marks=pytest.mark.cluster)])
def place(request: pytest.FixtureRequest) -> Place:
    """Each runtime in turn."""
    chosen: Place = request.getfixturevalue(request.param)
    return chosen
