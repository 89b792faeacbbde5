"""The settings of the Kubernetes runtime, as plain data."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.secret_sources import ENVIRONMENT_ONLY, AllowedSources

# A namespace, and labels of the pods in it (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/).
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(
    r"(?P<key>([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)"
    r"=(?P<value>([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?)"
)


@dataclass(frozen=True, slots=True)
class PodSelector:
    """Pods of one namespace, chosen by labels, and the port that they themselves listen on."""

    namespace: str
    labels: tuple[tuple[str, str], ...]
    port: int

    def peer(self) -> dict[str, Any]:
        """The pods as a peer of a NetworkPolicy."""
        return {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
            "podSelector": {"matchLabels": dict(self.labels)},
        }


def pod_selector(text: str) -> PodSelector | None:
    """Read `NAMESPACE/LABEL=VALUE[,LABEL=VALUE…]:PORT`; None for an empty text.

    The port is the pods' own, which is not always their Service's. Raises ValueError that says what is wrong.
    """
    if not text:
        return None
    where, _, port = text.rpartition(":")
    namespace, _, rest = where.partition("/")
    labels = [LABEL.fullmatch(each) for each in rest.split(",")]
    if not NAMESPACE.fullmatch(namespace) or not all(labels) or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} must read NAMESPACE/LABEL=VALUE:PORT, such as berth/app=web:8000")
    return PodSelector(namespace, tuple((each["key"], each["value"]) for each in labels if each), int(port))


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """What an operator decides about the cluster; nothing here differs from run to run."""

    installation: str  # tells the objects of several control planes on one cluster apart; a label's value
    courier_image: str
    courier_url: str = ""  # the control plane's, for couriers; pods may connect there
    control_plane: PodSelector | None = None  # the pods behind it, where they are in this cluster
    egress_url: str = ""  # the egress proxy; pods may connect there
    egress: PodSelector | None = None  # likewise
    dns: PodSelector | None = None  # the cluster's DNS, for profiles that open it
    shared_namespace: str = ""  # put every group here, and make no namespaces
    storage_class: str = ""  # of the groups' volumes; empty: the cluster's default
    access_mode: str = "ReadWriteOnce"  # ReadWriteMany, if a group's runs may be on several nodes at once
    openshift: bool = False  # leave uid, gid and fsGroup to the cluster
    uid: int = 1000  # of agents
    courier_uid: int = 1001  # another, so that not even the kernel's own rules let an agent touch its courier
    gid: int = 1000  # of both: they share FIFOs and the group's volume
    image_pull_policy: str = "IfNotPresent"
    secrets: AllowedSources = ENVIRONMENT_ONLY  # what the agents' secrets may be read from
    termination_grace_seconds: int = 60  # of a pod; the courier ships its last words within it
    ttl_seconds: int = 24 * 3600  # a finished Job goes by itself after this, should nobody destroy it
    kubeconfig: Path | None = None  # None: $KUBECONFIG, else the pod's service account, else ~/.kube/config
    context: str = ""  # of the kubeconfig; empty: its current one
    watch_timeout_seconds: float = 60.0  # how long the API server may be away before watch() gives up
