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
OTHERS_SECONDS = 0.02
REJOIN_SECONDS = 20.0  # well below what a group remembers (`group_expiry` in CHANNEL_LAYERS)


def ring_on_commit(session_id: Any, *bells: str) -> None:
    """Ring once the transaction is committed: a bell before that would show nothing."""
    transaction.on_commit(partial(ring, session_id, *bells))


def ring(session_id: Any, *bells: str) -> None:
    """Ring from synchronous code. A broken channel layer is logged, not raised: the tick makes up for it."""
    async_to_sync(announce)(session_id, *bells)


async def announce(session_id: Any, *bells: str) -> None:
    """Ring from asynchronous code: first those in this process, then the others."""
    rings = {str(session_id): list(bells or (EVENTS, INBOX))}
    for found in _own_hub():
        found.ring(rings)
    await _tell_others(rings)


async def _tell_others(rings: dict[str, list[str]]) -> None:
    """Send rings, by session, to the other processes."""
    layer = get_channel_layer()
    try:
        if layer is not None:
            await layer.group_send(GROUP, {"type": "doorbell", "rings": rings, "by": PROCESS})
    except Exception as error:
        log.warning("doorbell not rung", sessions=list(rings), error=repr(error))


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
        self._unsaid: dict[str, list[str]] = {}
        self._saying: set[asyncio.Task[None]] = set()

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

    def announce_soon(self, session_id: Any) -> None:
        """There are new events: wake this process' pages, and tell the other processes within `OTHERS_SECONDS`.

        Said many times a second for each session, so what is said meanwhile goes to the others in one message.
        """
        self.ring({str(session_id): [EVENTS]})
        if not self._unsaid:
            asyncio.get_running_loop().call_later(OTHERS_SECONDS, self._say)
        self._unsaid[str(session_id)] = [EVENTS]

    def _say(self) -> None:
        rings, self._unsaid = self._unsaid, {}
        task = asyncio.ensure_future(_tell_others(rings))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    def ring(self, rings: dict[str, list[str]]) -> None:
        """Wake this process' waiters: couriers at once, pages with a bounded rate."""
        for session, bells in rings.items():
            if INBOX in bells:
                self._wake(session, INBOX)
            if EVENTS in bells and session not in self._later and (session, EVENTS) in self._waiters:
                self._ring_pages(session)

    def _ring_pages(self, session: str) -> None:
        gap = GAP_SECONDS + GAP_PER_WAITER * len(self._waiters[session, EVENTS])
        wait = self._rung.get(session, 0.0) + gap - time.monotonic()
        if wait <= 0:
            self._wake_pages(session)
        else:
            self._later[session] = asyncio.get_running_loop().call_later(wait, self._wake_pages, session)

    def _wake_pages(self, session: str) -> None:
        self._later.pop(session, None)
        self._rung[session] = time.monotonic()
        self._wake(session, EVENTS)

    def _wake(self, session: str, bell: str) -> None:
        for waiter in self._waiters.get((session, bell), ()):
            waiter.set()

    async def _receive(self) -> None:
        """Pass on what other processes ring, for as long as the layer is there; then join it anew."""
        pause = 0.1
        while (layer := get_channel_layer()) is not None:
            channel = ""
            try:
                channel = await layer.new_channel("doorbell")
                while True:
                    await layer.group_add(GROUP, channel)  # the group forgets whom it has not heard of for a while
                    pause, end = 0.1, time.monotonic() + REJOIN_SECONDS
                    while (left := end - time.monotonic()) > 0:
                        with contextlib.suppress(asyncio.TimeoutError):
                            message = await asyncio.wait_for(layer.receive(channel), left)
                            if message["by"] != PROCESS:
                                self.ring(message["rings"])
            except Exception as error:
                log.warning("doorbell: channel layer away", error=repr(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
            finally:  # else the others would go on ringing where nobody reads
                with contextlib.suppress(Exception):
                    await layer.group_discard(GROUP, channel)


_hubs: dict[int, Hub] = {}


def hub() -> Hub:
    """The hub of the running event loop; `web` has one."""
    key = id(asyncio.get_running_loop())
    if key not in _hubs:
        _hubs[key] = Hub()
    return _hubs[key]


def _own_hub() -> list[Hub]:
    """The loop's own hub, if anybody here ever listened."""
    found = _hubs.get(id(asyncio.get_running_loop()))
    return [found] if found else []
