"""A group's berth on a cluster, compared whole: read the YAML here to know what holds a group."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from k8s_adapter import namespace_manifests as manifests
from k8s_adapter.config import KubernetesConfig, PodSelector, pod_selector
from k8s_adapter.dns import Endpoint, Resolver
from runtimes.base import Cause, GroupRef, GroupSpec, Quota, TransientFault

GROUP = GroupSpec(
    GroupRef("31d4c2b0-1111-4222-8333-944455556666", "blue-team"),
    storage_gib=10,
    quota=Quota(cpu_millis=8000, memory_mib=16384, pods=10, storage_gib=100),
)
CONFIG = KubernetesConfig(
    installation="main", courier_image="courier:1", dns=pod_selector("kube-system/k8s-app=kube-dns:53")
)
COURIER = Endpoint("berth.example", 443, ("192.0.2.7", "2001:db8::7"))
PROXY = Endpoint("proxy.example", 3128, ("192.0.2.8",))

NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata:
  name: berth-blue-team
  labels:
    app.kubernetes.io/managed-by: berth
    berth/installation: main
    berth/group: 31d4c2b0-1111-4222-8333-944455556666
    berth/slug: blue-team
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/enforce-version: v1.33
"""

CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: berth-workspace-blue-team
  namespace: berth-blue-team
  labels: LABELS
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests: {storage: 10Gi}
"""

POLICIES = """
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: berth-deny, namespace: berth-blue-team, labels: LABELS}
  spec:
    podSelector: {}
    policyTypes: [Ingress, Egress]
    ingress: []
    egress: []
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: berth-out, namespace: berth-blue-team, labels: LABELS}
  spec:
    podSelector:
      matchLabels: {berth/installation: main, berth/group: 31d4c2b0-1111-4222-8333-944455556666}
    policyTypes: [Egress]
    egress:
    - to:
      - ipBlock: {cidr: 192.0.2.7/32}
      - ipBlock: {cidr: '2001:db8::7/128'}
      ports:
      - {protocol: TCP, port: 443}
    - to:
      - ipBlock: {cidr: 192.0.2.8/32}
      ports:
      - {protocol: TCP, port: 3128}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: berth-dns, namespace: berth-blue-team, labels: LABELS}
  spec:
    podSelector:
      matchLabels:
        berth/installation: main
        berth/group: 31d4c2b0-1111-4222-8333-944455556666
        berth/dns: open
    policyTypes: [Egress]
    egress:
    - to:
      - namespaceSelector:
          matchLabels: {kubernetes.io/metadata.name: kube-system}
        podSelector:
          matchLabels: {k8s-app: kube-dns}
      ports:
      - {protocol: UDP, port: 53}
      - {protocol: TCP, port: 53}
"""

QUOTA = """
apiVersion: v1
kind: ResourceQuota
metadata: {name: berth, namespace: berth-blue-team, labels: LABELS}
spec:
  hard:
    pods: '10'
    requests.cpu: 900m
    limits.memory: 17344Mi
    requests.storage: 100Gi
    count/persistentvolumeclaims: '21'
    services: '0'
    services.loadbalancers: '0'
    services.nodeports: '0'
"""

LIMITS = """
apiVersion: v1
kind: LimitRange
metadata: {name: berth, namespace: berth-blue-team, labels: LABELS}
spec:
  limits:
  - type: Container
    default: {memory: 96Mi, cpu: '8'}
    defaultRequest: {cpu: 10m, memory: 96Mi}
    max: {cpu: '8', memory: 16Gi}
"""


def loaded(text: str) -> Any:
    labels = "{app.kubernetes.io/managed-by: berth, berth/installation: main, berth/slug: blue-team, "
    return yaml.safe_load(text.replace("LABELS", f"{labels}berth/group: {GROUP.ref.group}}}"))


def policies(config: KubernetesConfig = CONFIG) -> dict[str, Any]:
    return {each["metadata"]["name"]: each for each in manifests.make_policies(GROUP, config, COURIER, PROXY)}


def test_the_namespace() -> None:
    assert manifests.make_namespace(GROUP, CONFIG) == loaded(NAMESPACE)


def test_the_claim() -> None:
    assert manifests.make_pvc(GROUP, CONFIG) == loaded(CLAIM)


def test_the_claim_names_what_the_operator_chose() -> None:
    config = replace(CONFIG, storage_class="fast", access_mode="ReadWriteMany", shared_namespace="agents")
    claim = manifests.make_pvc(replace(GROUP, storage_gib=20), config)
    assert claim["metadata"]["namespace"] == "agents"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "20Gi"}},
        "storageClassName": "fast",
    }


def test_the_policies() -> None:
    assert manifests.make_policies(GROUP, CONFIG, COURIER, PROXY) == loaded(POLICIES)


def test_in_a_shared_namespace_policies_choose_the_groups_pods_alone() -> None:
    made = policies(replace(CONFIG, shared_namespace="agents"))
    assert sorted(made) == ["berth-deny-blue-team", "berth-dns-blue-team", "berth-out-blue-team"]
    for each in made.values():
        assert each["metadata"]["namespace"] == "agents"
        assert each["spec"]["podSelector"]["matchLabels"]["berth/group"] == GROUP.ref.group


def test_pods_of_this_cluster_are_chosen_by_labels_and_their_own_port() -> None:
    config = replace(CONFIG, control_plane=pod_selector("berth/app.kubernetes.io/name=web,tier=front:8000"))
    rule = policies(config)["berth-out"]["spec"]["egress"][0]
    assert rule == {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "berth"}},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "web", "tier": "front"}},
            }
        ],
        "ports": [{"protocol": "TCP", "port": 8000}],
    }


def test_without_a_proxy_or_dns_nothing_is_opened_for_them() -> None:
    config = replace(CONFIG, dns=None)
    made = {each["metadata"]["name"]: each["spec"] for each in manifests.make_policies(GROUP, config, None, None)}
    assert made["berth-out"]["egress"] == made["berth-dns"]["egress"] == []


def test_the_quota() -> None:
    assert manifests.make_quota(GROUP, CONFIG) == loaded(QUOTA)


def test_a_quota_always_has_room_for_the_workspace() -> None:
    hard = manifests.make_quota(replace(GROUP, storage_gib=2048), CONFIG)["spec"]["hard"]
    assert hard["requests.storage"] == "2049Gi"


def test_what_has_no_number_is_not_limited() -> None:
    group = replace(GROUP, quota=Quota())
    assert not {"pods", "requests.cpu", "limits.memory"} & manifests.make_quota(group, CONFIG)["spec"]["hard"].keys()
    assert "max" not in manifests.make_limits(group, CONFIG)["spec"]["limits"][0]


def test_the_limits_of_one_container() -> None:
    assert manifests.make_limits(GROUP, CONFIG) == loaded(LIMITS)


def test_an_nfs_export_is_a_volume_for_one_group() -> None:
    volume = manifests.make_nfs_volume(GROUP, CONFIG, "nfs.example", "/data")
    claim = manifests.make_nfs_claim(GROUP, CONFIG, "nfs.example", "/data")
    assert volume["spec"]["nfs"] == {"server": "nfs.example", "path": "/data"}
    assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"] == claim["spec"]["volumeName"]
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert "namespace" not in volume["metadata"]
    other = replace(GROUP, ref=GroupRef("another", "red-team"))
    assert (
        manifests.make_nfs_volume(other, CONFIG, "nfs.example", "/data")["metadata"]["name"]
        != volume["metadata"]["name"]
    )


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, False),
        ({"egress": None, "ingress": None}, False),  # the API server leaves empty lists out
        ({"egress": [{}]}, True),
        ({"podSelector": {"matchLabels": {"a": "b"}}}, True),
        ({"policyTypes": ["Ingress"]}, True),
    ],
)
def test_a_policy_that_somebody_changed_is_seen(change: dict[str, Any], differs: bool) -> None:
    wanted = policies()["berth-deny"]
    found = wanted | {"spec": wanted["spec"] | change}
    assert manifests.differs(wanted, found) is differs


def test_a_label_that_was_taken_away_is_seen_and_one_that_was_added_is_let_be() -> None:
    wanted = manifests.make_namespace(GROUP, CONFIG)
    labels = dict(wanted["metadata"]["labels"])
    assert not manifests.differs(wanted, {"metadata": {"labels": labels | {"team": "blue"}}})
    labels["pod-security.kubernetes.io/enforce"] = "privileged"
    assert manifests.differs(wanted, {"metadata": {"labels": labels}})


@pytest.mark.parametrize(
    "text", ["berth", "berth/app=web", "berth/app:80", "Berth/app=web:80", "berth/app=web:0", "/a=b:1"]
)
def test_a_selector_that_can_not_be_read_says_how_it_has_to_read(text: str) -> None:
    with pytest.raises(ValueError, match="must read NAMESPACE/LABEL=VALUE:PORT"):
        pod_selector(text)


def test_a_selector() -> None:
    assert pod_selector("") is None
    assert pod_selector("berth/app=web:8000") == PodSelector("berth", (("app", "web"),), 8000)


def test_urls_lead_somewhere() -> None:
    resolver = Resolver()
    assert resolver.endpoint("") is None
    assert resolver.endpoint("http://192.0.2.7:8000") == Endpoint("192.0.2.7", 8000, ("192.0.2.7",))
    assert resolver.endpoint("https://192.0.2.7") == Endpoint("192.0.2.7", 443, ("192.0.2.7",))
    assert resolver.endpoint("http://[2001:db8::1]/") == Endpoint("2001:db8::1", 80, ("2001:db8::1",))
    assert ("127.0.0.1", "localhost") in resolver.hosts(["http://localhost:1", "http://192.0.2.7"])


def test_a_name_that_nobody_knows_passes_by_itself() -> None:
    with pytest.raises(TransientFault, match=r"no-such-host\.invalid can't be resolved") as fault:
        Resolver().endpoint("http://no-such-host.invalid")
    assert fault.value.cause is Cause.UNREACHABLE
