"""The watcher: follows the runtime, and sweeps what is due.

1. Hold the lease, so that one watcher works at a time; without it, wait. One that lost it and comes back starts anew.
2. A thread follows `runtime.watch()`: when what is seen of a run has changed, it asks for a reconcile and hands over
   what it saw.
3. Once a second, sweep. Every 5 s `decide` is asked about every run that goes on, by what was seen of it: only where
   there is something to do a worker is asked. Then what time alone makes due, and admission if somebody waits for a
   slot. Other apps do the same (`signals.swept`).
4. If the thread died or fell silent, exit non-zero: a supervisor starts a fresh one.

The sweep does no more than look at rows and ask for work: the thread that renews the lease waits for nobody else.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta

import structlog
from django.conf import settings
from django.db import close_old_connections
from django.db.models import Q
from django.utils import timezone

from runtimes.base import Observed, Phase, Runtime, WatchEvent
from sessions import leases, signals, work_queue
from sessions.choices import BEFORE_START, RunState
from sessions.cleanup import engine
from sessions.lifecycle import namespaces, observation, reconcile
from sessions.lifecycle.reconcile import PASSING, Step
from sessions.models import AgentSession, Run
from sessions.scheduling import admission
from sessions.work_queue import ADMIT, DRAIN, FIRST, GC, LOW, ORPHANS, RECONCILE

log = structlog.get_logger(__name__)
SILENCE = 60.0  # seconds; `Runtime.watch` promises a sign of life every 5
START_STEPS = timedelta(seconds=1)  # for which the steps of a start are gathered
SETTLE = timedelta(seconds=3)  # a step that is only this old is probably under way
DECIDE = 5.0  # seconds between two rounds of `decide` over all runs
POLL_SECONDS = 15.0  # seconds between two looks at a run that nothing else calls for
ADMISSION = 2.0  # seconds between two admissions while somebody waits
DRAINING = 5.0  # seconds between two looks whether a run is to be drained
ORPHANS_EVERY = 60.0  # seconds between two looks for what the database no longer wants
GC_EVERY = 3600.0  # seconds between two looks whether a clean-up is due
PAUSE = 60.0  # seconds, the longest until a part of the sweep that fails is tried again
AT_ONCE = 500  # rows in a statement
GIVEN_UP = 30  # failures in a row of one part, after which a fresh process is better


Part = tuple[float, Callable[[float], None]]  # of the sweep: seconds between two times, what to do


class Watcher:
    """One watcher process. `step` is the body of its loop."""

    def __init__(self, runtime: Runtime, holder: str) -> None:
        self.runtime, self.holder = runtime, holder
        self.until = threading.Event()
        self.last_event_at = time.monotonic()
        self.thread: threading.Thread | None = None
        self.epoch: int | None = None
        self.namespaces = namespaces.SyncSchedule()
        self.seen: dict[uuid.UUID, Observed] = {}  # run → what is seen of it; of runs that exist in the runtime
        self.requested_at: dict[uuid.UUID, float] = {}  # session → when it was last asked for (monotonic)
        self.failures: Counter[str] = Counter()  # of the sweep's parts, in a row
        self._due: dict[str, float] = {}  # part of the sweep → when it is next (monotonic)
        self._parts: dict[str, Part] = {
            "steps left undone": (1.0, self._lost_steps),
            "decisions": (DECIDE, self._decide),
            "admission": (ADMISSION, self._admit),
            "draining": (DRAINING, self._drain),
            "other apps": (1.0, self._send_swept),
            "namespaces": (1.0, lambda _: self.namespaces.step()),
            "orphans": (ORPHANS_EVERY, lambda _: work_queue.request(ORPHANS)),
            "clean-up": (GC_EVERY, lambda _: work_queue.request(GC) if engine.due() else None),
        }

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
            self.last_event_at = time.monotonic()
            self.thread = threading.Thread(target=self._follow, name="follow", daemon=True)
            self.thread.start()
        if not self.thread.is_alive() and not self.until.is_set():
            raise RuntimeError("the watch of the runtime ended")
        if time.monotonic() - self.last_event_at > SILENCE:
            raise RuntimeError(f"the watch of the runtime was silent for {SILENCE:.0f} s")
        self.sweep()
        return True

    def stop(self) -> None:
        """Let the thread end, and the lease go."""
        self.until.set()
        if self.thread:
            self.thread.join(5)
        leases.release(leases.WATCHER, self.holder)

    def sweep(self) -> None:
        """Do the parts that are due. One that fails is tried again after growing pauses, and hinders no other."""
        for name, (every, part) in self._parts.items():
            clock = time.monotonic()
            if clock < self._due.get(name, clock):
                continue
            try:
                part(clock)
            except Exception as error:
                self.failures[name] += 1
                self._due[name] = clock + min(2.0 ** self.failures[name], PAUSE)
                log.exception("a part of the sweep failed", part=name, failures=self.failures[name])
                if self.failures[name] >= GIVEN_UP:
                    raise RuntimeError(f"{name} failed {GIVEN_UP} times in a row") from error
            else:
                self.failures.pop(name, None)
                self._due[name] = clock + every

    # --- the parts of the sweep -------------------------------------------------------------------------------------

    def _lost_steps(self, clock: float) -> None:
        """Steps whose worker was lost: starts and ends that are under way for too long, traces of runs that ended."""
        now = timezone.now()
        left_alone = Q(not_before__gt=now)
        due = Q(state=RunState.CLAIMED, claimed_at__lt=now - SETTLE) & ~left_alone
        due |= Q(state=RunState.ENDING, intent_at__lt=now - SETTLE)
        self._request(Run.objects.active().filter(due).values_list("session_id", flat=True), clock, 5.0, FIRST)
        left = Run.objects.filter(state=RunState.ENDED, removed_at=None, ended_at__lt=now - SETTLE)
        self._request(left.values_list("session_id", flat=True)[:100], clock, 10.0)

    def _decide(self, clock: float) -> None:
        """Ask a worker for the runs of which `decide` says that there is something to do, by what is seen of them."""
        known = list(self.seen)  # before the rows are read: what is seen meanwhile may be of a run that is newer
        now, web_since = timezone.now(), leases.alive_since(leases.WEB)
        steps, looks, passing = list[uuid.UUID](), dict[uuid.UUID, str](), list[uuid.UUID]()
        active = set()
        for run in Run.objects.active().for_decision().iterator(AT_ONCE):
            active.add(run.pk)
            observed = self.seen.get(run.pk)
            if observed is None:  # nobody has seen it, so the worker looks
                if clock - self.requested_at.setdefault(run.session_id, clock) >= POLL_SECONDS:
                    looks[run.session_id] = ""
                continue
            try:
                action = reconcile.decide(reconcile.wanted_state(run, web_since), observed, now)
            except Exception:
                log.exception("a run can't be decided about", session=str(run.session_id), run=str(run.pk))
                continue
            if action.step is not Step.NOTHING:
                steps.append(run.session_id)
            elif observed.phase is Phase.RUNNING and (run.session.profile.secrets or run.warning):
                # It may be time to renew them, or what was refused is refused no more.
                looks[run.session_id] = observation.pack(run.pk, observed)
            if observed.cause in PASSING and run.state in BEFORE_START:
                passing.append(run.pk)
        self._request(steps, clock, DECIDE, FIRST)
        self._request(looks, clock, POLL_SECONDS, LOW, looks)
        for start in range(0, len(passing), AT_ONCE):  # what passes by itself counts for no limit
            some = Run.objects.filter(pk__in=passing[start : start + AT_ONCE], started_at=None, state__in=BEFORE_START)
            some.filter(counted_from__lt=now - timedelta(seconds=POLL_SECONDS)).update(counted_from=now)
        for gone in (run for run in known if run not in active):
            self.seen.pop(gone, None)
        self.requested_at = {key: at for key, at in list(self.requested_at.items()) if clock - at < 2 * POLL_SECONDS}

    def _admit(self, clock: float) -> None:
        now = timezone.now()
        waits = Q(retry_at__isnull=True, queued_at__lt=now - timedelta(seconds=1)) | Q(retry_at__lte=now)
        if AgentSession.objects.filter(waits, queued_at__isnull=False).exists():
            work_queue.request(ADMIT, priority=FIRST)

    def _drain(self, clock: float) -> None:
        if admission.runs_to_drain().exists():
            work_queue.request(DRAIN)

    def _send_swept(self, clock: float) -> None:
        """Let other apps ask for what they have to do. Each has its own wall."""
        for receiver, answer in signals.swept.send_robust(type(self)):
            if isinstance(answer, Exception):
                log.error("a receiver of the sweep failed", receiver=str(receiver), exc_info=answer)

    def _request(
        self,
        sessions: Iterable[uuid.UUID],
        clock: float,
        every: float,
        priority: int = LOW,
        observed: dict[uuid.UUID, str] | None = None,
    ) -> None:
        """Ask for a reconcile of each session, unless it was asked for within `every` seconds."""
        due = [key for key in dict.fromkeys(sessions) if clock - self.requested_at.get(key, -every) >= every]
        self.requested_at |= dict.fromkeys(due, clock)
        work_queue.request_all(RECONCILE, {str(key): (observed or {}).get(key, "") for key in due}, priority=priority)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """The thread: from what the runtime tells to work."""
        try:
            for event in self.runtime.watch(self.until):
                self.last_event_at = time.monotonic()
                if event is None:
                    continue
                close_old_connections()
                try:
                    self._handle(event)
                except Exception:
                    log.exception("what the runtime payload of a run was not taken up", run=event.ref.run[:64])
        except Exception:
            log.exception("the watch of the runtime failed")
        finally:
            close_old_connections()

    def _handle(self, event: WatchEvent) -> None:
        """Keep what is seen of a run, and let a worker know. What it missed for a fault is found by the sweep."""
        try:
            run = uuid.UUID(event.ref.run)
        except ValueError:
            return
        observed = event.observed
        if observed is None or observed.phase is Phase.ABSENT:
            self.seen.pop(run, None)
        else:
            self.seen[run] = observed
        session = reconcile.session_of(event.ref)
        if session is None:
            return
        self.requested_at[session] = time.monotonic()
        if payload := observation.pack(run, observed):
            # A start goes through several steps within a second, of which people need to hear the last.
            passing = observed and observed.phase is Phase.PENDING and observed.cause is None
            due_at = timezone.now() + START_STEPS if passing else None
            work_queue.request(RECONCILE, session, priority=LOW, observed=payload, due_at=due_at)
        else:
            work_queue.request(RECONCILE, session, priority=FIRST)


def holder_name() -> str:
    """A name that no other process has."""
    return f"{settings.INSTALLATION}-{uuid.uuid4().hex[:12]}"
