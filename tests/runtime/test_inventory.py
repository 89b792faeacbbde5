"""Clean-up on a real cluster: what only a cluster can have left over, and what belongs to others."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from k8s_adapter import names
from k8s_adapter.runtime import KubernetesRuntime
from runtimes.base import GroupRef, OwnedResource, PermanentFault, RunRef
from testbed.waiting import wait_for
from tests.runtime.places import KubernetesPlace, kubectl

pytestmark = pytest.mark.cluster
SECONDS = 90


def kinds(resources: Iterator[OwnedResource]) -> list[str]:
    return [resource.kind for resource in resources]


def put(cluster: KubernetesPlace, kind: str, name: str, labels: dict[str, str], **rest: object) -> None:
    """Make an object in the group's namespace."""
    metadata = {"name": name, "namespace": cluster.namespace, "labels": labels}
    version = "batch/v1" if kind == "Job" else "v1"
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, **rest}))


def test_a_secret_without_its_job_is_told_and_removed(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("true")
    cluster.make_ground()
    labels = names.run_labels(spec.ref, cluster.config.installation)
    put(cluster, "Secret", names.secret(spec.ref.run), labels)
    (resource,) = cluster.runtime.run_resources()
    assert resource == OwnedResource(spec.ref, "Secret", names.secret(spec.ref.run), cluster.namespace)
    cluster.runtime.remove(resource)
    assert list(cluster.runtime.run_resources()) == []


def test_a_pod_that_lost_its_job_is_told_and_removed(cluster: KubernetesPlace) -> None:
    spec, line = cluster.spec("echo started; sleep 300")
    cluster.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    kubectl("delete", "job", names.job(spec.ref.run), "-n", cluster.namespace, "--cascade=orphan")
    wait_for(lambda: kinds(cluster.runtime.run_resources()) in (["Pod", "Secret"], ["Pod"]), SECONDS, "the pod alone")
    for resource in cluster.runtime.run_resources():
        cluster.runtime.remove(resource)
    wait_for(lambda: not cluster.leftovers(spec.ref), SECONDS)


def test_what_is_being_deleted_is_not_told(cluster: KubernetesPlace) -> None:
    spec, line = cluster.spec("trap '' TERM; echo started; sleep 300", stop_grace_seconds=20)
    cluster.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    cluster.runtime.destroy(spec.ref)
    wait_for(lambda: cluster.objects("pods")[0]["metadata"].get("deletionTimestamp"), SECONDS)
    wait_for(lambda: not list(cluster.runtime.run_resources()), 10, "nothing to be told")
    assert cluster.objects("pods")


def test_another_installations_objects_stay_also_in_a_namespace_of_ours(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    ours, _ = cluster.spec("true")
    theirs = RunRef("0" * 8 + ours.ref.run[8:], ours.ref.session, ours.ref.group, ours.ref.slug)
    put(cluster, "Secret", names.secret(ours.ref.run), names.run_labels(ours.ref, cluster.config.installation))
    put(cluster, "Secret", names.secret(theirs.run), names.run_labels(theirs, "other"))
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    put(cluster, "PersistentVolumeClaim", "berth-theirs", names.group_labels(theirs, "other"), spec=claim)

    assert [resource.owner for resource in cluster.runtime.run_resources()] == [ours.ref]
    place = cluster.namespace
    for resource in (
        OwnedResource(theirs, "Secret", names.secret(theirs.run), place),
        OwnedResource(GroupRef(theirs.group, theirs.slug), "PersistentVolumeClaim", "berth-theirs", place),
        *cluster.runtime.run_resources(),
    ):
        cluster.runtime.remove(resource)
    claims, namespace = cluster.runtime.group_resources()
    cluster.runtime.remove(claims)
    with pytest.raises(PermanentFault, match=r"it holds Secret berth-run-0.* of the installation other"):
        cluster.runtime.remove(namespace)

    assert kubectl("get", "secrets", "-n", place, "-l", names.RUN, "-o", "name").split() == [
        f"secret/{names.secret(theirs.run)}"
    ]
    assert {each["metadata"]["name"] for each in cluster.objects("pvc") if not _going(each)} == {"berth-theirs"}
    other = KubernetesRuntime(replace(cluster.config, installation="other"))
    assert [resource.owner for resource in other.run_resources()] == [theirs]


def _going(item: dict[str, dict[str, object]]) -> bool:
    return "deletionTimestamp" in item["metadata"]


def test_in_a_shared_namespace_a_groups_volume_goes_and_the_namespace_stays(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    runtime = KubernetesRuntime(replace(cluster.config, shared_namespace=cluster.namespace))
    spec, _ = cluster.spec("true")
    neighbour = replace(spec, ref=replace(spec.ref, slug=f"{cluster.slug}-b", group="b"))
    runtime.sync_namespace(neighbour.group)
    resources = list(runtime.group_resources())
    assert {resource.kind for resource in resources} == {"PersistentVolumeClaim", "NetworkPolicy"}
    for resource in resources:
        if resource.owner.group == "b":
            runtime.remove(resource)
    wait_for(lambda: {resource.owner.slug for resource in runtime.group_resources()} == {cluster.slug}, SECONDS)
    assert (
        "deletionTimestamp" not in json.loads(kubectl("get", "namespace", cluster.namespace, "-o", "json"))["metadata"]
    )
