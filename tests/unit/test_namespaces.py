"""Groups' berths: who looks at them and when, what a quota is made of, and what profiles may say of pods."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from groups.models import AgentGroup, AgentProfile
from runtimes.base import Cause, GroupSpec, PermanentFault, Quota
from sessions import work_queue
from sessions.choices import RunState
from sessions.lifecycle import namespaces, run_spec, runtime_factory
from sessions.models import AgentSession, Run, WorkItem
from tests.unit.things import run_of


class Keeper:
    """A runtime that notes whose berth it is to keep."""

    def __init__(self) -> None:
        self.kept: list[GroupSpec] = []
        self.refuses = False

    def sync_namespace(self, group: GroupSpec) -> None:
        if self.refuses:
            raise PermanentFault(Cause.REJECTED, "it is another group's")
        self.kept.append(group)


@pytest.fixture
def running(session: AgentSession, settings: Any) -> Run:
    """A run that was made on a cluster."""
    settings.RUNTIME = "kubernetes"
    run = run_of(session)
    Run.objects.filter(pk=run.pk).update(state=RunState.WORKING, runtime="kubernetes")
    WorkItem.objects.all().delete()
    return run


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Keeper:
    found = Keeper()
    monkeypatch.setattr(runtime_factory, "get", lambda name: found)
    return found


def asked() -> list[str]:
    return [item.key.partition(" ")[2] for item in WorkItem.objects.filter(key__startswith=work_queue.SYNC_NAMESPACE)]


def test_a_group_that_runs_is_looked_at_again_and_again(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("sessions.lifecycle.namespaces.time.monotonic", lambda: clock[0])
    rounds = namespaces.SyncSchedule()
    rounds.step()
    assert asked() == []  # its start has just looked
    clock[0] += 29
    rounds.step()
    assert asked() == []
    clock[0] += 2
    rounds.step()
    rounds.step()
    assert asked() == [str(running.session.group_id)]
    clock[0] += 31
    WorkItem.objects.all().delete()
    rounds.step()
    assert asked() == [str(running.session.group_id)]


def test_a_group_without_runs_or_on_this_machine_is_not(running: Run, settings: Any) -> None:
    rounds = namespaces.SyncSchedule()
    rounds.step()
    Run.objects.filter(pk=running.pk).update(state=RunState.CLAIMED)
    rounds.step()
    assert not rounds._requested_at
    settings.RUNTIME = "local"
    Run.objects.filter(pk=running.pk).update(state=RunState.WORKING)
    rounds.step()
    assert not rounds._requested_at


def test_the_look_knows_the_groups_quota(running: Run, keeper: Keeper, settings: Any) -> None:
    group = running.session.group
    AgentGroup.objects.filter(pk=group.pk).update(quota_pods=3, storage_gib=7)
    assert namespaces.sync(group.pk)
    (kept,) = keeper.kept
    assert (kept.ref.group, kept.ref.slug, kept.storage_gib) == (str(group.pk), group.slug, 7)
    assert kept.quota == Quota(
        settings.GROUP_CPU_MILLIS, settings.GROUP_MEMORY_MIB, pods=3, storage_gib=settings.GROUP_STORAGE_GIB
    )
    assert run_spec.build(running).quota.pods == settings.GROUP_PODS  # the row in hand is the older one


def test_a_berth_that_can_not_be_kept_stops_nobody(running: Run, keeper: Keeper) -> None:
    keeper.refuses = True
    assert not namespaces.sync(running.session.group_id)


def test_a_group_that_is_being_removed_does_not_get_its_berth_back(running: Run, keeper: Keeper) -> None:
    Run.objects.filter(pk=running.pk).update(state=RunState.ENDED, ended_at=timezone.now(), verdict="completed")
    assert not namespaces.sync(running.session.group_id)
    assert keeper.kept == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("runtime_class", "gVisor!", "name of a RuntimeClass"),
        ("node_selector", ["pool"], "JSON object of labels"),
        ("node_selector", {"pool": 1}, "no label and value"),
        ("node_selector", {"a b": "c"}, "no label and value"),
        ("tolerations", {"key": "a"}, "JSON list"),
        ("tolerations", [{"operator": "Exists"}], "would tolerate every taint"),
        ("tolerations", [{"key": "a", "effect": "Never"}], "effect"),
        ("tolerations", [{"key": "a", "operator": "Exists", "value": "b"}], "has no value"),
        ("tolerations", [{"key": "a", "colour": "b"}], "has no colour"),
        ("pod_patch", {"spec": {"hostNetwork": True}}, "bound by no NetworkPolicy"),
        ("pod_patch", ["spec"], "must be an object"),
    ],
)
def test_what_a_profile_may_not_say_of_its_pods(profile: AgentProfile, field: str, value: Any, words: str) -> None:
    setattr(profile, field, value)
    with pytest.raises(ValidationError, match=words):
        profile.full_clean()


def test_what_it_may(running: Run) -> None:
    profile = running.session.profile
    profile.runtime_class, profile.dns = "gvisor", True
    profile.node_selector = {"pool": "agents"}
    profile.tolerations = [{"key": "agents", "operator": "Exists", "effect": "NoSchedule"}]
    profile.pod_patch = {"spec": {"priorityClassName": "agents"}}
    profile.full_clean()
    pod = run_spec.build(running).pod
    assert (pod.runtime_class, pod.dns, pod.node_selector) == ("gvisor", True, {"pool": "agents"})
    assert pod.tolerations == tuple(profile.tolerations)
    assert pod.patch == profile.pod_patch


def test_each_refusal_of_a_patch_is_told_in_the_form(profile: AgentProfile) -> None:
    profile.pod_patch = {"spec": {"hostNetwork": True, "hostPID": True}}
    with pytest.raises(ValidationError) as refused:
        profile.full_clean()
    assert len(refused.value.message_dict["pod_patch"]) == 2
