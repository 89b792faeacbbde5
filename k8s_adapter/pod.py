"""The pod of a run, as a plain dictionary that reads like its YAML: the courier, the agent, and what they see."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from courier import contracts, wrapper
from k8s_adapter import mounts, names, namespace_manifests
from k8s_adapter.config import KubernetesConfig
from runtimes import secret_sources
from runtimes.base import RunSpec
from runtimes.names import home_of

Manifest = dict[str, Any]
Hosts = tuple[tuple[str, str], ...]  # (address, name), for /etc/hosts

# What an agent finds in its pod.
WORKSPACE = "/workspace/group"
IPC = "/workspace/ipc"
CHECKPOINTS = "/workspace/checkpoints"
SECRETS = "/var/secrets"
PIPES = "/run/berth"
# What only the courier sees.
JOURNAL = "/var/lib/berth/journal"
TOKEN = "/var/lib/berth/token"

# A container writes to volumes and memory alone, so what it may have of its node's disk is for its log.
DISK = {"ephemeral-storage": "128Mi"}
RESERVED_DISK = {"ephemeral-storage": "16Mi"}
# The kubelet mounts a file of the node's disk here, which all may write and nobody counts: 300 MB were not noticed. In
# most images only root may enter root's home, so an agent doesn't get there. We want no message: logs stand in for it.
ROOTS_HOME = "/root"
TERMINATION_LOG = f"{ROOTS_HOME}/berth/termination-log"
# Files of secrets: for the owner alone. Where there is an fsGroup, the kubelet hands them to that group and makes it
# 0440: https://kubernetes.io/docs/concepts/configuration/secret/#secret-files-permissions
FILE_MODE = 0o400
# A resolver that is not there, so that lookups fail at once instead of hanging.
NO_DNS = {"nameservers": ["127.0.0.1"]}


def make_pod(spec: RunSpec, config: KubernetesConfig, hosts: Hosts = ()) -> Manifest:
    """The pod's spec. `hosts` are the names that it can resolve."""
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": False,
        # The wrapper ends the agent within the stop grace; the rest is the courier's, to ship what was said last.
        "terminationGracePeriodSeconds": max(config.termination_grace_seconds, spec.stop_grace_seconds + 30),
        "securityContext": _pod_security(config),
        "initContainers": [*mounts.check_container(spec, config, _container_security()), _courier(spec, config)],
        "containers": [_agent(spec, config)],
        "volumes": [*_volumes(spec), *mounts.volumes(spec, config)],
    }
    if hosts:
        pod["hostAliases"] = [{"ip": address, "hostnames": [name]} for address, name in hosts]
    return pod | _scheduling(spec)


def _scheduling(spec: RunSpec) -> Manifest:
    """Where the profile wants its pods, and whether they have DNS."""
    options = spec.pod
    place: Manifest = {} if options.dns else {"dnsPolicy": "None", "dnsConfig": NO_DNS}
    if options.runtime_class:
        place["runtimeClassName"] = options.runtime_class
    if options.node_selector:
        place["nodeSelector"] = dict(options.node_selector)
    if options.tolerations:
        place["tolerations"] = [dict(each) for each in options.tolerations]
    return place


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
    """A native sidecar: it starts before the agent, is started again if it dies, and outlives the agent.

    It has a uid of its own where the cluster lets us choose. It shares neither processes nor files with the agent but
    FIFOs, the session's ipc folder and the agent's secrets, which it needs for redaction.
    """
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
    own = {} if config.openshift else {"runAsUser": config.courier_uid}
    return {
        "name": names.COURIER,
        "image": config.courier_image,
        "imagePullPolicy": config.image_pull_policy,
        "restartPolicy": "Always",
        "env": _env(environment),
        "resources": {
            "requests": {"cpu": f"{namespace_manifests.COURIER_CPU_MILLIS}m", "memory": "32Mi"} | RESERVED_DISK,
            "limits": {"memory": f"{namespace_manifests.COURIER_MEMORY_MIB}Mi"} | DISK,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _container_security() | own,
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
    limits = {"cpu": f"{spec.resources.cpu_millis}m", "memory": f"{spec.resources.memory_mib}Mi"} | DISK
    return {
        "name": names.AGENT,
        "image": spec.image,
        "imagePullPolicy": config.image_pull_policy,
        "command": [_literal(each) for each in wrapper.wrap(contracts.argv(spec.contract, spec.command, spec.resume))],
        "workingDir": WORKSPACE,
        "env": [*_env(_agent_environment(spec, home)), *_egress_environment(spec)],
        "resources": {"requests": limits | {"cpu": f"{_cpu_request(spec)}m"} | RESERVED_DISK, "limits": limits},
        "terminationMessagePath": TERMINATION_LOG,
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
            *mounts.agent_mounts(spec, config),
        ],
    }


def _cpu_request(spec: RunSpec) -> int:
    """A tenth of the limit, in thousandths: an agent mostly waits for its model, and CPU, unlike memory, can be shared
    (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/)."""
    return max(spec.resources.cpu_millis // 10, 10)


def _agent_environment(spec: RunSpec, home: str) -> dict[str, str]:
    return {
        # Where `pip install` puts things when it may not write to the image, which is always.
        "PYTHONUSERBASE": f"{home}/.local",
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
        **({"BERTH_EXTRA": mounts.EXTRA} if spec.mounts else {}),
        **({"BERTH_PROJECT": mounts.PROJECT} if spec.main and spec.project else {}),
    }


def _egress_environment(spec: RunSpec) -> list[Manifest]:
    """The proxy, in both cases, since curl obeys only http_proxy for http; from the Secret, since it has a password.

    Node's own fetch looks at it only when told to (https://nodejs.org/api/cli.html#node_use_env_proxy1).
    """
    if not spec.egress:
        return []
    source = {"secretKeyRef": {"name": names.secret(spec.ref.run), "key": names.EGRESS_KEY}}
    variables = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
    # The control plane is reached without it: the credential broker is there.
    hosts = f"localhost,127.0.0.1,::1,{urlsplit(spec.courier_url).hostname}"
    direct = {"NO_PROXY": hosts, "no_proxy": hosts, "NODE_USE_ENV_PROXY": "1"}
    return [*({"name": name, "valueFrom": source} for name in variables), *_env(direct)]


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
    # The way out lies beside the token: the courier takes its credential out of what the agent says.
    keys = [names.TOKEN_KEY, *([names.EGRESS_KEY] if spec.egress else [])]
    items = [{"key": key, "path": key} for key in keys]
    secret = {"secretName": names.secret(spec.ref.run), "items": items, "defaultMode": FILE_MODE}
    volumes: list[Manifest] = [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": names.claim(spec.ref.slug)}},
        {"name": "token", "secret": secret},
        _memory("pipes", "8Mi"),  # FIFOs take no room; the exit file is a few bytes
        _memory("tmp", scratch),
        _memory("shm", scratch),
    ]
    if spec.state_folder != home_of(spec.state_folder):
        volumes.append(_memory("home", scratch))
    if spec.secrets:
        projected = {"sources": _secret_sources(spec), "defaultMode": FILE_MODE}
        volumes.append({"name": "secrets", "projected": projected})
    return volumes


def _secret_sources(spec: RunSpec) -> list[Manifest]:
    sources: list[Manifest] = []
    for secret in spec.secrets:
        own = (names.secret(spec.ref.run), names.FILE_KEY_PREFIX + secret.name)
        name, key = secret_sources.cluster_key(secret) or own
        sources.append({"secret": {"name": name, "items": [{"key": key, "path": secret.name}]}})
    return sources


def _memory(name: str, limit: str) -> Manifest:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": limit}}
