"""The couriers' API: `/agent/v1/…` (docs/courier-protocol.md)."""

import math
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from sessions import machine_api
from sessions.choices import GRACEFUL, EventKind, Intent, MessageState, RunState
from sessions.courier_api import ingest
from sessions.courier_api.throttle import RunThrottle
from sessions.db_executor import in_thread
from sessions.events import event_log, notify
from sessions.lifecycle import intake, run_tokens, transitions
from sessions.machine_api import ApiError, InvalidPayload, Request, counted
from sessions.models import Message, Run
from sessions.throttle import concurrency

log = structlog.get_logger(__name__)
BODY_MAX = 16 * 1024 * 1024  # a request holds 1 MiB, or one larger event
AT_A_TIME = 8  # requests of one run: a courier has a long poll and a batch, and the one before it may have as well
SEEN_INTERVAL = timedelta(seconds=10)
NUMBER_MAX = 2**31 - 1  # number of a message
STORED_AT_ONCE = 2  # batches of one run, on the threads that all runs share; what is beyond waits for no thread
NOTICE_SECONDS = 60.0  # seconds between two events that say that a run's output is limited


@dataclass(frozen=True, slots=True)
class CallingRun:
    """What is known of the run whose courier calls. `stored` is its highest number; `command` is close or stop."""

    session: uuid.UUID
    stored: int
    command: str | None


async def respond(request: Request) -> dict[str, Any]:
    """Look at the token, then take the body. Raises ApiError."""
    run_id = run_tokens.run_of(request.bearer_token)
    if run_id is None:
        raise ApiError(401, "send the run's token as a bearer token")
    endpoint = machine_api.endpoint(ROUTES, request)
    if _in_flight[run_id] >= AT_A_TIME:
        raise ApiError(429, f"a run may make {AT_A_TIME} requests at a time", retry_after=1)
    with counted(_in_flight, run_id):
        body = await request.read(BODY_MAX)
        if request.method == "POST":
            await _throttle(run_id, len(body))
        return await endpoint(run_id, request)


@lru_cache(maxsize=1)
def _run_throttle(events: int, kib: int) -> RunThrottle:
    """How fast the runs that speak with this process may be."""
    return RunThrottle(events, kib * 1024)


def run_throttle() -> RunThrottle:
    """As the settings are now; tests change them."""
    return _run_throttle(settings.DOOR_EVENTS_PER_SECOND, settings.DOOR_KIB_PER_SECOND)


async def _throttle(run_id: uuid.UUID, size: int) -> None:
    """Hold a run to its rate. Raises ApiError (429), and says so in the session once in a while."""
    wait = run_throttle().admit(run_id, size)
    if not wait:
        return
    if run_throttle().notice_due(run_id, NOTICE_SECONDS):
        words = (
            f"Output is limited to {settings.DOOR_EVENTS_PER_SECOND:,} events and {settings.DOOR_KIB_PER_SECOND:,} KiB "
            "a second: the agent waits."
        )

        def record_notice() -> uuid.UUID:
            session = _calling_run(run_id).session
            ingest.record(session, [(EventKind.STATE, words, {"limited": True})])
            return session

        await notify.apublish(await in_thread(record_notice), notify.EVENTS)
    seconds = math.ceil(wait)
    raise ApiError(429, f"the run says too much at once: come again in {seconds} s", retry_after=seconds)


def _calling_run(run_id: uuid.UUID) -> CallingRun:
    """Look the run up, and note that its courier lives. Raises ApiError (410) for a run that is over."""
    fields = ("session_id", "state", "intent", "last_number", "seen_at")
    row = Run.objects.filter(pk=run_id).values_list(*fields).first()
    if row is None or row[1] == RunState.ENDED:
        raise ApiError(410, "the run is over")
    session, _, intent, stored, seen = row
    now = timezone.now()
    if seen is None or now - seen > SEEN_INTERVAL:
        Run.objects.filter(pk=run_id).update(seen_at=now)
    command = None if not intent else "close" if Intent(intent) in GRACEFUL else "stop"
    return CallingRun(session, stored, command)


async def _hello(run_id: uuid.UUID, request: Request) -> dict[str, Any]:
    """A courier is there: the run has started."""
    request.json(empty=b"{}")

    def start() -> CallingRun:
        caller = _calling_run(run_id)
        with transaction.atomic():
            session = event_log.lock_session(caller.session)
            runs = Run.objects.filter(pk=run_id, started_at=None)
            if runs.update(started_at=timezone.now(), waits_for="", waits_cause=""):
                Run.objects.filter(pk=run_id, state=RunState.CLAIMED).move(RunState.STARTING)
                transitions.refresh(session)
        return caller

    caller = await in_thread(start)
    await notify.apublish(caller.session, notify.EVENTS)
    log.info("courier says hello", session=str(caller.session), run=str(run_id), stored=caller.stored)
    return {"run": str(run_id), "session": str(caller.session), "stored": caller.stored}


async def _events(run_id: uuid.UUID, request: Request) -> dict[str, Any]:
    """Store a batch, of this run or of an earlier one of the group whose journal was found on the volume."""
    body = request.json(empty=b"{}")
    if not isinstance(body, dict) or not isinstance(body.get("run") or "", str):
        raise InvalidPayload("send an object with events; run, if it is there, is a text")
    events = body.get("events")
    run_throttle().take_events(run_id, len(events) if isinstance(events, list) else 1)

    def store() -> tuple[int, uuid.UUID]:
        batch = ingest.parse(events)
        target = uuid.UUID(body["run"]) if body.get("run") else run_id
        ended = Run.objects.filter(pk=target, state=RunState.ENDED, session__group__sessions__runs=run_id)
        if target != run_id and not ended.exists():
            raise ApiError(404, "no such run in this group that has ended")
        return ingest.ingest(target, batch, late=target != run_id)

    try:
        async with concurrency.limit(("run", run_id), STORED_AT_ONCE):
            stored, session = await in_thread(store)
    except ingest.RunEnded as error:
        raise ApiError(410, "the run is over") from error
    except ingest.MissingEvents as error:
        raise ApiError(409, str(error), stored=error.stored) from error
    except (ValueError, Run.DoesNotExist) as error:
        raise ApiError(404, "no such run") from error
    notify.hub().publish_events_soon(session)
    return {"stored": stored}


async def _inbox(run_id: uuid.UUID, request: Request) -> dict[str, Any]:
    """A long poll for messages after a number, or for a command that the courier doesn't know yet."""
    after, limit = min(request.number("after", 0), NUMBER_MAX), request.number("limit", 100)
    known_command = request.query("command") or None
    run_throttle().take_events(run_id, 1)  # a poll costs as much as an event

    async def poll() -> tuple[dict[str, Any], bool]:
        command, messages = await in_thread(_read_inbox, run_id, after, limit)
        return {"messages": messages, "command": command}, bool(messages) or command != known_command

    session = (await in_thread(_calling_run, run_id)).session
    return await request.long_poll(session, notify.INBOX, settings.STREAM_TICK_SECONDS, poll)


def _read_inbox(run_id: uuid.UUID, after: int, limit: int) -> tuple[str | None, list[dict[str, Any]]]:
    """The command and the messages that a run's inbox holds now. A run that was asked to end gets no more messages."""
    caller = _calling_run(run_id)
    if caller.command or limit <= 0:
        return caller.command, []
    queued = Message.objects.filter(session=caller.session, number__gt=after, state=MessageState.QUEUED)
    fields = ("number", "text", "sender__username", "created_at", "idempotency_key")
    rows = queued.order_by("number").values_list(*fields)[: min(limit, 100)]
    return caller.command, [
        {
            "number": number,
            "text": text,
            "sender": sender or "",
            "at": at.timestamp(),
            "scheduled": (key or "").startswith(intake.SCHEDULED),
        }
        for number, text, sender, at, key in rows
    ]


_in_flight: Counter[uuid.UUID] = Counter()  # requests of each run, of this process
ROUTES = {
    ("POST", "/agent/v1/events"): _events,
    ("POST", "/agent/v1/hello"): _hello,
    ("GET", "/agent/v1/inbox"): _inbox,
}
app = machine_api.json_app(respond, "a courier's request failed")
