"""Pages without a browser, many in one process: they follow sessions' websockets and note when each event came."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from testbed.stack import Stack

Event = dict[str, Any]
# Pages that show the same get the same frames: parsing each once keeps the client out of the measurement.
parsed = lru_cache(maxsize=256)(json.loads)
Arrivals = list[tuple[float, Event]]  # seconds since the epoch, and what came then


class Page:
    """One open page. `arrivals` grows while it is open; `faults` counts holes and repetitions in the numbers."""

    def __init__(self, stack: Stack, session: str, cookie: str, after: int = 0) -> None:
        self.address = f"ws://127.0.0.1:{stack.port}/ws/sessions/{session}/?after={after}"
        self.headers = {"Cookie": cookie, "Origin": stack.base}
        self.arrivals: Arrivals = []
        self.cursor, self.faults = after, 0
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Connect and begin to follow."""
        self._socket = await connect(
            self.address, additional_headers=self.headers, max_size=None, open_timeout=60, compression=None
        )
        self._task = asyncio.ensure_future(self._follow(self._socket))

    async def close(self) -> None:
        """Disconnect."""
        if self._socket and self._task:
            await self._socket.close()
            await self._task

    async def until(self, wanted: Callable[[Event], bool], seconds: float, start: int = 0) -> tuple[float, Event]:
        """The first event from the `start`th arrival on that is wanted, waited for. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while True:
                self._news.clear()
                for at, event in self.arrivals[start:]:
                    if wanted(event):
                        return at, event
                start = len(self.arrivals)
                await self._news.wait()

    def lines(self) -> Iterator[tuple[float, str]]:
        """The lines of raw output that came, each with the time at which its end came."""
        rest = ""
        for at, event in self.arrivals:
            if event["kind"] == "stdout":
                *whole, rest = (rest + event["text"]).split("\n")
                yield from ((at, line) for line in whole)

    async def _follow(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                at = time.time()
                frame = parsed(text)
                if frame["type"] != "events":
                    continue
                for event in frame["events"]:
                    self.faults += event["seq"] != self.cursor + 1
                    self.cursor = event["seq"]
                    self.arrivals.append((at, event))
                await socket.send(json.dumps({"type": "ack", "seq": frame["last_seq"]}))
                self._news.set()
        except ConnectionClosed:
            self._news.set()
