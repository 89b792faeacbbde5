"""What there is around an agent, found out from the settings and from the cluster. What can't be found stays empty."""

import socket
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.conf import settings

from groups.models import AgentGroup
from isolation.environment import Place
from isolation.listener import answers, own_address
from k8s_adapter import names
from k8s_adapter.client import Api, Object
from k8s_adapter.config import KubernetesConfig
from runtimes.base import RuntimeFault

T = TypeVar("T")
KUBELET = 10250
SERVICE = "/api/v1/namespaces/default/services/kubernetes"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
NO_NODES: list[tuple[Place, dict[str, str]]] = []
NO_ADDRESSES: tuple[str, ...] = ()
DEFAULT_PORTS = {"PostgreSQL": 5432, "Redis": 6379, "S3": 443}


def control_plane() -> Place:
    """Where pods call home."""
    parts = urlsplit(settings.COURIER_URL)
    return Place(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


class Cluster:
    """Reads a cluster. `unknown` says what it did not tell."""

    def __init__(self, config: KubernetesConfig) -> None:
        self.config, self.api = config, Api(config)
        self.unknown: list[str] = []

    def facts(self) -> dict[str, Any]:
        """Where the API server, the kubelets and the resolver are, as fields of Surroundings."""
        nowhere: tuple[Place, ...] = ()
        return {
            "api_service": self._read("the API server's service", self._api_service, nowhere),
            "api_servers": self._read("the API server's addresses", self._api_servers, nowhere),
            "kubelets": tuple(place for place, _ in self._read("its nodes", self._nodes, NO_NODES)),
            "dns": self._read("its resolver", self._resolvers, NO_ADDRESSES),
        }

    def versions(self) -> dict[str, str]:
        """What the cluster is made of."""
        version = self._read("its version", lambda: str(self.api.get("/version")["gitVersion"]), "")
        nodes = self._read("its nodes", self._nodes, NO_NODES)
        kinds = {f"{info['containerRuntimeVersion']}, kernel {info['kernelVersion']}" for _, info in nodes}
        return {"kubernetes": version, "nodes": f"{len(nodes)}: {'; '.join(sorted(kinds))}"}

    def pod_address(self, group: AgentGroup, run: str) -> str:
        """The address of a run's pod; empty if it has none yet."""
        path = f"/api/v1/namespaces/{self.namespace(group)}/pods"
        selector = names.selector(self.config.installation, run)
        pods = self.api.get(path, labelSelector=selector)["items"]
        return next((str(pod["status"]["podIP"]) for pod in pods if pod["status"].get("podIP")), "")

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

    def _nodes(self) -> list[tuple[Place, dict[str, str]]]:
        """Each node's kubelet, and what the node says of itself."""
        found = []
        for node in self.api.get("/api/v1/nodes")["items"]:
            status = node["status"]
            port = status.get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port", KUBELET)
            inside = [each["address"] for each in status["addresses"] if each["type"] == "InternalIP"]
            found += [(Place(address, port), status["nodeInfo"]) for address in inside]
        return found

    def _api_service(self) -> tuple[Place, ...]:
        spec = self.api.get(SERVICE)["spec"]
        return tuple(Place(address, spec["ports"][0]["port"]) for address in spec.get("clusterIPs", []))

    def _api_servers(self) -> tuple[Place, ...]:
        found: list[Object] = self.api.get(SLICES, labelSelector="kubernetes.io/service-name=kubernetes")["items"]
        return tuple(
            Place(address, each["ports"][0]["port"])
            for each in found
            for endpoint in each["endpoints"]
            for address in endpoint["addresses"]
        )

    def _resolvers(self) -> tuple[str, ...]:
        """The addresses of the cluster's DNS service, which by custom has this label whatever it runs."""
        services = self.api.get("/api/v1/namespaces/kube-system/services", labelSelector="k8s-app=kube-dns")["items"]
        return tuple(address for each in services for address in each["spec"].get("clusterIPs", []))


def stores(also: dict[str, Place], machines: list[str]) -> tuple[dict[str, tuple[Place, ...]], frozenset[Place]]:
    """Where the control plane's stores are as a pod may see them, and at which of these places nobody answers.

    One that the settings look for on this machine is looked for at the machines' other addresses.
    """
    found, closed = {}, set()
    for name, place in (_told() | also).items():
        loopback = place.address in ("localhost", "127.0.0.1", "::1")
        places = [Place(address, place.port) for address in machines] if loopback else _addresses(place)
        found[name] = tuple(places)
        closed |= {each for each in places if not answers(each)}
    return found, frozenset(closed)


def machines(kubelets: tuple[Place, ...]) -> list[str]:
    """Addresses under which pods may see this machine, and those of the nodes."""
    return list(dict.fromkeys([own_address(control_plane()), *(place.address for place in kubelets)]))


def _told() -> dict[str, Place]:
    """The stores that the settings name."""
    found = {}
    database = settings.DATABASES["default"]
    if "postgresql" in database["ENGINE"] and not str(database["HOST"]).startswith("/"):
        found["PostgreSQL"] = Place(str(database["HOST"] or "localhost"), int(database["PORT"] or 5432))
    for name, url in {"Redis": settings.REDIS_URL, "S3": getattr(settings, "S3_ENDPOINT_URL", "")}.items():
        parts = urlsplit(url)
        if parts.hostname:
            found[name] = Place(parts.hostname, parts.port or DEFAULT_PORTS[name])
    return found


def _addresses(place: Place) -> list[Place]:
    """A place by each of its host's addresses: an agent has no DNS."""
    try:
        found = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(Place(str(each[4][0]), place.port) for each in found))
