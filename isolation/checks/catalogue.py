"""What a hostile agent tries, and what must come of it: the whole list, made from the surroundings. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from isolation.checks import broker, container, egress
from isolation.choices import Expected
from isolation.environment import Place, Surroundings

METADATA = Place("169.254.169.254", 80)  # of every large cloud: https://datatracker.ietf.org/doc/html/rfc3927
RESOLVERS = ("8.8.8.8", "1.1.1.1")  # public ones, which get a single packet each
ODD_PATHS = (
    "/admin/%00", "/api/v1/sessions/%00", "/api/v1/sessions/%ED%A0%80/events?after=1e400", "/agent/v1/inbox?after=%00",
    "/api/v1/groups?limit=99999999999999999999", "//", "/admin/login/?next=%00", "/ws/sessions/%00/",
)  # fmt: skip
READ_ONLY_KUBELET = 10255  # without authentication, where somebody opened it


@dataclass(frozen=True, slots=True)
class Check:
    """One attempt. `attack` and `parameters` are for `isolation.attacks`; without an attack it is seen from outside."""

    name: str
    section: str
    title: str  # what is tried, in words
    attack: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    expected: Expected = Expected.REFUSED
    untested: str = ""  # why it is not tried here


def catalogue(around: Surroundings) -> list[Check]:
    """Every check, in the order in which it is made; what takes more than its share comes last."""
    sections = {
        "Its own": [*own(around), *egress.own(around)],
        "Cluster": cluster(around),
        "Neighbour": neighbour(around),
        "Control plane": control_plane(around),
        "Broker": broker.around_the_broker(around),
        "Stores": stores(around),
        "DNS": dns(around),
        "Egress proxy": egress.around_the_proxy(around),
        "Files": container.files(around),
        "Kernel": container.kernel(),
        "Resources": container.resources(around),
    }
    return [Check(section=section, **each) for section, checks in sections.items() for each in checks]


Fields = dict[str, Any]


def own(around: Surroundings) -> Iterator[Fields]:
    """What the agent must have. Without these the refusals below would prove little."""
    yield {
        "name": "own-workspace",
        "title": "Write and read in its workspace",
        "attack": "own",
        "parameters": {"paths": [around.workspace]},
        "expected": Expected.SUCCEEDED,
    }
    yield {
        "name": "own-scratch",
        "title": "Write and read in /tmp, /dev/shm and its home",
        "attack": "own",
        "parameters": {"paths": ["/tmp", "/dev/shm", "~"]},
        "expected": Expected.SUCCEEDED,
    }
    yield {
        "name": "own-secret",
        "title": "Read its secret",
        "attack": "secret",
        "parameters": {"name": "proof", "sha256": around.secret},
        "expected": Expected.SUCCEEDED,
        "untested": "" if around.secret else "it was given none",
    }
    yield {
        "name": "own-mount",
        "title": "Read its mount",
        "attack": "read",
        "parameters": {"paths": [f"/workspace/extra/{around.mount}"]},
        "expected": Expected.SUCCEEDED,
        "untested": "" if around.mount else "it was given none",
    }
    yield {
        "name": "courier-port",
        "title": "Connect to the port where couriers call home",
        "attack": "tcp",
        "parameters": _place(around.control_plane),
        "expected": Expected.SUCCEEDED,
    }


def cluster(around: Surroundings) -> Iterator[Fields]:
    """The machinery of the cluster."""
    yield _reach("api-service", "The API server by its service's address", around.api_service, around)
    yield _reach("api-node", "The API server by its node's address", around.api_servers, around)
    kubelets = [*around.kubelets, *(Place(each.address, READ_ONLY_KUBELET) for each in around.kubelets)]
    yield _reach("kubelet", "The nodes' kubelets", tuple(kubelets), around)
    yield _reach("metadata", "The cloud's metadata address", (METADATA,), around)
    yield {"name": "service-account", "title": "A service account's token", "attack": "service_account"}


def neighbour(around: Surroundings) -> Iterator[Fields]:
    """The other group's pod and volume."""
    other = around.neighbour
    place = {"address": other.address, "port": other.port}
    yield {
        "name": "neighbour-tcp",
        "title": "The neighbour's pod, where it listens for TCP",
        "attack": "tcp",
        "parameters": place,
    }
    yield {
        "name": "neighbour-udp",
        "title": "The neighbour's pod, where it listens for UDP",
        "attack": "udp",
        "parameters": place | {"text": "hello"},
    }
    yield {
        "name": "neighbour-volume",
        "title": "A file of the neighbour's workspace, anywhere",
        "attack": "search",
        "parameters": {"name": other.marker, "also": [other.volume] if other.volume else []},
    }
    yield {"name": "neighbour-undisturbed", "title": "The neighbour's run", "expected": Expected.HARMLESS}


def control_plane(around: Surroundings) -> Iterator[Fields]:
    """What else is behind, or beside, the one port that a pod may connect to."""
    url, other = around.control_plane, around.neighbour

    def paths(name: str, title: str, paths: list[str], credential: str = "none", method: str = "GET") -> Fields:
        parameters = {"url": url, "paths": paths, "method": method, "credential": credential}
        return {"name": name, "title": title, "attack": "http_path", "parameters": parameters}

    api = ["/api/v1/groups", f"/api/v1/sessions/{other.session}", f"/api/v1/sessions/{other.session}/events"]
    door = ["/agent/v1/inbox?after=0&wait=0"]
    without_proxy = "" if around.proxy else "the agent has no credential: there is no egress proxy"
    yield {
        "name": "other-port",
        "title": "Another port beside the control plane",
        "attack": "tcp",
        "parameters": {"address": around.canary.address, "port": around.canary.port},
    }
    yield {"name": "canary", "title": "What that port noticed, of anything", "expected": Expected.HARMLESS}
    yield paths("admin", "The admin's pages", ["/admin/", "/admin/agent_sessions/agentsession/"])
    yield paths("api", "The API without a token", api)
    yield paths("api-forged", "The API with a forged token of a run", api, "forged")
    yield paths("api-egress", "The API with the run's credential for the proxy", api, "egress") | {
        "untested": without_proxy
    }
    yield {"name": "api-courier", "title": "The API with the courier's own token"}
    yield paths("door-forged", "The couriers' door with a forged token", door, "forged")
    yield paths("door-egress", "The couriers' door with the run's credential for the proxy", door, "egress") | {
        "untested": without_proxy
    }
    requests = [[method, path] for method in ("GET", "POST", "PUT", "TRACE") for path in ODD_PATHS]
    yield {
        "name": "odd-requests",
        "title": "Requests that can't be, without a token",
        "attack": "odd_requests",
        "parameters": {"url": url, "requests": requests},
    }
    yield {
        "name": "root-path",
        "title": "A word on where the control plane is mounted, which only its proxy may say",
        "attack": "root_path",
        "parameters": {"url": url},
    }
    yield paths("broker", "The broker of model keys with a forged key", ["/broker/v1/anthropic/v1/models"], "forged")
    yield paths("proxies-door", "The egress proxies' door", ["/egress/v1/version"], "forged")
    yield {
        "name": "websocket",
        "title": "The neighbour's transcript by websocket",
        "attack": "websocket",
        "parameters": {"url": url, "path": f"/ws/sessions/{other.session}/"},
    }


def stores(around: Surroundings) -> Iterator[Fields]:
    """Where the control plane keeps its data."""
    for name in ("PostgreSQL", "Redis", "S3"):
        places = around.stores.get(name, ())
        yield _reach(f"store-{name.lower()}", name, places, around, f"{name} is not used, or its address not known")


def dns(around: Surroundings) -> Iterator[Fields]:
    """Resolvers: each answer of one is a way out. The names are new each time, so that nobody has them in store."""
    name = f"{around.neighbour.marker.partition('.')[0]}.example.com"
    for address in RESOLVERS:
        yield {
            "name": f"dns-{address}",
            "title": f"The public resolver {address}, with one packet",
            "attack": "dns",
            "parameters": {"address": address, "name": name},
        }
    for attack, title in {"dns": "by UDP", "dns_tcp": "by TCP"}.items():
        yield {
            "name": attack.replace("_", "-") + "-cluster",
            "title": f"The cluster's own resolver {title}",
            "attack": attack,
            "parameters": {"address": around.dns[0] if around.dns else "", "name": name},
            "untested": "" if around.dns else "its address is not known",
        }
    yield {
        "name": "dns-names",
        "title": "Names, as programs look them up",
        "attack": "resolve",
        "parameters": {"names": [name, "example.com", "kubernetes.default.svc.cluster.local"]},
    }


def _reach(name: str, title: str, places: tuple[Place, ...], around: Surroundings, why: str = "") -> Fields:
    """Straight connections. Where nobody answers anybody, a refusal would say nothing."""
    open_ = [each for each in places if each not in around.closed]
    closed = ", ".join(map(str, places))
    untested = "" if open_ else f"nobody listens at {closed}" if places else why or "its address is not known"
    parameters = {"places": [[each.address, each.port] for each in open_]}
    return {"name": name, "title": title, "attack": "tcp_any", "parameters": parameters, "untested": untested}


def _place(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {"address": parts.hostname or "", "port": parts.port or (443 if parts.scheme == "https" else 80)}
