"""The objects of a run, as plain dictionaries that read like their YAML. Nothing here makes a call.

The pod itself is in `pod.py`, what lasts of its group in `namespace_manifests.py`.
"""

import base64
from collections.abc import Mapping
from typing import Any

from k8s_adapter import names, pod_overrides
from k8s_adapter.config import KubernetesConfig
from k8s_adapter.pod import Hosts, make_pod
from runtimes.base import RunSpec
from runtimes.names import proxy_url, spec_hash

Manifest = dict[str, Any]


def make_secret(spec: RunSpec, files: Mapping[str, bytes], config: KubernetesConfig) -> Manifest:
    """The run's Secret: the courier's token, the egress proxy's address with the run's credential, and `files`, the
    agent's secrets that the control plane has read."""
    data = {names.TOKEN_KEY: spec.token.encode()}
    if spec.egress:
        data[names.EGRESS_KEY] = proxy_url(spec.ref.run, spec.egress).encode()
    data |= {names.FILE_KEY_PREFIX + name: value for name, value in files.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _run_metadata(spec, config, names.secret(spec.ref.run)),
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def make_job(spec: RunSpec, config: KubernetesConfig, hosts: Hosts = ()) -> Manifest:
    """The run's Job: one pod, once. Whether a run is tried again is decided by the control plane, never by the Job.

    The profile's patch is part of it; it must have passed `pod_overrides.check_patch`.
    """
    labels = names.run_labels(spec.ref, config.installation) | ({names.DNS: names.OPEN} if spec.pod.dns else {})
    template = {"metadata": {"labels": labels}, "spec": make_pod(spec, config, hosts)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _run_metadata(spec, config, names.job(spec.ref.run)),
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": spec.deadline_seconds,
            "ttlSecondsAfterFinished": config.ttl_seconds,
            "template": pod_overrides.patched(template, spec.pod.patch),
        },
    }


def owner_patch(job: Manifest) -> Manifest:
    """A merge patch that makes `job` (as the API server returned it) the owner of its run's Secret."""
    metadata = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {"metadata": {"ownerReferences": [owner]}}


def _run_metadata(spec: RunSpec, config: KubernetesConfig, name: str) -> Manifest:
    return {
        "name": name,
        "namespace": names.namespace(spec.ref.slug, config.shared_namespace),
        "labels": names.run_labels(spec.ref, config.installation),
        "annotations": {names.SPEC_HASH: spec_hash(spec)},
    }
