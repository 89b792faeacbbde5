"""The settings of the Kubernetes runtime, as plain data."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """What an operator decides about the cluster; nothing here differs from run to run."""

    installation: str  # tells the objects of several control planes on one cluster apart; a label's value
    courier_image: str
    shared_namespace: str = ""  # put every group here, and make no namespaces
    storage_class: str = ""  # of the groups' volumes; empty: the cluster's default
    access_mode: str = "ReadWriteOnce"  # ReadWriteMany, if a group's runs may be on several nodes at once
    openshift: bool = False  # leave uid, gid and fsGroup to the cluster
    uid: int = 1000
    gid: int = 1000
    image_pull_policy: str = "IfNotPresent"
    host_aliases: tuple[tuple[str, str], ...] = ()  # (address, name), written into each pod's /etc/hosts
    termination_grace_seconds: int = 60  # of a pod; the courier ships its last words within it
    ttl_seconds: int = 24 * 3600  # a finished Job goes by itself after this, should nobody destroy it
    kubeconfig: Path | None = None  # None: $KUBECONFIG, else the pod's service account, else ~/.kube/config
    context: str = ""  # of the kubeconfig; empty: its current one
    watch_patience_seconds: float = 60.0  # how long the API server may be away before watch() gives up
