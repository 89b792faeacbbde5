"""What holds an agent in its pod on a real cluster: mounts, users, what can be written."""

import json
from dataclasses import replace

import pytest

from k8s_adapter import names, pod
from k8s_adapter.runtime import KubernetesRuntime
from runtimes.base import Cause, ClaimSource, Mount, NfsSource, Observed, Phase, RunSpec, SecretFile
from testbed.waiting import wait_for
from tests.runtime.places import KubernetesPlace, kubectl

pytestmark = pytest.mark.cluster
SECONDS = 90


def ended(place: KubernetesPlace, spec: RunSpec) -> Observed:
    """Wait until a run is over."""
    runtime = place.runtime
    wait_for(lambda: runtime.observe(spec.ref).phase is Phase.FINISHED, SECONDS, "the end")
    return runtime.observe(spec.ref)


# --- mounts -------------------------------------------------------------------------------------------------------


def claim(place: KubernetesPlace, name: str) -> None:
    """A claim that an operator put into the group's namespace."""
    place.make_ground()
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
    kubectl("create", "-n", place.namespace, "-f", "-", stdin=json.dumps(body))


def test_mounts_are_looked_at_where_they_are_mounted(cluster: KubernetesPlace) -> None:
    claim(cluster, "shared")
    whole = Mount("all", "all", ClaimSource("shared"), read_only=False)
    script = (
        "cd ../extra/all && mkdir -p data/v2 .ssh && echo kept > data/v2/file && ln -s /etc etc && ln -s data/v2 new"
    )
    fill, line = cluster.spec(f"{script} && ln -s .ssh keys && echo filled", mounts=(whole,))
    cluster.runtime.ensure(fill)
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output() == "filled\n"

    good = Mount("good", "nested/good", ClaimSource("shared", "new"))
    script = "cd ../extra/nested/good; cat file; touch x 2>&1 | grep -o Read-only.*; ls ..; cat ../../../project/new/*"
    reads, line = cluster.spec(script, mounts=(good,), main=True, project=ClaimSource("shared"))
    bad = {
        "etc": "leads out of its volume",
        "missing": "can't be found",
        "keys": "may not be mounted",
    }
    refused = {
        path: cluster.spec("true", mounts=(Mount("bad", "bad", ClaimSource("shared", path), blocked=(".ssh",)),))[0]
        for path in bad
    }
    for spec in (reads, *refused.values()):
        cluster.runtime.ensure(spec)
    for path, spec in refused.items():
        seen = ended(cluster, spec)
        assert seen.cause is Cause.MOUNT
        assert seen.message.startswith(f"mount 'bad': {path}") and bad[path] in seen.message
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output().splitlines() == ["kept", "Read-only file system", "good", "kept"]


def test_the_main_groups_agent_reads_the_project_and_cannot_change_it(cluster: KubernetesPlace) -> None:
    claim(cluster, "project")
    write = replace(cluster.spec("true")[0], mounts=(Mount("all", "all", ClaimSource("project"), read_only=False),))
    cluster.runtime.ensure(replace(write, command=("sh", "-c", "echo plan > ../extra/all/README")))
    ended(cluster, write)
    script = "cd ../project && cat README && { echo x 2>/dev/null > README || echo refused; }"
    spec, line = cluster.spec(script)
    cluster.runtime.ensure(replace(spec, main=True, project=ClaimSource("project")))
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output().splitlines() == ["plan", "refused"]


def test_a_mount_of_a_claim_that_is_not_there_is_named(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("true", mounts=(Mount("lost", "lost", ClaimSource("no-such-claim")),))
    cluster.runtime.ensure(spec)
    wait_for(lambda: cluster.runtime.observe(spec.ref).cause, SECONDS)
    seen = cluster.runtime.observe(spec.ref)
    assert seen.cause is Cause.MOUNT
    assert '"no-such-claim" not found' in seen.message


def test_an_nfs_export_is_bound_for_the_group_and_goes_with_it(cluster: KubernetesPlace) -> None:
    """There is no NFS server here, so its pod is not waited for."""
    mount = Mount("models", "models", NfsSource("192.0.2.1", "/models"))
    spec, _ = cluster.spec("true", mounts=(mount,))
    cluster.runtime.ensure(spec)
    name = names.nfs(cluster.config.installation, cluster.group, "192.0.2.1", "/models")
    bound = {each["metadata"]["name"]: each["status"]["phase"] for each in cluster.objects("pvc")}
    assert bound[name] in ("Pending", "Bound")
    wait_for(
        lambda: {each["metadata"]["name"]: each["status"]["phase"] for each in cluster.objects("pvc")}[name] == "Bound",
        SECONDS,
        "the cluster binds it",
    )
    cluster.runtime.destroy(spec.ref)
    wait_for(lambda: not cluster.leftovers(spec.ref), SECONDS)
    kinds = [resource.kind for resource in cluster.runtime.group_resources()]
    assert sorted(kinds) == ["Namespace", "PersistentVolume", "PersistentVolumeClaim", "PersistentVolumeClaim"]
    for resource in list(cluster.runtime.group_resources()):
        cluster.runtime.remove(resource)
    wait_for(lambda: not list(cluster.runtime.group_resources()), SECONDS, "all of it to go")


# --- the pod ------------------------------------------------------------------------------------------------------


def test_agent_and_courier_are_different_users_without_each_others_processes(cluster: KubernetesPlace) -> None:
    script = """
        cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c TOKEN_FILE
        stat -c %u $BERTH_PIPES/in
        sleep 300
    """
    spec, line = cluster.spec(script)
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.output().count("\n") == 2, SECONDS)
    assert line.output().split() == ["0", "1001"]
    courier = wait_for(lambda: cluster.courier(spec.ref))
    assert courier is not None and courier.uids().real == 1001


def test_secrets_are_for_the_agent_and_its_group_alone(cluster: KubernetesPlace) -> None:
    source = cluster.put_secret("keys", "api", "value")
    spec, line = cluster.spec('stat -L -c "%a %u %g" /var/secrets/key', secrets=(SecretFile("key", source),))
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output() == "440 0 1000\n"  # the test cluster's kubelet applies fsGroup to secrets


def test_no_file_of_the_nodes_disk_can_be_written(cluster: KubernetesPlace) -> None:
    """The kubelet's own mounts are files of its node. What only other users may write is none of ours."""
    script = f"""
        while read -r _ _ _ _ path options _; do
            case $options,$path in rw,*|rw*,*) [ -f "$path" ] && [ -w "$path" ] && echo "$path" ;; esac
        done < /proc/self/mountinfo
        echo x 2>/dev/null > {pod.TERMINATION_LOG} || echo closed
    """
    spec, line = cluster.spec(script)
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output() == "closed\n"


def test_what_is_meant_to_be_written_can_be(cluster: KubernetesPlace) -> None:
    script = (
        'for each in /tmp /dev/shm "$HOME" "$PYTHONUSERBASE" .; do mkdir -p $each && touch $each/a && echo $each; done'
    )
    spec, line = cluster.spec(script)
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output().split() == ["/tmp", "/dev/shm", "/home/node", "/home/node/.local", "."]


def test_an_arbitrary_user_of_openshift_works(cluster: KubernetesPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its `restricted-v2` would put into a pod that says nothing of users."""
    real = pod._pod_security
    assigned = {"runAsUser": 1000660000, "fsGroup": 1000660000, "seLinuxOptions": {"level": "s0:c26,c5"}}
    monkeypatch.setattr(pod, "_pod_security", lambda config: real(config) | assigned)
    cluster.runtime = KubernetesRuntime(replace(cluster.config, openshift=True))
    script = "id -u; id -g; touch file $HOME/file $BERTH_STATE/file && python3 -m site --user-base"
    spec, line = cluster.spec(script)
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output().split() == ["1000660000", "0", "/home/node/.local"]
    assert ended(cluster, spec).cause is Cause.COMPLETED
