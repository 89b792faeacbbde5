"""Notifications: tell the `web` processes that a session has something new. They carry no data.

Every `web` process listens on one group of the channel layer and wakes its own subscribers; whoever wakes reads the
table after its cursor. A lost notification costs a tick, never an event. Topics: `events` for pages, `inbox` for
couriers.
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
PROCESS = uuid.uuid4().hex  # what this process sent comes back to it through the layer, and was handled already
EVENTS, INBOX = "events", "inbox"
# Pages are woken at most this often for one session, and more rarely the more of them there are, so that a chatty agent
# with many watchers costs bigger frames and not more of them.
GAP_SECONDS, GAP_PER_WAITER = 0.03, 0.001
OTHERS_SECONDS = 0.02
REJOIN_SECONDS = 20.0  # well below what a group remembers (`group_expiry` in CHANNEL_LAYERS)


def publish_on_commit(session_id: Any, *topics: str) -> None:
    """Publish once the transaction is committed: whoever reads before that finds nothing."""
    transaction.on_commit(partial(publish, session_id, *topics))


def publish(session_id: Any, *topics: str) -> None:
    """Publish from synchronous code. A broken channel layer is logged, not raised: the tick makes up for it."""
    async_to_sync(apublish)(session_id, *topics)


async def apublish(session_id: Any, *topics: str) -> None:
    """Publish from asynchronous code: first to this process, then to the others."""
    topics_of = {str(session_id): list(topics or (EVENTS, INBOX))}
    for hub_here in _own_hub():
        hub_here.wake(topics_of)
    await _send_to_others(topics_of)


async def _send_to_others(topics_of: dict[str, list[str]]) -> None:
    """Send topics, by session, to the other processes."""
    layer = get_channel_layer()
    try:
        if layer is not None:
            await layer.group_send(GROUP, {"type": "doorbell", "rings": topics_of, "by": PROCESS})
    except Exception as error:
        log.warning("doorbell not rung", sessions=list(topics_of), error=repr(error))


async def wait(notified: asyncio.Event, seconds: float) -> bool:
    """Wait for a notification; False after so many seconds."""
    try:
        await asyncio.wait_for(notified.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Hub:
    """The subscribers of one process (one event loop)."""

    def __init__(self) -> None:
        self._waiters: dict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)
        self._woken_at: dict[str, float] = {}
        self._delayed: dict[str, asyncio.TimerHandle] = {}
        self._listener: asyncio.Task[None] | None = None
        self._unsent: dict[str, list[str]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def subscribe(self, session_id: Any, topic: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set at every notification. Clear it before reading, so that none falls in between."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.ensure_future(self._receive())
        key, waiter = (str(session_id), topic), asyncio.Event()
        self._waiters[key].add(waiter)
        try:
            yield waiter
        finally:
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]
                self._woken_at.pop(key[0], None)

    def publish_events_soon(self, session_id: Any) -> None:
        """There are new events: wake this process' pages, and notify the other processes within `OTHERS_SECONDS`.

        Called many times a second for each session, so what comes meanwhile goes to the others in one message.
        """
        self.wake({str(session_id): [EVENTS]})
        if not self._unsent:
            asyncio.get_running_loop().call_later(OTHERS_SECONDS, self._flush)
        self._unsent[str(session_id)] = [EVENTS]

    def _flush(self) -> None:
        topics_of, self._unsent = self._unsent, {}
        task = asyncio.ensure_future(_send_to_others(topics_of))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def wake(self, topics_of: dict[str, list[str]]) -> None:
        """Wake this process' subscribers: couriers at once, pages at a bounded rate."""
        for session, topics in topics_of.items():
            if INBOX in topics:
                self._wake(session, INBOX)
            if EVENTS in topics and session not in self._delayed and (session, EVENTS) in self._waiters:
                self._wake_pages_later(session)

    def _wake_pages_later(self, session: str) -> None:
        gap = GAP_SECONDS + GAP_PER_WAITER * len(self._waiters[session, EVENTS])
        wait = self._woken_at.get(session, 0.0) + gap - time.monotonic()
        if wait <= 0:
            self._wake_pages(session)
        else:
            self._delayed[session] = asyncio.get_running_loop().call_later(wait, self._wake_pages, session)

    def _wake_pages(self, session: str) -> None:
        self._delayed.pop(session, None)
        self._woken_at[session] = time.monotonic()
        self._wake(session, EVENTS)

    def _wake(self, session: str, topic: str) -> None:
        for waiter in self._waiters.get((session, topic), ()):
            waiter.set()

    async def _receive(self) -> None:
        """Pass on what other processes publish, for as long as the layer is there; then join it anew."""
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
                                self.wake(message["rings"])
            except Exception as error:
                log.warning("doorbell: channel layer away", error=repr(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
            finally:  # else the others would go on sending where nobody reads
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
