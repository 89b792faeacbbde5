"""What a hostile agent tries, and what must come of it: the whole list, made from the environment. Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from isolation.checks import broker, container, egress
from isolation.choices import Expected
from isolation.environment import Endpoint, Environment

METADATA = Endpoint("169.254.169.254", 80)  # of every large cloud: https://datatracker.ietf.org/doc/html/rfc3927
RESOLVERS = ("8.8.8.8", "1.1.1.1")  # public ones, which get a single packet each
ODD_PATHS = (
    "/admin/%00", "/api/v1/sessions/%00", "/api/v1/sessions/%ED%A0%80/events?after=1e400", "/agent/v1/inbox?after=%00",
    "/api/v1/groups?limit=99999999999999999999", "//", "/admin/login/?next=%00", "/ws/sessions/%00/",
)  # fmt: skip
READ_ONLY_KUBELET = 10255  # without authentication, where somebody opened it


@dataclass(frozen=True, slots=True)
class Check:
    """One attempt. `attack` and `parameters` are for `isolation.attacks`; one without an attack is observed."""

    name: str
    section: str
    title: str  # what is tried, in words
    attack: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    expected: Expected = Expected.REFUSED
    untested: str = ""  # why it is not tried here


def catalogue(environment: Environment) -> list[Check]:
    """Every check, in the order in which it is made; what takes more than its share comes last."""
    sections = {
        "Its own": [*own(environment), *egress.own(environment)],
        "Cluster": cluster(environment),
        "Neighbour": neighbour(environment),
        "Control plane": control_plane(environment),
        "Broker": broker.broker_checks(environment),
        "Stores": stores(environment),
        "DNS": dns(environment),
        "Egress proxy": egress.proxy_checks(environment),
        "Files": container.files(environment),
        "Kernel": container.kernel(),
        "Resources": container.resources(environment),
    }
    return [Check(section=section, **each) for section, checks in sections.items() for each in checks]


Fields = dict[str, Any]


def own(environment: Environment) -> Iterator[Fields]:
    """What the agent must have. Without these the refusals below would prove little."""
    yield {
        "name": "own-workspace",
        "title": "Write and read in its workspace",
        "attack": "own",
        "parameters": {"paths": [environment.workspace]},
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
        "parameters": {"name": "proof", "sha256": environment.secret},
        "expected": Expected.SUCCEEDED,
        "untested": "" if environment.secret else "it was given none",
    }
    yield {
        "name": "own-mount",
        "title": "Read its mount",
        "attack": "read",
        "parameters": {"paths": [f"/workspace/extra/{environment.mount}"]},
        "expected": Expected.SUCCEEDED,
        "untested": "" if environment.mount else "it was given none",
    }
    yield {
        "name": "courier-port",
        "title": "Connect to the port where couriers call home",
        "attack": "tcp",
        "parameters": asdict(Endpoint.from_url(environment.control_plane)),
        "expected": Expected.SUCCEEDED,
    }


def cluster(environment: Environment) -> Iterator[Fields]:
    """The machinery of the cluster."""
    yield _tcp("api-service", "The API server by its service's address", environment.api_service, environment)
    yield _tcp("api-node", "The API server by its node's address", environment.api_servers, environment)
    kubelets = [*environment.kubelets, *(Endpoint(each.address, READ_ONLY_KUBELET) for each in environment.kubelets)]
    yield _tcp("kubelet", "The nodes' kubelets", tuple(kubelets), environment)
    yield _tcp("metadata", "The cloud's metadata address", (METADATA,), environment)
    yield {"name": "service-account", "title": "A service account's token", "attack": "service_account"}


def neighbour(environment: Environment) -> Iterator[Fields]:
    """The other group's pod and volume."""
    other = environment.neighbour
    pod = {"address": other.address, "port": other.port}
    yield {
        "name": "neighbour-tcp",
        "title": "The neighbour's pod, where it listens for TCP",
        "attack": "tcp",
        "parameters": pod,
    }
    yield {
        "name": "neighbour-udp",
        "title": "The neighbour's pod, where it listens for UDP",
        "attack": "udp",
        "parameters": pod | {"text": "hello"},
    }
    yield {
        "name": "neighbour-volume",
        "title": "A file of the neighbour's workspace, anywhere",
        "attack": "search",
        "parameters": {"name": other.marker, "also": [other.volume] if other.volume else []},
    }
    yield {"name": "neighbour-undisturbed", "title": "The neighbour's run", "expected": Expected.HARMLESS}


def control_plane(environment: Environment) -> Iterator[Fields]:
    """What else is behind, or beside, the one port that a pod may connect to."""
    url, other = environment.control_plane, environment.neighbour

    def request(name: str, title: str, paths: list[str], credential: str = "none") -> Fields:
        parameters = {"url": url, "paths": paths, "credential": credential}
        return {"name": name, "title": title, "attack": "http_path", "parameters": parameters}

    api = ["/api/v1/groups", f"/api/v1/sessions/{other.session}", f"/api/v1/sessions/{other.session}/events"]
    courier = ["/agent/v1/inbox?after=0&wait=0"]
    without_proxy = "" if environment.proxy else "the agent has no credential: there is no egress proxy"
    yield {
        "name": "other-port",
        "title": "Another port beside the control plane",
        "attack": "tcp",
        "parameters": asdict(environment.listener),
    }
    yield {"name": "canary", "title": "What that port noticed, of anything", "expected": Expected.HARMLESS}
    yield request("admin", "The admin's pages", ["/admin/", "/admin/agent_sessions/agentsession/"])
    yield request("api", "The API without a token", api)
    yield request("api-forged", "The API with a forged token of a run", api, "forged")
    yield request("api-egress", "The API with the run's credential for the proxy", api, "egress") | {
        "untested": without_proxy
    }
    yield {"name": "api-courier", "title": "The API with the courier's own token"}
    yield request("door-forged", "The couriers' door with a forged token", courier, "forged")
    yield request("door-egress", "The couriers' door with the run's credential for the proxy", courier, "egress") | {
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
    yield request("broker", "The broker of model keys with a forged key", ["/broker/v1/anthropic/v1/models"], "forged")
    yield request("proxies-door", "The egress proxies' door", ["/egress/v1/version"], "forged")
    yield {
        "name": "websocket",
        "title": "The neighbour's transcript by websocket",
        "attack": "websocket",
        "parameters": {"url": url, "path": f"/ws/sessions/{other.session}/"},
    }


def stores(environment: Environment) -> Iterator[Fields]:
    """Where the control plane keeps its data."""
    for name in ("PostgreSQL", "Redis", "S3"):
        endpoints, why = environment.stores.get(name, ()), f"{name} is not used, or its address not known"
        yield _tcp(f"store-{name.lower()}", name, endpoints, environment, why)


def dns(environment: Environment) -> Iterator[Fields]:
    """Resolvers: an answer of one is a way out. The names are new each time, so that no cache has them."""
    name = f"{environment.neighbour.marker.partition('.')[0]}.example.com"
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
            "parameters": {"address": environment.dns[0] if environment.dns else "", "name": name},
            "untested": "" if environment.dns else "its address is not known",
        }
    yield {
        "name": "dns-names",
        "title": "Names, as programs look them up",
        "attack": "resolve",
        "parameters": {"names": [name, "example.com", "kubernetes.default.svc.cluster.local"]},
    }


def _tcp(name: str, title: str, endpoints: tuple[Endpoint, ...], environment: Environment, why: str = "") -> Fields:
    """Direct connections. Where nobody answers anybody, a refusal would say nothing. `why` there are no endpoints."""
    open_ = [each for each in endpoints if each not in environment.closed]
    closed = ", ".join(map(str, endpoints))
    untested = "" if open_ else f"nobody listens at {closed}" if endpoints else why or "its address is not known"
    parameters = {"endpoints": [[each.address, each.port] for each in open_]}
    return {"name": name, "title": title, "attack": "tcp_any", "parameters": parameters, "untested": untested}
