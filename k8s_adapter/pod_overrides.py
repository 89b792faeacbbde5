"""What operators may add to the pods of a profile: a patch in a pod template's own words, of which little is allowed.

    {"metadata": {"labels": {…}, "annotations": {…}},
     "spec": {"priorityClassName": "agents", "affinity": {…}, "topologySpreadConstraints": […],
              "imagePullSecrets": [{"name": "…"}], "terminationGracePeriodSeconds": 120,
              "volumes": [{"name": "models", "configMap": {"name": "models"}}],
              "containers": [{"name": "agent", "env": [{"name": "…", "value": "…"}],
                              "resources": {"limits": {"nvidia.com/gpu": 1}},
                              "volumeMounts": [{"name": "models", "mountPath": "/models"}]}]}}

Everything that is not named here is refused, with the reason where it is known: what a later version of Kubernetes adds
to a pod is then refused as well. Lists are added to Berth's own, by name.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from k8s_adapter import names

Manifest = dict[str, Any]

# Why what people are likely to try is refused.
REASONS = {
    "hostNetwork": "a pod in its node's network is bound by no NetworkPolicy",
    "hostPID": "a pod that sees its node's processes can read the courier's token",
    "hostIPC": "a pod that shares its node's memory segments can reach other tenants",
    "hostUsers": "it is for the cluster to decide",
    "hostAliases": "Berth writes the names that a pod needs",
    "shareProcessNamespace": "the agent could read the courier's token and resource it",
    "securityContext": "users, capabilities, seccomp and the read-only root are what holds the agent",
    "serviceAccountName": "a pod has no account at the API server",
    "serviceAccount": "a pod has no account at the API server",
    "automountServiceAccountToken": "a pod has no account at the API server",
    "initContainers": "only Berth's own containers are in a pod",
    "ephemeralContainers": "only Berth's own containers are in a pod",
    "dnsPolicy": "use the profile's own field for DNS",
    "dnsConfig": "use the profile's own field for DNS",
    "runtimeClassName": "use the profile's own field",
    "nodeSelector": "use the profile's own field",
    "tolerations": "use the profile's own field",
    "nodeName": "it goes around the scheduler, and with it quotas and taints",
    "restartPolicy": "whether a run is tried again is Berth's decision",
    "activeDeadlineSeconds": "use the profile's time limits",
    "image": "use the profile's own field",
    "command": "use the profile's own field",
    "args": "use the profile's own field for the command",
    "workingDir": "an agent works in its group's workspace",
    "lifecycle": "a hook runs outside of the wrapper, which ends the agent",
    "ports": "nobody may connect to a pod",
    "envFrom": "it would bring in whole Secrets; use the profile's secrets",
    "volumeDevices": "a raw device is no place for an agent",
    "hostPath": "a folder of the node leads out of the pod",
}
DICTS = {"labels", "annotations"}
PLAIN = {"affinity", "topologySpreadConstraints"}  # about where a pod runs, and nothing else
SPEC = {*PLAIN, "priorityClassName", "terminationGracePeriodSeconds", "imagePullSecrets", "volumes", "containers"}
# Annotations are how people speak to container runtimes and network plugins, some of which obey them in what isolates
# (a second network, another hypervisor, no AppArmor), and labels how they speak to webhooks, some of which give a pod
# an account. So only these domains, and names without a domain (of annotations, without a dot).
DOMAINS = {
    "app.kubernetes.io", "cluster-autoscaler.kubernetes.io", "karpenter.sh", "kueue.x-k8s.io", "prometheus.io",
    "yunikorn.apache.org",
}  # fmt: skip
CLUSTERS_OWN = re.compile(r"(^|\.)(kubernetes|k8s|istio|linkerd|cilium)\.io$")
OWN_LABELS = {names.MANAGED_BY, "job-name", "controller-uid"}
# Set by Berth: another value would lead the agent around its limits, or break it.
OWN_VARIABLES = re.compile(r"BERTH_.*|HOME|(HTTPS?|NO|ALL)_PROXY|NODE_USE_ENV_PROXY", re.IGNORECASE)
SECRET_VARIABLE = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)
OWN_PLACES = (
    "/workspace", "/var/secrets", "/var/lib/berth", "/run", "/var/run", "/tmp", "/dev", "/proc", "/sys", "/etc",
    "/home", "/root", "/bin", "/sbin", "/lib", "/lib64", "/usr", "/mounts",
)  # fmt: skip
OWN_VOLUME = re.compile(r"workspace|token|pipes|tmp|shm|home|secrets|mount-\d+")
PROJECTED = {"configMap", "downwardAPI"}
VALUES = {"fieldRef", "resourceFieldRef", "configMapKeyRef"}


def check_patch(patch: Any) -> list[str]:
    """Why a patch is refused, one sentence for each thing; empty if it may be used.

    `patch` is JSON of any shape. What it refers to (a priority class, a config map) need not exist.
    """
    try:
        return list(_check(patch))
    except (TypeError, AttributeError, KeyError):
        return ["it is not of the shape of a pod template"]


def patched(template: Manifest, patch: Mapping[str, Any]) -> Manifest:
    """A pod template with a patch, which must have passed `check_patch`; Berth's own values stay."""
    if not patch:
        return template
    metadata, spec = patch.get("metadata", {}), patch.get("spec", {})
    made = {"metadata": dict(template["metadata"]), "spec": dict(template["spec"])}
    for kind in DICTS & metadata.keys():
        made["metadata"][kind] = {**metadata[kind], **made["metadata"].get(kind, {})}
    for key in {*PLAIN, "priorityClassName", "imagePullSecrets"} & spec.keys():
        made["spec"][key] = spec[key]
    if grace := spec.get("terminationGracePeriodSeconds"):  # never less than the courier needs
        made["spec"]["terminationGracePeriodSeconds"] = max(grace, made["spec"]["terminationGracePeriodSeconds"])
    made["spec"]["volumes"] = [*made["spec"]["volumes"], *spec.get("volumes", [])]
    extra: Manifest = next(iter(spec.get("containers", [])), {})
    made["spec"]["containers"] = [_container(made["spec"]["containers"][0], extra)]
    return made


def _container(agent: Manifest, extra: Mapping[str, Any]) -> Manifest:
    limits = extra.get("resources", {}).get("limits", {})
    resources = {kind: {**each, **limits} for kind, each in agent["resources"].items()}
    return agent | {
        "env": [*extra.get("env", []), *agent["env"]],
        "resources": resources,
        "volumeMounts": [*agent["volumeMounts"], *extra.get("volumeMounts", [])],
    }


def _check(patch: Any) -> Iterator[str]:
    if not isinstance(patch, Mapping):
        yield "it must be an object with metadata and spec"
        return
    yield from _unknown("", patch, {"metadata", "spec"})
    metadata, spec = patch.get("metadata", {}), patch.get("spec", {})
    yield from _unknown("metadata.", metadata, DICTS)
    for kind in sorted(DICTS & metadata.keys()):
        yield from _check_metadata(kind, metadata[kind])
    yield from _unknown("spec.", spec, SPEC)
    if str(spec.get("priorityClassName", "")).startswith("system-"):
        yield "spec.priorityClassName: classes named system-… would drive the cluster's own pods out"
    grace = spec.get("terminationGracePeriodSeconds", 60)
    if not isinstance(grace, int) or isinstance(grace, bool) or not 0 < grace <= 3600:
        yield "spec.terminationGracePeriodSeconds: use a whole number from 1 to 3600"
    if not all(set(each) == {"name"} for each in spec.get("imagePullSecrets", [])):
        yield "spec.imagePullSecrets: each is an object with a name"
    for volume in spec.get("volumes", []):
        yield from _check_volume(volume)
    yield from _check_containers(spec.get("containers", []), {each["name"] for each in spec.get("volumes", [])})


def _unknown(where: str, found: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    for key in sorted(found.keys() - known):
        yield f"{where}{key}: {REASONS.get(key, 'it is not among what a patch may set')}"


def _check_metadata(kind: str, found: Mapping[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        domain, slash, _ = key.rpartition("/")
        if not isinstance(value, str):
            yield f"metadata.{kind}: {key} must be text"
        if key in OWN_LABELS or domain == "berth" or domain.endswith("batch.kubernetes.io"):
            yield f"metadata.{kind}: {key} is Berth's or the cluster's own; NetworkPolicies choose pods by such"
        elif kind == "labels" and domain not in DOMAINS and CLUSTERS_OWN.search(domain):
            yield f"metadata.{kind}: {key} is for the cluster's own parts to set"
        elif domain not in DOMAINS if slash else kind == "annotations" and "." in key:
            message = f"allowed are names without a domain, and those of {', '.join(sorted(DOMAINS))}"
            yield f"metadata.{kind}: {key} may speak to the container runtime, the network or a webhook; {message}"


def _check_volume(volume: Mapping[str, Any]) -> Iterator[str]:
    where = f"spec.volumes: {volume['name']}"
    kinds = sorted(volume.keys() - {"name"})
    if OWN_VOLUME.fullmatch(volume["name"]):
        yield f"{where}: a volume of Berth's own has this name"
    if kinds not in (["configMap"], ["emptyDir"], ["projected"]):
        reason = REASONS.get(kinds[0] if kinds else "", "use emptyDir, configMap or projected; others are mounts")
        yield f"{where}: {', '.join(kinds) or 'nothing'}: {reason}"
    for source in volume.get("projected", {}).get("sources", []):
        if not source.keys() <= PROJECTED:
            message = "tokens open the API server, and secrets are given by reference in the profile"
            yield f"{where}: {', '.join(sorted(source.keys() - PROJECTED))}: {message}"


def _check_containers(containers: list[Mapping[str, Any]], volumes: set[str]) -> Iterator[str]:
    if [each.get("name") for each in containers] not in ([], [names.AGENT]):
        yield f"spec.containers: only the container {names.AGENT!r} can be added to"
        return
    for agent in containers:
        where = "spec.containers.agent."
        yield from _unknown(where, agent, {"name", "env", "resources", "volumeMounts"})
        for variable in agent.get("env", []):
            yield from _check_variable(where, variable)
        resources = agent.get("resources", {})
        yield from _unknown(f"{where}resources.", resources, {"limits"})
        for name in resources.get("limits", {}):
            if "/" not in name or name.startswith("hugepages"):
                yield f"{where}resources.limits: {name}: use the profile's own fields; here are devices, such as GPUs"
        for mount in agent.get("volumeMounts", []):
            yield from _check_mount(where, mount, volumes)


def _check_variable(where: str, variable: Mapping[str, Any]) -> Iterator[str]:
    name = variable["name"]
    if OWN_VARIABLES.fullmatch(name):
        yield f"{where}env: {name} is set by Berth"
    elif SECRET_VARIABLE.search(name):
        yield f"{where}env: {name} looks like a secret; give it as a reference in the profile"
    sources = variable.get("valueFrom", {}).keys()
    if variable.keys() - {"name", "value", "valueFrom"} or not sources <= VALUES:
        yield f"{where}env: {name}: use a value, or one from fieldRef, resourceFieldRef or configMapKeyRef"


def _check_mount(where: str, mount: Mapping[str, Any], volumes: set[str]) -> Iterator[str]:
    path = mount["mountPath"]
    if mount["name"] not in volumes:
        yield f"{where}volumeMounts: {mount['name']}: only volumes of the patch itself can be mounted"
    own = next((place for place in OWN_PLACES if f"{path}/".startswith(f"{place}/")), None)
    parts = path.split("/")[1:]
    if not path.startswith("/") or own or not all(parts) or {".", ".."} & set(parts):
        yield f"{where}volumeMounts: {path}: use a path of the image's own, outside of {', '.join(OWN_PLACES)}"
    yield from _unknown(f"{where}volumeMounts.", mount, {"name", "mountPath", "readOnly", "subPath"})
