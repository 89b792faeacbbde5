"""API version 1: groups, sessions, messages and events, for programs with a bearer token.

Errors are problem details (RFC 9457). What somebody may not see is not there: 404.
"""

import errno
import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from django.db import InterfaceError, OperationalError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import Field, NinjaAPI, Router, Schema, Status
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.parser import Parser

from groups.models import AgentGroup, AgentProfile
from groups.texts import storable_data
from sessions import pagination
from sessions.api import token_auth
from sessions.db_executor import let_go
from sessions.events import event_log
from sessions.lifecycle import idempotency, intake, messages
from sessions.lifecycle.intake import Refused
from sessions.models import AgentSession
from sessions.stream import consumers, serializers
from sessions.throttle import TooMany, request_address, streams

log = structlog.get_logger(__name__)
TITLES = {
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    422: "Bad input",
    429: "Too many requests",
}


class StorableParser(Parser):
    """Bodies whose every text a database can hold, whatever their schema (`controlplane.addresses`: the rest)."""

    def parse_body(self, request: HttpRequest) -> Any:
        """The body's JSON. What raises here is answered as a body that can't be parsed."""
        return storable_data(super().parse_body(request))


RUNS = 100  # of a session, the last ones
MOST_OFFSET = 10**6
M = TypeVar("M", bound=Model)


api = NinjaAPI(
    title="Berth",
    version="1",
    auth=token_auth.Token(),
    docs_url="/docs",
    openapi_url="/openapi.json",
    parser=StorableParser(),
)
router = Router()


class NewSession(Schema):
    """What starts a session."""

    profile: str = Field(description="A profile's slug")
    message: str = Field(description="The first message")
    title: str = Field("", max_length=80)


class NewMessage(Schema):
    """A follow-up."""

    text: str


class GroupOut(Schema):
    """A group that the caller is in."""

    slug: str
    name: str
    role: str
    max_runs: int


class RunOut(Schema):
    """One execution of a session. Times are null until they happened."""

    number: int
    state: str
    verdict: str | None
    verdict_words: str
    exit_code: int | None
    started_at: datetime | None
    first_output_at: datetime | None
    ended_at: datetime | None


class SessionOut(Schema):
    """A session, with the reason for its state in words."""

    id: str
    title: str
    group: str
    profile: str
    state: str
    reason: str
    created_at: datetime
    updated_at: datetime
    last_seq: int
    runs: list[RunOut] = Field(description="The last 100")


class MessageOut(Schema):
    """The number that an accepted message has within its session."""

    number: int


class MessageState(Schema):
    """A message, and how far it came."""

    number: int
    state: str
    attempts: int = Field(description="How often an agent was handed it")
    reason: str = Field(description="Why it failed or was cancelled")
    text: str
    created_at: datetime
    delivered_at: datetime | None
    answered_at: datetime | None


class EventOut(Schema):
    """One event (docs/courier-protocol.md tells the kinds)."""

    seq: int
    kind: str
    text: str
    data: dict[str, Any]
    run: int | None
    at: datetime


class EventsOut(Schema):
    """A page of events, and the cursor after it."""

    events: list[EventOut]
    last_seq: int
    removed: int = Field(description="Up to this number, what came after the cursor was removed by retention; or 0")


def problem(request: HttpRequest, status: int, detail: str, **more: Any) -> HttpResponse:
    """A problem details answer (RFC 9457, section 3)."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    told = {"type": "about:blank", "title": title, "status": status, "detail": detail} | more
    return HttpResponse(json.dumps(told), status=status, content_type="application/problem+json")


@api.exception_handler(AuthenticationError)
def no_token(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    """401: says how to come in."""
    answer = problem(
        request,
        401,
        "Send a token as `Authorization: Bearer …`. The admin's API tokens, or `manage.py create_token USER`, "
        "make one.",
    )
    answer["WWW-Authenticate"] = "Bearer"
    return answer


@api.exception_handler(ValidationError)
def bad_input(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """422: names each field."""
    errors = [{"field": str(item["loc"][-1]), "detail": item["msg"]} for item in error.errors]
    return problem(request, 422, "; ".join(f"{e['field']}: {e['detail']}" for e in errors), errors=errors)


@api.exception_handler(Refused)
def refused(request: HttpRequest, error: Refused) -> HttpResponse:
    """422: what intake would not take."""
    return problem(request, 422, str(error), errors=[{"field": error.field, "detail": str(error)}])


@api.exception_handler(TooMany)
def too_many(request: HttpRequest, error: TooMany) -> HttpResponse:
    """429: says when to come again."""
    answer = problem(request, error.status, str(error))
    answer["Retry-After"] = str(error.seconds)
    return answer


@api.exception_handler(HttpError)
def http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    """Whatever else has a status."""
    return problem(request, error.status_code, str(error))


@api.exception_handler(Exception)
def failed(request: HttpRequest, error: Exception) -> HttpResponse:
    """507 without room on a disk, 503 without a database, else 500: what is inside stays in the log."""
    if is_full(error):
        log.error("a disk is full", path=request.path, error=str(error))
        return problem(request, 507, "Berth has no room to store this. Tell its operator.")
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("database away", path=request.path, error=str(error))
        answer = problem(request, 503, "The database is away. Try again.")
        answer["Retry-After"] = "1"
        return answer
    log.error("a request to the API failed", path=request.path, exc_info=error)
    return problem(request, 500, "Berth failed at this. Its log says why.")


def is_full(error: BaseException | None) -> bool:
    """Whether it is for want of room: of the operating system's, SQLite's, or PostgreSQL's (class 53) saying."""
    if error is None:
        return False
    no_room = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or getattr(error, "sqlstate", "") == "53100"
    return no_room or "database or disk is full" in str(error) or is_full(error.__cause__)


@api.exception_handler(idempotency.Reused)
def reused(request: HttpRequest, error: idempotency.Reused) -> HttpResponse:
    """409: a key that came with another body."""
    return problem(request, 409, str(error))


def once(request: HttpRequest, body: Schema | None, make: Callable[[], str]) -> str:
    """`idempotency.once` for a request of the API. Whoever calls it has judged what the caller may do."""
    user = request.auth  # type: ignore[attr-defined]
    said = body.model_dump(mode="json", exclude_unset=True) if body else None
    return idempotency.once(user.pk, request.path, request.headers.get("Idempotency-Key"), said, make)


def _session(request: HttpRequest, session_id: uuid.UUID, write: bool = False) -> AgentSession:
    """The session, if the caller may see it; 403 if they see it and may not write."""
    user = request.auth  # type: ignore[attr-defined]
    visible = AgentSession.objects.visible_to(user).select_related("group", "profile").filter(pk=session_id).first()
    if visible is None:
        raise HttpError(404, "There is no such session, or it is not yours.")
    if write and not AgentSession.objects.writable_by(user).filter(pk=session_id).exists():
        raise HttpError(403, "You may read this session. Ask an owner of its group for the role of a member.")
    return visible


def _told(session: AgentSession) -> dict[str, Any]:
    runs = session.runs.defer("last_lines").order_by("-number")[:RUNS]
    return serializers.of_session(session) | {"runs": [serializers.of_run(run) for run in reversed(runs)]}


def next_page(request: HttpRequest, response: HttpResponse, name: str, cursor: int) -> None:
    """Tell where a list goes on: a `Link` with `rel="next"` (RFC 8288), as long as there is more."""
    query = request.GET.copy()
    query[name] = str(cursor)
    response["Link"] = f'<{request.path}?{query.urlencode()}>; rel="next"'


def cut(
    request: HttpRequest, response: HttpResponse, rows: QuerySet[M], offset: int, limit: int, *long: str
) -> list[M]:
    """A page of a list that has no numbers of its own: what fits of it after `offset` rows. Raises Refused."""
    if not 0 <= offset <= MOST_OFFSET or not 1 <= limit <= 1000:
        raise Refused("limit" if 0 <= offset <= MOST_OFFSET else "offset", "offset is at least 0, limit 1 to 1000.")
    count, more = pagination.fitting(rows[offset:], limit, *long)
    if more:
        next_page(request, response, "offset", offset + count)
    return list(rows[offset : offset + count])


@router.get("/groups", response=list[GroupOut], summary="The groups you are in")
def list_groups(
    request: HttpRequest, response: HttpResponse, offset: int = 0, limit: int = 500
) -> list[dict[str, Any]]:
    """Every group of the caller, with the caller's role there. A header `Link` tells where a long list goes on."""
    user = request.auth  # type: ignore[attr-defined]
    roles = dict(user.memberships.values_list("group_id", "role"))
    return [
        {"slug": g.slug, "name": g.name, "role": roles.get(g.pk, "operator"), "max_runs": g.slots}
        for g in cut(request, response, AgentGroup.objects.visible_to(user), offset, limit, "name")
    ]


@router.post("/groups/{slug}/sessions", response={201: SessionOut}, summary="Start a session with a message")
def create_session(request: HttpRequest, slug: str, body: NewSession) -> Status[Any]:
    """The session is queued, and its first run starts when a slot is free. It is made once per `Idempotency-Key`."""
    user = request.auth  # type: ignore[attr-defined]
    group = AgentGroup.objects.visible_to(user).filter(slug=slug).first()
    if group is None:
        raise HttpError(404, "There is no such group, or you are not in it.")
    if not AgentGroup.objects.writable_by(user).filter(pk=group.pk).exists():
        raise HttpError(403, "You may read this group's sessions. Ask an owner for the role of a member.")
    profile = AgentProfile.objects.filter(slug=body.profile).first()
    if profile is None:
        raise Refused("profile", f"There is no profile {body.profile!r}.")

    def make() -> str:
        opened = intake.open_session(group=group, profile=profile, text=body.message, sender=user, title=body.title)
        return str(opened.pk)

    try:
        made = once(request, body, make)
    except Refused as error:
        raise Refused("message" if error.field == "text" else error.field, str(error)) from error
    return Status(201, _told(_session(request, uuid.UUID(made))))


@router.get("/sessions/{uuid:session_id}", response=SessionOut, summary="A session and its runs")
def get_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """State, reason and runs, as they are now."""
    return _told(_session(request, session_id))


@router.post("/sessions/{uuid:session_id}/messages", response={202: MessageOut}, summary="Send a message")
def send_message(request: HttpRequest, session_id: uuid.UUID, body: NewMessage) -> Status[Any]:
    """Accepted means stored. The same `Idempotency-Key` again gives the same answer and no second message."""
    session = _session(request, session_id, write=True)
    user = request.auth  # type: ignore[attr-defined]
    number = once(request, body, lambda: str(intake.post_message(session, body.text, sender=user).number))
    return Status(202, {"number": int(number)})


@router.get("/sessions/{uuid:session_id}/events", response=EventsOut, summary="Events after a cursor, or live as SSE")
def list_events(
    request: HttpRequest, response: HttpResponse, session_id: uuid.UUID, after: int = 0, limit: int = 500
) -> Any:
    """A page of events: no more than about 1 MiB, and a header `Link` tells where it goes on.

    With `Accept: text/event-stream` all of them, then live (`Last-Event-ID` is honoured).
    """
    _session(request, session_id)
    if after < 0 or not 1 <= limit <= 1000:
        raise Refused("after" if after < 0 else "limit", "after is at least 0, limit 1 to 1000.")
    if "text/event-stream" in request.headers.get("Accept", ""):
        return _sse(request, session_id, after)
    found, more = event_log.read_page(session_id, after, limit)
    removed = event_log.removed(session_id, after, found)
    last = found[-1]["seq"] if found else max(after, removed)
    if more:
        next_page(request, response, "after", last)
    return {"events": found, "last_seq": last, "removed": removed}


def _sse(request: HttpRequest, session_id: uuid.UUID, after: int) -> HttpResponseBase:
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): ids are seqs.

    Raises TooMany.
    """
    last = request.headers.get("Last-Event-ID", "")
    cursor = int(last) if last.isdecimal() and len(last) < 19 else after
    allowed = token_auth.may_see(request.token, session_id)  # type: ignore[attr-defined]
    who = request.token  # type: ignore[attr-defined]
    admitted = streams.admit(request.auth.pk, request_address(request))  # type: ignore[attr-defined]

    async def lines() -> AsyncIterator[str]:
        with admitted:
            yield "retry: 1000\n\n"
            async for told in consumers.follow(who, allowed, session_id, cursor, _lines):
                yield told or ": still here\n\n"

    let_go()
    answer = StreamingHttpResponse(lines(), content_type="text/event-stream")
    answer["Cache-Control"] = "no-cache"
    answer["X-Accel-Buffering"] = "no"
    return answer


def _lines(found: consumers.Found) -> str:
    """What stands after a cursor, as server-sent events."""
    told = "".join(f"id: {e['seq']}\nevent: {e['kind']}\ndata: {json.dumps(e)}\n\n" for e in found.events)
    if not found.removed:
        return told
    why = {"through": found.removed, "text": f"Events 1 to {found.removed} were removed after their retention."}
    return f"id: {found.removed}\nevent: removed\ndata: {json.dumps(why)}\n\n{told}"


@router.post("/sessions/{uuid:session_id}/stop", response=SessionOut, summary="End the run now")
def stop_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """The agent is told to end, and killed soon after; waiting messages are cancelled."""
    session = _session(request, session_id, write=True)
    intake.stop(session, **_who(request))
    return _told(_session(request, session_id))


@router.post("/sessions/{uuid:session_id}/close", response=SessionOut, summary="End the run gracefully")
def close_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """The agent finishes its turn, then ends. A later message resumes the conversation."""
    session = _session(request, session_id, write=True)
    intake.close(session, **_who(request))
    return _told(_session(request, session_id))


@router.post("/sessions/{uuid:session_id}/retry", response=SessionOut, summary="Try again at once what failed")
def retry_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """Failed messages go back to the queue, as long as no later one was answered; the tries are counted anew."""
    session = _session(request, session_id, write=True)
    intake.retry(session, **_who(request))
    return _told(_session(request, session_id))


@router.get("/sessions/{uuid:session_id}/messages", response=list[MessageState], summary="Messages and their states")
def list_messages(
    request: HttpRequest, response: HttpResponse, session_id: uuid.UUID, after: int = 0, limit: int = 100
) -> Any:
    """The messages after a number, in order: no more than about 1 MiB, and a header `Link` tells where it goes on."""
    session = _session(request, session_id)
    if after < 0 or not 1 <= limit <= 1000:
        raise Refused("after" if after < 0 else "limit", "after is at least 0, limit 1 to 1000.")
    found, more = messages.read_page(session, after, limit)
    if more:
        next_page(request, response, "after", found[-1].number)
    return found


@router.delete(
    "/sessions/{uuid:session_id}/messages/{int:number}", response=MessageState, summary="Take a message back"
)
def cancel_message(request: HttpRequest, session_id: uuid.UUID, number: int) -> Any:
    """A message that no agent has yet is taken back; one that failed is discarded. Any other is refused."""
    return intake.cancel(_session(request, session_id, write=True), number, **_who(request))


def _who(request: HttpRequest) -> dict[str, Any]:
    """Who acts, as intake wants it."""
    user = request.auth  # type: ignore[attr-defined]
    return {"by": user.get_username(), "actor": user}


api.add_router("", router)


def no_such_address(request: HttpRequest) -> HttpResponse:
    """What no operation answers is a problem too, and not a page for people."""
    return problem(request, 404, "There is nothing at this address. /api/v1/docs lists what there is.")
