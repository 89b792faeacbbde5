"""How a session's rows move: claim, request_end, end. Each opens a transaction where its caller has none.

Moves of runs are compare-and-set; what a session shows follows from its run, its queue and its verdict (`refresh`).
"""

import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from runtimes.base import Cause, Observed, RuntimeFault
from sessions import signals
from sessions.choices import (
    BEFORE_START,
    GRACEFUL,
    SESSION_OF_RUN,
    EndReason,
    EventKind,
    Intent,
    MessageState,
    RunState,
    SessionState,
)
from sessions.events import event_log, notify
from sessions.lifecycle import egress_access, end_reasons, messages, redact, run_spec
from sessions.lifecycle.end_reasons import Report, Verdict
from sessions.models import AgentSession, Run

# A run that gave up its slot while the cluster's quota was used up comes back after this.
QUOTA_PAUSE = timedelta(seconds=30)


def max_attempts() -> int:
    """How often work is tried in all, before a person decides: once, and once after each pause."""
    return len(settings.RETRY_SECONDS) + 1


RUN_REASONS = {
    RunState.CLAIMED: "It has its slot; the runtime is being asked to start it.",
    RunState.STARTING: "The runtime has it; the agent is coming up.",
    RunState.WORKING: "The agent is at work.",
    RunState.WAITING: "The agent waits for a follow-up, and keeps its context until then.",
    RunState.ENDING: "It was asked to end and is finishing.",
}
ENDING_REASONS = {
    Intent.CLOSE: "Closing as asked: the agent finishes its turn, then ends.",
    Intent.IDLE: "Closing: the agent waited long enough for a follow-up.",
    Intent.PREEMPT: "Closing while it has nothing to do, to make room for those who wait.",
    Intent.STOP: "Stopping: the agent was told to end now.",
    Intent.SHUTDOWN: "Stopping: Berth is being shut down.",
    Intent.DEADLINE: "Ending: the run reached its time limit.",
    Intent.TURN_TIMEOUT: "Ending: the agent worked too long without a word.",
    Intent.HUNG: "Ending: the courier fell silent.",
}


def refresh(session: AgentSession) -> None:
    """Write the state and reason that follow from the session's run, queue and last verdict. The row is locked."""
    run = session.runs.order_by("-number").first()
    session.refresh_from_db(fields=["queued_at", "retry_at", "attempts"])
    state, reason = _state_and_reason(session, run)
    if (state, reason) != (session.state, session.reason):
        session.state, session.reason = state, reason
        AgentSession.objects.filter(pk=session.pk).update(state=state, reason=reason, updated_at=timezone.now())


def _state_and_reason(session: AgentSession, run: Run | None) -> tuple[SessionState, str]:
    """A session's state, and why it is in it and what happens next."""
    if run and run.state != RunState.ENDED:
        state, reason = SESSION_OF_RUN[RunState(run.state)], RUN_REASONS[RunState(run.state)]
        if run.state == RunState.ENDING:
            reason = ENDING_REASONS.get(Intent(run.intent), reason)
        elif run.waits_for and run.state in BEFORE_START:
            reason = f"Waiting to start: {run.waits_for}"
        return state, reason
    if session.queued_at and session.retry_at and run:
        at = f"{session.retry_at:%H:%M:%S} UTC"
        if not session.attempts:
            return SessionState.QUEUED, f"Comes back at {at}. {run.verdict_words}"
        return SessionState.RETRYING, f"Try {session.attempts + 1} of {max_attempts()} at {at}. {run.verdict_words}"
    if session.queued_at:
        return SessionState.QUEUED, "Waiting for a slot."
    undone = session.messages.filter(state__in=[MessageState.QUEUED, MessageState.FAILED])
    if run and end_reasons.ADVICE[EndReason(run.verdict)].failure and undone.exists():
        tried = f"Tried {run.attempt} times. " if run.attempt > 1 else ""
        return SessionState.FAILED, f"{tried}{run.verdict_words} Retry it, or send a new message."
    if run:
        return SessionState.IDLE, run.verdict_words
    return SessionState.IDLE, "Nothing waits to be done." if session.last_message else "Nothing was asked yet."


@transaction.atomic
def claim(session_id: uuid.UUID, runtime: str) -> Run | None:
    """Give a queued session its next run, and with it a slot; None if it no longer waits for one.

    The try is counted here, before anything is done for it, so that one that kills its worker counts as well.
    """
    session = event_log.lock_session(session_id)
    if session.queued_at is None or session.runs.active().exists():
        return None
    since = session.queued_at
    session.last_run += 1
    session.attempts += 1
    session.queued_at = session.retry_at = None
    session.save(update_fields=["last_run", "attempts", "queued_at", "retry_at"])
    run = Run.objects.create(
        session=session,
        number=session.last_run,
        attempt=session.attempts,
        runtime=runtime,
        resume=session.resume,
        queued_at=since,
    )
    message = (
        f"Run {run.number} starts."
        if run.attempt == 1
        else f"Run {run.number} starts, try {run.attempt} of {max_attempts()}."
    )
    if run.number == 1 and (note := egress_access.confinement_note(runtime)):
        message = f"{message} {note}"
    event_log.append_event(
        session, EventKind.STATE, message, {"state": SessionState.STARTING, "attempt": run.attempt}, run
    )
    refresh(session)
    notify.publish_on_commit(session_id)
    return run


def enqueue(session: AgentSession, since: datetime | None = None, retry_at: datetime | None = None) -> None:
    """Let a session wait for a slot, from `since` on, but not before `retry_at`. The row is locked."""
    session.queued_at = session.queued_at or since or timezone.now()
    session.retry_at = retry_at
    session.save(update_fields=["queued_at", "retry_at"])


def enqueue_first_try(session: AgentSession) -> None:
    """Queue a session for a person: its attempts are counted from the start, and it needn't wait. The row is locked."""
    session.attempts = 0
    session.save(update_fields=["attempts"])
    enqueue(session)  # clears `retry_at`


def dequeue(session: AgentSession) -> None:
    """Let a session wait no more. The row is locked."""
    session.queued_at = session.retry_at = None
    session.save(update_fields=["queued_at", "retry_at"])


def drop_needless_start(session: AgentSession) -> None:
    """Without waiting messages, a session leaves the queue, and a start that nobody needs ends. The row is locked."""
    if session.messages.filter(state=MessageState.QUEUED).exists():
        return
    if session.queued_at:
        dequeue(session)
    for run in session.runs.active().filter(state__in=BEFORE_START):
        request_end(run.pk, Intent.PREEMPT)


def reset_attempts(session: AgentSession) -> None:
    """A turn ended well: the tries are counted anew, and the run that is there is the first of the next work."""
    if session.attempts > 1:
        AgentSession.objects.filter(pk=session.pk).update(attempts=1)


def request_end(run_id: uuid.UUID, intent: Intent, by: str = "", only_idle: bool = False) -> bool:
    """Ask an active run to end; False if it was over, or was asked in the same or a stronger way before.

    A stop overrides a graceful close that is still going on. With `only_idle` it is asked only if it has nothing to do:
    it waits for a follow-up, or for the cluster's quota.
    """
    with transaction.atomic():
        session = event_log.lock_session(Run.objects.values_list("session_id", flat=True).get(pk=run_id))
        runs = Run.objects.filter(pk=run_id)
        changes: dict[str, Any] = {"intent": intent, "intent_by": by, "intent_at": timezone.now()}
        if only_idle:
            runs = runs.filter(Q(state=RunState.WAITING) | Q(state__in=BEFORE_START, waits_cause=Cause.QUOTA))
        moved = runs.move(RunState.ENDING, **changes)
        if not moved and intent not in GRACEFUL:
            moved = runs.filter(state=RunState.ENDING, intent__in=GRACEFUL).update(**changes)
        if moved:
            refresh(session)
            notify.publish_on_commit(session.pk)
    return bool(moved)


def end(run: Run, observed: Observed, fault: RuntimeFault | None = None) -> Verdict | None:
    """End a run with its verdict, settle its messages, and let the session wait for the next run if messages are left.

    `fault` is why its start was refused, if it was. Returns None if another process ended it first.
    """
    with transaction.atomic():
        session = event_log.lock_session(run.session_id)
        run = Run.objects.select_related("session__profile").get(pk=run.pk)
        verdict = _verdict(run, observed, fault)
        changes = {"verdict": verdict.reason, "verdict_words": verdict.message, "retry_safe": verdict.retry_safe}
        last_lines = (event_log.tail(run) if verdict.failure else "") or verdict.last_lines
        changes |= {"exit_code": verdict.exit_code, "last_lines": last_lines}
        changes |= dict.fromkeys(("waits_for", "waits_cause", "warning"), "")
        if not Run.objects.filter(pk=run.pk).move(RunState.ENDED, ended_at=timezone.now(), **changes):
            return None
        data = {"state": RunState.ENDED, "verdict": verdict.reason, "exit_code": verdict.exit_code}
        event_log.append_event(session, EventKind.STATE, f"Run {run.number} ended. {verdict.message}", data, run)
        _what_follows(session, run, verdict)
        refresh(session)
        signals.run_ended.send(None, session_id=session.pk, run_id=run.pk)
        notify.publish_on_commit(session.pk)
    return verdict


def _verdict(run: Run, observed: Observed, fault: RuntimeFault | None) -> Verdict:
    """The verdict on a run that is over. It is redacted: a cluster repeats what the agent, or its start, wrote."""
    report = Report(run.exit_code, run.peak_bytes, messages.unanswered(run).exists(), messages.none_taken(run))
    verdict = end_reasons.verdict(
        Intent(run.intent),
        observed,
        report,
        fault,
        by=run.intent_by,
        start_seconds=run_spec.limit(run, "start_seconds"),
    )
    message, last_lines = redact.redact_text(run.pk, verdict.message), redact.redact_text(run.pk, verdict.last_lines)
    return replace(verdict, message=message, last_lines=last_lines[-4000:])


def _what_follows(session: AgentSession, run: Run, verdict: Verdict) -> None:
    """Queue what follows a run's end: nothing, the next messages, another try, or a person's decision."""
    session.refresh_from_db(fields=["attempts"])
    again = verdict.retries and session.attempts < max_attempts()
    since = messages.settle(session, run, verdict, again=again)
    if not verdict.failure:
        # Giving up a slot to others, or being shut down, is no try that failed.
        quota = verdict.reason is EndReason.PREEMPTED and run.waits_cause == Cause.QUOTA
        AgentSession.objects.filter(pk=session.pk).update(attempts=0)
        session.attempts = 0
        if since:
            enqueue(session, since, timezone.now() + QUOTA_PAUSE if quota else None)
    elif again and since:
        pause = settings.RETRY_SECONDS[max(session.attempts, 1) - 1]
        enqueue(session, since, timezone.now() + timedelta(seconds=pause))
