"""How a run gets out: through the egress proxy, with a credential of its own. And what confines it to that."""

from django.conf import settings

from runtimes.base import EgressAccess
from sessions.lifecycle import run_tokens
from sessions.models import Run

FREE = "It is a local process, which nothing confines: it reads and reaches what the user can who runs Berth."
CONFINED = "It is a local process in a sandbox, with no network but the egress proxy."


def access(run: Run) -> EgressAccess | None:
    """What a run is told of the proxy; None where there is none. Its credential is good while the run is active."""
    if not settings.EGRESS_PROXY_URL:
        return None
    return EgressAccess(settings.EGRESS_PROXY_URL, run_tokens.mint_egress(run.pk))


def confinement(runtime: str) -> str:
    """What people have to know of a run's walls, in a sentence; empty where they are as they should be."""
    if runtime != "local":
        return ""
    return CONFINED if settings.LOCAL_BWRAP else FREE
