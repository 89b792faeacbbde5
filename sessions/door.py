"""The couriers' door: `/agent/v1/…` (docs/courier-protocol.md), spoken to by the couriers alone.

A bare ASGI application: no cookies, no CSRF, no middleware, since it is called many times a second for each run.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import structlog
from django.conf import settings
from django.db import OperationalError, transaction
from django.utils import timezone

from sessions import doorbell, events, ingest, intake, lifecycle, tokens
from sessions.models import Message, Run
from sessions.rates import Rates
from sessions.states import GRACEFUL, EventKind, Intent, MessageState, RunState
from sessions.threads import in_thread

log = structlog.get_logger(__name__)
BODY_MAX = 16 * 1024 * 1024  # a request holds 1 MiB, or one larger event
WAIT_MAX = 30.0  # seconds of a long poll
SEEN_EVERY = timedelta(seconds=10)
TELL_EVERY = 60.0  # seconds between two events that say that a run's output is limited
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Answer(Exception):
    """Ends a request with a status other than 200."""

    def __init__(self, status: int, told: dict[str, Any], retry_after: int = 0) -> None:
        super().__init__(status)
        self.status, self.told, self.retry_after = status, told, retry_after


@dataclass(frozen=True, slots=True)
class Caller:
    """The run whose courier calls."""

    run: uuid.UUID
    session: uuid.UUID
    stored: int
    command: str | None
    contract: str


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Route one request. Every failure has a status that tells the courier whether to come again."""
    status, told, retry_after = 200, {}, 0
    try:
        route = (scope["method"], scope["path"])
        run_id = _token(scope)
        if route == ("POST", "/agent/v1/events"):
            content = await _content(receive)
            await _slow_down(run_id, len(content))
            told = await _events(run_id, _json(content))
        elif route == ("GET", "/agent/v1/inbox"):
            told = await _inbox(run_id, scope, receive)
        elif route == ("POST", "/agent/v1/hello"):
            content = await _content(receive)
            await _slow_down(run_id, len(content))
            told = await _hello(run_id, _json(content))
        else:
            raise Answer(404, {"detail": "no such address"})
    except Answer as answer:
        status, told, retry_after = answer.status, answer.told, answer.retry_after
    except ingest.Malformed as error:
        status, told = 422, {"detail": str(error)}
    except ingest.Hole as hole:
        status, told = 409, {"stored": hole.stored, "detail": str(hole)}
    except OperationalError as error:
        log.warning("database away", error=str(error))
        status, told, retry_after = 503, {"detail": "the database is away"}, 1
    except Exception:
        log.exception("a courier's request failed", path=scope["path"])
        status, told = 500, {"detail": "internal error"}
    await _reply(send, status, told, retry_after)


async def _reply(send: Send, status: int, told: dict[str, Any], retry_after: int) -> None:
    body = json.dumps(told).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry_after:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _token(scope: dict[str, Any]) -> uuid.UUID:
    """The run that the bearer token opens. Raises Answer(401)."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            run_id = tokens.run_of(value.decode("latin-1").removeprefix("Bearer "))
            if run_id:
                return run_id
    raise Answer(401, {"detail": "send the run's token as a bearer token"})


async def _content(receive: Receive) -> bytes:
    """The request's body. Raises Answer(413)."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_MAX:
            raise Answer(413, {"detail": f"at most {BODY_MAX} bytes"})
        if not message.get("more_body"):
            return b"".join(parts)


def _json(content: bytes) -> Any:
    """What a body says. Raises Answer(422)."""
    try:
        return json.loads(content or b"{}")
    except (ValueError, RecursionError) as error:
        raise Answer(422, {"detail": f"not JSON: {error}"}) from error


@lru_cache(maxsize=1)
def _rates(events: int, kib: int) -> Rates:
    """How fast the runs that speak with this process may be."""
    return Rates(events, kib * 1024)


def rates() -> Rates:
    """As the settings are now; tests change them."""
    return _rates(settings.DOOR_EVENTS_PER_SECOND, settings.DOOR_KIB_PER_SECOND)


async def _slow_down(run_id: uuid.UUID, size: int) -> None:
    """Let a run speak at its rate. Raises Answer(429), and says so in the session once in a while."""
    wait = rates().ask(run_id, size)
    if not wait:
        return
    if rates().tell(run_id, TELL_EVERY):
        words = (
            f"Output is limited to {settings.DOOR_EVENTS_PER_SECOND:,} events and {settings.DOOR_KIB_PER_SECOND:,} KiB "
            "a second: the agent waits."
        )

        def say() -> uuid.UUID:
            session = _caller(run_id).session
            ingest.record(session, [(EventKind.STATE, words, {"limited": True})])
            return session

        await doorbell.announce(await in_thread(say), doorbell.EVENTS)
    seconds = math.ceil(wait)
    raise Answer(429, {"detail": f"the run says too much at once: come again in {seconds} s"}, seconds)


def _caller(run_id: uuid.UUID) -> Caller:
    """Look the run up, and note that its courier lives. Raises Answer(410) for a run that is over."""
    fields = ("session_id", "state", "intent", "last_number", "seen_at", "session__profile__contract")
    row = Run.objects.filter(pk=run_id).values_list(*fields).first()
    if row is None or row[1] == RunState.ENDED:
        raise Answer(410, {"detail": "the run is over"})
    session, _, intent, stored, seen, contract = row
    now = timezone.now()
    if seen is None or now - seen > SEEN_EVERY:
        Run.objects.filter(pk=run_id).update(seen_at=now)
    command = None if not intent else "close" if Intent(intent) in GRACEFUL else "stop"
    return Caller(run_id, session, stored, command, contract)


async def _hello(run_id: uuid.UUID, body: Any) -> dict[str, Any]:
    """A courier is there: the run has started."""

    def greet() -> Caller:
        caller = _caller(run_id)
        with transaction.atomic():
            session = events.locked(caller.session)
            runs = Run.objects.filter(pk=run_id, started_at=None)
            if runs.update(started_at=timezone.now(), waits_for=""):
                Run.objects.filter(pk=run_id, state=RunState.CLAIMED).move(RunState.STARTING)
                lifecycle.refresh(session)
        return caller

    caller = await in_thread(greet)
    await doorbell.announce(caller.session, doorbell.EVENTS)
    log.info("courier says hello", session=str(caller.session), run=str(run_id), stored=caller.stored)
    return {"run": str(run_id), "session": str(caller.session), "stored": caller.stored}


async def _events(run_id: uuid.UUID, body: Any) -> dict[str, Any]:
    """Store a batch, of this run or of an earlier one of the group whose journal was found on the volume."""
    if not isinstance(body, dict):
        raise Answer(422, {"detail": "send an object with events"})
    said = body.get("events")
    rates().count(run_id, len(said) if isinstance(said, list) else 1)

    def store() -> tuple[int, uuid.UUID]:
        batch = ingest.parse(body.get("events"))
        target = uuid.UUID(str(body["run"])) if body.get("run") else run_id
        ended = Run.objects.filter(pk=target, state=RunState.ENDED, session__group__sessions__runs=run_id)
        if target != run_id and not ended.exists():
            raise Answer(404, {"detail": "no such run in this group that has ended"})
        return ingest.ingest(target, batch, late=target != run_id)

    try:
        stored, session = await in_thread(store)
    except ingest.Over as error:
        raise Answer(410, {"detail": "the run is over"}) from error
    except (ValueError, Run.DoesNotExist) as error:
        raise Answer(404, {"detail": "no such run"}) from error
    doorbell.hub().announce_soon(session)
    return {"stored": stored}


async def _inbox(run_id: uuid.UUID, scope: dict[str, Any], receive: Receive) -> dict[str, Any]:
    """A long poll for messages after a number, or for a command that the courier doesn't know yet."""
    query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
    try:
        after, limit, wait = int(query.get("after", 0)), int(query.get("limit", 100)), float(query.get("wait", 0))
    except ValueError as error:
        raise Answer(422, {"detail": f"after, limit and wait are numbers: {error}"}) from error
    if not math.isfinite(wait):
        raise Answer(422, {"detail": "wait is a number of seconds"})
    rates().count(run_id, 1)  # a poll costs as much as an event
    known = query.get("command") or None
    end = time.monotonic() + min(wait, WAIT_MAX)
    caller = await in_thread(_caller, run_id)
    await receive()  # the request's empty body; what comes next says that the courier hung up
    gone = asyncio.ensure_future(receive())
    try:
        async with doorbell.hub().listen(caller.session, doorbell.INBOX) as bell:
            gone.add_done_callback(lambda _: bell.set())
            while True:
                bell.clear()
                caller, messages = await in_thread(_look, run_id, after, limit)
                left = end - time.monotonic()
                if messages or caller.command != known or left <= 0 or gone.done():
                    return {"messages": messages, "command": caller.command}
                await doorbell.rung(bell, min(left, settings.STREAM_TICK_SECONDS))
    finally:
        gone.cancel()


def _look(run_id: uuid.UUID, after: int, limit: int) -> tuple[Caller, list[dict[str, Any]]]:
    """What the run's inbox holds now. A run that was asked to end gets no more messages."""
    caller = _caller(run_id)
    if caller.command or limit <= 0:
        return caller, []
    queued = Message.objects.filter(session=caller.session, number__gt=after, state=MessageState.QUEUED)
    fields = ("number", "text", "sender__username", "created_at", "idempotency_key")
    rows = queued.order_by("number").values_list(*fields)[: min(limit, 100)]
    return caller, [
        {
            "number": number,
            "text": text,
            "sender": sender or "",
            "at": at.timestamp(),
            "scheduled": (key or "").startswith(intake.SCHEDULED),
        }
        for number, text, sender, at, key in rows
    ]
