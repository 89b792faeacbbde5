"""The objects of a group and of a run, as plain dictionaries that read like their YAML. Nothing here makes a call."""

import base64
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from courier import contracts, wrapper
from k8s_adapter import names, secretfiles
from k8s_adapter.config import KubernetesConfig
from k8s_adapter.runtime import RunRef, RunSpec

Manifest = dict[str, Any]

# What an agent finds in its pod.
WORKSPACE = "/workspace/group"
IPC = "/workspace/ipc"
CHECKPOINTS = "/workspace/checkpoints"
SECRETS = "/var/secrets"
PIPES = "/run/berth"
HOME = "/home/agent"  # unless the state folder lies in another home
# What only the courier sees.
JOURNAL = "/var/lib/berth/journal"
TOKEN = "/var/lib/berth/token"

# The newest version that enforces what these pods keep to: a cluster's upgrade must not change what is accepted.
# https://kubernetes.io/docs/concepts/security/pod-security-admission/
POD_SECURITY_VERSION = "v1.33"


def make_namespace(ref: RunRef, config: KubernetesConfig) -> Manifest:
    """The group's own namespace, in which no pod may have more rights than Pod Security's `restricted` gives."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": names.namespace(ref.slug),
            "labels": {
                **names.group_labels(ref, config.installation),
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": POD_SECURITY_VERSION,
            },
        },
    }


def make_pvc(ref: RunRef, storage_gib: int, config: KubernetesConfig) -> Manifest:
    """The group's volume. It belongs to no run, so that it goes only with its group, after the grace."""
    spec: Manifest = {
        "accessModes": [config.access_mode],
        "resources": {"requests": {"storage": f"{storage_gib}Gi"}},
    }
    if config.storage_class:
        spec["storageClassName"] = config.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.claim(ref.slug),
            "namespace": names.namespace(ref.slug, config.shared_namespace),
            "labels": names.group_labels(ref, config.installation),
        },
        "spec": spec,
    }


def make_secret(spec: RunSpec, files: Mapping[str, bytes], config: KubernetesConfig) -> Manifest:
    """The run's Secret: the courier's token, and `files`, the agent's secrets that the control plane has read."""
    data = {names.TOKEN_KEY: spec.token.encode()}
    data |= {names.FILE_KEY_PREFIX + name: value for name, value in files.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _run_metadata(spec, config, names.secret(spec.ref.run)),
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def make_job(spec: RunSpec, config: KubernetesConfig) -> Manifest:
    """The run's Job: one pod, once. Whether a run is tried again is decided by the control plane, never by the Job."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _run_metadata(spec, config, names.job(spec.ref.run)),
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": spec.deadline_seconds,
            "ttlSecondsAfterFinished": config.ttl_seconds,
            "template": {
                "metadata": {"labels": names.run_labels(spec.ref, config.installation)},
                "spec": _pod(spec, config),
            },
        },
    }


def owner_patch(job: Manifest) -> Manifest:
    """A merge patch that makes `job` (as the API server returned it) the owner of its run's Secret."""
    metadata = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {"metadata": {"ownerReferences": [owner]}}


def home_of(state_folder: str) -> str:
    """The agent's home: the one its state folder lies in (/home/node for /home/node/.claude), else one of Berth's."""
    parts = PurePosixPath(state_folder).parts
    return "/".join(("", *parts[1:3])) if parts[:2] == ("/", "home") and len(parts) > 2 else HOME


def _run_metadata(spec: RunSpec, config: KubernetesConfig, name: str) -> Manifest:
    return {
        "name": name,
        "namespace": names.namespace(spec.ref.slug, config.shared_namespace),
        "labels": names.run_labels(spec.ref, config.installation),
        "annotations": {names.SPEC_HASH: names.spec_hash(spec)},
    }


def _pod(spec: RunSpec, config: KubernetesConfig) -> Manifest:
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The wrapper ends the agent within the stop grace; the rest is the courier's, to ship what was said last.
        "terminationGracePeriodSeconds": max(config.termination_grace_seconds, spec.stop_grace_seconds + 30),
        "securityContext": _pod_security(config),
        "initContainers": [_courier(spec, config)],
        "containers": [_agent(spec, config)],
        "volumes": _volumes(spec),
    }
    if config.host_aliases:
        pod["hostAliases"] = [{"ip": address, "hostnames": [name]} for address, name in config.host_aliases]
    return pod


def _pod_security(config: KubernetesConfig) -> Manifest:
    context: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if not config.openshift:  # there, each namespace has a range of its own: a fixed uid is refused
        context |= {"runAsUser": config.uid, "runAsGroup": config.gid, "fsGroup": config.gid}
        context["fsGroupChangePolicy"] = "OnRootMismatch"  # do not walk a large workspace at each start
    return context


def _container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _courier(spec: RunSpec, config: KubernetesConfig) -> Manifest:
    """A native sidecar: it starts before the agent, is started again if it dies, and outlives the agent."""
    environment = {
        "BERTH_URL": spec.courier_url,
        "BERTH_RUN": spec.ref.run,
        "BERTH_SESSION": spec.ref.session,
        "BERTH_GROUP": spec.ref.slug,
        "BERTH_CONTRACT": spec.contract,
        "BERTH_RESUME": spec.resume,
        "BERTH_TOKEN_FILE": f"{TOKEN}/{names.TOKEN_KEY}",
        "BERTH_PIPES": PIPES,
        "BERTH_JOURNAL": JOURNAL,
        "BERTH_IPC": IPC,
        "BERTH_SECRETS": SECRETS,
        **({"BERTH_MAIN": "1"} if spec.main else {}),
    }
    return {
        "name": names.COURIER,
        "image": config.courier_image,
        "imagePullPolicy": config.image_pull_policy,
        "restartPolicy": "Always",
        "env": _env(environment),
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "96Mi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _container_security(),
        "volumeMounts": [
            {"name": "pipes", "mountPath": PIPES},
            {"name": "token", "mountPath": TOKEN, "readOnly": True},
            {"name": "workspace", "mountPath": JOURNAL, "subPath": "journal"},
            {"name": "workspace", "mountPath": IPC, "subPath": f"ipc/{spec.ref.session}"},
            *_secret_mounts(spec),
        ],
    }


def _agent(spec: RunSpec, config: KubernetesConfig) -> Manifest:
    """The profile's image. It sees neither the token nor the journal."""
    home = home_of(spec.state_folder)
    scratch = [] if spec.state_folder == home else [{"name": "home", "mountPath": home}]
    state = {"name": "workspace", "mountPath": spec.state_folder, "subPath": f"state/{spec.ref.session}"}
    limits = {"cpu": f"{spec.resources.cpu_millis}m", "memory": f"{spec.resources.memory_mib}Mi"}
    return {
        "name": names.AGENT,
        "image": spec.image,
        "imagePullPolicy": config.image_pull_policy,
        "command": [_literal(each) for each in wrapper.wrap(contracts.argv(spec.contract, spec.command, spec.resume))],
        "workingDir": WORKSPACE,
        "env": _env(_agent_environment(spec, home)),
        "resources": {"requests": limits | {"cpu": f"{_cpu_request(spec)}m"}, "limits": limits},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _container_security(),
        "volumeMounts": [
            {"name": "pipes", "mountPath": PIPES},
            {"name": "workspace", "mountPath": WORKSPACE, "subPath": "group"},
            {"name": "workspace", "mountPath": IPC, "subPath": f"ipc/{spec.ref.session}"},
            {"name": "workspace", "mountPath": CHECKPOINTS, "subPath": "checkpoints"},
            *scratch,
            *([state] if spec.state_folder else []),
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *_secret_mounts(spec),
        ],
    }


def _cpu_request(spec: RunSpec) -> int:
    """A tenth of the limit, in thousandths: an agent mostly waits for its model, and CPU, unlike memory, can be shared
    (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/)."""
    return max(spec.resources.cpu_millis // 10, 10)


def _agent_environment(spec: RunSpec, home: str) -> dict[str, str]:
    return {
        **spec.environment,
        "HOME": home,
        "BERTH_PIPES": PIPES,
        "BERTH_STOP_GRACE": str(spec.stop_grace_seconds),
        "BERTH_RUN": spec.ref.run,
        "BERTH_SESSION": spec.ref.session,
        "BERTH_GROUP": spec.ref.slug,
        "BERTH_WORKSPACE": WORKSPACE,
        "BERTH_IPC": IPC,
        "BERTH_STATE": spec.state_folder,
        "BERTH_SECRETS": SECRETS,
    }


def _env(environment: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": _literal(value)} for name, value in environment.items()]


def _literal(text: str) -> str:
    """Escape what the kubelet would expand in commands and values: $(NAME), and $$, which a shell knows as its pid.

    https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
    """
    return text.replace("$", "$$")


def _secret_mounts(spec: RunSpec) -> list[Manifest]:
    return [{"name": "secrets", "mountPath": SECRETS, "readOnly": True}] if spec.secrets else []


def _volumes(spec: RunSpec) -> list[Manifest]:
    scratch = f"{spec.resources.scratch_mib}Mi"
    token = {"secretName": names.secret(spec.ref.run), "items": [{"key": names.TOKEN_KEY, "path": names.TOKEN_KEY}]}
    volumes: list[Manifest] = [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": names.claim(spec.ref.slug)}},
        {"name": "token", "secret": token},
        _memory("pipes", "8Mi"),  # FIFOs take no room; the exit file is a few bytes
        _memory("tmp", scratch),
        _memory("shm", scratch),
    ]
    if spec.state_folder != home_of(spec.state_folder):
        volumes.append(_memory("home", scratch))
    if spec.secrets:
        volumes.append({"name": "secrets", "projected": {"sources": _secret_sources(spec)}})
    return volumes


def _secret_sources(spec: RunSpec) -> list[Manifest]:
    sources: list[Manifest] = []
    for secret in spec.secrets:
        own = (names.secret(spec.ref.run), names.FILE_KEY_PREFIX + secret.name)
        name, key = secretfiles.cluster_key(secret) or own
        sources.append({"secret": {"name": name, "items": [{"key": key, "path": secret.name}]}})
    return sources


def _memory(name: str, limit: str) -> Manifest:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": limit}}
