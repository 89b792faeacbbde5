"""A run's access to the network: through the egress proxy, with a credential of its own. And what confines it."""

from django.conf import settings

from runtimes.base import EgressAccess
from sessions.lifecycle import run_tokens
from sessions.models import Run

UNCONFINED = "It is a local process, which nothing confines: it reads and reaches what the user can who runs Berth."
CONFINED = "It is a local process in a sandbox, with no network but the egress proxy."


def of_run(run: Run) -> EgressAccess | None:
    """The proxy and the run's credential there; None where there is no proxy. It is valid while the run is active."""
    if not settings.EGRESS_PROXY_URL:
        return None
    return EgressAccess(settings.EGRESS_PROXY_URL, run_tokens.mint_egress(run.pk))


def confinement_note(runtime: str) -> str:
    """What people have to know of a run's confinement, in a sentence; empty where it is as it should be."""
    if runtime != "local":
        return ""
    return CONFINED if settings.LOCAL_BWRAP else UNCONFINED
