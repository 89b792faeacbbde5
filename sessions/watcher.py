"""Watching the runtime and sweeping what is due.

1. Hold the lease, so that one watcher works at a time; without it, wait. One that lost it and comes back starts anew.
2. A thread follows `runtime.watch()` and queues a reconcile for every run that changed.
3. Once a second, sweep: queue a reconcile for what time alone makes due, and admission if somebody waits for a slot;
   then let other apps do the same (`signals.swept`).
4. If the thread died or fell silent, exit non-zero: a supervisor starts a fresh one.
"""

import threading
import time
import uuid
from datetime import timedelta

import structlog
from django.conf import settings
from django.db import close_old_connections
from django.db.models import Q
from django.utils import timezone
from django_q.tasks import async_task

from k8s_adapter.runtime import Runtime
from sessions import admission, berths, gc, leases, reconcile, signals
from sessions.models import AgentSession, Run
from sessions.states import RunState

log = structlog.get_logger(__name__)
SILENCE = 60.0  # seconds; `Runtime.watch` promises a sign of life every 5
SETTLE = timedelta(seconds=3)  # a step that is only this old is probably under way
LOOK_AGAIN = 15.0  # seconds between two sweeps of a run that nothing else calls for
ORPHANS = 60.0  # seconds between two looks for what the database no longer wants
GC = 3600.0  # seconds between two looks whether a clean-up is due


class Watcher:
    """One watcher process. `step` is the body of its loop."""

    def __init__(self, runtime: Runtime, holder: str) -> None:
        self.runtime, self.holder = runtime, holder
        self.until = threading.Event()
        self.heard = time.monotonic()
        self.thread: threading.Thread | None = None
        self.asked: dict[uuid.UUID, float] = {}
        self.orphans_at = self.gc_at = 0.0
        self.epoch: int | None = None
        self.berths = berths.Rounds()

    def step(self) -> bool:
        """Do one round. False while another watcher has the lease. Raises RuntimeError when it can't work any more."""
        close_old_connections()
        epoch = leases.acquire(leases.WATCHER, self.holder)
        if self.epoch is not None and epoch != self.epoch:
            raise RuntimeError("it was away for so long that its lease went stale")
        if epoch is None:
            return False
        self.epoch = epoch
        if self.thread is None:
            self.heard = time.monotonic()
            self.thread = threading.Thread(target=self._follow, name="follow", daemon=True)
            self.thread.start()
        if not self.thread.is_alive() and not self.until.is_set():
            raise RuntimeError("the watch of the runtime ended")
        if time.monotonic() - self.heard > SILENCE:
            raise RuntimeError(f"the watch of the runtime was silent for {SILENCE:.0f} s")
        self.sweep()
        return True

    def leads(self) -> bool:
        """Whether the lease still is what this watcher took: asked before what can't be taken back."""
        return self.epoch is not None and leases.holds(leases.WATCHER, self.holder, self.epoch)

    def stop(self) -> None:
        """Let the thread end, and the lease go."""
        self.until.set()
        if self.thread:
            self.thread.join(5)
        leases.release(leases.WATCHER, self.holder)

    def sweep(self) -> None:
        """Queue what is due by time: starts that wait, limits that passed, ends and clean-ups that were left undone."""
        now, clock = timezone.now(), time.monotonic()
        due = Q(state=RunState.CLAIMED, claimed_at__lt=now - SETTLE) | Q(
            state=RunState.ENDING, intent_at__lt=now - SETTLE
        )
        for session in Run.objects.active().filter(due).values_list("session_id", flat=True):
            self._ask(session, clock, 5.0)
        for session in Run.objects.active().values_list("session_id", flat=True):
            self._ask(session, clock, LOOK_AGAIN)
        left = Run.objects.filter(state=RunState.ENDED, removed_at=None, ended_at__lt=now - SETTLE)
        for session in left.values_list("session_id", flat=True)[:100]:
            self._ask(session, clock, 10.0)
        waits = Q(retry_at__isnull=True, queued_at__lt=now - timedelta(seconds=1)) | Q(retry_at__lte=now)
        if AgentSession.objects.filter(waits, queued_at__isnull=False).exists():
            self._admit(clock)
        admission.drain()
        signals.swept.send(type(self))
        self.berths.step()
        if clock - self.orphans_at > ORPHANS:
            self.orphans_at = clock
            gc.remove_orphans(self.runtime, self.leads)
        if clock - self.gc_at > GC:
            self.gc_at = clock
            async_task("sessions.tasks.gc") if gc.due() else None
        self.asked = {key: at for key, at in self.asked.items() if clock - at < 2 * LOOK_AGAIN}

    def _ask(self, session: uuid.UUID, clock: float, every: float) -> None:
        if clock - self.asked.get(session, -every) >= every:
            self.asked[session] = clock
            async_task("sessions.tasks.reconcile", str(session))

    def _admit(self, clock: float) -> None:
        key = uuid.UUID(int=0)
        if clock - self.asked.get(key, -5.0) >= 2.0:
            self.asked[key] = clock
            async_task("sessions.tasks.admit")

    def _follow(self) -> None:
        """The thread: from the runtime's changes to tasks."""
        try:
            for sighting in self.runtime.watch(self.until):
                self.heard = time.monotonic()
                if sighting is None:
                    continue
                close_old_connections()
                session = reconcile.session_of(sighting.ref.run)
                if session:
                    self.asked[session] = self.heard
                    async_task("sessions.tasks.reconcile", str(session))
        except Exception:
            log.exception("the watch of the runtime failed")
        finally:
            close_old_connections()


def holder_name() -> str:
    """A name that no other process has."""
    return f"{settings.INSTALLATION}-{uuid.uuid4().hex[:12]}"
