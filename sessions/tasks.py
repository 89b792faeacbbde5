"""What the work queue calls: a few lines each, and payloads are ids.

Every task may run twice, or be lost: the watcher's sweep finds what it left undone.
"""

import time
import uuid

import structlog
from django.conf import settings

from sessions import work_queue
from sessions.cleanup import engine as cleaning
from sessions.cleanup import orphans
from sessions.lifecycle import namespaces, observation, runtime_factory
from sessions.lifecycle import reconcile as reconciler
from sessions.scheduling import admission
from sessions.work_queue import ADMIT, FIRST, GC, ORPHANS, RECONCILE

log = structlog.get_logger(__name__)
ORPHANS_SECONDS = 5.0  # for which orphans are removed at a time


def reconcile(session_id: str, observed: str = "") -> None:
    """Take the next step for one session: of its run, or into a slot. If that freed one, let the next one have it."""
    session = uuid.UUID(session_id)
    if reconciler.reconcile(session, observation.unpack(observed)):
        work_queue.request(ADMIT, priority=FIRST)
    elif admission.is_waiting(session) and session in _admitted(but=session):
        reconciler.reconcile(session)


def admit() -> None:
    """Fill the free slots."""
    _admitted()


def _admitted(but: uuid.UUID | None = None) -> list[uuid.UUID]:
    """Give some of the waiting their slots, ask for their starts, `but` for one, and for the rest; who got one."""
    started = admission.admit()
    starts = {str(session): "" for session in started if session != but}
    work_queue.request_all(RECONCILE, starts, priority=FIRST)
    if len(started) >= admission.AT_ONCE:
        work_queue.request(ADMIT, priority=FIRST)
    return started


def drain() -> None:
    """Let the runs of groups that are being drained close when their turn ends."""
    admission.drain()


def remove_orphans() -> None:
    """Remove for a few seconds what the runtime has and nobody wants; what is left then is another round."""
    end = time.monotonic() + ORPHANS_SECONDS
    late = False

    def go_on() -> bool:
        nonlocal late
        late = late or time.monotonic() >= end
        return not late and work_queue.holds()

    orphans.remove_orphans(runtime_factory.get(settings.RUNTIME), go_on)
    if late:
        work_queue.request(ORPHANS)


def gc() -> None:
    """Clean up for a few seconds; what is left then is another round."""
    if cleaning.step():
        work_queue.request(GC)


def keep(group_id: str) -> None:
    """Sync a group's namespace, should somebody have changed it."""
    namespaces.sync(uuid.UUID(group_id))
