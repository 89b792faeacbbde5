"""The proxy: listens, watches over what is open, reports, and ends in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from egress.channel import Channel
from egress.connection_handler import Desk, Visit
from egress.control_plane_client import ControlPlane
from egress.dialer import Resolver
from egress.health import HealthServer, Status
from egress.log import log
from egress.policy_sync import Watch
from egress.settings import Settings
from egress.tunnel import Cause

SWEEP = 0.5  # seconds between two looks at what is overdue
REPORT = 1.0  # seconds between two reports
PRUNE = 60.0  # seconds between two looks at what can be forgotten
BACKLOG = 1024
LAST_REPORTS = 3  # tries to tell what is left, at the end
MARGIN = 2.0  # seconds after which what was told to end must have


class Server:
    """One proxy. `start`, then `stop`; both within one loop."""

    def __init__(self, settings: Settings, resolver: Resolver | None = None) -> None:
        """`resolver` takes and returns what loop.getaddrinfo does, which is the default."""
        self.settings, self.resolver = settings, resolver
        self.visits: set[asyncio.Task[None]] = set()
        self.work: list[asyncio.Task[None]] = []
        self.stopping = False

    async def start(self) -> None:
        """Listen. Raises OSError if an address is taken, ValueError for a wrong BERTH_URL."""
        loop = asyncio.get_running_loop()
        self.control = ControlPlane(self.settings.url, self.settings.token_file)
        self.desk = Desk(self.settings, self.control, self.resolver)
        self.watch = Watch(self.desk)
        buffer = self.desk.dialler.buffer
        host, port = self.settings.listen
        self.listener = await loop.create_server(lambda: Channel(buffer, self._accept), host, port, backlog=BACKLOG)
        self.health = HealthServer(self.status)
        await self.health.start(host, self.settings.health)
        self.work = [
            asyncio.create_task(self.watch.run()),
            asyncio.create_task(self._every(SWEEP, self._sweep)),
            asyncio.create_task(self._every(REPORT, self._report)),
            asyncio.create_task(self._every(PRUNE, self._prune)),
        ]
        log("listening", address=f"{host}:{self.port}", control_plane=self.settings.url)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.sockets[0].getsockname()[1])

    def status(self) -> Status:
        """Return the proxy's health. The control plane's absence is told, but is no reason to restart the proxy."""
        details = {
            "tunnels": len(self.desk.table.tunnels),
            "heard_seconds_ago": round(time.monotonic() - self.watch.heard, 1),
            "version": self.desk.decisions.version,
        }
        return Status(not self.stopping, details)

    async def stop(self) -> None:
        """Take no more clients, let those that are there go on for `drain_seconds`, and report all ends."""
        self.stopping = True
        self.listener.close()
        log("stopping", tunnels=len(self.desk.table.tunnels))
        await self._wait(self.settings.drain_seconds)
        for tunnel in list(self.desk.table.tunnels.values()):
            tunnel.end(Cause.SHUTDOWN)
        for visit in self.visits:
            visit.cancel()
        await self._wait(MARGIN)
        self.desk.dialler.close()
        for task in self.work:
            task.cancel()
        await asyncio.gather(*self.work, return_exceptions=True)
        for _ in range(LAST_REPORTS):
            if await self.desk.reports.tell():
                break
        await self.health.stop()
        self.control.close()
        log("stopped")

    async def _wait(self, seconds: float) -> None:
        if self.visits:
            await asyncio.wait(self.visits, timeout=seconds)

    def _accept(self, client: Channel) -> None:
        task = asyncio.get_running_loop().create_task(Visit(self.desk, client).serve())
        self.visits.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.visits.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log("failed", work="visit", problem=repr(error))

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
        away = now - self.watch.heard > self.settings.away_seconds
        for tunnel in list(self.desk.table.tunnels.values()):
            cause = tunnel.overdue(now, self.settings.idle_seconds, self.settings.half_seconds)
            if cause or away:
                tunnel.end(cause or Cause.AWAY)

    async def _report(self) -> None:
        await self.desk.reports.tell()

    async def _prune(self) -> None:
        now = time.monotonic()
        self.desk.rate.prune(now)
        self.desk.table.limits.prune(now)
