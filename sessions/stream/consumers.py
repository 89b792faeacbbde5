"""Events on their way to pages and programs: read after a cursor, whenever a notification comes or a tick passes.

Connecting, living on and reconnecting are the same thing: the table is read after the reader's cursor, or from the
oldest event that retention has left. Readers of one session that stand at the same place share one query. How many
streams a person and an address may have is bounded, and what all of them ask waits on threads of its own.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import structlog
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.serializers.json import DjangoJSONEncoder

from sessions import client_address, throttle
from sessions.choices import EventKind
from sessions.db_executor import RENDERING, STREAMS, SingleFlight, on
from sessions.events import event_log, notify
from sessions.models import AgentSession
from sessions.stream import markdown, serializers

NOT_YOURS, NO_LOGIN = 4404, 4401
TOO_MANY = 4429  # the page comes again after a longer while; the reason says why, in at most 123 bytes
FAILED = 1011  # RFC 6455, section 7.4.1: an unexpected condition; the page comes again
UNACKNOWLEDGED = 2  # pages
RECHECK_SECONDS = 5.0  # seconds between two looks at the rights of a stream that nothing woke
RECHECK_LOGIN_SECONDS = 5.0  # seconds between two looks whether the login still stands
HEADER_SECONDS = 5.0  # seconds, when no event says that it changed
MOVES = frozenset({EventKind.STATE, EventKind.TURN, EventKind.MESSAGE, EventKind.DELIVERED, EventKind.EXIT})
RENDERED = frozenset({EventKind.RESULT, EventKind.MESSAGE})
_flights = SingleFlight()
log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EventRange:
    """What stands after a cursor."""

    events: list[dict[str, Any]]
    full: bool  # whether there may be more behind them
    removed: int  # up to which number retention has removed what came after the cursor; 0 for none of it
    last_seq: int  # the cursor after them


@dataclass(frozen=True, slots=True)
class Page:
    """Some events as a frame, ready to send."""

    text: str
    last_seq: int
    moves: bool  # whether the session's state may have changed with them
    full: bool  # whether there may be more behind it


def _read(session_id: uuid.UUID, after: int) -> EventRange | None:
    """The next events after a cursor; None if nothing is new."""
    found, full = event_log.read_page(session_id, after)
    removed = event_log.removed_through(session_id, after, found)
    if not found and not removed:
        return None
    return EventRange(found, full, removed, found[-1]["seq"] if found else removed)


def _rendered(found: EventRange) -> Page:
    """Events as a frame. It is work for the CPU: called on the thread that does that."""
    for event in found.events:
        if event["kind"] in RENDERED:
            event["html"] = markdown.html_of(event["kind"], event["text"])
    frame = {"type": "events", "events": found.events, "last_seq": found.last_seq, "removed": found.removed}
    moves = any(event["kind"] in MOVES for event in found.events)
    return Page(json.dumps(frame, ensure_ascii=False), found.last_seq, moves, found.full)


async def _next_page(who: Hashable, session_id: uuid.UUID, after: int, write: Callable[[EventRange], T]) -> T | None:
    """What `write` makes of the next events, when it is the turn of `who`: one page at a time is read for each reader,
    however many streams they have, so that others' pages need not queue behind all of these."""
    async with throttle.concurrency.limit(("stream", who), 1):
        found = await on(STREAMS, _read, session_id, after)
        return await on(RENDERING, write, found) if found else None


def permission(user_id: Any, session_id: uuid.UUID) -> str:
    """What a person may do with a session now: `write`, `read`, or nothing (the empty string)."""
    user = get_user_model().objects.only("is_active", "is_superuser").filter(pk=user_id).first()
    if user is None:
        return ""
    one = AgentSession.objects.filter(pk=session_id)
    if one.writable_by(user).exists():
        return "write"
    return "read" if one.visible_to(user).exists() else ""


def logged_in(user_id: Any, key: str, stamp: str) -> bool:
    """Whether a login still stands: not logged out of, the password not changed (`stamp` is of the password then)."""
    user = get_user_model().objects.filter(pk=user_id).first()
    store = import_module(settings.SESSION_ENGINE).SessionStore
    return user is not None and user.get_session_auth_hash() == stamp and bool(store().exists(key))


async def read_for(user_id: Any, session_id: uuid.UUID, after: int) -> tuple[str, Page | None]:
    """What a person may do with a session, and what is new to them there. The rights are asked on every read."""
    may = await _flights.share(("access", user_id, session_id), lambda: on(STREAMS, permission, user_id, session_id))
    if not may:
        return may, None
    return may, await _flights.share(
        ("page", session_id, after), lambda: _next_page(user_id, session_id, after, _rendered)
    )


async def header_of(session_id: uuid.UUID) -> dict[str, Any]:
    """The session's header."""

    def read() -> dict[str, Any]:
        return serializers.for_page(AgentSession.objects.select_related("group", "profile").get(pk=session_id))

    return await _flights.share(("summary", session_id), lambda: on(STREAMS, read))


async def follow(
    who: Hashable, may_see: Callable[[], bool], session_id: uuid.UUID, after: int, write: Callable[[EventRange], str]
) -> AsyncIterator[str | None]:
    """For programs: the events after a cursor, page by page, for ever; None when a while passed with nothing new.

    `write` formats a page, once for all readers at the same place. Ends when `may_see`, which is called in a thread
    before every read, is False; readers that are the same `who` share its answer.
    """

    def page(found: EventRange) -> tuple[int, str]:
        return found.last_seq, write(found)

    async with poller.subscribe(session_id) as notified:
        quiet = time.monotonic()
        while await _flights.share(("may see", who, session_id), partial(on, STREAMS, may_see)):
            notified.clear()
            frame = await _flights.share(
                ("page_text", session_id, after), partial(_next_page, who, session_id, after, page)
            )
            if frame:
                after, quiet = frame[0], time.monotonic()
                yield frame[1]
                continue
            if time.monotonic() - quiet > 10:
                quiet = time.monotonic()
                yield None
            await notify.wait(notified, RECHECK_SECONDS)


class Poller:
    """Notifies of what no notification came for: one query a tick for all streams of this process.

    With the in-memory channel layer that is all that other processes write; with Redis, what was lost on the way.
    """

    def __init__(self) -> None:
        self._streams: Counter[uuid.UUID] = Counter()
        self._seen: dict[uuid.UUID, int] = {}
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def subscribe(self, session_id: uuid.UUID) -> AsyncIterator[asyncio.Event]:
        """As `notify.Hub.subscribe`, for events."""
        async with notify.hub().subscribe(session_id, notify.EVENTS) as notified:
            self._streams[session_id] += 1
            if self._task is None or self._task.done() or self._task.get_loop() is not asyncio.get_running_loop():
                self._task = asyncio.ensure_future(self._run())
            try:
                yield notified
            finally:
                self._streams[session_id] -= 1
                if self._streams[session_id] <= 0:
                    del self._streams[session_id]
                    self._seen.pop(session_id, None)

    async def _run(self) -> None:
        while self._streams:
            await asyncio.sleep(settings.STREAM_TICK_SECONDS)
            try:
                now = await on(STREAMS, self._now, list(self._streams))
            except Exception as error:
                log.warning("streams: the database is away", error=repr(error))
                continue
            notify.hub().wake({str(pk): [notify.EVENTS] for pk, seq in now if self._seen.get(pk) != seq})
            self._seen.update((pk, seq) for pk, seq in now if pk in self._streams)

    def _now(self, sessions: list[uuid.UUID]) -> list[tuple[uuid.UUID, int]]:
        return list(AgentSession.objects.filter(pk__in=sessions).values_list("pk", "last_seq"))


poller = Poller()


def acknowledged(text: str | None) -> int:
    """The number that a page's frame acknowledges; 0 for a frame that is no acknowledgement, whatever it is."""
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        return 0
    if not isinstance(message, dict) or message.get("type") != "ack" or type(message.get("seq")) is not int:
        return 0
    return int(message["seq"])


class SessionConsumer(AsyncWebsocketConsumer):
    """One page that shows one session. Frames are described in docs/architecture.md."""

    # No channel layer of its own: the process' hub wakes it, and a layer that is away cuts no page off.
    channel_layer_alias = "none"

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Handle a message, without the look at database connections that Channels takes: none is held here."""
        handler = getattr(self, message["type"].replace(".", "_"))
        await handler(message)

    async def connect(self) -> None:
        """Let in whoever may see the session; the cursor comes with the address."""
        self.session_id = self.scope["url_route"]["kwargs"]["session_id"]
        self.cursor = self._after()
        self.acknowledged = self.cursor
        self.unacknowledged: list[int] = []
        self.room = asyncio.Event()
        self.pump: asyncio.Task[None] | None = None
        user = self.scope["user"]
        await self.accept()
        if not user.is_authenticated:
            await self.close(NO_LOGIN)
            return
        self.user_id, self.address = user.pk, client_address.scope_address(self.scope)
        self.login = (self.scope["session"].session_key, user.get_session_auth_hash())
        self.pump = asyncio.ensure_future(self._pump())

    def _after(self) -> int:
        query = dict(part.partition("=")[::2] for part in self.scope["query_string"].decode("latin-1").split("&"))
        value = query.get("after", "0")
        return int(value) if value.isdecimal() and len(value) < 19 else 0

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """An acknowledgement: the page has shown everything up to a number."""
        seq = acknowledged(text_data)
        self.unacknowledged = [last for last in self.unacknowledged if last > seq]
        self.room.set()

    async def disconnect(self, code: int) -> None:
        """The page went away."""
        if self.pump:
            self.pump.cancel()

    async def _pump(self) -> None:
        """Send what is new for as long as the person may see it; a page whose pump fails is closed, and comes again."""
        try:
            with throttle.streams.admit(self.user_id, self.address):
                async with poller.subscribe(self.session_id) as notified:
                    await self._follow(notified)
            await self.close(NOT_YOURS)
        except throttle.Throttled as error:
            await self.close(TOO_MANY, str(error))
        except Exception as error:
            log.warning("a page was cut off", session=str(self.session_id), error=repr(error))
            await self.close(FAILED)

    async def _follow(self, notified: asyncio.Event) -> None:
        """Until the person may no longer see the session."""
        shown, header_at, login_checked_at = "", 0.0, 0.0
        while True:
            await self._wait_for_acks()
            notified.clear()
            if time.monotonic() - login_checked_at > RECHECK_LOGIN_SECONDS:
                if not await on(STREAMS, logged_in, self.user_id, *self.login):
                    return
                login_checked_at = time.monotonic()
            may, page = await read_for(self.user_id, self.session_id, self.cursor)
            if not may:
                return
            if page:
                self.cursor = page.last_seq
                self.unacknowledged.append(page.last_seq)
                await self.send(page.text)
                if page.full:
                    continue
            if (page and page.moves) or time.monotonic() - header_at > HEADER_SECONDS:
                header_at = time.monotonic()
                header = await header_of(self.session_id) | {"can_write": may == "write"}
                text = json.dumps({"type": "session", "session": header}, cls=DjangoJSONEncoder)
                if text != shown:
                    shown = text
                    await self.send(text)
            await notify.wait(notified, RECHECK_SECONDS)

    async def _wait_for_acks(self) -> None:
        """Wait until the page has shown enough of what it was sent."""
        while len(self.unacknowledged) >= UNACKNOWLEDGED:
            self.room.clear()
            await self.room.wait()
