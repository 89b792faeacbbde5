"""What only a cluster can do to a run, on a real one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from k8s_adapter import names, pod
from k8s_adapter.config import KubernetesConfig
from k8s_adapter.runtime import KubernetesRuntime
from runtimes.base import Cause, Observed, PermanentFault, Phase, Resources, RunRef, SecretFile, TransientFault
from testbed.waiting import wait_for
from tests.runtime.places import KubernetesPlace, kubectl

pytestmark = pytest.mark.cluster
SECONDS = 90


def caused(place: KubernetesPlace, ref: RunRef) -> Observed:
    """Wait until there is a cause, of waiting or of the end, and return what was seen."""

    def look() -> Observed | None:
        seen = place.runtime.observe(ref)
        return seen if seen.cause else None

    seen = wait_for(look, SECONDS, "a cause")
    assert seen is not None
    return seen


def test_an_image_that_cannot_be_pulled(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("true", image="registry.local/no-such-image:1")
    cluster.runtime.ensure(spec)
    seen = caused(cluster, spec.ref)
    assert (seen.phase, seen.cause) == (Phase.PENDING, Cause.IMAGE_PULL)
    assert "registry.local/no-such-image:1" in seen.message
    cluster.runtime.destroy(spec.ref)
    wait_for(lambda: not cluster.leftovers(spec.ref), SECONDS)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"A": "x" * 200_000}, "argument list too long"),
        ({"A": "a\0b"}, "invalid argument|NUL|null|nul byte"),
        ({"PATH": "/nowhere"}, "executable file not found"),
    ],
    ids=["too long", "NUL", "no shell"],
)
def test_what_no_program_can_be_started_with_is_rejected_in_the_container_runtimes_words(
    cluster: KubernetesPlace, environment: dict[str, str], words: str
) -> None:
    spec, _ = cluster.spec("true", environment=environment)
    cluster.runtime.ensure(spec)
    seen = caused(cluster, spec.ref)
    assert seen.cause is Cause.REJECTED and re.search(words, seen.message), seen


def test_a_pod_that_no_node_has_room_for(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("true", resources=Resources(cpu_millis=640_000, memory_mib=64, scratch_mib=16))
    cluster.runtime.ensure(spec)
    seen = caused(cluster, spec.ref)
    assert (seen.phase, seen.cause) == (Phase.PENDING, Cause.UNSCHEDULABLE)
    assert "Insufficient cpu" in seen.message


def test_pod_security_says_why_it_refuses(cluster: KubernetesPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod, "_container_security", dict)
    spec, _ = cluster.spec("true")
    cluster.runtime.ensure(spec)
    seen = caused(cluster, spec.ref)
    assert (seen.phase, seen.cause) == (Phase.PENDING, Cause.REJECTED)
    assert 'violates PodSecurity "restricted' in seen.message
    assert "allowPrivilegeEscalation" in seen.message


def test_a_quota_on_pods_is_waited_for(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    kubectl("create", "quota", "small", "--hard=pods=0", "-n", cluster.namespace)
    spec, _ = cluster.spec("true")
    cluster.runtime.ensure(spec)
    seen = caused(cluster, spec.ref)
    assert (seen.phase, seen.cause) == (Phase.PENDING, Cause.QUOTA)


def test_a_quota_on_jobs_is_a_transient_fault(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    kubectl("create", "quota", "small", "--hard=count/jobs.batch=0", "-n", cluster.namespace)
    spec, _ = cluster.spec("true")
    with pytest.raises(TransientFault, match="exceeded quota") as fault:
        cluster.runtime.ensure(spec)
    assert fault.value.cause is Cause.QUOTA


def test_an_agent_that_eats_its_memory_is_told_to_have(cluster: KubernetesPlace) -> None:
    spec, line = cluster.spec("echo hungry; python3 -c 'print(len(bytearray(500 << 20)))'")
    cluster.runtime.ensure(spec)
    seen = caused(cluster, spec.ref)
    assert (seen.phase, seen.cause, seen.exit_code) == (Phase.FINISHED, Cause.OOM, 137)
    assert line.output() == "hungry\n"


def test_a_deadline_ends_a_run(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("sleep 100", deadline_seconds=3)
    cluster.runtime.ensure(spec)
    seen = caused(cluster, spec.ref)
    assert (seen.phase, seen.cause) == (Phase.FINISHED, Cause.DEADLINE)


def test_a_spec_that_the_api_server_finds_invalid_is_refused(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("true", environment={"": "no name"})
    with pytest.raises(PermanentFault, match="invalid") as fault:
        cluster.runtime.ensure(spec)
    assert fault.value.cause is Cause.REJECTED


def test_a_missing_secret_of_the_cluster_is_named_before_anything_starts(cluster: KubernetesPlace) -> None:
    cluster.put_secret("keys", "api", "value")
    for source, words in (("kubernetes:gone/api", "no Secret gone"), ("kubernetes:keys/other", "a key other")):
        spec, _ = cluster.spec("true", secrets=(SecretFile("api-key", source),))
        with pytest.raises(PermanentFault, match=f"'api-key'.*{words}") as fault:
            cluster.runtime.ensure(spec)
        assert fault.value.cause is Cause.MOUNT
        assert cluster.runtime.observe(spec.ref).phase is Phase.ABSENT


def test_the_secret_goes_with_its_job(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("sleep 100")
    cluster.runtime.ensure(spec)
    kubectl("delete", "job", names.job(spec.ref.run), "-n", cluster.namespace, "--wait=false")
    wait_for(lambda: not cluster.leftovers(spec.ref), SECONDS, "the garbage collector")
    assert cluster.runtime.observe(spec.ref).phase is Phase.ABSENT


def test_the_agent_is_confined(cluster: KubernetesPlace) -> None:
    script = """
        id -u; id -g
        touch /file 2>/dev/null || echo root is read-only
        [ -e /var/run/secrets/kubernetes.io ] || echo no service account
        [ -e /var/lib/berth ] || echo neither token nor journal
        ls -A /workspace
    """
    spec, line = cluster.spec(script)
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output().splitlines() == [
        "1000",
        "1000",
        "root is read-only",
        "no service account",
        "neither token nor journal",
        "checkpoints",
        "group",
        "ipc",
    ]


def test_a_namespace_that_was_deleted_is_made_again(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    kubectl("delete", "namespace", cluster.namespace, "--wait=true", "--timeout=60s")
    spec, line = cluster.spec("echo started")
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.exit_code() == 0, SECONDS)


def test_a_namespace_of_another_group_is_refused(cluster: KubernetesPlace) -> None:
    """A group that was made anew under an old slug must not get the old one's workspace."""
    cluster.make_ground()
    spec, _ = cluster.spec("true")
    runtime = KubernetesRuntime(cluster.config)
    with pytest.raises(PermanentFault, match="not labelled as this group's"):
        runtime.ensure(replace(spec, ref=replace(spec.ref, group="another")))


def test_a_second_installation_touches_nothing_of_the_first(cluster: KubernetesPlace) -> None:
    spec, line = cluster.spec("echo started; sleep 100")
    cluster.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    other = KubernetesRuntime(replace(cluster.config, installation="other"))
    assert spec.ref not in list(other.runs())
    assert other.observe(spec.ref) == Observed(Phase.ABSENT)
    other.stop(spec.ref)
    other.destroy(spec.ref)
    with pytest.raises(PermanentFault):
        other.ensure(spec)
    wait_for(lambda: cluster.runtime.observe(spec.ref).phase is Phase.RUNNING, SECONDS, "the first's run, as it was")
    job = cluster.objects("jobs")[0]
    assert not job["spec"].get("suspend")
    assert "deletionTimestamp" not in job["metadata"]


def test_groups_can_share_one_namespace(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    config = replace(cluster.config, shared_namespace=cluster.namespace)
    runtime = KubernetesRuntime(config)
    spec, line = cluster.spec("echo started")
    ref = replace(spec.ref, slug=f"{cluster.slug}-b", group="b")
    runtime.ensure(replace(spec, ref=ref))
    wait_for(lambda: line.exit_code() == 0, SECONDS)
    assert list(runtime.runs()) == [ref]
    claims = {claim["metadata"]["name"] for claim in cluster.objects("pvc")}
    assert names.claim(ref.slug) in claims
    assert names.namespace(ref.slug) not in kubectl("get", "namespaces", "-o", "name")


def test_a_cluster_that_cannot_be_reached_is_a_transient_fault(cluster: KubernetesPlace, tmp_path: Path) -> None:
    nowhere = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {"token": "a"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    (tmp_path / "config").write_text(json.dumps(nowhere))
    runtime = KubernetesRuntime(KubernetesConfig("i", "image", kubeconfig=tmp_path / "config"))
    spec, _ = cluster.spec("true")
    with pytest.raises(TransientFault) as fault:
        runtime.observe(spec.ref)
    assert fault.value.cause is Cause.UNREACHABLE


def test_a_kubeconfig_that_is_not_there_is_a_permanent_fault(cluster: KubernetesPlace, tmp_path: Path) -> None:
    runtime = KubernetesRuntime(KubernetesConfig("i", "image", kubeconfig=tmp_path / "none"))
    with pytest.raises(PermanentFault, match="no way into the cluster"):
        list(runtime.runs())
