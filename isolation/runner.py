"""Makes a proof: a neighbour, then the hostile agent beside it, both in ordinary sessions; a verdict on each check.

1. Two groups, and what the agent may have in its own: a secret, a mount, an allowed host.
2. A run of the neighbour in the other group, which listens and reports heartbeats.
3. A run of the attacker, with a list of checks; each attempt is reported as an event.
4. What was observed outside meanwhile, and a verdict on each check.
5. The report is stored. The runs are stopped, and what was made is deleted.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from groups.models import AgentGroup, AgentProfile
from isolation import discovery, observations
from isolation.checks.catalogue import Check, catalogue
from isolation.environment import Endpoint, Environment, Neighbour
from isolation.evaluate import Row, evaluate
from isolation.fixtures import MEMORY_MIB, Fixtures, groups, profile
from isolation.listener import Listener
from isolation.provider import Provider
from isolation.runs import START_SECONDS, NeighbourRun, ProofError, open_session, wait_for
from k8s_adapter.runtime import KubernetesRuntime
from sessions.lifecycle import runtime_factory
from sessions.models import AgentSession

PROOF_SECONDS = 180.0  # for all attempts


@dataclass(slots=True)
class Options:
    """The options of the command."""

    groups: list[str] = field(default_factory=list)
    keep: bool = False
    allowed: tuple[str, int] | None = None
    tricks: dict[str, str] = field(default_factory=dict)
    stores: dict[str, Endpoint] = field(default_factory=dict)
    log: Callable[[str], None] = lambda line: None


@dataclass(slots=True)
class Result:
    """A proof that was made. Of both pairs the first is the attacker's."""

    groups: tuple[AgentGroup, AgentGroup]
    sessions: tuple[AgentSession, AgentSession]
    rows: list[Row]
    versions: dict[str, str]
    unknown: list[str]


def run(options: Options) -> Result:
    """Make a proof on the cluster. Raises ProofError, and the runtime's faults."""
    runtime = runtime_factory.get("kubernetes")
    assert isinstance(runtime, KubernetesRuntime)
    cluster = discovery.Cluster(runtime.config)
    control_plane = Endpoint.from_url(settings.COURIER_URL)
    with ExitStack() as stack:
        pair = stack.enter_context(groups(options.groups, options.keep))
        listener = stack.enter_context(Listener(control_plane))
        provider = stack.enter_context(Provider(control_plane))
        attacker = stack.enter_context(profile("hostile", secret=True))
        bystander = stack.enter_context(profile("hostile-neighbour", secret=False))
        fixtures = stack.enter_context(Fixtures(runtime, cluster, pair[0], options.keep))
        made = _make_fixtures(fixtures, attacker, options, listener.endpoint, provider.url)
        options.log(f"Starting the neighbour in {pair[1].slug}.")
        neighbour = stack.enter_context(NeighbourRun(pair[1], bystander, cluster))
        checks = catalogue(_environment(cluster, listener.endpoint, neighbour, made, options, pair[0]))
        options.log(f"Starting the hostile agent in {pair[0].slug}: {len(checks)} checks.")
        transcript = stack.enter_context(open_session(pair[0], attacker, _message(checks)))
        both = [transcript, neighbour.transcript]
        wait_for(both, lambda: "attempt" in transcript.reports, START_SECONDS)
        if "attempt" not in transcript.reports:
            raise ProofError(f"The hostile agent did not start: {transcript.status}")
        wait_for(both, lambda: transcript.result is not None, PROOF_SECONDS)
        observed = observations.collect(listener, neighbour, transcript)
        attempts = {payload["check"]: payload for _, payload in transcript.reports["attempt"]}
        rows = [evaluate(check, attempts.get(check.name), observed) for check in checks]
        sessions = (transcript.session, neighbour.transcript.session)
        return Result(pair, sessions, rows, cluster.versions(), list(dict.fromkeys(cluster.unknown)))


def all_checks() -> list[Check]:
    """Every check, for a report where no agent makes any."""
    nowhere = Endpoint("", 0)
    # Every endpoint is named, so that no check is left out as one of something that is not there.
    environment = Environment(
        control_plane=settings.COURIER_URL,
        listener=Endpoint("127.0.0.1", 0),
        neighbour=Neighbour("", 0, "", "", ""),
        dns=("127.0.0.1",),
        provider_key="key",
        stores=dict.fromkeys(discovery.DEFAULT_PORTS, (nowhere,)),
        api_service=(nowhere,),
        api_servers=(nowhere,),
        kubelets=(nowhere,),
    )
    return catalogue(environment)


def _make_fixtures(
    fixtures: Fixtures, attacker: AgentProfile, options: Options, listener: Endpoint, provider: str
) -> dict[str, Any]:
    """Make what the agent may have; returns fields of Environment."""
    fixtures.ensure_namespace()
    fixtures.delete_denials(attacker)
    allowed = [options.allowed] if options.allowed else []
    for host, port in [*allowed, *((host, listener.port) for host in options.tricks.values())]:
        fixtures.allow(host, port)
    made = {"secret": fixtures.secret(attacker), "mount": fixtures.mount()}
    return made | {"provider_key": fixtures.key(attacker, provider)}


def _environment(
    cluster: discovery.Cluster,
    listener: Endpoint,
    neighbour: NeighbourRun,
    made: dict[str, Any],
    options: Options,
    group: AgentGroup,
) -> Environment:
    addresses = cluster.addresses()
    stores, closed = discovery.stores(options.stores, discovery.machine_addresses(addresses["kubelets"]))
    return Environment(
        control_plane=settings.COURIER_URL,
        listener=listener,
        neighbour=neighbour.neighbour,
        stores=stores,
        closed=closed,
        proxy=bool(settings.EGRESS_PROXY_URL),
        allowed=options.allowed,
        tricks=options.tricks,
        memory_mib=MEMORY_MIB,
        storage_gib=group.storage_gib,
        **addresses,
        **made,
    )


def _message(checks: list[Check]) -> dict[str, Any]:
    """The attacker's message: the checks that it is to make."""
    attempts = [
        {"check": each.name, "attack": each.attack, "parameters": each.parameters}
        for each in checks
        if each.attack and not each.untested
    ]
    return {"role": "attacker", "checks": attempts}
