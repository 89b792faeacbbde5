"""Runs are claimed, asked to end, and ended; messages and sessions follow."""

from typing import Any

import pytest

from groups.models import AgentGroup, AgentProfile
from runtimes.base import Cause, Observed, PermanentFault, Phase
from sessions.choices import Intent, MessageState, RunState, SessionState
from sessions.courier_api import ingest
from sessions.lifecycle import intake, transitions
from sessions.models import AgentSession, Run
from sessions.scheduling import admission
from sessions.stream import serializers


@pytest.fixture
def run(session: AgentSession) -> Run:
    found = transitions.claim(session.pk, "local")
    assert found
    return found


def deliver(run: Run, number: int = 1, n: int = 1) -> None:
    ingest.ingest(run.pk, ingest.parse([{"n": n, "kind": "delivered", "at": 1, "data": {"number": number}}]))


def finished(code: int = 0, cause: Cause | None = None) -> Observed:
    return Observed(Phase.FINISHED, cause, exit_code=code)


def open_another(group: AgentGroup, profile: AgentProfile) -> AgentSession:
    return intake.open_session(group=group, profile=profile, text="Other", sender=None)


def test_a_session_has_one_run_at_a_time(session: AgentSession, run: Run) -> None:
    assert run.number == 1
    assert transitions.claim(session.pk, "local") is None


def test_a_group_at_its_limit_waits_and_says_so(
    session: AgentSession, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    others = [open_another(group, profile) for _ in range(2)]
    assert admission.admit() == [session.pk]
    for place, other in enumerate(others, 1):
        other.refresh_from_db()
        words = f"{serializers.ordinal(place)} of 2 in the queue: group at its limit of 1."
        assert serializers.reason(other) == words


def test_a_freed_slot_goes_to_the_next(session: AgentSession, group: AgentGroup, profile: AgentProfile) -> None:
    other = open_another(group, profile)
    admission.admit()
    deliver(session.runs.get())
    transitions.end(session.runs.get(), finished())
    assert admission.admit() == [other.pk]


def test_an_idle_run_gives_way_to_who_waits(
    session: AgentSession, run: Run, group: AgentGroup, profile: AgentProfile
) -> None:
    deliver(run)
    ingest.ingest(run.pk, ingest.parse([{"n": 2, "kind": "turn", "at": 2, "data": {"state": "idle"}}]))
    open_another(group, profile)
    assert admission.admit() == []
    run.refresh_from_db()
    assert (run.state, run.intent) == (RunState.ENDING, Intent.PREEMPT)


def test_a_good_end_answers_what_was_delivered(session: AgentSession, run: Run) -> None:
    deliver(run)
    assert transitions.end(run, finished())
    run.refresh_from_db(), session.refresh_from_db()
    assert (run.state, run.verdict, run.retry_safe) == (RunState.ENDED, Cause.COMPLETED, True)
    assert session.messages.get().state == MessageState.ANSWERED
    assert session.state == SessionState.IDLE


def test_a_bad_end_is_told_in_words(session: AgentSession, run: Run) -> None:
    AgentSession.objects.update(attempts=transitions.max_attempts())
    Run.objects.update(attempt=transitions.max_attempts())
    deliver(run)
    transitions.end(run, finished(3))
    session.refresh_from_db()
    assert session.state == SessionState.FAILED
    assert session.reason.startswith("Tried 6 times. The agent ended with exit code 3.")
    assert session.messages.get().state == MessageState.FAILED
    assert session.events.last().data == {"state": "ended", "verdict": "agent_error", "exit_code": 3}


def test_a_run_ends_once(run: Run) -> None:
    deliver(run)
    assert transitions.end(run, finished())
    assert not transitions.end(run, finished(9))
    run.refresh_from_db()
    assert run.verdict == Cause.COMPLETED


def test_a_message_that_came_too_late_gets_the_next_run(session: AgentSession, run: Run) -> None:
    deliver(run)
    transitions.request_end(run.pk, Intent.IDLE)
    intake.post_message(session, "late", sender=None)
    transitions.end(run, finished())
    session.refresh_from_db()
    assert session.state == SessionState.QUEUED
    assert admission.admit() == [session.pk]


def test_after_a_failure_waiting_messages_keep_their_places_until_somebody_acts(
    session: AgentSession, run: Run
) -> None:
    transitions.end(run, Observed(Phase.ABSENT), PermanentFault(Cause.REJECTED, "not allowed"))
    session.refresh_from_db()
    assert session.state == SessionState.FAILED and "not allowed" in session.reason
    assert admission.admit() == []
    intake.post_message(session, "try again", sender=None)
    assert admission.admit() == [session.pk]
    assert [m.state for m in session.messages.all()] == [MessageState.QUEUED, MessageState.QUEUED]


def test_stop_cancels_what_waited_and_keeps_what_comes_later(session: AgentSession, run: Run) -> None:
    intake.stop(session, by="ada")
    intake.post_message(session, "after the stop", sender=None)
    run.refresh_from_db()
    transitions.end(run, Observed(Phase.ABSENT))
    assert [m.state for m in session.messages.all()] == [MessageState.CANCELLED, MessageState.QUEUED]
    session.refresh_from_db()
    assert session.state == SessionState.QUEUED


def test_the_next_run_resumes_the_conversation(session: AgentSession, run: Run) -> None:
    deliver(run)
    ingest.ingest(run.pk, ingest.parse([{"n": 2, "kind": "session", "at": 1, "data": {"id": "abc"}}]))
    transitions.end(run, finished())
    intake.post_message(session, "go on", sender=None)
    following = transitions.claim(session.pk, "local")
    assert following and (following.number, following.resume) == (2, "abc")


def test_idle_close_loses_against_a_turn_that_began(run: Run) -> None:
    deliver(run)
    ingest.ingest(run.pk, ingest.parse([{"n": 2, "kind": "turn", "at": 1, "data": {"state": "working"}}]))
    assert not transitions.request_end(run.pk, Intent.IDLE, only_idle=True)
    run.refresh_from_db()
    assert run.state == RunState.WORKING
