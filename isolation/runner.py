"""The proof: a neighbour, then the hostile agent beside it, both through the front door; what both tell is judged.

1. Two groups, and what the agent may have in its own: a secret, a mount, an allowed host.
2. A run of the neighbour in the other group, which listens and gives signs of life.
3. A run of the attacker, with a list of checks; each attempt comes back as an event.
4. What was seen outside meanwhile, and a verdict on each check.
5. The report is stored. The runs are stopped, and what was made is taken away.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from groups.models import AgentGroup, AgentProfile
from isolation import discovery, environment, fixtures, observations
from isolation.checks.catalogue import Check, catalogue
from isolation.environment import Place, Surroundings
from isolation.evaluate import Row, judge
from isolation.listener import Canary
from isolation.provider import Provider
from isolation.runs import START_SECONDS, Beside, Impossible, opened, wait_for
from k8s_adapter.runtime import KubernetesRuntime
from sessions.lifecycle import runtime_factory
from sessions.models import AgentSession

PROOF_SECONDS = 180.0  # for all attempts


@dataclass(slots=True)
class Options:
    """What the person said."""

    groups: list[str] = field(default_factory=list)
    keep: bool = False
    allowed: tuple[str, int] | None = None
    tricks: dict[str, str] = field(default_factory=dict)
    stores: dict[str, Place] = field(default_factory=dict)
    say: Callable[[str], None] = lambda words: None


@dataclass(slots=True)
class Proof:
    """What came of it."""

    groups: tuple[AgentGroup, AgentGroup]
    sessions: tuple[AgentSession, AgentSession]
    rows: list[Row]
    versions: dict[str, str]
    unknown: list[str]


def prove(options: Options) -> Proof:
    """Make the proof on the cluster. Raises Impossible, and the runtime's faults."""
    runtime = runtime_factory.get("kubernetes")
    assert isinstance(runtime, KubernetesRuntime)
    cluster = discovery.Cluster(runtime.config)
    with ExitStack() as stack:
        pair = stack.enter_context(fixtures.groups(options.groups, options.keep))
        canary = stack.enter_context(Canary(discovery.control_plane()))
        provider = stack.enter_context(Provider(discovery.control_plane()))
        attacker = stack.enter_context(fixtures.profile("hostile", secret=True))
        bystander = stack.enter_context(fixtures.profile("hostile-neighbour", secret=False))
        furniture = stack.enter_context(fixtures.Furniture(runtime, cluster, pair[0], options.keep))
        given = _given(furniture, attacker, options, canary.place, provider.url)
        options.say(f"Starting the neighbour in {pair[1].slug}.")
        beside = stack.enter_context(Beside(pair[1], bystander, cluster))
        asked = catalogue(_around(cluster, canary.place, beside, given, options, pair[0]))
        options.say(f"Starting the hostile agent in {pair[0].slug}: {len(asked)} checks.")
        heard = stack.enter_context(opened(pair[0], attacker, _orders(asked)))
        wait_for([heard, beside.heard], lambda: "attempt" in heard.told, START_SECONDS)
        if "attempt" not in heard.told:
            raise Impossible(f"The hostile agent did not start: {heard.why}")
        wait_for([heard, beside.heard], lambda: heard.result is not None, PROOF_SECONDS)
        seen = observations.look(canary, beside, heard)
        reports = {told["check"]: told for _, told in heard.told.get("attempt", [])}
        rows = [judge(check, reports.get(check.name), seen) for check in asked]
        sessions = (heard.session, beside.heard.session)
        return Proof(pair, sessions, rows, cluster.versions(), list(dict.fromkeys(cluster.unknown)))


def untried() -> list[Check]:
    """All checks by their titles, where no agent is to make them."""
    nowhere = Place("", 0)
    other = environment.Neighbour("", 0, "", "", "")
    # Every place is named, so that no check is left out as one that is not there.
    around = Surroundings(
        control_plane=settings.COURIER_URL,
        canary=Place("127.0.0.1", 0),
        neighbour=other,
        dns=("127.0.0.1",),
        provider_key="key",
        stores=dict.fromkeys(discovery.DEFAULT_PORTS, (nowhere,)),
        api_service=(nowhere,),
        api_servers=(nowhere,),
        kubelets=(nowhere,),
    )
    return catalogue(around)


def _given(
    furniture: fixtures.Furniture, attacker: AgentProfile, options: Options, canary: Place, provider: str
) -> dict[str, Any]:
    """What the agent may have, as fields of Surroundings."""
    furniture.ground()
    furniture.forget_denials(attacker)
    allowed = [options.allowed] if options.allowed else []
    for host, port in [*allowed, *((host, canary.port) for host in options.tricks.values())]:
        furniture.allow(host, port)
    given = {"secret": furniture.secret(attacker), "mount": furniture.mount()}
    return given | {"provider_key": furniture.key(attacker, provider)}


def _around(
    cluster: discovery.Cluster,
    canary: Place,
    beside: Beside,
    given: dict[str, Any],
    options: Options,
    group: AgentGroup,
) -> Surroundings:
    facts = cluster.facts()
    stores, closed = discovery.stores(options.stores, discovery.machines(facts["kubelets"]))
    return Surroundings(
        control_plane=settings.COURIER_URL,
        canary=canary,
        neighbour=beside.neighbour,
        stores=stores,
        closed=closed,
        proxy=bool(settings.EGRESS_PROXY_URL),
        allowed=options.allowed,
        tricks=options.tricks,
        memory_mib=fixtures.MEMORY_MIB,
        storage_gib=group.storage_gib,
        **facts,
        **given,
    )


def _orders(asked: list[Check]) -> dict[str, Any]:
    """The attacker's message."""
    orders = [
        {"check": each.name, "attack": each.attack, "parameters": each.parameters}
        for each in asked
        if each.attack and not each.untested
    ]
    return {"role": "attacker", "checks": orders}
