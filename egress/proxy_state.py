"""What all connections of one proxy share."""

from collections import Counter

from egress.control_plane_client import ControlPlaneClient
from egress.decisions import DecisionCache
from egress.dialer import Dialer, Resolver
from egress.limits import RateLimiter, RunLimits
from egress.reports import Reporter
from egress.settings import Settings
from egress.tunnel import TunnelTable


class ProxyState:
    """Decisions, tunnels, limits, reports. `pending` counts, by address, connections that no decision stands behind."""

    def __init__(self, settings: Settings, control_plane: ControlPlaneClient, resolver: Resolver | None) -> None:
        """To be made within the loop; `resolver` as for Dialer."""
        self.settings = settings
        self.decisions = DecisionCache(control_plane, settings.decide_seconds)
        self.tunnels = TunnelTable(RunLimits(settings.tunnels, settings.bytes))
        self.rate = RateLimiter(settings.connects)
        self.dialer = Dialer(settings, resolver)
        self.reporter = Reporter(control_plane, self.tunnels, settings.decide_seconds)
        self.pending: Counter[str] = Counter()
