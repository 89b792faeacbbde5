"""API version 1: groups, sessions, messages and events, for programs with a bearer token."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI, Router, Status
from ninja.parser import Parser

from groups.models import AgentGroup, AgentProfile
from groups.texts import storable_data
from sessions.api import errors, pagination, token_auth
from sessions.api.access import actor, find_group, find_session, once, user_of
from sessions.api.schemas import EventsOut, GroupOut, MessageOut, MessageState, NewMessage, NewSession, SessionOut
from sessions.client_address import request_address
from sessions.db_executor import let_go
from sessions.events import event_log
from sessions.lifecycle import intake, messages
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession
from sessions.stream import consumers, serializers
from sessions.throttle import streams

RUNS = 100  # of a session, the last ones
OPERATIONS = {"sessions.api.endpoints": "sessions_api", "egress_policy.api": "reach_api"}


class StorableParser(Parser):
    """Bodies whose every text a database can hold, whatever their schema (`controlplane.addresses`: the rest)."""

    def parse_body(self, request: HttpRequest) -> Any:
        """The body's JSON. What raises here is answered as a body that can't be parsed."""
        return storable_data(super().parse_body(request))


class Api(NinjaAPI):
    """Names operations as clients that were generated know them, whatever the modules are called."""

    def get_openapi_operation_id(self, operation: Any) -> str:
        """Such as `sessions_api_list_groups`."""
        module = operation.view_func.__module__
        prefix = OPERATIONS.get(module) or module.replace(".", "_")
        return f"{prefix}_{operation.view_func.__name__}"


api = Api(
    title="Berth",
    version="1",
    auth=token_auth.Token(),
    docs_url="/docs",
    openapi_url="/openapi.json",
    parser=StorableParser(),
)
errors.install(api)
router = Router()


def _detail(session: AgentSession) -> dict[str, Any]:
    runs = session.runs.defer("last_lines").order_by("-number")[:RUNS]
    return serializers.of_session(session) | {"runs": [serializers.of_run(run) for run in reversed(runs)]}


@router.get("/groups", response=list[GroupOut], summary="The groups you are in")
def list_groups(
    request: HttpRequest, response: HttpResponse, offset: int = 0, limit: int = 500
) -> list[dict[str, Any]]:
    """Every group of the caller, with the caller's role there. A header `Link` tells where a long list goes on."""
    user = user_of(request)
    roles = dict(user.memberships.values_list("group_id", "role"))
    return [
        {"slug": g.slug, "name": g.name, "role": roles.get(g.pk, "operator"), "max_runs": g.slots}
        for g in pagination.by_offset(request, response, AgentGroup.objects.visible_to(user), offset, limit, "name")
    ]


@router.post("/groups/{slug}/sessions", response={201: SessionOut}, summary="Start a session with a message")
def create_session(request: HttpRequest, slug: str, body: NewSession) -> Status[Any]:
    """The session is queued, and its first run starts when a slot is free. It is made once per `Idempotency-Key`."""
    group = find_group(request, slug, change="sessions")
    profile = AgentProfile.objects.filter(slug=body.profile).first()
    if profile is None:
        raise InvalidRequest("profile", f"There is no profile {body.profile!r}.")

    def make() -> str:
        opened = intake.open_session(
            group=group, profile=profile, text=body.message, sender=user_of(request), title=body.title
        )
        return str(opened.pk)

    try:
        made = once(request, body, make)
    except InvalidRequest as error:
        raise InvalidRequest("message" if error.field == "text" else error.field, str(error)) from error
    return Status(201, _detail(find_session(request, uuid.UUID(made))))


@router.get("/sessions/{uuid:session_id}", response=SessionOut, summary="A session and its runs")
def get_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """State, reason and runs, as they are now."""
    return _detail(find_session(request, session_id))


@router.post("/sessions/{uuid:session_id}/messages", response={202: MessageOut}, summary="Send a message")
def send_message(request: HttpRequest, session_id: uuid.UUID, body: NewMessage) -> Status[Any]:
    """Accepted means stored. The same `Idempotency-Key` again gives the same answer and no second message."""
    session = find_session(request, session_id, write=True)
    number = once(request, body, lambda: str(intake.post_message(session, body.text, sender=user_of(request)).number))
    return Status(202, {"number": int(number)})


@router.get("/sessions/{uuid:session_id}/events", response=EventsOut, summary="Events after a cursor, or live as SSE")
def list_events(
    request: HttpRequest, response: HttpResponse, session_id: uuid.UUID, after: int = 0, limit: int = 500
) -> Any:
    """A page of events: no more than about 1 MiB, and a header `Link` tells where it goes on.

    With `Accept: text/event-stream` all of them, then live (`Last-Event-ID` is honoured).
    """
    find_session(request, session_id)
    pagination.check("after", after, limit)
    if "text/event-stream" in request.headers.get("Accept", ""):
        return _sse(request, session_id, after)
    events, more = event_log.read_page(session_id, after, limit)
    removed = event_log.removed_through(session_id, after, events)
    last = events[-1]["seq"] if events else max(after, removed)
    if more:
        pagination.link_next(request, response, "after", last)
    return {"events": events, "last_seq": last, "removed": removed}


def _sse(request: HttpRequest, session_id: uuid.UUID, after: int) -> HttpResponseBase:
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): ids are seqs.

    Raises Throttled.
    """
    last = request.headers.get("Last-Event-ID", "")
    cursor = int(last) if last.isdecimal() and len(last) < 19 else after
    token = request.token  # type: ignore[attr-defined]
    allowed = token_auth.may_see(token, session_id)
    admitted = streams.admit(user_of(request).pk, request_address(request))

    async def stream() -> AsyncIterator[str]:
        with admitted:
            yield "retry: 1000\n\n"
            async for lines in consumers.follow(token, allowed, session_id, cursor, _lines):
                yield lines or ": still here\n\n"

    let_go()
    response = StreamingHttpResponse(stream(), content_type="text/event-stream")
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"
    return response


def _lines(found: consumers.EventRange) -> str:
    """What stands after a cursor, as server-sent events."""
    lines = "".join(f"id: {e['seq']}\nevent: {e['kind']}\ndata: {json.dumps(e)}\n\n" for e in found.events)
    if not found.removed:
        return lines
    removed = {"through": found.removed, "text": f"Events 1 to {found.removed} were removed after their retention."}
    return f"id: {found.removed}\nevent: removed\ndata: {json.dumps(removed)}\n\n{lines}"


@router.post("/sessions/{uuid:session_id}/stop", response=SessionOut, summary="End the run now")
def stop_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """The agent is told to end, and killed soon after; waiting messages are cancelled."""
    session = find_session(request, session_id, write=True)
    intake.stop(session, **actor(request))
    return _detail(find_session(request, session_id))


@router.post("/sessions/{uuid:session_id}/close", response=SessionOut, summary="End the run gracefully")
def close_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """The agent finishes its turn, then ends. A later message resumes the conversation."""
    session = find_session(request, session_id, write=True)
    intake.close(session, **actor(request))
    return _detail(find_session(request, session_id))


@router.post("/sessions/{uuid:session_id}/retry", response=SessionOut, summary="Try again at once what failed")
def retry_session(request: HttpRequest, session_id: uuid.UUID) -> dict[str, Any]:
    """Failed messages go back to the queue, as long as no later one was answered; the tries are counted anew."""
    session = find_session(request, session_id, write=True)
    intake.retry(session, **actor(request))
    return _detail(find_session(request, session_id))


@router.get("/sessions/{uuid:session_id}/messages", response=list[MessageState], summary="Messages and their states")
def list_messages(
    request: HttpRequest, response: HttpResponse, session_id: uuid.UUID, after: int = 0, limit: int = 100
) -> Any:
    """The messages after a number, in order: no more than about 1 MiB, and a header `Link` tells where it goes on."""
    session = find_session(request, session_id)
    pagination.check("after", after, limit)
    page, more = messages.read_page(session, after, limit)
    if more:
        pagination.link_next(request, response, "after", page[-1].number)
    return page


@router.delete(
    "/sessions/{uuid:session_id}/messages/{int:number}", response=MessageState, summary="Take a message back"
)
def cancel_message(request: HttpRequest, session_id: uuid.UUID, number: int) -> Any:
    """A message that no agent has yet is taken back; one that failed is discarded. Any other is refused."""
    return intake.cancel(find_session(request, session_id, write=True), number, **actor(request))


api.add_router("", router)
