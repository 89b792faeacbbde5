"""What lasts of a group on a cluster: its namespace, network policies, quota and volume, as plain dictionaries.

In a namespace that groups share, policies choose pods by the group's label. A ResourceQuota or LimitRange counts a
whole namespace, so there are none there, and the namespace's labels are the operator's.
"""

import ipaddress
from typing import Any

from k8s_adapter import names
from k8s_adapter.config import KubernetesConfig, PodSelector
from k8s_adapter.dns import Endpoint
from runtimes.base import GroupSpec

Manifest = dict[str, Any]

# The newest version that enforces what these pods keep to: a cluster's upgrade must not change what is accepted.
# https://kubernetes.io/docs/concepts/security/pod-security-admission/
POD_SECURITY_VERSION = "v1.33"
COURIER_MEMORY_MIB = 96  # the limit of the courier beside each agent
COURIER_CPU_MILLIS = 10  # what is reserved for it; it has no limit
MOST_PODS = 100  # for whose couriers there is room, where pods are not limited
CLAIMS = 20  # volumes of a group besides its own: of operators, and NFS exports


def make_namespace(group: GroupSpec, config: KubernetesConfig) -> Manifest:
    """The group's own namespace, in which no pod may have more rights than Pod Security's `restricted` gives."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": names.namespace(group.ref.slug),
            "labels": {
                **names.group_labels(group.ref, config.installation),
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": POD_SECURITY_VERSION,
            },
        },
    }


def make_pvc(group: GroupSpec, config: KubernetesConfig) -> Manifest:
    """The group's volume. It belongs to no run, so that it goes only with its group, after the grace."""
    spec: Manifest = {
        "accessModes": [config.access_mode],
        "resources": {"requests": {"storage": f"{group.storage_gib}Gi"}},
    }
    if config.storage_class:
        spec["storageClassName"] = config.storage_class
    return _object("v1", "PersistentVolumeClaim", names.claim(group.ref.slug), group, config, spec)


def make_policies(
    group: GroupSpec, config: KubernetesConfig, courier: Endpoint | None, proxy: Endpoint | None
) -> list[Manifest]:
    """What the group's pods may connect to: where couriers call home and the egress proxy; nobody connects to them.

    Every list is spelled out: a rule that somebody adds to a list that is left out would not be ours to remove.
    https://kubernetes.io/docs/concepts/services-networking/network-policies/
    """
    ours = {names.INSTALLATION: config.installation, names.GROUP: group.ref.group}
    rules = [_rule(courier, config.control_plane), _rule(proxy, config.egress)]
    policies = {
        "deny": ({"matchLabels": ours} if config.shared_namespace else {}, ["Ingress", "Egress"], []),
        "out": ({"matchLabels": ours}, ["Egress"], [rule for rule in rules if rule]),
        "dns": ({"matchLabels": ours | {names.DNS: names.OPEN}}, ["Egress"], _dns_rules(config.dns)),
    }
    made = []
    for kind, (selector, types, egress) in policies.items():
        spec = {"podSelector": selector, "policyTypes": types, "egress": egress}
        if "Ingress" in types:
            spec["ingress"] = []
        name = names.policy(kind, group.ref.slug, config.shared_namespace)
        made.append(_object("networking.k8s.io/v1", "NetworkPolicy", name, group, config, spec))
    return made


def make_quota(group: GroupSpec, config: KubernetesConfig) -> Manifest:
    """What the group's pods and volumes may take together.

    CPU is counted by requests, which are a tenth of the agents' limits: CPU, unlike memory, can be shared.
    https://kubernetes.io/docs/concepts/policy/resource-quotas/
    """
    quota = group.quota
    pods = quota.pods or MOST_PODS
    hard = {
        "services": "0",
        "services.loadbalancers": "0",
        "services.nodeports": "0",
        "count/persistentvolumeclaims": str(1 + CLAIMS),
    }
    if quota.cpu_millis:
        hard["requests.cpu"] = _cpu(quota.cpu_millis // 10 + pods * COURIER_CPU_MILLIS)
    if quota.memory_mib:
        hard["limits.memory"] = _memory(quota.memory_mib + pods * COURIER_MEMORY_MIB)
    if quota.pods:
        hard["pods"] = str(quota.pods)
    if quota.storage_gib:
        hard["requests.storage"] = _memory(max(quota.storage_gib, group.storage_gib + 1) * 1024)  # and room for mounts
    return _object("v1", "ResourceQuota", names.QUOTA, group, config, {"hard": hard})


def make_limits(group: GroupSpec, config: KubernetesConfig) -> Manifest:
    """What one container may ask for: with more than the whole quota it would wait for ever, so it is refused at once.

    A container that asks for nothing gets little. https://kubernetes.io/docs/concepts/policy/limit-range/
    """
    quota = group.quota
    limit: Manifest = {
        "type": "Container",
        "default": {"memory": _memory(COURIER_MEMORY_MIB)},
        "defaultRequest": {"cpu": _cpu(COURIER_CPU_MILLIS), "memory": _memory(COURIER_MEMORY_MIB)},
    }
    if quota.cpu_millis:
        limit["max"] = {"cpu": _cpu(quota.cpu_millis)}
        limit["default"]["cpu"] = _cpu(quota.cpu_millis)
    if quota.memory_mib:
        limit["max"] = limit.get("max", {}) | {"memory": _memory(max(quota.memory_mib, COURIER_MEMORY_MIB))}
    return _object("v1", "LimitRange", names.QUOTA, group, config, {"limits": [limit]})


def make_nfs_volume(group: GroupSpec, config: KubernetesConfig, server: str, path: str) -> Manifest:
    """An NFS export as a volume for one group: Pod Security lets no pod name a server itself. The data stays anyway."""
    name = names.nfs(config.installation, group.ref.group, server, path)
    namespace = names.namespace(group.ref.slug, config.shared_namespace)
    spec = {
        "capacity": {"storage": "1Mi"},  # means nothing for NFS, but has to be there
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name, "namespace": namespace},
        "nfs": {"server": server, "path": path},
    }
    made = _object("v1", "PersistentVolume", name, group, config, spec)
    del made["metadata"]["namespace"]
    return made


def make_nfs_claim(group: GroupSpec, config: KubernetesConfig, server: str, path: str) -> Manifest:
    """The group's claim on the volume of an NFS export."""
    name = names.nfs(config.installation, group.ref.group, server, path)
    spec = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Mi"}},
        "storageClassName": "",
        "volumeName": name,
    }
    return _object("v1", "PersistentVolumeClaim", name, group, config, spec)


def differs(wanted: Manifest, found: Manifest) -> bool:
    """Whether what stands on the cluster is not what is wanted: a label of ours, or anything of its spec."""
    labels = found["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in wanted["metadata"].get("labels", {}).items()):
        return True
    return wanted["kind"] != "Namespace" and _bare(wanted["spec"]) != _bare(found.get("spec") or {})


def _bare(value: Any) -> Any:
    """Without what is empty, which the API server leaves out. An empty selector stays: it selects everything."""
    if isinstance(value, dict):
        whole = {key: _bare(each) for key, each in value.items()}
        return {key: each for key, each in whole.items() if key == "podSelector" or each not in ([], {}, None)}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _object(version: str, kind: str, name: str, group: GroupSpec, config: KubernetesConfig, spec: Manifest) -> Manifest:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": names.namespace(group.ref.slug, config.shared_namespace),
            "labels": names.group_labels(group.ref, config.installation),
        },
        "spec": spec,
    }


def _rule(endpoint: Endpoint | None, selector: PodSelector | None) -> Manifest | None:
    """An egress rule: to pods by label where they are in this cluster (policies see no Service), else to addresses."""
    if selector:
        return {"to": [selector.peer()], "ports": [_port("TCP", selector.port)]}
    if not endpoint:
        return None
    blocks = [{"ipBlock": {"cidr": _single(address)}} for address in endpoint.addresses]
    return {"to": blocks, "ports": [_port("TCP", endpoint.port)]}


def _dns_rules(selector: PodSelector | None) -> list[Manifest]:
    if not selector:
        return []
    return [{"to": [selector.peer()], "ports": [_port("UDP", selector.port), _port("TCP", selector.port)]}]


def _port(protocol: str, port: int) -> Manifest:
    return {"protocol": protocol, "port": port}


def _single(address: str) -> str:
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


def _cpu(millis: int) -> str:
    """As the API server writes it, so that the two can be compared."""
    return f"{millis}m" if millis % 1000 else str(millis // 1000)


def _memory(mib: int) -> str:
    """Likewise."""
    units = iter(("Mi", "Gi", "Ti", "Pi"))
    unit = next(units)
    while mib and mib % 1024 == 0 and unit != "Pi":
        mib, unit = mib // 1024, next(units)
    return f"{mib}{unit}"
