"""The couriers' door: `/agent/v1/…` (docs/courier-protocol.md), spoken to by the couriers alone.

A bare ASGI application: no cookies, no CSRF, no middleware, since it is called many times a second for each run.
"""

import asyncio
import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import structlog
from django.conf import settings
from django.db import DataError, InterfaceError, OperationalError, transaction
from django.utils import timezone

from sessions import machine_api
from sessions.choices import GRACEFUL, EventKind, Intent, MessageState, RunState
from sessions.courier_api import ingest
from sessions.courier_api.throttle import Rates
from sessions.db_executor import in_thread
from sessions.events import event_log, notify
from sessions.lifecycle import intake, run_tokens, transitions
from sessions.machine_api import Receive
from sessions.models import Message, Run

log = structlog.get_logger(__name__)
BODY_MAX = 16 * 1024 * 1024  # a request holds 1 MiB, or one larger event
AT_A_TIME = 8  # requests of one run: a courier has a long poll and a batch, and the one before it may have as well
WAIT_MAX = 30.0  # seconds of a long poll
SEEN_EVERY = timedelta(seconds=10)
BIGGEST = 2**31 - 1  # number of a message
TELL_EVERY = 60.0  # seconds between two events that say that a run's output is limited
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
    """Answer one request. Every failure has a status that tells the courier whether to come again."""
    status, told, retry_after = 200, {}, 0
    try:
        told = await _routed(scope, receive)
    except machine_api.Gone:
        return
    except Answer as answer:
        status, told, retry_after = answer.status, answer.told, answer.retry_after
    except machine_api.TooLarge as error:
        status, told = 413, {"detail": str(error)}
    except (machine_api.NotJson, ingest.Malformed) as error:
        status, told = 422, {"detail": str(error)[:500]}
    except ingest.Hole as hole:
        status, told = 409, {"stored": hole.stored, "detail": str(hole)}
    except DataError as error:
        log.warning("a courier's request can't be stored", path=scope["path"], error=str(error)[:500])
        status, told = 422, {"detail": "the database can't hold this"}
    except (OperationalError, InterfaceError) as error:
        log.warning("database away", error=str(error))
        status, told, retry_after = 503, {"detail": "the database is away"}, 1
    except Exception:
        log.exception("a courier's request failed", path=scope["path"])
        status, told = 500, {"detail": "internal error"}
    await _reply(send, status, told, retry_after)


async def _routed(scope: dict[str, Any], receive: Receive) -> dict[str, Any]:
    """Look at the token, then take the body. Raises Answer, and what `app` knows."""
    run_id = _token(scope)
    route = (scope["method"], scope["path"])
    if route not in ROUTES:
        raise Answer(404, {"detail": "no such address"})
    if _under_way[run_id] >= AT_A_TIME:
        raise Answer(429, {"detail": f"a run may make {AT_A_TIME} requests at a time"}, 1)
    _under_way[run_id] += 1
    try:
        content = await machine_api.read(scope, receive, BODY_MAX)
        if scope["method"] == "GET":
            return await _inbox(run_id, scope, receive)
        await _slow_down(run_id, len(content))
        return await ROUTES[route](run_id, machine_api.json_of(content or b"{}"))
    finally:
        _under_way[run_id] -= 1
        if not _under_way[run_id]:
            del _under_way[run_id]


async def _reply(send: Send, status: int, told: dict[str, Any], retry_after: int) -> None:
    body = json.dumps(told).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry_after:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _token(scope: dict[str, Any]) -> uuid.UUID:
    """The run that the bearer token opens. Raises Answer(401)."""
    run_id = run_tokens.run_of(machine_api.bearer(scope))
    if run_id is None:
        raise Answer(401, {"detail": "send the run's token as a bearer token"})
    return run_id


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

        await notify.announce(await in_thread(say), notify.EVENTS)
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
            session = event_log.locked(caller.session)
            runs = Run.objects.filter(pk=run_id, started_at=None)
            if runs.update(started_at=timezone.now(), waits_for="", waits_cause=""):
                Run.objects.filter(pk=run_id, state=RunState.CLAIMED).move(RunState.STARTING)
                transitions.refresh(session)
        return caller

    caller = await in_thread(greet)
    await notify.announce(caller.session, notify.EVENTS)
    log.info("courier says hello", session=str(caller.session), run=str(run_id), stored=caller.stored)
    return {"run": str(run_id), "session": str(caller.session), "stored": caller.stored}


async def _events(run_id: uuid.UUID, body: Any) -> dict[str, Any]:
    """Store a batch, of this run or of an earlier one of the group whose journal was found on the volume."""
    if not isinstance(body, dict) or not isinstance(body.get("run") or "", str):
        raise Answer(422, {"detail": "send an object with events; run, if it is there, is a text"})
    said = body.get("events")
    rates().count(run_id, len(said) if isinstance(said, list) else 1)

    def store() -> tuple[int, uuid.UUID]:
        batch = ingest.parse(body.get("events"))
        target = uuid.UUID(body["run"]) if body.get("run") else run_id
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
    notify.hub().announce_soon(session)
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
    after = min(after, BIGGEST)
    end = time.monotonic() + min(wait, WAIT_MAX)
    caller = await in_thread(_caller, run_id)
    gone = asyncio.ensure_future(receive())  # what comes after the body says that the courier hung up
    try:
        async with notify.hub().listen(caller.session, notify.INBOX) as bell:
            gone.add_done_callback(lambda _: bell.set())
            while True:
                bell.clear()
                caller, messages = await in_thread(_look, run_id, after, limit)
                left = end - time.monotonic()
                if messages or caller.command != known or left <= 0 or gone.done():
                    return {"messages": messages, "command": caller.command}
                await notify.rung(bell, min(left, settings.STREAM_TICK_SECONDS))
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


_under_way: Counter[uuid.UUID] = Counter()  # requests of each run, of this process
ROUTES: dict[tuple[str, str], Any] = {
    ("POST", "/agent/v1/events"): _events,
    ("POST", "/agent/v1/hello"): _hello,
    ("GET", "/agent/v1/inbox"): _inbox,
}
