"""What every runtime tells of what stands in it for runs and groups, and removes: one suite, run against each."""

from dataclasses import replace

import pytest

from runtimes.base import GroupRef, OwnedResource, Phase, RunRef, TransientFault
from testbed.waiting import wait_for
from tests.runtime.places import Crash, Place
from tests.runtime.test_contract import SECONDS, running


def of(place: Place, ref: RunRef) -> list[OwnedResource]:
    """What stands for a run."""
    return [resource for resource in place.runtime.run_resources() if resource.owner == ref]


def gone(place: Place, ref: RunRef) -> None:
    """Wait until nothing of a run is left."""
    wait_for(lambda: not place.leftovers(ref) and not of(place, ref), SECONDS, "nothing to be left")


def test_a_run_can_be_removed_piece_by_piece(place: Place) -> None:
    spec, line = place.spec("echo started; sleep 100")
    place.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    resources = of(place, spec.ref)
    assert resources and all(spec.ref.run in resource.name for resource in resources)
    for resource in resources:
        place.runtime.remove(resource)
        place.runtime.remove(resource)
    gone(place, spec.ref)
    assert place.runtime.observe(spec.ref).phase is Phase.ABSENT


@pytest.mark.parametrize("step", [1, 2])
def test_what_a_killed_start_left_can_be_removed(place: Place, step: int) -> None:
    spec, _ = place.spec("sleep 100")
    with place.crash_after(step), pytest.raises(Crash):
        place.runtime.ensure(spec)
    for resource in of(place, spec.ref):
        place.runtime.remove(resource)
    gone(place, spec.ref)


def test_what_lasts_of_a_group_is_told_apart_from_its_runs(place: Place) -> None:
    spec, _ = place.spec("sleep 100")
    assert list(place.runtime.group_resources()) == []
    place.runtime.ensure(spec)
    resources = list(place.runtime.group_resources())
    assert {resource.owner for resource in resources} == {GroupRef(place.group, place.slug)}
    assert not {resource.name for resource in resources} & {resource.name for resource in place.runtime.run_resources()}


def test_a_group_in_use_is_refused(place: Place) -> None:
    spec, line = place.spec("sleep 3; cat $BERTH_WORKSPACE/file || echo all is well; sleep 100")
    place.runtime.ensure(spec)
    running(place, spec.ref)
    resources = list(place.runtime.group_resources())
    for resource in resources:
        with pytest.raises(TransientFault, match="still there"):
            place.runtime.remove(resource)
    assert list(place.runtime.group_resources()) == resources
    wait_for(lambda: "all is well" in line.output(), SECONDS)


def test_a_group_goes_when_its_runs_have_gone(place: Place) -> None:
    spec, line = place.spec("echo kept > $BERTH_WORKSPACE/file; mkdir -m 0 $BERTH_WORKSPACE/closed; echo started")
    place.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    place.runtime.destroy(spec.ref)
    gone(place, spec.ref)
    resources = list(place.runtime.group_resources())
    for resource in resources:
        place.runtime.remove(resource)
    wait_for(lambda: not list(place.runtime.group_resources()), SECONDS, "the group to be gone")
    for resource in resources:
        place.runtime.remove(resource)


def test_what_is_another_groups_by_now_stays(place: Place) -> None:
    spec, _ = place.spec("true")
    place.runtime.ensure(spec)
    place.runtime.destroy(spec.ref)
    gone(place, spec.ref)
    resources = list(place.runtime.group_resources())
    for resource in resources:
        place.runtime.remove(replace(resource, owner=GroupRef("another", place.slug)))
    assert list(place.runtime.group_resources()) == resources
