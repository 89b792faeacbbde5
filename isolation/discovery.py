"""Finds the environment of an agent, from the settings and the cluster. What can't be found stays empty."""

import socket
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.conf import settings

from groups.models import AgentGroup
from isolation.environment import Endpoint
from isolation.listener import accepts_connections, own_address
from k8s_adapter import names
from k8s_adapter.client import Api, Object
from k8s_adapter.config import KubernetesConfig
from runtimes.base import RuntimeFault

T = TypeVar("T")
KUBELET = 10250
SERVICE = "/api/v1/namespaces/default/services/kubernetes"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
NO_NODES: list[tuple[Endpoint, dict[str, str]]] = []
NO_ADDRESSES: tuple[str, ...] = ()
DEFAULT_PORTS = {"PostgreSQL": 5432, "Redis": 6379, "S3": 443}


class Cluster:
    """Reads a cluster. `unknown` says what it did not tell."""

    def __init__(self, config: KubernetesConfig) -> None:
        self.config, self.api = config, Api(config)
        self.unknown: list[str] = []

    def addresses(self) -> dict[str, Any]:
        """Where the API server, the kubelets and the resolver are, as fields of Environment."""
        none: tuple[Endpoint, ...] = ()
        return {
            "api_service": self._read("the API server's service", self._api_service, none),
            "api_servers": self._read("the API server's addresses", self._api_servers, none),
            "kubelets": tuple(kubelet for kubelet, _ in self._read("its nodes", self._nodes, NO_NODES)),
            "dns": self._read("its resolver", self._resolvers, NO_ADDRESSES),
        }

    def versions(self) -> dict[str, str]:
        """What the cluster is made of."""
        version = self._read("its version", lambda: str(self.api.get("/version")["gitVersion"]), "")
        nodes = self._read("its nodes", self._nodes, NO_NODES)
        kinds = {f"{info['containerRuntimeVersion']}, kernel {info['kernelVersion']}" for _, info in nodes}
        return {"kubernetes": version, "nodes": f"{len(nodes)}: {'; '.join(sorted(kinds))}"}

    def volume_path(self, group: AgentGroup) -> str:
        """Where a group's volume is on its node; empty if it is nowhere, or the cluster does not tell."""

        def find() -> str:
            path = f"/api/v1/namespaces/{self.namespace(group)}/persistentvolumeclaims/{names.claim(group.slug)}"
            volume = self.api.get(path)["spec"].get("volumeName")
            source = self.api.get(f"/api/v1/persistentvolumes/{volume}")["spec"] if volume else {}
            return str((source.get("hostPath") or source.get("local") or {}).get("path", ""))

        return self._read("the neighbour's volume", find, "")

    def namespace(self, group: AgentGroup) -> str:
        """Where a group's pods are."""
        return names.namespace(group.slug, self.config.shared_namespace)

    def _read(self, what: str, find: Callable[[], T], otherwise: T) -> T:
        try:
            return find()
        except (RuntimeFault, KeyError) as error:
            self.unknown.append(f"the cluster did not tell {what}: {error}")
            return otherwise

    def _nodes(self) -> list[tuple[Endpoint, dict[str, str]]]:
        """Each node's kubelet, and what the node says of itself."""
        found = []
        for node in self.api.get("/api/v1/nodes")["items"]:
            status = node["status"]
            port = status.get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port", KUBELET)
            inside = [each["address"] for each in status["addresses"] if each["type"] == "InternalIP"]
            found += [(Endpoint(address, port), status["nodeInfo"]) for address in inside]
        return found

    def _api_service(self) -> tuple[Endpoint, ...]:
        spec = self.api.get(SERVICE)["spec"]
        return tuple(Endpoint(address, spec["ports"][0]["port"]) for address in spec.get("clusterIPs", []))

    def _api_servers(self) -> tuple[Endpoint, ...]:
        found: list[Object] = self.api.get(SLICES, labelSelector="kubernetes.io/service-name=kubernetes")["items"]
        return tuple(
            Endpoint(address, each["ports"][0]["port"])
            for each in found
            for endpoint in each["endpoints"]
            for address in endpoint["addresses"]
        )

    def _resolvers(self) -> tuple[str, ...]:
        """The addresses of the cluster's DNS service, which by custom has this label whatever it runs."""
        services = self.api.get("/api/v1/namespaces/kube-system/services", labelSelector="k8s-app=kube-dns")["items"]
        return tuple(address for each in services for address in each["spec"].get("clusterIPs", []))


def stores(
    also: dict[str, Endpoint], machines: list[str]
) -> tuple[dict[str, tuple[Endpoint, ...]], frozenset[Endpoint]]:
    """Where the control plane's stores are as a pod may see them, and which of these endpoints nobody answers at.

    One that the settings look for on this machine is looked for at the machines' other addresses.
    """
    found, closed = {}, set()
    for name, endpoint in (_from_settings() | also).items():
        loopback = endpoint.address in ("localhost", "127.0.0.1", "::1")
        endpoints = [Endpoint(address, endpoint.port) for address in machines] if loopback else _resolve(endpoint)
        found[name] = tuple(endpoints)
        closed |= {each for each in endpoints if not accepts_connections(each)}
    return found, frozenset(closed)


def machine_addresses(kubelets: tuple[Endpoint, ...]) -> list[str]:
    """Addresses under which pods may see this machine, and those of the nodes."""
    here = own_address(Endpoint.from_url(settings.COURIER_URL))
    return list(dict.fromkeys([here, *(kubelet.address for kubelet in kubelets)]))


def _from_settings() -> dict[str, Endpoint]:
    """The stores that the settings name."""
    found = {}
    database = settings.DATABASES["default"]
    if "postgresql" in database["ENGINE"] and not str(database["HOST"]).startswith("/"):
        found["PostgreSQL"] = Endpoint(str(database["HOST"] or "localhost"), int(database["PORT"] or 5432))
    for name, url in {"Redis": settings.REDIS_URL, "S3": getattr(settings, "S3_ENDPOINT_URL", "")}.items():
        parts = urlsplit(url)
        if parts.hostname:
            found[name] = Endpoint(parts.hostname, parts.port or DEFAULT_PORTS[name])
    return found


def _resolve(endpoint: Endpoint) -> list[Endpoint]:
    """The endpoint by each address of its host: an agent has no DNS."""
    try:
        found = socket.getaddrinfo(endpoint.address, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(Endpoint(str(each[4][0]), endpoint.port) for each in found))
