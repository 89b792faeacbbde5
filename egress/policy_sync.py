"""Following the control plane: when it says that rules or runs have changed, every open tunnel is checked again.

The number of the last change is asked for by a long poll. When a poll fails, no cached decision is used for a new
connection any more: a change could be missed. Open tunnels go on, but no longer than `away_seconds` after the last
response. After a silence of more than 5 s they are checked again even if the number is the same, since a control plane
that comes back may be another one (a restored database, say) that counts differently.
"""

import asyncio
import random
import time

from egress.control_plane_client import ControlPlaneUnavailable
from egress.decisions import DecisionKey, WrongCredential
from egress.log import log
from egress.proxy_state import ProxyState
from egress.tunnel import Cause

LONG_POLL = 20.0  # seconds that the control plane may hold a response back, at most
SILENCE = 5.0  # seconds without a response, after which tunnels are checked again
PAUSES = (0.1, 1.0)  # seconds; first and longest pause before another try
CONCURRENCY = 16  # decisions on the way for tunnels, beside those of new connections


class PolicySync:
    """Polls the version; `last_contact` is when the control plane responded last (monotonic seconds)."""

    def __init__(self, state: ProxyState) -> None:
        self.state, self.decisions, self.control_plane = state, state.decisions, state.decisions.control_plane
        self.last_contact = time.monotonic()
        self.failed_since: float | None = None
        self.pause = PAUSES[0]
        self.unconfirmed: dict[DecisionKey, float] = {}  # to be decided again, and since when (monotonic seconds)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                pause = await self.step()
            except Exception as error:  # it must not die: nothing else ends what may not be open any more
                pause = self._failed(ControlPlaneUnavailable(repr(error)))
            await asyncio.sleep(pause)

    async def step(self) -> float:
        """Poll once and act on the response; return how many seconds to pause."""
        wait = min(LONG_POLL, self.state.settings.away_seconds / 2)
        if self.decisions.version < 0 or self.failed_since or self.unconfirmed:
            wait = 0  # there is something to find out or to repeat
        try:
            version = await self._poll(wait)
        except ControlPlaneUnavailable as error:
            return self._failed(error)
        now = time.monotonic()
        silent = self.failed_since is not None and now - self.last_contact > SILENCE
        self.last_contact, self.failed_since, self.pause = now, None, PAUSES[0]
        if version != self.decisions.version or silent:
            self.decisions.version = version
            self.decisions.clear()
            self.unconfirmed = {tunnel.key: now for tunnel in self.state.tunnels.by_id.values()} | self.unconfirmed
        await self._recheck_all()
        return PAUSES[1] if self.unconfirmed else 0

    async def _poll(self, wait: float) -> int:
        path = f"/egress/v1/version?after={self.decisions.version}&wait={wait:g}"
        response = await self.control_plane.call("GET", path, wait + self.state.settings.decide_seconds)
        version = response.body.get("version")
        if response.status != 200 or not isinstance(version, int):
            raise ControlPlaneUnavailable(f"status {response.status}")
        return version

    def _failed(self, error: ControlPlaneUnavailable) -> float:
        self.decisions.clear()
        if self.failed_since is None:
            self.failed_since = time.monotonic()
            log("control plane away", problem=str(error))
        pause, self.pause = self.pause, min(2 * self.pause, PAUSES[1])
        return pause * random.uniform(0.5, 1.0)

    async def _recheck_all(self) -> None:
        """Have decided again what every open tunnel stands on; what gets no decision stays `unconfirmed`."""
        slots = asyncio.Semaphore(CONCURRENCY)

        async def recheck(key: DecisionKey) -> None:
            async with slots:
                await self._recheck(key)

        async with asyncio.TaskGroup() as group:
            for key in list(self.unconfirmed):
                group.create_task(recheck(key))
        now = time.monotonic()
        for key, since in list(self.unconfirmed.items()):
            if now - since > self.state.settings.away_seconds:
                self._settle(key, Cause.AWAY)

    async def _recheck(self, key: DecisionKey) -> None:
        try:
            decision = await self.decisions.decide_fresh(key)
        except WrongCredential:
            self._settle(key, Cause.REVOKED)
        except ControlPlaneUnavailable:
            pass  # tried again in a moment
        else:
            self._settle(key, None if decision.allows(time.time()) else Cause.REVOKED, decision.until)

    def _settle(self, key: DecisionKey, cause: Cause | None, until: float | None = None) -> None:
        """End what stands on a decision, or let it go on (`cause` None) until the permission ends."""
        self.unconfirmed.pop(key, None)
        for tunnel in [tunnel for tunnel in self.state.tunnels.by_id.values() if tunnel.key == key]:
            tunnel.until = until
            if cause:
                tunnel.end(cause)
