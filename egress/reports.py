"""Reports to the control plane: which tunnels are open and how much went through them, their ends, and denials.

Kept until they are stored there, within bounds. All may be sent twice: counters are totals, denials have ids.
"""

import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from egress.control_plane_client import ControlPlaneClient, ControlPlaneUnavailable
from egress.decisions import DecisionKey
from egress.log import log
from egress.tunnel import Tunnel, TunnelTable

BATCH = 500  # tunnels or denials in one report
MAX_WAITING = 20_000  # ended tunnels, and denials, that wait for the control plane
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


class Reporter:
    """Collects what there is to report, and sends it when asked to."""

    def __init__(self, control_plane: ControlPlaneClient, tunnels: TunnelTable, seconds: float) -> None:
        """`seconds` is the time for one report."""
        self.control_plane, self.tunnels, self.seconds = control_plane, tunnels, seconds
        self.ended: dict[str, Tunnel] = {}
        self.denials: dict[tuple[str, str, int, str], Denial] = {}  # that may still be counted up
        self.unconfirmed: dict[str, Denial] = {}  # that may have been sent already: they stay as they are
        self.dropped = 0

    def add_ended(self, tunnel: Tunnel) -> None:
        """Add a tunnel that has ended."""
        self.ended[tunnel.id] = tunnel
        self._bound(self.ended)

    def add_denial(self, key: DecisionKey, code: str, reason: str) -> None:
        """Note a error."""
        same = (key.run, key.host, key.port, reason)
        if same in self.denials:
            self.denials[same].count += 1
        else:
            denial = Denial(uuid.uuid4().hex, key.run, key.host, key.port, code, reason, 1, round(time.time(), 3))
            self.denials[same] = denial
            self._bound(self.denials)

    def _bound(self, waiting: dict[Any, Any]) -> None:
        while len(waiting) > MAX_WAITING:
            waiting.pop(next(iter(waiting)))
            self.dropped += 1

    async def send(self) -> bool:
        """Send all that is new; False if the control plane did not take it."""
        self.unconfirmed |= {denial.id: denial for denial in self.denials.values()}
        self.denials.clear()
        self._bound(self.unconfirmed)
        open_tunnels = self.tunnels.by_id.values()
        changed = [tunnel for tunnel in open_tunnels if tunnel.server and tunnel.reported != tunnel.counters]
        tunnels, denials = [*self.ended.values(), *changed], list(self.unconfirmed.values())
        for start in range(0, max(len(tunnels), len(denials)), BATCH):
            if not await self._post(tunnels[start : start + BATCH], denials[start : start + BATCH]):
                return False
        if self.dropped:
            log("reports dropped", count=self.dropped)
            self.dropped = 0
        return True

    async def _post(self, tunnels: list[Tunnel], denials: list[Denial]) -> bool:
        payloads = [tunnel_payload(tunnel) for tunnel in tunnels]
        body = {"tunnels": payloads, "denials": [asdict(denial) for denial in denials]}
        try:
            status = (await self.control_plane.call("POST", "/egress/v1/report", self.seconds, body)).status
        except ControlPlaneUnavailable as error:
            log("report failed", problem=str(error))
            return False
        if not 200 <= status < 300:
            log("report refused", status=status)
            if status >= 500 or status in TRANSIENT:
                return False
            self.dropped += len(tunnels) + len(denials)  # it would be refused for ever, and hold up all others
        for tunnel, payload in zip(tunnels, payloads, strict=True):
            tunnel.reported = (payload["sent"], payload["received"])
            if payload["ended"] is not None:
                self.ended.pop(tunnel.id, None)
        for denial in denials:
            self.unconfirmed.pop(denial.id, None)
        return True


def tunnel_payload(tunnel: Tunnel) -> dict[str, Any]:
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
