"""What agents asked for by being refused: proposed by owners, decided by operators. Each step is in the audit log."""

from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from egress_policy import decision_service, rules
from egress_policy.choices import HOURS, UNDECIDED, RequestState, Term, Whose
from egress_policy.models import EgressRequest, EgressRule
from groups import audit
from groups.permissions import Person
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import Run

log = structlog.get_logger(__name__)
UNDECIDED_MAX = 500  # of one group that wait for a decision


def record(run: Run, host: str, port: int, count: int, at: datetime) -> None:
    """Note that a run was refused a host, in the caller's transaction, which has locked the session.

    What was refused by a person stays so. What was approved is asked for anew once nothing allows it any more.
    """
    session = run.session
    same = {"group_id": session.group_id, "profile_id": session.profile_id, "host": host, "port": port}
    row = EgressRequest.objects.filter(**same).first()
    if row is None:
        if not _make_room(session.group_id):
            log.warning("too much is asked for", group=str(session.group_id), host=host, most=UNDECIDED_MAX)
            return
        row, _ = EgressRequest.objects.get_or_create(**same, defaults={"first_at": at, "last_at": at})
    rows = EgressRequest.objects.filter(pk=row.pk)
    rows.update(count=F("count") + count, last_at=at, last_session=session, last_run=run)
    if row.state != RequestState.APPROVED:
        return
    if not decision_service.decide_for_run(run, host, port, timezone.now()).allowed:
        rows.filter(state=RequestState.APPROVED).update(state=RequestState.OPEN, decided_at=None, rule=None)


def _make_room(group: Any) -> bool:
    """Whether one more may be listed. What no person has touched makes room, the oldest first."""
    waiting = EgressRequest.objects.filter(group=group, state__in=UNDECIDED)
    if waiting.count() < UNDECIDED_MAX:
        return True
    oldest = waiting.filter(state=RequestState.OPEN).order_by("last_at").values_list("pk", flat=True)[:1]
    return bool(EgressRequest.objects.filter(pk__in=list(oldest), state=RequestState.OPEN).delete()[0])


def propose(request: EgressRequest, reason: str, *, by: str, actor: Person | None = None) -> None:
    """An owner wants it. Raises InvalidRequest if it is not open."""
    if not reason.strip():
        raise InvalidRequest("reason", "Say what it is needed for: who decides has only your words.")
    with transaction.atomic():
        _move(request, [RequestState.OPEN], RequestState.PROPOSED, reason=reason.strip()[:200], proposed_by=by[:150])
        _audit("egress.propose", request, by, actor, reason=reason.strip()[:200])


def approve(
    request: EgressRequest, term: Term, whose: Whose, answer: str = "", *, by: str, actor: Person | None = None
) -> EgressRule:
    """Allow it: the agent's next try goes through. Raises InvalidRequest if it is decided, or its run is over."""
    now = timezone.now()
    with transaction.atomic():
        row = EgressRequest.objects.select_for_update().get(pk=request.pk)
        words = answer.strip() or row.reason
        rule = EgressRule(
            host=row.host, ports=[row.port], reason=words[:200], created_by_id=actor.pk if actor else None
        )
        rule.group_id = None if whose == Whose.PROFILE else row.group_id
        rule.profile_id = None if whose == Whose.GROUP else row.profile_id
        if term == Term.ONCE:
            rule.group_id, rule.profile_id, rule.run = row.group_id, row.profile_id, _active_run(row)
        elif term in HOURS:
            rule.until = now + timedelta(hours=HOURS[term])
        rules.store(rule, by=by, actor=actor)
        decided = {"answer": answer.strip()[:200], "decided_by": by[:150], "decided_at": now, "rule": rule}
        _move(request, [*UNDECIDED, RequestState.REFUSED], RequestState.APPROVED, **decided)
        _audit("egress.approve", request, by, actor, term=str(term), rule=rule.pk)
    return rule


def refuse(request: EgressRequest, answer: str = "", *, by: str, actor: Person | None = None) -> None:
    """Nobody is asked again. Raises InvalidRequest if it is decided."""
    with transaction.atomic():
        decided = {"answer": answer.strip()[:200], "decided_by": by[:150], "decided_at": timezone.now()}
        _move(request, UNDECIDED, RequestState.REFUSED, **decided)
        _audit("egress.refuse", request, by, actor, answer=answer.strip()[:200])


def reopen(request: EgressRequest, *, by: str, actor: Person | None = None) -> None:
    """A refusal is taken back, and nothing decided instead. Raises InvalidRequest if it was not refused."""
    with transaction.atomic():
        _move(request, [RequestState.REFUSED], RequestState.OPEN, answer="", decided_by="", decided_at=None)
        _audit("egress.reopen", request, by, actor)


def _active_run(row: EgressRequest) -> Run:
    run = Run.objects.active().filter(pk=row.last_run_id).first() if row.last_run_id else None
    if run is None:
        raise InvalidRequest("term", f"The run that asked for {row.host} is over. Allow it for a time, or for good.")
    return run


def _move(request: EgressRequest, sources: Any, target: RequestState, **changes: Any) -> None:
    """Compare-and-set. Raises InvalidRequest if it is in another state by now."""
    if not EgressRequest.objects.filter(pk=request.pk, state__in=sources).update(state=target, **changes):
        request.refresh_from_db()
        raise InvalidRequest(
            "state", f"{request.host}:{request.port} is {request.get_state_display().lower()} already."
        )
    request.refresh_from_db()


def _audit(action: str, request: EgressRequest, by: str, actor: Person | None, **details: Any) -> None:
    details = {"host": request.host, "port": request.port, "profile": request.profile.slug} | details
    audit.record(action, actor=actor, by=by, target=request.pk, group=request.group, **details)
