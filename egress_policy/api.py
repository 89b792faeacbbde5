"""The API of egress, part of version 1 (`sessions.api`)."""

import uuid
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema
from ninja.errors import HttpError

from egress_policy import access_requests, traffic
from egress_policy.choices import UNDECIDED
from egress_policy.models import EgressDenial, EgressRequest
from sessions.api.access import actor, find_group, user_of
from sessions.models import AgentSession, Run

router = Router()


class ReachedOut(Schema):
    """All that a run had to do with one host and port."""

    host: str
    port: int
    connections: int
    open: int = Field(description="Of them, as far as the proxies have told")
    sent: int = Field(description="Bytes, from the agent")
    received: int = Field(description="Bytes, to the agent")
    first_at: datetime
    last_at: datetime | None = Field(description="When the last one ended")


class DeniedOut(Schema):
    """What a run was refused. Host `*` with port 0 stands for all beyond the first 200."""

    host: str
    port: int
    code: str
    reason: str
    count: int
    first_at: datetime
    last_at: datetime


class RunEgress(Schema):
    """What a run reached, and what it was refused."""

    reached: list[ReachedOut]
    denied: list[DeniedOut]


class AskedOut(Schema):
    """A host that agents of a group were refused."""

    id: int
    host: str
    port: int
    profile: str
    state: str
    count: int
    first_at: datetime
    last_at: datetime
    last_session: str | None
    reason: str = Field(description="What an owner said it is needed for")
    answer: str = Field(description="What was said when it was decided")


class Proposal(Schema):
    """An owner's words for those who decide."""

    reason: str = Field(max_length=200)


def _summary(row: EgressRequest) -> dict[str, Any]:
    plain = ["id", "host", "port", "state", "count", "first_at", "last_at", "reason", "answer"]
    last = str(row.last_session_id) if row.last_session_id else None
    return {name: getattr(row, name) for name in plain} | {"profile": row.profile.slug, "last_session": last}


@router.get("/sessions/{uuid:session_id}/runs/{int:number}/egress", response=RunEgress, summary="A run's network")
def run_egress(request: HttpRequest, session_id: uuid.UUID, number: int) -> dict[str, Any]:
    """What it reached through the egress proxy, and what it was refused."""
    session = AgentSession.objects.visible_to(user_of(request)).filter(pk=session_id).first()
    run = Run.objects.filter(session=session, number=number).first() if session else None
    if run is None:
        raise HttpError(404, "There is no such run, or it is not yours.")
    return {"reached": traffic.by_host(run.pk), "denied": list(EgressDenial.objects.filter(run=run))}


@router.get("/groups/{slug}/egress", response=list[AskedOut], summary="What a group's agents asked for")
def list_asked(request: HttpRequest, slug: str, undecided: bool = True) -> list[dict[str, Any]]:
    """The last 500; with `undecided=false` also what was approved and refused."""
    rows = EgressRequest.objects.filter(group=find_group(request, slug)).select_related("profile")
    return [_summary(row) for row in (rows.filter(state__in=UNDECIDED) if undecided else rows)[:500]]


@router.post("/egress/{int:asked_id}/propose", response=AskedOut, summary="Propose what agents asked for")
def propose(request: HttpRequest, asked_id: int, body: Proposal) -> dict[str, Any]:
    """For owners of the group. An operator decides, in the admin."""
    user = user_of(request)
    row = EgressRequest.objects.visible_to(user).filter(pk=asked_id).select_related("profile", "group").first()
    if row is None:
        raise HttpError(404, "There is no such request, or it is not yours.")
    if not EgressRequest.objects.ownable_by(user).filter(pk=asked_id).exists():
        raise HttpError(403, "You may read this request. Ask an owner of the group to propose it.")
    access_requests.propose(row, body.reason, **actor(request))
    return _summary(row)
