"""Following the control plane: when it says that rules or runs have changed, every open tunnel is judged anew.

The number of the last change is asked for by a long poll. When a poll fails, nothing that was decided before is used
for a new connection any more: a change could be missed. Open tunnels go on, but no longer than `away_seconds` after
the last answer. After a silence of more than 5 s they are judged anew even if the number is the same, since a control
plane that comes back may be another one (a restored database, say) that counts differently.
"""

import asyncio
import random
import time

from egress.connection_handler import Desk
from egress.control_plane_client import Away
from egress.decisions import Key, WrongCredential
from egress.log import log
from egress.tunnel import Cause

LONGEST_WAIT = 20.0  # seconds that the control plane may hold an answer back
SILENCE = 5.0  # seconds without an answer, after which tunnels are judged anew
PAUSES = (0.1, 1.0)  # seconds; first and longest pause before another try
AT_ONCE = 16  # tunnels' questions on the way, beside those of new connections


class Watch:
    """Polls the version; `heard` is when the control plane answered last (monotonic seconds)."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.decisions, self.control = desk, desk.decisions, desk.decisions.control
        self.heard = time.monotonic()
        self.failed_since: float | None = None
        self.pause = PAUSES[0]
        self.unsure: dict[Key, float] = {}  # to be judged anew, and since when (monotonic seconds)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                pause = await self.step()
            except Exception as error:  # it must not die: nothing else ends what may not be open any more
                pause = self._failed(Away(repr(error)))
            await asyncio.sleep(pause)

    async def step(self) -> float:
        """Poll once and act on the answer; return how many seconds to pause."""
        wait = min(LONGEST_WAIT, self.desk.settings.away_seconds / 2)
        if self.decisions.version < 0 or self.failed_since or self.unsure:
            wait = 0  # there is something to find out or to repeat
        try:
            version = await self._poll(wait)
        except Away as away:
            return self._failed(away)
        now = time.monotonic()
        silent = self.failed_since is not None and now - self.heard > SILENCE
        self.heard, self.failed_since, self.pause = now, None, PAUSES[0]
        if version != self.decisions.version or silent:
            self.decisions.version = version
            self.decisions.forget()
            self.unsure = {tunnel.key: now for tunnel in self.desk.table.tunnels.values()} | self.unsure
        await self._judge_anew()
        return PAUSES[1] if self.unsure else 0

    async def _poll(self, wait: float) -> int:
        path = f"/egress/v1/version?after={self.decisions.version}&wait={wait:g}"
        answer = await self.control.call("GET", path, wait + self.desk.settings.decide_seconds)
        version = answer.body.get("version")
        if answer.status != 200 or not isinstance(version, int):
            raise Away(f"status {answer.status}")
        return version

    def _failed(self, away: Away) -> float:
        self.decisions.forget()
        if self.failed_since is None:
            self.failed_since = time.monotonic()
            log("control plane away", problem=str(away))
        pause, self.pause = self.pause, min(2 * self.pause, PAUSES[1])
        return pause * random.uniform(0.5, 1.0)

    async def _judge_anew(self) -> None:
        """Ask for what every open tunnel stands on; what gets no answer stays `unsure`."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def judge(key: Key) -> None:
            async with turns:
                await self._judge(key)

        async with asyncio.TaskGroup() as group:
            for key in list(self.unsure):
                group.create_task(judge(key))
        now = time.monotonic()
        for key, since in list(self.unsure.items()):
            if now - since > self.desk.settings.away_seconds:
                self._settle(key, Cause.AWAY)

    async def _judge(self, key: Key) -> None:
        try:
            decision = await self.decisions.ask_anew(key)
        except WrongCredential:
            self._settle(key, Cause.REVOKED)
        except Away:
            pass  # asked again in a moment
        else:
            self._settle(key, None if decision.holds(time.time()) else Cause.REVOKED, decision.until)

    def _settle(self, key: Key, cause: Cause | None, until: float | None = None) -> None:
        """End what stands on a decision, or let it go on (`cause` None) until the permission ends."""
        self.unsure.pop(key, None)
        for tunnel in [tunnel for tunnel in self.desk.table.tunnels.values() if tunnel.key == key]:
            tunnel.until = until
            if cause:
                tunnel.end(cause)
