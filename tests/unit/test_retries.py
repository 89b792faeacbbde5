"""Failed starts and crashes are tried again; messages are delivered at least once and answered once."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from groups.choices import Contract
from groups.models import AgentProfile, AuditEntry
from runtimes.base import Cause, Observed, Phase
from sessions.choices import Intent, MessageState, RunState, SessionState
from sessions.courier_api import ingest
from sessions.lifecycle import intake, reconcile, transitions
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession, Run
from sessions.scheduling import admission
from sessions.stream import serializers

CRASH = Observed(Phase.FINISHED, Cause.AGENT_ERROR, exit_code=3)
GONE = Observed(Phase.ABSENT)


@pytest.fixture
def run(session: AgentSession) -> Run:
    return claim(session)


def claim(session: AgentSession) -> Run:
    """The session's next run, as if its time had come."""
    AgentSession.objects.filter(pk=session.pk).update(retry_at=None)
    found = transitions.claim(session.pk, "local")
    assert found
    return found


def tell(run: Run, *said: tuple[str, dict[str, Any]]) -> None:
    """What the run's courier ships next; late, if the run has ended."""
    run.refresh_from_db()
    first = run.last_number + 1
    batch = [{"n": first + i, "kind": kind, "at": 1, "data": data} for i, (kind, data) in enumerate(said)]
    ingest.ingest(run.pk, ingest.parse(batch), late=run.state == RunState.ENDED)


DELIVERED, IDLE = ("delivered", {"number": 1}), ("turn", {"state": "idle"})
RESULT: tuple[str, dict[str, Any]] = ("result", {})


def messages(session: AgentSession) -> list[str]:
    return [m.state for m in session.messages.order_by("number")]


def shown(session: AgentSession) -> AgentSession:
    session.refresh_from_db()
    return session


def test_a_crash_gives_its_message_back_and_waits_a_moment(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    transitions.end(run, CRASH)
    assert messages(session) == [MessageState.QUEUED]
    assert shown(session).state == SessionState.RETRYING
    assert session.reason.startswith("Try 2 of 6 at ") and "exit code 3" in session.reason
    assert session.retry_at and timedelta(0) < session.retry_at - timezone.now() <= timedelta(seconds=5)
    assert admission.admit() == []


def test_the_next_try_comes_when_it_is_due(session: AgentSession, run: Run) -> None:
    transitions.end(run, CRASH)
    AgentSession.objects.update(retry_at=timezone.now())
    assert admission.admit() == [session.pk]
    following = session.runs.get(number=2)
    assert (following.attempt, shown(session).attempts, session.retry_at) == (2, 2, None)


def test_the_pauses_grow_and_then_a_person_decides(session: AgentSession, run: Run, settings: Any) -> None:
    pauses = []
    for _ in settings.RETRY_SECONDS:
        tell(run, DELIVERED)
        transitions.end(run, CRASH)
        pause = (shown(session).retry_at or timezone.now()) - timezone.now()
        pauses.append(round(pause.total_seconds()))
        run = claim(session)
    assert pauses == [5, 10, 20, 40, 80]
    tell(run, DELIVERED)
    transitions.end(run, CRASH)
    assert shown(session).state == SessionState.FAILED and session.queued_at is None
    message = session.messages.get()
    assert (message.state, message.attempts) == (MessageState.FAILED, 6)
    assert message.reason.startswith("The agent ended with exit code 3.")


def test_failed_starts_keep_the_messages_in_their_places(session: AgentSession, run: Run) -> None:
    intake.post_message(session, "second", sender=None)
    for _ in range(5):
        transitions.end(run, Observed(Phase.PENDING, Cause.IMAGE_PULL, "no such image"))
        run = claim(session)
    transitions.end(run, Observed(Phase.PENDING, Cause.IMAGE_PULL, "no such image"))
    assert shown(session).state == SessionState.FAILED and "Tried 6 times." in session.reason
    assert messages(session) == [MessageState.QUEUED, MessageState.QUEUED]


def test_a_refused_start_is_not_tried_again(session: AgentSession, run: Run) -> None:
    transitions.end(run, Observed(Phase.PENDING, Cause.REJECTED, "violates PodSecurity"))
    assert shown(session).state == SessionState.FAILED and session.queued_at is None


def test_an_answer_starts_the_count_anew(session: AgentSession, run: Run) -> None:
    transitions.end(run, CRASH)
    run = claim(session)
    tell(run, DELIVERED, RESULT, IDLE)
    intake.post_message(session, "second", sender=None)
    tell(run, ("delivered", {"number": 2}), ("turn", {"state": "working"}))
    transitions.end(run, CRASH)
    assert shown(session).attempts == 1 and session.reason.startswith("Try 2 of 6")
    assert messages(session) == [MessageState.ANSWERED, MessageState.QUEUED]


def test_an_answer_that_was_stored_is_not_asked_for_again(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED, RESULT)
    transitions.end(run, CRASH)
    assert messages(session) == [MessageState.ANSWERED]
    assert shown(session).queued_at is None


def test_the_parts_of_one_answer_answer_one_message(session: AgentSession, run: Run) -> None:
    intake.post_message(session, "second", sender=None)
    parts = [("result", {"part": n, "parts": 2}) for n in (1, 2)]
    tell(run, DELIVERED, ("delivered", {"number": 2}), *parts)
    transitions.end(run, CRASH)
    assert messages(session) == [MessageState.ANSWERED, MessageState.QUEUED]


def test_a_message_that_came_after_the_answer_is_handed_over_again(session: AgentSession, run: Run) -> None:
    intake.post_message(session, "second", sender=None)
    tell(run, DELIVERED, RESULT, ("delivered", {"number": 2}))
    transitions.end(run, CRASH)
    assert messages(session) == [MessageState.ANSWERED, MessageState.QUEUED]


def test_an_answer_found_in_a_lost_runs_journal_ends_the_waiting(session: AgentSession, run: Run) -> None:
    transitions.end(run, Observed(Phase.FINISHED, Cause.NODE_LOST))
    tell(run, DELIVERED, RESULT, IDLE)
    assert messages(session) == [MessageState.ANSWERED]
    assert shown(session).queued_at is None and session.runs.count() == 1


def test_an_answer_that_was_on_its_way_when_the_run_was_lost_is_found_too(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    transitions.end(run, Observed(Phase.FINISHED, Cause.NODE_LOST))
    assert messages(session) == [MessageState.QUEUED]
    tell(run, RESULT)
    assert messages(session) == [MessageState.ANSWERED]
    assert shown(session).queued_at is None


def test_the_last_lines_of_a_failed_run_are_kept(session: AgentSession, run: Run) -> None:
    batch = [{"n": n, "kind": "stderr", "text": f"line {n}\n", "at": 1} for n in range(1, 40)]
    ingest.ingest(run.pk, ingest.parse(batch))
    transitions.end(run, CRASH)
    run.refresh_from_db()
    assert run.last_lines.splitlines() == [f"line {n}" for n in range(28, 40)]


def test_a_lost_runs_journal_without_an_answer_changes_nothing(session: AgentSession, run: Run) -> None:
    transitions.end(run, Observed(Phase.FINISHED, Cause.NODE_LOST))
    tell(run, DELIVERED)
    assert messages(session) == [MessageState.QUEUED]
    assert shown(session).queued_at is not None


def test_a_start_that_nobody_needs_any_more_is_closed(session: AgentSession, run: Run) -> None:
    transitions.end(run, Observed(Phase.FINISHED, Cause.NODE_LOST))
    following = claim(session)
    tell(run, DELIVERED, RESULT, IDLE)
    following.refresh_from_db()
    assert (following.state, following.intent) == (RunState.ENDING, Intent.PREEMPT)


def test_an_agent_that_ends_without_taking_a_message_is_not_started_for_ever(session: AgentSession, run: Run) -> None:
    transitions.end(run, Observed(Phase.FINISHED, Cause.COMPLETED, exit_code=0))
    assert shown(session).state == SessionState.RETRYING and "before it took a message" in session.reason


def test_a_plain_program_need_not_read_its_message(session: AgentSession, run: Run) -> None:
    AgentProfile.objects.update(contract=Contract.PLAIN)
    intake.post_message(session, "second", sender=None)
    transitions.end(run, Observed(Phase.FINISHED, Cause.COMPLETED, exit_code=0))
    assert messages(session) == [MessageState.ANSWERED, MessageState.QUEUED]
    assert shown(session).state == SessionState.QUEUED


def test_a_shutdown_uses_up_no_try_and_loses_no_message(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    transitions.request_end(run.pk, Intent.SHUTDOWN)
    transitions.end(run, CRASH)
    assert messages(session) == [MessageState.QUEUED]
    assert shown(session).state == SessionState.QUEUED and session.attempts == 0


def test_what_a_person_stopped_is_not_tried_again(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    intake.stop(session, by="ada")
    transitions.end(Run.objects.get(), CRASH)
    assert messages(session) == [MessageState.FAILED]
    assert shown(session).state == SessionState.IDLE


def test_a_start_that_waits_for_the_clusters_quota_gives_way_and_comes_back(session: AgentSession, run: Run) -> None:
    Run.objects.update(state=RunState.STARTING, waits_cause=Cause.QUOTA, waits_for="exceeded quota")
    assert transitions.request_end(run.pk, Intent.PREEMPT, only_idle=True)
    transitions.end(run, GONE)
    assert shown(session).attempts == 0 and session.state == SessionState.QUEUED
    assert session.retry_at and session.reason.startswith("Comes back at ")


def test_a_new_message_while_the_next_try_waits_changes_nothing_of_it(session: AgentSession, run: Run) -> None:
    transitions.end(run, CRASH)
    before = shown(session).retry_at
    intake.post_message(session, "and?", sender=None)
    assert (shown(session).retry_at, session.attempts) == (before, 1)


def test_retry_starts_at_once_and_counts_anew(session: AgentSession, run: Run, people: dict[str, Any]) -> None:
    tell(run, DELIVERED)
    AgentSession.objects.update(attempts=transitions.max_attempts())
    transitions.end(run, CRASH)
    assert intake.retry(session, by="ada", actor=people["owner"]) == 1
    assert messages(session) == [MessageState.QUEUED]
    assert (shown(session).attempts, session.retry_at) == (0, None)
    assert admission.admit() == [session.pk]
    entry = AuditEntry.objects.get(action="session.retry")
    assert (entry.action, entry.by, entry.actor, entry.target) == (
        "session.retry",
        "ada",
        people["owner"],
        str(session.pk),
    )


def test_retry_needn_t_wait_for_the_pause(session: AgentSession, run: Run) -> None:
    transitions.end(run, CRASH)
    assert intake.retry(session, by="ada") == 0
    assert admission.admit() == [session.pk]


def test_a_failed_message_is_never_put_after_a_later_one(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    AgentSession.objects.update(attempts=transitions.max_attempts())
    transitions.end(run, CRASH)
    intake.post_message(session, "second", sender=None)
    run = claim(session)
    tell(run, ("delivered", {"number": 2}), RESULT, IDLE)
    transitions.end(run, Observed(Phase.FINISHED, Cause.COMPLETED, exit_code=0))
    with pytest.raises(InvalidRequest, match="a later message was answered since; send it anew"):
        intake.retry(session, by="ada")


@pytest.mark.parametrize("alive", [True, False])
def test_there_is_not_always_something_to_retry(session: AgentSession, run: Run, alive: bool) -> None:
    if not alive:
        tell(run, DELIVERED, RESULT, IDLE)
        transitions.end(run, Observed(Phase.FINISHED, Cause.COMPLETED, exit_code=0))
    with pytest.raises(InvalidRequest, match="has a run" if alive else "nothing failed"):
        intake.retry(session, by="ada")


def test_a_message_is_taken_back_before_anybody_has_it(session: AgentSession) -> None:
    assert intake.cancel(session, 1, by="ada").reason == "It was taken back by ada."
    assert messages(session) == [MessageState.CANCELLED]
    assert shown(session).state == SessionState.IDLE and session.queued_at is None


def test_a_message_that_an_agent_has_is_not_taken_back(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    with pytest.raises(InvalidRequest, match="Message 1 is delivered already"):
        intake.cancel(session, 1, by="ada")


def test_a_failed_message_is_discarded(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    AgentSession.objects.update(attempts=transitions.max_attempts())
    transitions.end(run, CRASH)
    assert intake.cancel(session, 1, by="ada").reason == "It was discarded by ada."


def test_there_is_no_such_message(session: AgentSession) -> None:
    with pytest.raises(InvalidRequest, match="no message 7"):
        intake.cancel(session, 7, by="ada")


def test_a_start_for_a_message_that_was_taken_back_is_closed(session: AgentSession, run: Run) -> None:
    intake.cancel(session, 1, by="ada")
    run.refresh_from_db()
    assert run.intent == Intent.PREEMPT


def test_when_a_try_is_due_and_no_slot_is_free_its_place_is_told(session: AgentSession, run: Run) -> None:
    transitions.end(run, CRASH)
    other = AgentSession.objects.create(group=session.group, profile=session.profile, queued_at=timezone.now())
    assert admission.admit() == [other.pk]
    AgentSession.objects.filter(pk=session.pk).update(retry_at=timezone.now())
    assert serializers.reason(shown(session)) == "1st of 1 in the queue: group at its limit of 1."


def test_a_message_that_was_taken_back_on_its_way_is_never_handed_over_again(session: AgentSession, run: Run) -> None:
    intake.cancel(session, 1, by="ada")
    tell(run, DELIVERED)
    transitions.end(run, CRASH)
    assert messages(session) == [MessageState.CANCELLED] and shown(session).queued_at is None


def test_a_late_journal_gives_back_nothing_that_was_taken_back(session: AgentSession, run: Run) -> None:
    intake.stop(session, by="ada")
    transitions.end(run, GONE)
    assert messages(session) == [MessageState.CANCELLED]
    tell(run, DELIVERED, ("exit", {"code": 1}))
    assert messages(session) == [MessageState.CANCELLED] and shown(session).queued_at is None


@pytest.mark.parametrize("answer", [IDLE, RESULT])
def test_a_message_that_was_taken_back_on_its_way_may_turn_out_to_be_answered(
    session: AgentSession, run: Run, answer: tuple[str, dict[str, Any]]
) -> None:
    intake.stop(session, by="ada")
    transitions.end(run, GONE)
    tell(run, DELIVERED, answer)
    assert messages(session) == [MessageState.ANSWERED]


def test_an_old_journal_does_not_bring_back_an_old_conversation(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    transitions.end(run, Observed(Phase.FINISHED, Cause.NODE_LOST))
    later = claim(session)
    tell(later, ("session", {"id": "new"}))
    tell(run, ("session", {"id": "old"}))
    assert shown(session).resume == "new"


def test_a_retried_message_says_nothing_of_its_failure(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    AgentSession.objects.update(attempts=transitions.max_attempts())
    transitions.end(run, CRASH)
    intake.retry(session, by="ada")
    message = session.messages.get()
    assert (message.state, message.reason, message.delivered_at) == (MessageState.QUEUED, "", None)


def test_a_turn_that_ends_while_the_run_closes_is_noted(session: AgentSession, run: Run) -> None:
    tell(run, DELIVERED)
    intake.close(session, by="ada")
    assert reconcile.wanted_state(Run.objects.for_decision().get(), None).waiting_since is None
    tell(run, IDLE)
    wanted = reconcile.wanted_state(Run.objects.for_decision().get(), None)
    assert wanted.state == RunState.ENDING and wanted.waiting_since and wanted.waiting_since <= timezone.now()
    tell(run, ("turn", {"state": "working"}))
    assert reconcile.wanted_state(Run.objects.for_decision().get(), None).waiting_since is None
