"""Operators change limits and hold starts while Berth runs."""

from datetime import timedelta

import pytest
from django.core.cache import cache
from django.utils import timezone

from groups.choices import Hold
from groups.models import AgentGroup, AgentProfile, Limits
from sessions.choices import Intent, RunState
from sessions.lifecycle import intake, transitions
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession, Run
from sessions.scheduling import admission
from sessions.scheduling.plan import Position
from sessions.stream import serializers


def another(session: AgentSession) -> AgentSession:
    return intake.open_session(group=session.group, profile=session.profile, text="Other", sender=None)


def test_a_paused_group_keeps_its_queue_and_says_why(session: AgentSession) -> None:
    AgentGroup.objects.update(hold=Hold.PAUSED, hold_reason="the disk is being changed")
    assert admission.admit() == []
    session.refresh_from_db()
    words = "1st of 1 in the queue: the group is paused by an operator (the disk is being changed)."
    assert serializers.reason(session) == words
    AgentGroup.objects.update(hold=Hold.NONE)
    assert admission.admit() == [session.pk]


def test_a_paused_group_s_runs_go_on(session: AgentSession) -> None:
    transitions.claim(session.pk, "local")
    AgentGroup.objects.update(hold=Hold.PAUSED)
    admission.drain()
    assert Run.objects.get().intent == Intent.NONE


def test_a_group_that_is_drained_closes_its_runs(session: AgentSession) -> None:
    transitions.claim(session.pk, "local")
    AgentGroup.objects.update(hold=Hold.DRAINING)
    admission.drain()
    assert Run.objects.get().intent == Intent.CLOSE


def test_everything_can_be_paused_and_drained(session: AgentSession) -> None:
    Limits.objects.create(hold=Hold.PAUSED)
    assert admission.admit() == []
    Limits.objects.update(hold=Hold.NONE)
    assert admission.admit() == [session.pk]
    Limits.objects.update(hold=Hold.DRAINING)
    admission.drain()
    assert Run.objects.get().intent == Intent.CLOSE


def test_a_limit_takes_effect_at_once_and_closes_nobody_who_works(session: AgentSession) -> None:
    other = another(session)
    assert admission.admit() == [session.pk]
    Limits.objects.create(max_runs_per_group=2)
    assert admission.admit() == [other.pk]
    Run.objects.update(state=RunState.WORKING)
    Limits.objects.update(max_runs=1, max_runs_per_group=1)
    another(session)
    assert admission.admit() == []
    assert not Run.objects.exclude(intent=Intent.NONE).exists()


def test_a_run_with_a_message_on_its_way_does_not_give_way(session: AgentSession) -> None:
    run = transitions.claim(session.pk, "local")
    assert run  # its message is still queued
    Run.objects.update(state=RunState.WAITING, waiting_since=timezone.now())
    another(session)
    admission.admit()
    assert Run.objects.get(pk=run.pk).intent == Intent.NONE


def test_a_deleted_group_takes_no_messages(session: AgentSession) -> None:
    AgentGroup.objects.update(deleted_at=timezone.now())
    session.refresh_from_db()
    with pytest.raises(InvalidRequest, match="was deleted"):
        intake.post_message(AgentSession.objects.get(), "Hello?", sender=None)
    assert admission.admit() == []


def test_the_wait_is_guessed_from_the_last_runs(session: AgentSession, profile: AgentProfile) -> None:
    now = timezone.now()
    cache.clear()
    for number in range(admission.ENOUGH):
        Run.objects.create(
            session=session,
            number=number + 10,
            runtime="local",
            state=RunState.ENDED,
            verdict="completed",
            claimed_at=now - timedelta(seconds=240),
            ended_at=now,
        )
    guess = admission.estimated_wait(Position(3, 7, "", ahead=3, slots=2, ages=(0.0, 120.0)))
    overdue = admission.estimated_wait(Position(1, 7, "", ahead=1, slots=2, ages=(2400.0, 250.0)))
    cache.clear()
    assert guess == timedelta(seconds=360) and overdue is None
    assert serializers.duration_words(guess) == "6 min"


def test_nobody_is_promised_seconds_behind_a_run_that_is_ending(session: AgentSession, profile: AgentProfile) -> None:
    """The last runs were short; the one that holds the slot does not end, though it was asked to."""
    now = timezone.now()
    cache.set("berth.typical_seconds", 8.0, 15)
    other = AgentSession.objects.create(group=session.group, profile=profile)
    Run.objects.create(session=other, number=1, runtime="local", state=RunState.ENDING, intent="close", claimed_at=now)
    assert "About" not in serializers.reason(session)
    Run.objects.update(state=RunState.WORKING, intent="", claimed_at=now - timedelta(minutes=40))
    assert "About" not in serializers.reason(session)
    Run.objects.update(claimed_at=now)
    assert "About 10 s" in serializers.reason(session)


def test_too_few_runs_tell_nothing(session: AgentSession) -> None:
    cache.clear()
    assert admission.estimated_wait(Position(3, 7, "", ahead=3, slots=2, ages=(1.0, 1.0))) is None
    cache.clear()


@pytest.mark.parametrize(("seconds", "words"), [(3, "10 s"), (44, "40 s"), (100, "2 min"), (6000, "2 h")])
def test_a_wait_in_words(seconds: int, words: str) -> None:
    assert serializers.duration_words(timedelta(seconds=seconds)) == words
