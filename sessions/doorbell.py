"""The doorbell: tells the `web` processes that a session has something new. It carries no data.

Every `web` process listens on one group of the channel layer and wakes its own waiters; whoever wakes reads the table
after its cursor. A lost ring costs a tick, never an event. Bells: `events` for pages, `inbox` for couriers.
"""

import asyncio
import contextlib
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import structlog
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

log = structlog.get_logger(__name__)
GROUP = "berth.doorbell"
PROCESS = uuid.uuid4().hex  # what this process rang comes back to it through the layer, and was heard already
EVENTS, INBOX = "events", "inbox"
# Pages are woken at most this often for one session, and more rarely the more of them there are, so that a chatty agent
# with many watchers costs bigger frames and not more of them.
GAP_SECONDS, GAP_PER_WAITER = 0.03, 0.001


def ring_on_commit(session_id: Any, *bells: str) -> None:
    """Ring once the transaction is committed: a bell before that would show nothing."""
    transaction.on_commit(partial(ring, session_id, *bells))


def ring(session_id: Any, *bells: str) -> None:
    """Ring from synchronous code. A broken channel layer is logged, not raised: the tick makes up for it."""
    async_to_sync(announce)(session_id, *bells)


async def announce(session_id: Any, *bells: str) -> None:
    """Ring from asynchronous code: first those in this process, then the others."""
    message = {"type": "doorbell", "session": str(session_id), "bells": list(bells or (EVENTS, INBOX))}
    message["by"] = PROCESS
    _hub_ring(message)
    layer = get_channel_layer()
    try:
        if layer is not None:
            await layer.group_send(GROUP, message)
    except Exception as error:
        log.warning("doorbell not rung", session=str(session_id), error=repr(error))


async def rung(bell: asyncio.Event, seconds: float) -> bool:
    """Wait for a bell; False after so many seconds."""
    try:
        await asyncio.wait_for(bell.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Hub:
    """The waiters of one process (one event loop)."""

    def __init__(self) -> None:
        self._waiters: dict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)
        self._rung: dict[str, float] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._listener: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def listen(self, session_id: Any, bell: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever the bell rings. Clear it before reading, so that no ring falls in between."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.ensure_future(self._receive())
        key, waiter = (str(session_id), bell), asyncio.Event()
        self._waiters[key].add(waiter)
        try:
            yield waiter
        finally:
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]
                self._rung.pop(key[0], None)

    def ring(self, message: dict[str, Any]) -> None:
        """Wake this process' waiters: couriers at once, pages with a bounded rate."""
        session, bells = message["session"], message["bells"]
        if INBOX in bells:
            self._wake(session, INBOX)
        if EVENTS in bells and session not in self._later and (session, EVENTS) in self._waiters:
            gap = GAP_SECONDS + GAP_PER_WAITER * len(self._waiters[session, EVENTS])
            wait = self._rung.get(session, 0.0) + gap - time.monotonic()
            if wait <= 0:
                self._wake_pages(session)
            else:
                loop = asyncio.get_running_loop()
                self._later[session] = loop.call_later(wait, self._wake_pages, session)

    def _wake_pages(self, session: str) -> None:
        self._later.pop(session, None)
        self._rung[session] = time.monotonic()
        self._wake(session, EVENTS)

    def _wake(self, session: str, bell: str) -> None:
        for waiter in self._waiters.get((session, bell), ()):
            waiter.set()

    async def _receive(self) -> None:
        """Pass on what other processes ring. Joins anew now and then, since a group forgets its members after a day."""
        pause = 0.1
        while True:
            try:
                layer = get_channel_layer()
                if layer is None:
                    return
                channel = await layer.new_channel("doorbell")
                await layer.group_add(GROUP, channel)
                end, pause = time.monotonic() + 3600, 0.1
                while time.monotonic() < end:
                    with contextlib.suppress(asyncio.TimeoutError):
                        message = await asyncio.wait_for(layer.receive(channel), 60)
                        if message["by"] != PROCESS:
                            self.ring(message)
                await layer.group_discard(GROUP, channel)
            except Exception as error:
                log.warning("doorbell: channel layer away", error=repr(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)


_hubs: dict[int, Hub] = {}


def hub() -> Hub:
    """The hub of the running event loop; `web` has one."""
    key = id(asyncio.get_running_loop())
    if key not in _hubs:
        _hubs[key] = Hub()
    return _hubs[key]


def _hub_ring(message: dict[str, Any]) -> None:
    """Ring the loop's own hub, if anybody here ever listened."""
    found = _hubs.get(id(asyncio.get_running_loop()))
    if found is not None:
        found.ring(message)
