"""Mounts of the local runtime: links to folders, whose real paths are looked at when the run starts."""

from pathlib import Path
from typing import Any

import pytest

from groups.mounts import BLOCKED
from runtimes.base import Cause, ClaimSource, FolderSource, Mount, PermanentFault, Phase
from testbed.waiting import wait_for
from tests.runtime.places import LocalPlace

SECONDS = 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a folder in it, and one beside it."""
    for name in ("root/data", "root/.ssh", "outside"):
        (tmp_path / "mounts" / name).mkdir(parents=True)
    (tmp_path / "mounts/root/data/file").write_text("from the mount")
    return tmp_path / "mounts" / "root"


def mount(name: str, root: Path, path: str, **more: Any) -> Mount:
    return Mount(name, name, FolderSource(str(root), path), blocked=tuple(BLOCKED), **more)


def test_an_agent_finds_its_mounts_and_the_project(local: LocalPlace, root: Path) -> None:
    mounts = (mount("data", root, "data"), mount("deep/er", root, "data"), mount("all", root, ""))
    script = 'cd "$BERTH_EXTRA" && cat data/file deep/er/file all/data/file "$BERTH_PROJECT/file"'
    project = FolderSource(str(root / "data"))
    spec, line = local.spec(script, mounts=mounts, main=True, project=project)
    local.runtime.ensure(spec)
    wait_for(lambda: line.output() == "from the mount" * 4, SECONDS)
    wait_for(lambda: local.runtime.observe(spec.ref).phase is Phase.FINISHED, SECONDS)
    local.runtime.destroy(spec.ref)
    assert not local.leftovers(spec.ref)
    assert (root / "data" / "file").read_text() == "from the mount"  # the links went, and what they lead to stayed


def test_the_project_is_for_the_main_group_alone(local: LocalPlace, root: Path) -> None:
    spec, line = local.spec('echo "[$BERTH_PROJECT]"', project=FolderSource(str(root)))
    local.runtime.ensure(spec)
    wait_for(lambda: line.output() == "[]\n", SECONDS)
    assert not (local.data / "runs" / spec.ref.run / "project").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("out", "leads out of its root"),
        ("gone", "gone is not there"),
        ("loop", "loop is not there"),
        ("keys", ".ssh, which is a blocked name"),
        ("data/file", "no folder"),
        ("../outside", "leads out of its root"),
    ],
)
def test_what_the_form_could_not_know_stops_the_start(local: LocalPlace, root: Path, path: str, words: str) -> None:
    for name, target in {"out": "../outside", "loop": "loop", "keys": ".ssh"}.items():
        (root / name).symlink_to(target)
    spec, _ = local.spec("true", mounts=(mount("data", root, path),))
    with pytest.raises(PermanentFault, match="mount 'data'") as fault:
        local.runtime.ensure(spec)
    assert fault.value.cause is Cause.MOUNT and words in str(fault.value)
    assert local.runtime.observe(spec.ref).phase is Phase.ABSENT


def test_a_claim_is_nothing_for_this_runtime(local: LocalPlace) -> None:
    spec, _ = local.spec("true", mounts=(Mount("data", "data", ClaimSource("team-data")),))
    with pytest.raises(PermanentFault, match="mount 'data'"):
        local.runtime.ensure(spec)


def test_a_link_that_is_turned_after_the_start_leads_where_it_was_judged(local: LocalPlace, root: Path) -> None:
    (root / "link").symlink_to("data")
    script = 'cd "$BERTH_EXTRA"; until [ -e "$BERTH_WORKSPACE/go" ]; do sleep 0.05; done; cat data/file'
    spec, line = local.spec(script, mounts=(mount("data", root, "link"),))
    local.runtime.ensure(spec)
    (root / "link").unlink()
    (root / "link").symlink_to("../outside")
    (local.data / "groups" / spec.ref.slug / "group" / "go").touch()
    wait_for(lambda: line.output() == "from the mount", SECONDS)
