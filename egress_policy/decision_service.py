"""The answer to a proxy that asks whether a run may reach a host."""

import uuid
from datetime import datetime
from typing import Any

from django.utils import timezone

from egress import hosts
from egress_policy import policy_revision
from egress_policy.choices import RequestState
from egress_policy.decision import Decision, Rule, decide
from egress_policy.host_patterns import candidates
from egress_policy.models import EgressRequest, EgressRule
from groups.texts import storable
from sessions.lifecycle import run_tokens
from sessions.models import Run

RETRY_HINT = "Once it is approved, try again: nothing has to be restarted."
STATE_HINTS = {
    RequestState.OPEN: f"It is listed under “asked for”, where an owner of the group can propose it. {RETRY_HINT}",
    RequestState.PROPOSED: f"It was proposed and waits for an operator. {RETRY_HINT}",
    RequestState.REFUSED: "An operator refused it.",
}


def answer_proxy(run: str, credential: str, host: str, port: int) -> dict[str, Any] | None:
    """The answer as JSON; None for a credential that is wrong, or of a run that is over."""
    run, credential, host = storable(run), storable(credential), storable(host)
    active_run = find_run(run, credential)
    if active_run is None:
        return None
    number = policy_revision.current()  # before the rules: an answer may be newer than its number, but never older
    decision = decide_for_run(active_run, host, port, timezone.now())
    reason = decision.reason if decision.allowed else f"{decision.reason} {_hint(active_run, host, port)}".strip()
    return {
        "allowed": decision.allowed,
        "rule": decision.rule,
        "until": decision.until.timestamp() if decision.until else None,
        "reason": reason,
        "version": number,
    }


def find_run(run: str, credential: str) -> Run | None:
    """The active run that a credential belongs to."""
    try:
        run_id = uuid.UUID(run)
    except ValueError:
        return None
    # One spelling: the proxies count what a run does by it.
    if str(run_id) != run or not run_tokens.is_egress(run_id, credential):
        return None
    return Run.objects.active().filter(pk=run_id).select_related("session").first()


def decide_for_run(run: Run, host: str, port: int, now: datetime) -> Decision:
    """May this run reach this host? By the rules as they are now."""
    try:
        name = hosts.normalize(host)
    except ValueError:
        return Decision(False, f"{host[:253]!r} is not a host's name.")
    if hosts.is_literal(host) or hosts.is_literal(name):
        return Decision(False, f"{name} is an address. Rules are for names: use the host's name.")
    rows = EgressRule.objects.applying_to(run).filter(host__in=list(candidates(name)))
    rules = [Rule(str(row.pk), row.host, tuple(row.ports), row.until) for row in rows]
    return decide(rules, name, port, now)


def _hint(run: Run, host: str, port: int) -> str:
    """What the agent, or who reads along, can do about a refusal."""
    session = run.session
    requests = EgressRequest.objects.filter(group=session.group_id, profile=session.profile_id, host=host, port=port)
    state, answer = requests.values_list("state", "answer").first() or (RequestState.OPEN, "")
    words = STATE_HINTS.get(RequestState(state), STATE_HINTS[RequestState.OPEN])
    return f"{words[:-1]}: {answer}" if state == RequestState.REFUSED and answer else words
