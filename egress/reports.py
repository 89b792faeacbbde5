"""What the control plane is told: which tunnels are open and how much went through them, their ends, and denials.

Kept until it is stored there, within bounds. All of it may be told twice: counters are totals, denials have ids.
"""

import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from egress.control_plane_client import Away, ControlPlane
from egress.decisions import Key
from egress.log import log
from egress.tunnel import Table, Tunnel

AT_ONCE = 500  # tunnels or denials in one report
KEPT = 20_000  # ended tunnels, and denials, that wait for the control plane
TRANSIENT = {401, 403, 408, 429}  # below 500, and yet worth another try: a token may be renewed


@dataclass(slots=True)
class Denial:
    """One thing that was refused, `count` times since the last report; `at` is the first (seconds since the epoch)."""

    id: str
    run: str
    host: str
    port: int
    code: str
    reason: str
    count: int
    at: float


class Reports:
    """Collects, and tells when asked to."""

    def __init__(self, control: ControlPlane, table: Table, seconds: float) -> None:
        """`seconds` is the time for one report."""
        self.control, self.table, self.seconds = control, table, seconds
        self.ended: dict[str, Tunnel] = {}
        self.denials: dict[tuple[str, str, int, str], Denial] = {}  # that may still be counted up
        self.sealed: dict[str, Denial] = {}  # that may have been told already: they stay as they are
        self.dropped = 0

    def end(self, tunnel: Tunnel) -> None:
        """Note the end of a tunnel."""
        self.ended[tunnel.id] = tunnel
        self._bound(self.ended)

    def deny(self, key: Key, code: str, reason: str) -> None:
        """Note a refusal."""
        place = (key.run, key.host, key.port, reason)
        if place in self.denials:
            self.denials[place].count += 1
        else:
            told = Denial(uuid.uuid4().hex, key.run, key.host, key.port, code, reason, 1, round(time.time(), 3))
            self.denials[place] = told
            self._bound(self.denials)

    def _bound(self, kept: dict[Any, Any]) -> None:
        while len(kept) > KEPT:
            kept.pop(next(iter(kept)))
            self.dropped += 1

    async def tell(self) -> bool:
        """Tell all that is new; False if the control plane did not take it."""
        self.sealed |= {denial.id: denial for denial in self.denials.values()}
        self.denials.clear()
        self._bound(self.sealed)
        changed = [tunnel for tunnel in self.table.tunnels.values() if tunnel.server and tunnel.told != tunnel.counters]
        tunnels, denials = [*self.ended.values(), *changed], list(self.sealed.values())
        for start in range(0, max(len(tunnels), len(denials)), AT_ONCE):
            if not await self._post(tunnels[start : start + AT_ONCE], denials[start : start + AT_ONCE]):
                return False
        if self.dropped:
            log("reports dropped", count=self.dropped)
            self.dropped = 0
        return True

    async def _post(self, tunnels: list[Tunnel], denials: list[Denial]) -> bool:
        entries = [entry(tunnel) for tunnel in tunnels]
        body = {"tunnels": entries, "denials": [asdict(denial) for denial in denials]}
        try:
            status = (await self.control.call("POST", "/egress/v1/report", self.seconds, body)).status
        except Away as away:
            log("report failed", problem=str(away))
            return False
        if not 200 <= status < 300:
            log("report refused", status=status)
            if status >= 500 or status in TRANSIENT:
                return False
            self.dropped += len(tunnels) + len(denials)  # it would be refused for ever, and hold up all others
        for tunnel, told in zip(tunnels, entries, strict=True):
            tunnel.told = (told["sent"], told["received"])
            if told["ended"] is not None:
                self.ended.pop(tunnel.id, None)
        for denial in denials:
            self.sealed.pop(denial.id, None)
        return True


def entry(tunnel: Tunnel) -> dict[str, Any]:
    """Return a tunnel as a report has it."""
    sent, received = tunnel.counters
    return {
        "id": tunnel.id,
        "run": tunnel.key.run,
        "host": tunnel.key.host,
        "port": tunnel.key.port,
        "opened": round(tunnel.opened, 3),
        "ended": None if tunnel.ended is None else round(tunnel.ended, 3),
        "sent": sent,
        "received": received,
        "cause": None if tunnel.ended is None else tunnel.cause,
    }
