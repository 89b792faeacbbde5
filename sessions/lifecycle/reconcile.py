"""Making what is true match what is wanted, one step at a time.

`decide` is pure: from the run's row and what the runtime sees, the one thing to do next. `reconcile` observes,
decides and applies. Any process may do so at any time, and again after a crash at any point: effects on the runtime are
idempotent, and rows move by compare-and-set.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runtimes.base import Cause, Observed, PermanentFault, Phase, RunRef, Runtime, TransientFault
from sessions import leases, work_queue
from sessions.choices import BEFORE_START, GRACEFUL, Intent, RunState
from sessions.events import event_log, notify
from sessions.lifecycle import redact, run_archive, run_spec, runtime_factory, secrets, transitions
from sessions.lifecycle.observation import Observation
from sessions.models import Run

log = structlog.get_logger(__name__)

# No amount of waiting mends these.
PERMANENT = frozenset({Cause.REJECTED, Cause.IMAGE_PULL})
# These pass by themselves, so the time that they take counts for no limit and no try.
PASSING = frozenset({Cause.QUOTA, Cause.UNREACHABLE})
FORCE_AFTER = timedelta(seconds=20)  # the agent's own grace is 10 s
# A failed mount is tried again by the kubelet after growing pauses; a new pod most often mounts at once.
MOUNT_TIMEOUT = timedelta(seconds=10)
LONGEST_PAUSE = 300.0  # seconds, however long a runtime wants to be left alone


class Step(StrEnum):
    """What may be done next."""

    NOTHING = "nothing"
    ENSURE = "ensure"
    REVIVE = "revive"  # the courier, beside an agent that lives
    REQUEST_END = "ask"  # with an intent
    FORCE = "force"  # make the runtime end it
    END = "end"  # it is over: settle its end reason


# What may be decided by what the watcher saw a moment ago.
MAY_BE_STALE = frozenset({Step.NOTHING, Step.REQUEST_END})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What Berth's rows say of a run."""

    state: RunState
    claimed_at: datetime
    intent: Intent = Intent.NONE
    intent_at: datetime | None = None
    made: bool = True  # the runtime had all of it
    courier_called: bool = False  # the courier said hello
    handed: bool = True  # a message was
    exited: bool = False  # and has reported the agent's end
    waiting_since: datetime | None = None
    counted_from: datetime | None = None  # the start's limit counts from here; None: from `claimed_at`
    called_at: datetime | None = None  # when the courier last called, with events or without
    heard_at: datetime | None = None  # when it last sent events
    web_since: datetime | None = None  # since when `web` has been there for couriers; None: it is away
    has_messages: bool = False
    start_seconds: int = 300
    idle_seconds: int = 1800
    turn_seconds: int = 1800
    heartbeat_seconds: int = 120
    deadline_seconds: int = 14400
    close_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Action:
    """What to do next."""

    step: Step
    intent: Intent = Intent.NONE


def decide(wanted: Wanted, observed: Observed, now: datetime) -> Action:
    """The next step for a run whose row has not ended."""
    if _is_over(wanted, observed):
        return Action(Step.END)
    if observed.phase is Phase.ABSENT:
        return Action(Step.ENSURE)
    if wanted.intent and wanted.intent not in GRACEFUL:
        return _stop(wanted, observed, now)
    if wanted.intent and observed.phase is Phase.PENDING:
        # Once the courier has called, what looks pending is a cluster that reports late: the turn may be under way.
        return Action(Step.NOTHING if wanted.courier_called else Step.FORCE)
    if observed.phase is Phase.PENDING or wanted.state in BEFORE_START:
        return _start(wanted, observed, now)
    return _supervise(wanted, observed, now)


def _is_over(wanted: Wanted, observed: Observed) -> bool:
    """Whether a run's processes are gone for good, or nothing of it is to be made any more."""
    if observed.phase is Phase.ABSENT:
        return wanted.state is not RunState.CLAIMED or bool(wanted.intent)
    # A pod whose node is lost may read as running for ever.
    return observed.phase is Phase.FINISHED or observed.cause is Cause.NODE_LOST


def _stop(wanted: Wanted, observed: Observed, now: datetime) -> Action:
    """A run that was asked to end now: its courier passes that on; the runtime does where it can't, or is late."""
    unreachable = observed.phase is Phase.PENDING or wanted.intent is Intent.HUNG
    overdue = now - (wanted.intent_at or wanted.claimed_at) > FORCE_AFTER
    return Action(Step.FORCE) if unreachable or overdue else _keep_running(wanted, observed)


def _start(wanted: Wanted, observed: Observed, now: datetime) -> Action:
    """A run that is not up yet: made in part, held up, or only slow."""
    waited = now - (wanted.counted_from or wanted.claimed_at)
    if observed.cause in PERMANENT or (observed.cause is Cause.MOUNT and waited > MOUNT_TIMEOUT):
        return Action(Step.END)
    if observed.cause not in PASSING and waited > timedelta(seconds=wanted.start_seconds):
        return Action(Step.END)
    if wanted.state is RunState.CLAIMED or not wanted.made:
        return Action(Step.ENSURE)  # a worker may have died between two of its parts, one of which called already
    return _keep_running(wanted, observed)


def _supervise(wanted: Wanted, observed: Observed, now: datetime) -> Action:
    """A run whose agent lives: its time limits."""
    if (over := _turn_over_since(wanted)) and now - over > timedelta(seconds=wanted.close_seconds):
        return Action(Step.FORCE)  # SIGTERM, then SIGKILL; what was asked for stays the verdict
    if now - wanted.claimed_at > timedelta(seconds=wanted.deadline_seconds):
        return Action(Step.REQUEST_END, Intent.DEADLINE)
    if (silence := _silence(wanted, now)) and not wanted.exited:
        return Action(Step.REQUEST_END, silence)
    idle_since = wanted.waiting_since if wanted.state is RunState.WAITING and not wanted.has_messages else None
    if idle_since and now - idle_since > timedelta(seconds=wanted.idle_seconds):
        return Action(Step.REQUEST_END, Intent.IDLE)
    return _keep_running(wanted, observed)


def _turn_over_since(wanted: Wanted) -> datetime | None:
    """Since when an agent that was asked to close has had nothing to do but to end; None if that is not so."""
    if wanted.intent not in GRACEFUL or wanted.exited or wanted.intent_at is None:
        return None
    if wanted.waiting_since is None:
        return None if wanted.handed else wanted.intent_at
    return max(wanted.intent_at, wanted.waiting_since)


def _silence(wanted: Wanted, now: datetime) -> Intent | None:
    """Whether a run that lives has said nothing for too long. While `web` is away, nobody is blamed for silence."""
    if wanted.web_since is None or wanted.called_at is None:
        return None
    if now - max(wanted.called_at, wanted.web_since) > timedelta(seconds=wanted.heartbeat_seconds):
        return Intent.HUNG
    at_work = wanted.state is RunState.WORKING or (wanted.state is RunState.ENDING and wanted.waiting_since is None)
    heard = max(wanted.heard_at or wanted.called_at, wanted.web_since)
    return Intent.TURN_TIMEOUT if at_work and now - heard > timedelta(seconds=wanted.turn_seconds) else None


def _keep_running(wanted: Wanted, observed: Observed) -> Action:
    """A run that goes on; a courier that died beside a living agent is revived."""
    return Action(Step.NOTHING if observed.courier_alive or wanted.exited else Step.REVIVE)


def wanted_state(run: Run, web_since: datetime | None) -> Wanted:
    """The row, one of `RunQuerySet.for_decision`, as `decide` wants it; makes no query."""
    return Wanted(
        state=RunState(run.state),
        claimed_at=run.claimed_at,
        intent=Intent(run.intent),
        intent_at=run.intent_at,
        made=run.made_at is not None,
        courier_called=run.started_at is not None,
        exited=run.exit_code is not None,
        handed=run.handed,
        waiting_since=run.waiting_since,
        counted_from=run.counted_from,
        called_at=max(filter(None, (run.seen_at, run.started_at)), default=None),
        heard_at=run.heard_at,
        web_since=web_since,
        has_messages=run.has_messages,
        heartbeat_seconds=settings.HEARTBEAT_SECONDS,
        deadline_seconds=run_spec.deadline(run),
        close_seconds=settings.CLOSE_SECONDS,
        **{name: run_spec.limit(run, name) for name in run_spec.LIMITS},
    )


def reconcile(session_id: uuid.UUID, seen: Observation | None = None) -> bool:
    """Take the next step for a session's run. True if a slot became free.

    What was `seen` of the run saves asking the runtime. It may be late: whatever can't be taken back is decided anew,
    by what the runtime observes now.
    """
    run = Run.objects.active().filter(session=session_id).for_decision().first()
    if run is None:
        _remove_ended(session_id)
        return False
    if run.not_before and run.not_before > timezone.now():
        work_queue.retry((run.not_before - timezone.now()).total_seconds())  # the runtime asked to be left alone
        return False
    bound = log.bind(session=str(session_id), run=str(run.id))
    runtime = runtime_factory.get(run.runtime)
    try:
        action, observed = _next(run, runtime, seen)
        if action.step is not Step.NOTHING:
            bound.info("reconcile", do=action.step, state=run.state, phase=observed.phase, intent=action.intent)
        freed = _apply(run, runtime, action, observed)
        _set_warning(run, "") if run.warning else None
        return freed
    except TransientFault as fault:
        bound.warning("runtime: will pass", cause=fault.cause, words=str(fault))
        pause = min(fault.retry_after, LONGEST_PAUSE)
        _set_waits_for(run, fault.cause, str(fault), timedelta(seconds=pause))
        work_queue.retry(pause)
        return False
    except PermanentFault as fault:
        if run.started_at is not None:  # what is refused now is not what the run lives from
            bound.warning("runtime: refused, the run goes on", cause=fault.cause, words=str(fault))
            _set_warning(run, f"The runtime refuses what was asked of it for this run, which goes on: {fault}")
            return False
        bound.error("runtime: refused", cause=fault.cause, words=str(fault))
        return _end(run, runtime, Observed(Phase.ABSENT), fault)


def _next(run: Run, runtime: Runtime, seen: Observation | None) -> tuple[Action, Observed]:
    """What to do next, and what was observed of the run when that was decided."""
    # A run that was only claimed has most likely never been made: `ensure` adopts it if it was.
    never_made = run.state == RunState.CLAIMED and not run.intent and not run.waits_for
    known = seen.observed if seen and seen.run == run.pk else None
    observed = Observed(Phase.ABSENT) if never_made else known or runtime.observe(run.ref)
    wanted = wanted_state(run, leases.alive_since(leases.WEB))
    action = decide(wanted, observed, timezone.now())
    if observed is known and action.step not in MAY_BE_STALE:
        observed = runtime.observe(run.ref)
        action = decide(wanted, observed, timezone.now())
    return action, observed


def _apply(run: Run, runtime: Runtime, action: Action, observed: Observed) -> bool:
    """Do what was decided. True if a slot became free."""
    match action.step:
        case Step.ENSURE:
            runtime.ensure(run_spec.of_run(run))
            secrets.record_use(run)
            _mark_started(run, runtime)
        case Step.REVIVE:
            runtime.revive(run_spec.of_run(run))
        case Step.REQUEST_END:
            transitions.request_end(run.pk, action.intent, only_idle=action.intent is Intent.IDLE)
        case Step.FORCE:
            runtime.stop(run.ref)
        case Step.END:
            return _end(run, runtime, observed)
        case Step.NOTHING:
            _set_waits_for(run, observed.cause, observed.message) if observed.phase is Phase.PENDING else None
            secrets.renew(run, runtime) if observed.phase is Phase.RUNNING else None
    return False


def _mark_started(run: Run, runtime: Runtime) -> None:
    """The runtime has all of the run. If it was ended meanwhile, what was just made goes again."""
    now = timezone.now()
    Run.objects.filter(pk=run.pk, made_at=None).update(made_at=now, counted_from=now)  # it could not start before
    if Run.objects.filter(pk=run.pk, state=RunState.CLAIMED).update(
        state=RunState.STARTING, waits_for="", waits_cause=""
    ):
        with transaction.atomic():
            transitions.refresh(event_log.lock_session(run.session_id))
            notify.publish_on_commit(run.session_id, notify.EVENTS)
    elif Run.objects.filter(pk=run.pk, state=RunState.ENDED).exists():
        runtime.destroy(run.ref)


def _end(run: Run, runtime: Runtime, observed: Observed, fault: PermanentFault | None = None) -> bool:
    """End the run's row, then remove what the runtime has of it. `_remove_ended` does so after a crash between them."""
    verdict = transitions.end(run, observed, fault)
    if verdict:
        log.info("run ended", session=str(run.session_id), run=str(run.pk), cause=verdict.reason)
    _remove(run, runtime)
    return verdict is not None


def _remove(run: Run, runtime: Runtime) -> None:
    """Remove what the runtime still has of an ended run, once what it knows is archived."""
    run_archive.archive(run, runtime)
    try:
        runtime.destroy(run.ref)
    except TransientFault as fault:
        log.warning("not removed yet", run=str(run.pk), words=str(fault))  # the sweep comes again
        return
    Run.objects.filter(pk=run.pk, state=RunState.ENDED).update(removed_at=timezone.now())


def _remove_ended(session_id: uuid.UUID) -> None:
    """Remove what the runtime still has of runs that ended."""
    left = Run.objects.filter(session=session_id, state=RunState.ENDED, removed_at=None)
    for run in left.select_related("session__group"):
        _remove(run, runtime_factory.get(run.runtime))


def _set_waits_for(run: Run, cause: Cause | None, message: str, retry_after: timedelta | None = None) -> None:
    """Show what a start waits for, and let what passes by itself count for no limit.

    `retry_after` is for how long the runtime wants to be left alone (RFC 9110, section 10.2.3).
    """
    now, message = timezone.now(), redact.redact_text(run.pk, message)
    not_started = Run.objects.filter(pk=run.pk, state__in=BEFORE_START, started_at=None)
    if retry_after is not None:
        Run.objects.filter(pk=run.pk).update(not_before=now + retry_after)
    if retry_after is not None or cause in PASSING:
        not_started.update(counted_from=now)
    changes = {"waits_for": message[:2000], "waits_cause": cause or ""}
    if changes == {name: getattr(run, name) for name in changes} or run.state not in BEFORE_START:
        return
    with transaction.atomic():
        session = event_log.lock_session(run.session_id)
        not_started.update(**changes)
        transitions.refresh(session)
        notify.publish_on_commit(session.pk, notify.EVENTS)


def _set_warning(run: Run, message: str) -> None:
    """Show what the runtime refused of a run that goes on; an empty message clears that."""
    message = redact.redact_text(run.pk, message)[:2000]
    if Run.objects.active().filter(pk=run.pk).exclude(warning=message).update(warning=message):
        notify.publish(run.session_id, notify.EVENTS)


def session_of(ref: RunRef) -> uuid.UUID | None:
    """The session of a run that a runtime names; None if the database doesn't know it, or knows it as another's."""
    try:
        run = Run.objects.filter(pk=uuid.UUID(ref.run)).select_related("session__group").first()
    except ValueError:
        return None
    return run.session_id if run and run.ref == ref else None
