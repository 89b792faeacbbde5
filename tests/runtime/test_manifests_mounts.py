"""Mounts of a run on a cluster: what the pod is made of, and the look at real paths before it starts."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8s_adapter import check_mounts, manifests, mounts, names
from runtimes.base import ClaimSource, FolderSource, Mount, NfsSource, RunSpec
from tests.runtime.test_manifests import CONFIG, REF, SPEC

DATA = Mount("reference", "data/reference", ClaimSource("shared-data", "reference/v2"))
NOTES = Mount("notes", "notes", ClaimSource("shared-data", "notes"), read_only=False, blocked=(".ssh",))
EXPORT = Mount("models", "models", NfsSource("nfs.example", "/models", "small"))


def pod(spec: RunSpec) -> Any:
    return manifests.make_job(spec, CONFIG)["spec"]["template"]["spec"]


def extra(made: Any) -> list[Any]:
    return [each for each in made["containers"][0]["volumeMounts"] if each["name"].startswith("mount-")]


def test_mounts_of_one_claim_share_its_volume() -> None:
    made = pod(replace(SPEC, mounts=(DATA, NOTES)))
    assert made["volumes"][-1] == {"name": "mount-1", "persistentVolumeClaim": {"claimName": "shared-data"}}
    assert extra(made) == [
        {
            "name": "mount-1",
            "mountPath": "/workspace/extra/data/reference",
            "subPath": "reference/v2",
            "readOnly": True,
        },
        {"name": "mount-1", "mountPath": "/workspace/extra/notes", "subPath": "notes"},
    ]


def test_a_claim_that_nobody_writes_to_is_read_only_as_a_whole() -> None:
    made = pod(replace(SPEC, mounts=(DATA,)))
    assert made["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "shared-data", "readOnly": True}


def test_an_nfs_export_comes_by_the_groups_claim_on_it() -> None:
    made = pod(replace(SPEC, mounts=(EXPORT,)))
    claim = names.nfs("main", REF.group, "nfs.example", "/models")
    assert made["volumes"][-1]["persistentVolumeClaim"]["claimName"] == claim
    assert "nfs.example" not in str(made)


def test_only_the_main_group_sees_the_project_and_reads_it() -> None:
    project = ClaimSource("project")
    assert "/workspace/project" not in str(pod(replace(SPEC, project=project)))
    made = pod(replace(SPEC, project=project, main=True))
    assert extra(made) == [{"name": "mount-1", "mountPath": "/workspace/project", "readOnly": True}]


def test_the_look_comes_first_and_sees_whole_volumes_but_may_not_write() -> None:
    made = pod(replace(SPEC, mounts=(DATA, NOTES)))
    look, courier = made["initContainers"]
    assert (look["name"], courier["name"]) == ("mounts", "courier")
    assert look["volumeMounts"] == [{"name": "mount-1", "mountPath": "/mounts/mount-1", "readOnly": True}]
    assert json.loads(look["env"][0]["value"])[1] == {
        "name": "notes",
        "root": "/mounts/mount-1",
        "subpath": "notes",
        "blocked": [".ssh"],
        "base": "",
    }
    assert look["securityContext"] == made["containers"][0]["securityContext"]
    assert "restartPolicy" not in look
    assert [each["name"] for each in pod(SPEC)["initContainers"]] == ["courier"]


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount("a", "a", FolderSource("/srv")), "a folder of a machine"),
        (Mount("a", "a", ClaimSource("berth-workspace-red")), "Berth's own"),
        (Mount("a", "a", ClaimSource("")), "Berth's own"),
        (Mount("a", "../a", ClaimSource("data")), "no relative path"),
        (Mount("a", "/a", ClaimSource("data")), "no relative path"),
        (Mount("a", "", ClaimSource("data")), "no relative path"),
        (Mount("a", "a", ClaimSource("data", "../other")), "no relative path"),
        (Mount("a", "a", ClaimSource("data", "/etc")), "no relative path"),
        (Mount("a", "a", NfsSource("", "/data")), "a server and an absolute path"),
    ],
)
def test_what_a_pod_may_not_mount_is_refused_by_name(mount: Mount, words: str) -> None:
    (found,) = mounts.problems(replace(SPEC, mounts=(mount,)))
    assert found.startswith("mount 'a': ")
    assert words in found


def test_mounts_may_not_be_in_each_other() -> None:
    inner = replace(NOTES, path="data/reference/notes")
    (found,) = mounts.problems(replace(SPEC, mounts=(DATA, inner)))
    assert "are in each other" in found
    assert mounts.problems(replace(SPEC, mounts=(DATA, NOTES, EXPORT))) == []


def tree(root: Path) -> Path:
    """A volume with honest and other folders."""
    volume = root / "volume"
    (volume / "data" / "inner").mkdir(parents=True)
    (volume / ".SSH").mkdir()
    (root / "outside").mkdir()
    (volume / "out").symlink_to("../outside")
    (volume / "absolute").symlink_to("/etc")
    (volume / "latest").symlink_to("data/inner")
    (volume / "keys").symlink_to(".SSH")
    (volume / "loop").symlink_to("loop")
    (volume / "lost").symlink_to("gone")
    return volume


@pytest.mark.parametrize(
    ("subpath", "words"),
    [
        ("", ""),
        ("data/inner", ""),
        ("latest", ""),
        ("out", "leads out of its volume"),
        ("absolute", "leads out of its volume, to /etc"),
        ("../outside", "leads out of its volume"),
        ("data/../../outside", "leads out of its volume"),
        ("nothing", "can't be found"),
        ("lost", "can't be found"),
        ("loop", "can't be found"),
        (".SSH", "may not be mounted"),
        ("keys", "may not be mounted"),
    ],
)
def test_the_real_path_decides(tmp_path: Path, subpath: str, words: str) -> None:
    found = check_mounts.refusal(str(tree(tmp_path)), subpath, (".ssh",))
    assert words in found
    assert bool(found) == bool(words)


def test_the_real_path_stays_under_the_base(tmp_path: Path) -> None:
    volume = str(tree(tmp_path))
    assert check_mounts.refusal(volume, "data/inner", base="data") == ""
    assert check_mounts.refusal(volume, "latest", base="data") == ""
    assert check_mounts.refusal(volume, "latest", base="data/other") == "latest leads out of data/other"


def test_the_look_is_a_program_of_its_own(tmp_path: Path) -> None:
    """As the pod runs it: from its text, without Berth."""
    asked = [
        {"name": "good", "root": str(tree(tmp_path)), "subpath": "data", "blocked": [], "base": ""},
        {"name": "bad", "root": str(tmp_path / "volume"), "subpath": "out", "blocked": [], "base": ""},
    ]
    log = tmp_path / "log"
    script = mounts.SCRIPT.replace("/dev/termination-log", str(log))
    for which, status in ((asked[:1], 0), (asked, 1)):
        done = subprocess.run(
            [sys.executable, "-IS", "-c", script], env={"BERTH_MOUNTS": json.dumps(which), "PATH": os.environ["PATH"]}
        )
        assert done.returncode == status
    assert log.read_text().startswith("mount 'bad': out leads out of its volume")
