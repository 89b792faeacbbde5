"""What holds a group on a real cluster: its namespace, policies, quota, and what a pod may reach from inside."""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from k8s_adapter import names
from k8s_adapter.client import Api
from k8s_adapter.runtime import KubernetesRuntime
from runtimes.base import Cause, GroupRef, PodOptions, Quota, Resources, RunSpec
from testbed.waiting import wait_for
from tests.runtime.home import Home, Line
from tests.runtime.places import KubernetesPlace, kubectl

pytestmark = pytest.mark.cluster
SECONDS = 90
API = "10.96.0.1"
# Tries every [name, host, port] at once, and tells what is open; then what a name resolves to.
PROBE = """
import concurrent.futures, json, socket, sys
def open_(target):
    try:
        socket.create_connection((target[1], target[2]), 3).close()
        return True
    except OSError:
        return False
targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print("open:", " ".join(sorted(t[0] for t, yes in zip(targets, pool.map(open_, targets)) if yes)))
try:
    print("name:", socket.gethostbyname("kubernetes.default.svc.cluster.local"))
except OSError as error:
    print("name: none")
"""
LISTEN = "import socket,time; s=socket.create_server(('', 8080)); print('listens', flush=True); time.sleep(300)"


@pytest.fixture(scope="module")
def neighbour(home: Home, courier_image: str) -> Iterator[tuple[str, KubernetesPlace]]:
    """Another group, and the address of its pod, which listens on port 8080."""
    place = KubernetesPlace(home, courier_image)
    try:
        spec, line = place.spec(f'exec python3 -c "{LISTEN}"')
        place.runtime.ensure(spec)
        wait_for(lambda: "listens" in line.output(), SECONDS, "the neighbour")
        (found,) = place.objects("pods")
        yield found["status"]["podIP"], place
    finally:
        place.clean()


def targets(cluster: KubernetesPlace, neighbour: str) -> list[tuple[str, str, int]]:
    """What a pod tries. All of it is open from this machine, which is the cluster's node."""
    (dns,) = json.loads(kubectl("get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "json"))["items"]
    node = os.environ["TEST_NODE_IP"]
    return [
        ("control-plane", node, cluster.home.port),
        ("api-service", API, 443),
        ("api-node", node, api_port()),
        ("kubelet", node, 10250),
        ("neighbour", neighbour, 8080),
        ("dns-pod", dns["status"]["podIP"], 53),
        ("dns-service", "10.96.0.10", 53),
    ]


def api_port() -> int:
    """The API server's own port on the node."""
    found = json.loads(kubectl("get", "endpointslices", "-n", "default", "-o", "json"))["items"]
    return int(found[0]["ports"][0]["port"])


def probe(place: KubernetesPlace, tried: list[tuple[str, str, int]], **changes: Any) -> dict[str, str]:
    """Run the probe as an agent: what was open, and the address of a name."""
    spec, line = place.spec(f"exec python3 -c \"$PROBE\" '{json.dumps(tried)}'", **changes)
    place.runtime.ensure(replace(spec, environment={"PROBE": PROBE}))
    wait_for(lambda: line.exit_code() is not None, SECONDS, "the probe")
    return dict(each.split(": ", 1) for each in line.output().replace("open:\n", "open: \n").splitlines())


def started(place: KubernetesPlace, **changes: Any) -> tuple[RunSpec, Line]:
    """A run that lasts."""
    spec, line = place.spec("echo started; sleep 300", **changes)
    place.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS, "the run")
    return spec, line


# --- the network --------------------------------------------------------------------------------------------------


def test_a_pod_reaches_its_control_plane_and_nothing_else(
    cluster: KubernetesPlace, neighbour: tuple[str, KubernetesPlace]
) -> None:
    tried = targets(cluster, neighbour[0])
    for name, host, port in tried:
        if name != "neighbour":  # it is closed from everywhere
            socket.create_connection((host, port), 3).close()
    assert probe(cluster, tried) == {"open": "control-plane", "name": "none"}


def test_a_profile_that_opens_dns_opens_that_alone(
    cluster: KubernetesPlace, neighbour: tuple[str, KubernetesPlace]
) -> None:
    seen = probe(cluster, targets(cluster, neighbour[0]), pod=PodOptions(dns=True))
    assert seen == {"open": "control-plane dns-pod dns-service", "name": API}


def test_a_control_plane_with_a_name_is_found_without_dns(
    cluster: KubernetesPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, node = socket.getaddrinfo, os.environ["TEST_NODE_IP"]

    def resolve(host: Any, *rest: Any, **options: Any) -> Any:
        return real(node if host == "berth.example" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"http://berth.example:{cluster.home.port}"
    cluster.runtime = KubernetesRuntime(replace(cluster.config, courier_url=url))
    spec, line = cluster.spec("grep berth.example /etc/hosts", courier_url=url)
    cluster.runtime.ensure(spec)
    wait_for(lambda: line.exit_code() is not None, SECONDS)
    assert line.output().split() == [node, "berth.example"]


def test_groups_that_share_a_namespace_are_kept_apart(
    cluster: KubernetesPlace, neighbour: tuple[str, KubernetesPlace]
) -> None:
    """The neighbour's namespace is shared now; its pod stands in it."""
    address, other = neighbour
    config = replace(cluster.config, shared_namespace=other.namespace)
    cluster.runtime = KubernetesRuntime(config)
    seen = probe(cluster, targets(cluster, address))
    assert seen == {"open": "control-plane", "name": "none"}
    shared = {each["metadata"]["name"] for each in other.objects("networkpolicies")}
    assert {names.policy(kind, cluster.slug, other.namespace) for kind in ("deny", "out", "dns")} <= shared
    for resource in list(cluster.runtime.group_resources()):
        assert resource.namespace == other.namespace
    for ref in list(cluster.runtime.runs()):
        cluster.runtime.destroy(ref)
    wait_for(lambda: not list(cluster.runtime.runs()), SECONDS)

    def bare() -> bool:
        for resource in list(cluster.runtime.group_resources()):
            cluster.runtime.remove(resource)
        return not list(cluster.runtime.group_resources())

    wait_for(lambda: not [pod for pod in other.objects("pods") if cluster.slug in str(pod["metadata"])], SECONDS)
    assert bare() or wait_for(bare, SECONDS, "the group's part of the namespace to go")
    assert {each["metadata"]["name"] for each in other.objects("networkpolicies")} == shared - {
        names.policy(kind, cluster.slug, other.namespace) for kind in ("deny", "out", "dns")
    }


# --- kept right ---------------------------------------------------------------------------------------------------


def versions(place: KubernetesPlace) -> dict[str, str]:
    """The version of every object of the berth: a write changes it."""
    kinds = ("networkpolicies", "resourcequotas", "limitranges")
    every = [each for kind in kinds for each in place.objects(kind)]
    every.append(json.loads(kubectl("get", "namespace", place.namespace, "-o", "json")))
    # A quota's status is written by the cluster.
    return {
        f"{each['kind']} {each['metadata']['name']}": str(each.get("spec")) + str(each["metadata"]["labels"])
        if each["kind"] == "ResourceQuota"
        else each["metadata"]["resourceVersion"]
        for each in every
    }


def test_what_is_right_is_not_written_again(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    before = versions(cluster)
    cluster.make_ground()
    cluster.other_process().sync_namespace(cluster.spec("true")[0].group)
    assert versions(cluster) == before
    assert len(before) == 6


def test_a_start_in_a_berth_that_was_just_seen_takes_three_calls(
    cluster: KubernetesPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Secret, the Job, and the one handed to the other: what holds the group costs a start nothing."""
    cluster.make_ground()
    calls: list[str] = []
    real = Api._call

    def call(self: Api, method: str, path: str, *rest: Any, **options: Any) -> Any:
        calls.append(f"{method} {path.split(cluster.namespace)[1].split('/')[1]}")
        return real(self, method, path, *rest, **options)

    monkeypatch.setattr(Api, "_call", call)
    cluster.runtime.ensure(cluster.spec("true")[0])
    assert calls == ["POST secrets", "POST jobs", "PATCH secrets"]


def test_what_somebody_changed_is_put_right(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("true", quota=Quota(8000, 8192, 10, 50))
    cluster.runtime.sync_namespace(spec.group)

    def berth_now() -> list[Any]:
        kinds = ("networkpolicies", "resourcequotas", "limitranges")
        return [each["spec"] for kind in kinds for each in cluster.objects(kind)]

    right = berth_now()
    space = ["-n", cluster.namespace]
    kubectl("delete", "networkpolicy", "berth-out", *space)
    open_all = json.dumps({"spec": {"egress": [{}], "ingress": [{}]}})
    kubectl("patch", "networkpolicy", "berth-deny", "--type=merge", "-p", open_all, *space)
    narrow = json.dumps({"spec": {"podSelector": {"matchLabels": {"nobody": "matches"}}}})
    kubectl("patch", "networkpolicy", "berth-dns", "--type=merge", "-p", narrow, *space)
    more = json.dumps({"spec": {"hard": {"pods": "1000", "count/jobs.batch": "1"}}})
    kubectl("patch", "resourcequota", "berth", "--type=merge", "-p", more, *space)
    kubectl("delete", "limitrange", "berth", *space)
    kubectl("label", "namespace", cluster.namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    assert berth_now() != right

    cluster.other_process().sync_namespace(spec.group)
    assert berth_now() == right
    labels = json.loads(kubectl("get", "namespace", cluster.namespace, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_start_puts_right_what_is_wrong(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    kubectl("delete", "networkpolicy", "--all", "-n", cluster.namespace)
    spec, line = cluster.spec("echo started")
    cluster.other_process().ensure(spec)
    assert {each["metadata"]["name"] for each in cluster.objects("networkpolicies")} == {
        "berth-deny",
        "berth-out",
        "berth-dns",
    }
    wait_for(lambda: line.exit_code() == 0, SECONDS)


def test_a_quota_that_changes_reaches_the_cluster_at_the_next_start(cluster: KubernetesPlace) -> None:
    spec, _ = cluster.spec("true", quota=Quota(pods=3))
    cluster.runtime.ensure(spec)
    cluster.runtime.ensure(replace(spec, quota=Quota(pods=4)))
    (quota,) = cluster.objects("resourcequotas")
    assert quota["spec"]["hard"]["pods"] == "4"


def test_others_pods_without_rights_are_refused_too(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    rogue = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "rogue", "namespace": cluster.namespace},
        "spec": {
            "hostNetwork": True,
            "containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}],
        },
    }
    with pytest.raises(AssertionError, match='violates PodSecurity "restricted'):
        kubectl("create", "-f", "-", stdin=json.dumps(rogue))
    service = ["create", "service", "clusterip", "way-in", "--tcp=80", "-n", cluster.namespace]
    with pytest.raises(AssertionError, match="exceeded quota"):
        kubectl(*service)


# --- the quota ----------------------------------------------------------------------------------------------------


def test_a_run_beyond_the_quota_waits_for_another_to_end(cluster: KubernetesPlace) -> None:
    quota = Quota(cpu_millis=1000, memory_mib=128, pods=1, storage_gib=1)
    first, _ = started(cluster, quota=quota)
    second, line = cluster.spec("echo second", quota=quota)
    cluster.runtime.ensure(second)
    wait_for(lambda: cluster.runtime.observe(second.ref).cause is Cause.QUOTA, SECONDS)
    assert "exceeded quota: berth" in cluster.runtime.observe(second.ref).message
    cluster.runtime.destroy(first.ref)
    wait_for(lambda: line.exit_code() == 0, SECONDS, "the second run, once the first is gone")


def test_a_run_that_alone_asks_for_more_than_the_quota_is_refused(cluster: KubernetesPlace) -> None:
    quota = Quota(cpu_millis=1000, memory_mib=128, pods=5, storage_gib=1)
    spec, _ = cluster.spec("true", quota=quota, resources=Resources(cpu_millis=50, memory_mib=256, scratch_mib=16))
    cluster.runtime.ensure(spec)
    wait_for(lambda: cluster.runtime.observe(spec.ref).cause, SECONDS)
    seen = cluster.runtime.observe(spec.ref)
    assert seen.cause is Cause.REJECTED
    assert "maximum memory usage per Container is 128Mi" in seen.message


def test_a_namespace_of_its_own_goes_with_all_of_it(cluster: KubernetesPlace) -> None:
    cluster.make_ground()
    kinds = [resource.kind for resource in cluster.runtime.group_resources()]
    assert kinds == ["PersistentVolumeClaim", "Namespace"]
    assert all(
        resource.owner == GroupRef(cluster.group, cluster.slug) for resource in cluster.runtime.group_resources()
    )
