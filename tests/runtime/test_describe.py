"""What people are told of a recorded run's start, and that no secret is among it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8s_adapter import manifests
from k8s_adapter.describe import describe, manifest
from runtimes.base import Description
from runtimes.mask import MASK, mask
from tests.runtime.test_manifests import CONFIG, SPEC

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "kubernetes"
ALL = {"scheduled", "pulled", "courier", "started"}


def recorded(name: str) -> Description:
    objects: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return describe(**objects)


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("completed", ALL),
        ("running", ALL),
        ("oom", ALL),
        ("no_shell", ALL - {"started"}),  # the command could not be executed
        ("image_pull", {"scheduled", "courier"}),
        ("failed_mount", {"scheduled"}),
        ("unschedulable", set()),
        ("quota", set()),  # no pod
        ("deleted_while_running", ALL),  # no Job
    ],
)
def test_the_steps_that_a_recorded_run_reached(name: str, reached: set[str]) -> None:
    assert set(recorded(name).steps) == reached


def test_steps_are_reached_in_order() -> None:
    steps = recorded("evicted").steps

    assert [str(steps[name].time()) for name in ("scheduled", "courier", "pulled", "started")] == [
        "16:53:46.239606",
        "16:53:46",  # a container's state tells seconds
        "16:53:47",
        "16:53:47",
    ]


def test_notices_are_what_the_cluster_said_oldest_first() -> None:
    notices = recorded("evicted").notices

    reasons = [notice.reason for notice in notices]
    assert reasons[:2] == ["SuccessfulCreate", "Scheduled"]
    assert 'Usage of EmptyDir volume "tmp" exceeds the limit "16Mi".' in [notice.text for notice in notices]
    assert all(notice.at for notice in notices)
    assert reasons[-1] == "Killing"


def test_a_notice_counts_how_often_it_was_said() -> None:
    assert max(notice.count for notice in recorded("image_pull").notices) > 1


def test_nothing_is_told_of_a_run_that_is_not_there() -> None:
    assert describe(None, [], []) == Description()


def test_the_manifest_is_the_job_as_it_was_made() -> None:
    job = manifests.make_job(SPEC, CONFIG)
    stored = job | {
        "metadata": job["metadata"] | {"uid": "u", "resourceVersion": "7", "managedFields": [{"manager": "x"}]},
        "status": {"active": 1},
    }

    assert manifest(stored) == job


def test_a_manifest_tells_no_secret_and_every_reference() -> None:
    secrets = {"API_KEY": "k-123", "DB_URL": "postgres://ann:s3same@db/x", "COLOUR": "blue", "KEY_FILE": "/var/k"}
    spec = replace(SPEC, environment=secrets, command=("run", "--token=t-456", "--password", "p-789", "PAT=q-1"))
    told = json.dumps(manifest(manifests.make_job(spec, CONFIG)))

    assert [each for each in ("k-123", "s3same", "t-456", "p-789", "q-1", spec.token) if each in told] == []
    assert f"postgres://{MASK}@db/x" in told
    for kept in ("blue", "/var/k", "berth-run-", '"key": "anthropic"', "/var/lib/berth/token"):
        assert kept in told


def test_a_specs_own_environment_is_masked_too() -> None:
    assert mask({"environment": {"MY_SECRET": "x", "PLACE": "sea"}, "number": 3}) == {
        "environment": {"MY_SECRET": MASK, "PLACE": "sea"},
        "number": 3,
    }
