"""How a session's rows move: claimed, asked to end, ended. Each opens a transaction where its caller has none.

Moves of runs are compare-and-set; what a session shows follows from its run and its verdict (`refresh`).
"""

import uuid
from typing import Any

from django.db import transaction
from django.utils import timezone

from k8s_adapter.runtime import Cause, Observed
from sessions import doorbell, events, verdicts
from sessions.models import AgentSession, Message, Run
from sessions.states import (
    BEFORE_START,
    GRACEFUL,
    SESSION_OF_RUN,
    EventKind,
    Intent,
    MessageState,
    RunState,
    SessionState,
)
from sessions.verdicts import Verdict

REASONS = {
    RunState.CLAIMED: "It has its slot; the runtime is being asked to start it.",
    RunState.STARTING: "The runtime has it; the agent is coming up.",
    RunState.WORKING: "The agent is at work.",
    RunState.WAITING: "The agent waits for a follow-up, and keeps its context until then.",
    RunState.ENDING: "It was asked to end and is finishing.",
}
ENDING_REASONS = {
    Intent.CLOSE: "Closing as asked: the agent finishes its turn, then ends.",
    Intent.IDLE: "Closing: the agent waited long enough for a follow-up.",
    Intent.PREEMPT: "Closing while idle, to make room for those who wait.",
    Intent.STOP: "Stopping: the agent was told to end now.",
    Intent.SHUTDOWN: "Stopping: Berth is being shut down.",
    Intent.DEADLINE: "Ending: the run reached its time limit.",
    Intent.START_TIMEOUT: "Giving up: the run did not start in time.",
}


def refresh(session: AgentSession) -> None:
    """Write the state and reason that follow from the session's run, queue and last verdict. The row is locked."""
    run = session.runs.order_by("-number").first()
    session.refresh_from_db(fields=["queued_at"])
    if run and run.state != RunState.ENDED:
        state, reason = SESSION_OF_RUN[RunState(run.state)], REASONS[RunState(run.state)]
        if run.state == RunState.ENDING:
            reason = ENDING_REASONS.get(Intent(run.intent), reason)
        elif run.waits_for and run.state in BEFORE_START:
            reason = f"Waiting to start: {run.waits_for}"
    elif session.queued_at:
        state, reason = SessionState.QUEUED, "Waiting for a slot."
    elif run and verdicts.ADVICE[Cause(run.verdict)].failure:
        state, reason = SessionState.FAILED, run.verdict_words
    else:
        state, reason = SessionState.IDLE, run.verdict_words if run else "Nothing was asked yet."
    if (state, reason) != (session.state, session.reason):
        session.state, session.reason = state, reason
        AgentSession.objects.filter(pk=session.pk).update(state=state, reason=reason, updated_at=timezone.now())


@transaction.atomic
def claim(session_id: uuid.UUID, runtime: str) -> Run | None:
    """Give a queued session its next run, and with it a slot; None if it no longer waits for one."""
    session = events.locked(session_id)
    if session.queued_at is None or session.runs.active().exists():
        return None
    session.last_run += 1
    session.queued_at = None
    session.save(update_fields=["last_run", "queued_at"])
    run = Run.objects.create(session=session, number=session.last_run, runtime=runtime, resume=session.resume)
    events.say(session, EventKind.STATE, f"Run {run.number} starts.", {"state": SessionState.STARTING}, run)
    refresh(session)
    doorbell.ring_on_commit(session_id)
    return run


def queue(session: AgentSession) -> None:
    """Let a session wait for a slot, in the place of its oldest message. The row is locked."""
    if session.queued_at is None:
        session.queued_at = timezone.now()
        session.save(update_fields=["queued_at"])


def ask(run_id: uuid.UUID, intent: Intent, by: str = "", only_from: RunState | None = None) -> bool:
    """Ask an active run to end; False if it was over, or asked for something as strong before.

    A stop overrides a graceful close that is still going on. `only_from` makes it conditional on the run's state.
    """
    with transaction.atomic():
        session = events.locked(Run.objects.values_list("session_id", flat=True).get(pk=run_id))
        runs = Run.objects.filter(pk=run_id)
        changes: dict[str, Any] = {"intent": intent, "intent_by": by, "intent_at": timezone.now()}
        if only_from:
            runs = runs.filter(state=only_from)
        asked = runs.move(RunState.ENDING, **changes)
        if not asked and intent not in GRACEFUL:
            asked = runs.filter(state=RunState.ENDING, intent__in=GRACEFUL).update(**changes)
        if asked:
            refresh(session)
            doorbell.ring_on_commit(session.pk)
    return bool(asked)


def end(run: Run, observed: Observed, cause: Cause | None = None, words: str = "") -> bool:
    """End a run with its verdict, settle its messages, and let the session wait for the next run if messages are left.

    `cause` overrides what `observed` says, for a start that was refused. False if another process ended it first.
    """
    with transaction.atomic():
        session = events.locked(run.session_id)
        run = Run.objects.select_related("session").get(pk=run.pk)
        intent = Intent(run.intent)
        if cause and intent != Intent.STOP:
            verdict = verdicts.say(cause, detail=words)
        else:
            verdict = verdicts.judge(observed, intent, run.exit_code, run.intent_by)
        changes = {"verdict": verdict.cause, "verdict_words": verdict.words, "retry_safe": verdict.retry_safe}
        changes |= {"exit_code": verdict.exit_code, "last_lines": verdict.last_lines[-4000:], "waits_for": ""}
        if not Run.objects.filter(pk=run.pk).move(RunState.ENDED, ended_at=timezone.now(), **changes):
            return False
        _settle(session, run, verdict)
        data = {"state": RunState.ENDED, "verdict": verdict.cause, "exit_code": verdict.exit_code}
        events.say(session, EventKind.STATE, f"Run {run.number} ended. {verdict.words}", data, run)
        refresh(session)
        doorbell.ring_on_commit(session.pk)
    return True


def _settle(session: AgentSession, run: Run, verdict: Verdict) -> None:
    """What becomes of the messages when their run ends."""
    handed = Message.objects.filter(run=run, state=MessageState.DELIVERED)
    left = Message.objects.filter(session=session, state=MessageState.QUEUED)
    if verdict.cause in (Cause.COMPLETED, Cause.IDLE):
        handed.move(MessageState.ANSWERED, answered_at=timezone.now())
    else:
        handed.move(MessageState.FAILED)
    if run.intent == Intent.STOP and run.intent_at:
        left.filter(created_at__lte=run.intent_at).move(MessageState.CANCELLED)
    if left.exists() and not verdict.failure:
        queue(session)
