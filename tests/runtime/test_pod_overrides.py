"""What operators may add to a profile's pods, and what is refused, with the reason."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from k8s_adapter import manifests, pod_overrides
from runtimes.base import PodOptions
from tests.runtime.test_manifests import CONFIG, SPEC

ALLOWED: dict[str, Any] = {
    "metadata": {
        "labels": {"team": "blue", "cost-centre": "12"},
        "annotations": {"note": "hello", "prometheus.io/scrape": "false"},
    },
    "spec": {
        "priorityClassName": "agents",
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "imagePullSecrets": [{"name": "registry"}],
        "terminationGracePeriodSeconds": 120,
        "volumes": [
            {"name": "models", "configMap": {"name": "models"}},
            {"name": "cache", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "about", "projected": {"sources": [{"downwardAPI": {"items": []}}]}},
        ],
        "containers": [
            {
                "name": "agent",
                "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
            }
        ],
    },
}


def agent(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "agent", **fields}]}}


def volume(**fields: Any) -> dict[str, Any]:
    return {"spec": {"volumes": [{"name": "extra", **fields}]}}


REFUSED: dict[str, tuple[Any, str]] = {
    "the node's network": ({"spec": {"hostNetwork": True}}, "NetworkPolicy"),
    "the node's processes": ({"spec": {"hostPID": True}}, "token"),
    "the node's memory": ({"spec": {"hostIPC": True}}, "other tenants"),
    "shared processes": ({"spec": {"shareProcessNamespace": True}}, "resource"),
    "users": ({"spec": {"securityContext": {"runAsUser": 0}}}, "holds the agent"),
    "a container's rights": (agent(securityContext={"privileged": True}), "holds the agent"),
    "capabilities": (agent(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "holds the agent"),
    "an account": ({"spec": {"serviceAccountName": "admin"}}, "no account"),
    "its token": ({"spec": {"automountServiceAccountToken": True}}, "no account"),
    "a sidecar": ({"spec": {"containers": [{"name": "spy", "image": "spy"}]}}, "only the container 'agent'"),
    "the courier": ({"spec": {"containers": [{"name": "courier", "env": []}]}}, "only the container 'agent'"),
    "two of one": ({"spec": {"containers": [{"name": "agent"}, {"name": "agent"}]}}, "only the container 'agent'"),
    "an init container": ({"spec": {"initContainers": [{"name": "spy"}]}}, "only Berth's own"),
    "ephemeral containers": ({"spec": {"ephemeralContainers": []}}, "only Berth's own"),
    "the node's folders": (volume(hostPath={"path": "/"}), "leads out of the pod"),
    "a Secret": (volume(secret={"secretName": "keys"}), "use emptyDir, configMap or projected"),
    "a claim": (volume(persistentVolumeClaim={"claimName": "other"}), "others are mounts"),
    "nfs": (volume(nfs={"server": "a", "path": "/"}), "others are mounts"),
    "csi": (volume(csi={"driver": "a"}), "others are mounts"),
    "an account by the back door": (
        volume(projected={"sources": [{"serviceAccountToken": {"path": "token"}}]}),
        "tokens open the API server",
    ),
    "secrets by the back door": (volume(projected={"sources": [{"secret": {"name": "a"}}]}), "by reference"),
    "two kinds at once": (volume(emptyDir={}, hostPath={"path": "/"}), "emptyDir, hostPath"),
    "Berth's volumes": ({"spec": {"volumes": [{"name": "workspace", "emptyDir": {}}]}}, "Berth's own"),
    "DNS": ({"spec": {"dnsPolicy": "ClusterFirst"}}, "profile's own field"),
    "resolvers": ({"spec": {"dnsConfig": {"nameservers": ["8.8.8.8"]}}}, "profile's own field"),
    "names": ({"spec": {"hostAliases": []}}, "Berth writes"),
    "a node by name": ({"spec": {"nodeName": "node-1"}}, "around the scheduler"),
    "what nobody knows yet": ({"spec": {"someNewField": 1}}, "not among what a patch may set"),
    "another template": ({"status": {}}, "not among what a patch may set"),
    "owners": ({"metadata": {"ownerReferences": []}}, "not among what a patch may set"),
    "the cluster's own priority": ({"spec": {"priorityClassName": "system-node-critical"}}, "cluster's own pods"),
    "no time to end": ({"spec": {"terminationGracePeriodSeconds": 0}}, "1 to 3600"),
    "whose pod it is": ({"metadata": {"labels": {"berth/group": "another"}}}, "Berth's or the cluster's own"),
    "open DNS by label": ({"metadata": {"labels": {"berth/dns": "open"}}}, "Berth's or the cluster's own"),
    "the manager": ({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}, "Berth's or the cluster's own"),
    "the Job's label": ({"metadata": {"labels": {"batch.kubernetes.io/job-name": "x"}}}, "Berth's or the cluster's"),
    "an account by label": ({"metadata": {"labels": {"azure.workload.identity/use": "true"}}}, "or a webhook"),
    "a label that is no text": ({"metadata": {"labels": {"a": 1}}}, "must be text"),
    "a mesh": ({"metadata": {"labels": {"sidecar.istio.io/inject": "true"}}}, "cluster's own parts"),
    "a second network": ({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "x"}}}, "the network"),
    "another hypervisor": (
        {"metadata": {"annotations": {"io.katacontainers.config.hypervisor.kernel": "/x"}}},
        "container runtime",
    ),
    "no AppArmor": (
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/agent": "unconfined"}}},
        "container runtime",
    ),
    "an image": (agent(image="other"), "profile's own field"),
    "a command": (agent(command=["sh"]), "profile's own field"),
    "a hook": (agent(lifecycle={"postStart": {}}), "outside of the wrapper"),
    "whole Secrets": (agent(envFrom=[{"secretRef": {"name": "a"}}]), "whole Secrets"),
    "one Secret": (
        agent(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "berth-run-x", "key": "token"}}}]),
        "fieldRef, resourceFieldRef or configMapKeyRef",
    ),
    "a way around the proxy": (agent(env=[{"name": "no_proxy", "value": "*"}]), "set by Berth"),
    "Berth's variables": (agent(env=[{"name": "BERTH_PIPES", "value": "/tmp"}]), "set by Berth"),
    "a secret by value": (agent(env=[{"name": "API_KEY", "value": "x"}]), "looks like a secret"),
    "more memory": (agent(resources={"limits": {"memory": "1Ti"}}), "profile's own fields"),
    "less reserved": (agent(resources={"requests": {"cpu": "0"}}), "not among"),
    "a device": (agent(volumeDevices=[]), "raw device"),
    "Berth's own volumes elsewhere": (
        agent(volumeMounts=[{"name": "token", "mountPath": "/token"}]),
        "only volumes of the patch itself",
    ),
    "no object": ([], "must be an object"),
    "nothing": (None, "must be an object"),
    "another shape": ({"spec": []}, "not of the shape"),
    "a volume without a name": ({"spec": {"volumes": [{}]}}, "not of the shape"),
}


def test_what_may_be_added_is_accepted() -> None:
    assert pod_overrides.check_patch(ALLOWED) == []
    assert pod_overrides.check_patch({}) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_weaken_a_pod_is_refused_with_its_reason(name: str) -> None:
    patch, reason = REFUSED[name]
    found = pod_overrides.check_patch(patch)
    assert len(found) >= 1
    assert reason in "; ".join(found)


@pytest.mark.parametrize("path", ["/workspace/group", "/var/secrets", "/run/berth", "/", "/etc/ssl", "/a/../etc", "a"])
def test_a_volume_of_a_patch_covers_nothing_of_berths(path: str) -> None:
    patch = volume(emptyDir={}) | {}
    patch["spec"]["containers"] = [{"name": "agent", "volumeMounts": [{"name": "extra", "mountPath": path}]}]
    assert "use a path of the image's own" in "; ".join(pod_overrides.check_patch(patch))


def test_each_refusal_is_told() -> None:
    found = pod_overrides.check_patch({"spec": {"hostNetwork": True, "hostPID": True}})
    assert [each.partition(":")[0] for each in found] == ["spec.hostNetwork", "spec.hostPID"]


def test_a_patch_adds_and_takes_nothing_away() -> None:
    before = manifests.make_job(SPEC, CONFIG)["spec"]["template"]
    given = copy.deepcopy(before)
    after = pod_overrides.patched(before, ALLOWED)
    assert before == given
    assert after["metadata"]["labels"] == ALLOWED["metadata"]["labels"] | before["metadata"]["labels"]
    assert after["metadata"]["annotations"] == ALLOWED["metadata"]["annotations"]
    pod, old = after["spec"], before["spec"]
    for key in ("securityContext", "initContainers", "automountServiceAccountToken", "dnsPolicy", "dnsConfig"):
        assert pod[key] == old[key]
    assert pod["terminationGracePeriodSeconds"] == 120
    assert pod["volumes"][: len(old["volumes"])] == old["volumes"]
    (made,), (was,) = pod["containers"], old["containers"]
    assert made["securityContext"] == was["securityContext"]
    assert made["resources"]["limits"] == was["resources"]["limits"] | {"nvidia.com/gpu": 1}
    assert made["env"][-len(was["env"]) :] == was["env"]  # the last of two is what counts
    assert made["volumeMounts"] == [*was["volumeMounts"], *ALLOWED["spec"]["containers"][0]["volumeMounts"]]


def test_the_courier_keeps_its_time_to_end() -> None:
    template = manifests.make_job(SPEC, CONFIG)["spec"]["template"]
    made = pod_overrides.patched(template, {"spec": {"terminationGracePeriodSeconds": 5}})
    assert made["spec"]["terminationGracePeriodSeconds"] == template["spec"]["terminationGracePeriodSeconds"]


def test_a_job_is_made_with_its_profiles_patch() -> None:
    job = manifests.make_job(replace(SPEC, pod=PodOptions(patch=ALLOWED)), CONFIG)
    assert job["spec"]["template"]["spec"]["priorityClassName"] == "agents"
