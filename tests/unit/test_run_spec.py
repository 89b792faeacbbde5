"""A living run is judged by the spec it was started with; what is changed beside it counts from the next run on."""

from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from groups.choices import MountKind, MountState, SecretKind
from groups.models import AgentGroup, AgentProfile, BrokeredKey, GroupMount, MountRoot, SecretReference
from runtimes.base import Cause, Observed, PermanentFault, Phase, RunRef, RunSpec, TransientFault
from runtimes.names import spec_hash
from sessions.choices import Intent, RunState
from sessions.lifecycle import reconcile, run_spec, runtime_factory, transitions
from sessions.models import AgentSession, Run
from sessions.scheduling import admission
from sessions.stream import serializers


class Refusing:
    """A runtime in which runs live, and that refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.seen = Observed(Phase.RUNNING, courier_alive=False)
        self.revived: list[RunSpec] = []

    def observe(self, ref: RunRef) -> Observed:
        return self.seen

    def revive(self, spec: RunSpec) -> None:
        if self.fault:
            raise self.fault
        self.revived.append(spec)

    ensure = revive

    def describe(self, ref: RunRef) -> Any:
        raise TransientFault(Cause.UNREACHABLE, "away")

    def destroy(self, ref: RunRef) -> None: ...


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    found = Refusing()
    monkeypatch.setattr(runtime_factory, "get", lambda name: found)
    return found


@pytest.fixture
def rich(group: AgentGroup, profile: AgentProfile, tmp_path: Path, settings: Any, monkeypatch: Any) -> AgentProfile:
    """A profile with something of everything, in a group that has mounts, secrets and a way out."""
    settings.EGRESS_PROXY_URL = "http://proxy.example:3128"
    settings.PROJECT_FOLDER = str(tmp_path)
    AgentGroup.objects.update(is_main=True)
    (tmp_path / "shared/data").mkdir(parents=True)
    root = MountRoot.objects.create(name="shared", kind=MountKind.FOLDER, place=str(tmp_path / "shared"))
    GroupMount.objects.create(group=group, root=root, path="data", name="data", state=MountState.APPROVED)
    key = SecretReference.objects.create(name="model-key", kind=SecretKind.ENV, place="BERTH_SECRET_MODEL")
    key.groups.add(group), key.profiles.add(profile)
    BrokeredKey.objects.create(provider="anthropic", group=group, reference=key)
    fields = {
        "environment": {"COLOUR": "blue"},
        "secrets": {"api": "ref:model-key"},
        "node_selector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "pod_patch": {"spec": {"priorityClassName": "low"}},
        "state_folder": "/home/node/.state",
    }
    AgentProfile.objects.filter(pk=profile.pk).update(**fields)
    profile.refresh_from_db()
    return profile


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


def again(run: Run) -> Run:
    """The run as another process reads it."""
    cache.clear()
    return Run.objects.for_decision().get(pk=run.pk)


def started(run: Run) -> Run:
    """The run after its start: its courier has called."""
    run_spec.of_run(run)
    now = timezone.now()
    Run.objects.filter(pk=run.pk).update(state=RunState.WORKING, started_at=now, made_at=now)
    return again(run)


def test_what_is_kept_of_a_spec_is_all_of_it_but_no_secret(rich: AgentProfile, run: Run) -> None:
    first = run_spec.of_run(run)
    kept = again(run)
    assert run_spec.of_run(kept) == first and spec_hash(run_spec.of_run(kept)) == spec_hash(first)
    assert kept.spec and len(first.secrets) == 2 and first.mounts and first.egress and first.project
    assert first.token not in str(kept.spec) and first.egress.credential not in str(kept.spec)
    assert not any(secret.value and secret.value in str(kept.spec) for secret in first.secrets)


CHANGES: list[tuple[str, Any]] = [
    ("The profile has changed", lambda: AgentProfile.objects.update(memory_mib=2048)),
    ("The profile has changed", lambda: AgentProfile.objects.update(idle_seconds=1)),
    ("The profile has changed", lambda: AgentProfile.objects.update(environment={"COLOUR": "red"})),
    ("The group has changed", lambda: AgentGroup.objects.update(storage_gib=77)),
    ("The mounts have changed", lambda: GroupMount.objects.all().delete()),
    ("The secrets have changed", lambda: BrokeredKey.objects.all().delete()),
    ("secret 'model-key' is not granted to the group", lambda: SecretReference.objects.get().groups.clear()),
    ("mount 'data': ", lambda: MountRoot.objects.update(place="/nonexistent")),
]


@pytest.mark.parametrize(("words", "change"), CHANGES)
def test_what_is_changed_beside_a_living_run_is_told_and_changes_nothing_of_it(
    rich: AgentProfile, run: Run, runtime: Refusing, words: str, change: Any
) -> None:
    run = started(run)
    before = run_spec.of_run(run)
    assert serializers.warning(run) == ""
    change()
    run = again(run)
    assert words in serializers.warning(run) and "counts from the next run on" in serializers.warning(run)
    reconcile.reconcile(run.session_id)
    assert runtime.revived == [before]
    assert again(run).state == RunState.WORKING


def test_a_start_that_the_runtime_does_not_have_goes_by_todays_limits(run: Run) -> None:
    run_spec.of_run(run)
    AgentProfile.objects.update(start_seconds=7)
    run = again(run)
    assert reconcile.wanted_state(run, None).start_seconds == 7
    run_spec.of_run(run)  # the next try, after which the runtime has it
    Run.objects.filter(pk=run.pk).update(made_at=timezone.now())
    AgentProfile.objects.update(start_seconds=8)
    assert reconcile.wanted_state(again(run), None).start_seconds == 7


def test_limits_are_those_of_the_start(run: Run) -> None:
    run = started(run)
    AgentProfile.objects.update(idle_seconds=1, turn_seconds=1, start_seconds=1, deadline_seconds=1, contract="plain")
    wanted = reconcile.wanted_state(again(run), None)
    assert (wanted.idle_seconds, wanted.turn_seconds, wanted.start_seconds) == (1800, 1800, 300)
    assert (wanted.deadline_seconds, again(run).contract) == (14400, "jsonl")


def test_a_start_that_is_under_way_goes_on_with_the_spec_it_began_with(run: Run, runtime: Refusing) -> None:
    runtime.fault = TransientFault(Cause.QUOTA, "exceeded quota", 10**12)
    reconcile.reconcile(run.session_id)
    waits = again(run)
    assert waits.waits_cause == Cause.QUOTA and waits.not_before and waits.spec
    AgentProfile.objects.update(memory_mib=2048)
    Run.objects.update(not_before=None)
    runtime.fault, runtime.seen = None, Observed(Phase.PENDING)
    reconcile.reconcile(run.session_id)
    assert [each.resources.memory_mib for each in runtime.revived] == [1024]
    assert (again(run).waits_cause, again(run).waits_for) == ("", "")


@pytest.mark.parametrize("change", [change for words, change in CHANGES if "mount" in words or "secret" in words])
def test_what_is_withdrawn_while_a_run_is_being_started_stops_the_start(
    rich: AgentProfile, run: Run, runtime: Refusing, change: Any
) -> None:
    runtime.fault = TransientFault(Cause.UNREACHABLE, "away")
    reconcile.reconcile(run.session_id)
    Run.objects.update(not_before=None, state=RunState.CLAIMED, waits_for="")
    change()
    runtime.fault = None
    reconcile.reconcile(run.session_id)
    assert (again(run).verdict, runtime.revived) == (Cause.MOUNT, [])


def test_a_start_that_no_longer_waits_for_the_quota_gives_its_slot_to_nobody(run: Run, runtime: Refusing) -> None:
    Run.objects.update(state=RunState.STARTING, made_at=timezone.now())
    for seen, gives_way in (
        (Observed(Phase.PENDING, Cause.QUOTA, "exceeded quota"), True),
        (Observed(Phase.PENDING), False),
    ):
        runtime.seen = seen
        reconcile.reconcile(run.session_id)
        assert (again(run).waits_cause == Cause.QUOTA) is gives_way
        assert bool(admission._holders()[0].idle_since) is gives_way
    assert not transitions.request_end(run.pk, Intent.PREEMPT, only_idle=True)


def test_what_the_runtime_refuses_of_a_started_run_is_a_warning(
    run: Run, runtime: Refusing, client: Client, people: dict[str, Any]
) -> None:
    run = started(run)
    runtime.fault = PermanentFault(Cause.REJECTED, "jobs.batch is forbidden")
    assert reconcile.reconcile(run.session_id) is False
    assert again(run).state == RunState.WORKING
    client.force_login(people["operator"])
    page = client.get(f"/admin/agent_sessions/agentsession/{run.session_id}/change/").content.decode()
    assert "jobs.batch is forbidden" in page
    runtime.fault = None
    reconcile.reconcile(run.session_id)
    assert again(run).warning == ""


def test_a_start_that_the_runtime_refuses_ends_with_its_words(run: Run, runtime: Refusing) -> None:
    runtime.fault = PermanentFault(Cause.REJECTED, "jobs.batch is forbidden")
    reconcile.reconcile(run.session_id)
    assert (again(run).state, again(run).verdict) == (RunState.ENDED, Cause.REJECTED)


@pytest.mark.parametrize("kept", [{"image": 7}, {"egress": 3}, {"secrets": [1]}, {"ref": {"run": "x"}}, [], "x"])
def test_a_row_that_cannot_be_read_is_set_aside(run: Run, kept: Any) -> None:
    whole = run_spec.build(run)
    Run.objects.update(spec=kept)
    assert run_spec.of_run(again(run)) == whole
    assert reconcile.wanted_state(again(run), None).idle_seconds == 1800
    assert serializers.warning(again(run)) == ""
