"""The proxy: listens, ends what is overdue, reports, and ends in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from egress.channel import Channel
from egress.connection_handler import ConnectionHandler
from egress.control_plane_client import ControlPlaneClient
from egress.dialer import Resolver
from egress.health import HealthServer
from egress.log import log
from egress.policy_sync import PolicySync
from egress.proxy_state import ProxyState
from egress.settings import Settings
from egress.tunnel import Cause

SWEEP = 0.5  # seconds between two checks for what is overdue
REPORT = 1.0  # seconds between two reports
PRUNE = 60.0  # seconds between two checks for what can be forgotten
BACKLOG = 1024
LAST_REPORTS = 3  # tries to send what is left, at the end
CANCEL_SECONDS = 2.0  # after which cancelled handlers must have ended


class Server:
    """One proxy. `start`, then `stop`; both within one loop."""

    def __init__(self, settings: Settings, resolver: Resolver | None = None) -> None:
        """`resolver` takes and returns what loop.getaddrinfo does, which is the default."""
        self.settings, self.resolver = settings, resolver
        self.handlers: set[asyncio.Task[None]] = set()
        self.loops: list[asyncio.Task[None]] = []
        self.stopping = False

    async def start(self) -> None:
        """Listen. Raises OSError if an address is taken, ValueError for a wrong BERTH_URL."""
        loop = asyncio.get_running_loop()
        self.control_plane = ControlPlaneClient(self.settings.url, self.settings.token_file)
        self.state = ProxyState(self.settings, self.control_plane, self.resolver)
        self.policy_sync = PolicySync(self.state)
        buffer = self.state.dialer.buffer
        host, port = self.settings.listen
        self.listener = await loop.create_server(lambda: Channel(buffer, self._accept), host, port, backlog=BACKLOG)
        self.health = HealthServer(self.status)
        await self.health.start(host, self.settings.health)
        self.loops = [
            asyncio.create_task(self.policy_sync.run()),
            asyncio.create_task(self._every(SWEEP, self._sweep)),
            asyncio.create_task(self._every(REPORT, self._report)),
            asyncio.create_task(self._every(PRUNE, self._prune)),
        ]
        log("listening", address=f"{host}:{self.port}", control_plane=self.settings.url)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.sockets[0].getsockname()[1])

    def status(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the proxy takes clients, and details: the control plane's absence is no reason to restart."""
        details = {
            "tunnels": len(self.state.tunnels.by_id),
            "heard_seconds_ago": round(time.monotonic() - self.policy_sync.last_contact, 1),
            "version": self.state.decisions.version,
        }
        return not self.stopping, details

    async def stop(self) -> None:
        """Take no more clients, let those that are there go on for `drain_seconds`, and report all ends."""
        self.stopping = True
        self.listener.close()
        log("stopping", tunnels=len(self.state.tunnels.by_id))
        await self._wait(self.settings.drain_seconds)
        for tunnel in list(self.state.tunnels.by_id.values()):
            tunnel.end(Cause.SHUTDOWN)
        for handler in self.handlers:
            handler.cancel()
        await self._wait(CANCEL_SECONDS)
        self.state.dialer.close()
        for task in self.loops:
            task.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)
        for _ in range(LAST_REPORTS):
            if await self.state.reporter.send():
                break
        await self.health.stop()
        self.control_plane.close()
        log("stopped")

    async def _wait(self, seconds: float) -> None:
        if self.handlers:
            await asyncio.wait(self.handlers, timeout=seconds)

    def _accept(self, client: Channel) -> None:
        task = asyncio.get_running_loop().create_task(ConnectionHandler(self.state, client).serve())
        self.handlers.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.handlers.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log("failed", work="connection", problem=repr(error))

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step again and again; what nobody foresaw must not end it for ever."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await step()
            except Exception as error:
                log("failed", work=step.__name__, problem=repr(error))

    async def _sweep(self) -> None:
        """End what is overdue, and everything when the control plane has been away too long."""
        now = time.monotonic()
        away = now - self.policy_sync.last_contact > self.settings.away_seconds
        for tunnel in list(self.state.tunnels.by_id.values()):
            cause = tunnel.timeout_cause(now, self.settings.idle_seconds, self.settings.half_seconds)
            if cause or away:
                tunnel.end(cause or Cause.AWAY)

    async def _report(self) -> None:
        await self.state.reporter.send()

    async def _prune(self) -> None:
        now = time.monotonic()
        self.state.rate.prune(now)
        self.state.tunnels.limits.prune(now)
