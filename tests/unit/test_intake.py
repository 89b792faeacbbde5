"""Messages come in: accepted means stored."""

from typing import Any

import pytest

from groups.models import AgentGroup, AgentProfile
from sessions.choices import Intent, MessageState, RunState, SessionState
from sessions.lifecycle import intake, transitions
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession, Event, Message, WorkItem


def test_a_first_message_is_stored_queued_shown_and_acted_on(session: AgentSession, people: dict[str, Any]) -> None:
    message = session.messages.get()
    assert (message.number, message.text, message.state, message.sender) == (1, "Hello", "queued", people["member"])
    assert session.state == SessionState.QUEUED and session.queued_at
    event = session.events.get()
    assert (event.seq, event.kind, event.text, event.data) == (1, "message", "Hello", {"number": 1, "sender": "member"})
    assert [item.key for item in WorkItem.objects.all()] == [f"sessions.tasks.reconcile {session.pk}"]


def test_a_payload_holds_ids_and_no_text(session: AgentSession) -> None:
    assert "Hello" not in str(list(WorkItem.objects.values()))


@pytest.mark.parametrize(("text", "words"), [("  ", "Write a message"), ("x" * 300_000, "at most 256 KiB")])
def test_bad_text_is_refused_and_leaves_nothing(session: AgentSession, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        intake.post_message(session, text, sender=None)
    assert refused.value.field == "text"
    assert session.messages.count() == 1 and Event.objects.count() == 1


def test_a_refused_first_message_makes_no_session(group: AgentGroup, profile: AgentProfile) -> None:
    with pytest.raises(InvalidRequest):
        intake.open_session(group=group, profile=profile, text="", sender=None)
    assert not AgentSession.objects.exists()


def test_a_profile_that_is_off_is_refused(group: AgentGroup, profile: AgentProfile) -> None:
    profile.active = False
    with pytest.raises(InvalidRequest, match="switched off"):
        intake.open_session(group=group, profile=profile, text="Hi", sender=None)


def test_what_a_database_cannot_hold_is_replaced(session: AgentSession) -> None:
    message = intake.post_message(session, "a\0b\ud800c", sender=None)
    assert Message.objects.get(pk=message.pk).text == "a\ufffdb\ufffdc"


def test_the_same_key_makes_one_message(session: AgentSession) -> None:
    first = intake.post_message(session, "Again", sender=None, key="k1")
    second = intake.post_message(session, "Again", sender=None, key="k1")
    assert first.pk == second.pk and session.messages.count() == 2


def test_messages_are_numbered_within_the_session(session: AgentSession) -> None:
    numbers = [intake.post_message(session, f"m{i}", sender=None).number for i in range(3)]
    assert numbers == [2, 3, 4]


def test_a_follow_up_to_a_living_run_waits_for_no_slot(session: AgentSession) -> None:
    transitions.claim(session.pk, "local")
    intake.post_message(session, "more", sender=None)
    session.refresh_from_db()
    assert session.queued_at is None and session.state == SessionState.STARTING


def test_stop_before_a_run_cancels_what_waits(session: AgentSession) -> None:
    intake.stop(session, by="ada")
    session.refresh_from_db()
    assert session.messages.get().state == MessageState.CANCELLED
    assert (session.state, session.queued_at) == (SessionState.IDLE, None)
    assert session.events.last().text == "Stopped by ada: 1 waiting message(s) cancelled."


def test_stop_overrides_a_close_but_not_the_other_way_round(session: AgentSession) -> None:
    run = transitions.claim(session.pk, "local")
    assert run
    intake.close(session, by="ada")
    intake.stop(session, by="bob")
    intake.close(session, by="ada")
    run.refresh_from_db()
    assert (run.state, run.intent, run.intent_by) == (RunState.ENDING, Intent.STOP, "bob")


def test_stop_and_close_of_an_idle_session_do_nothing(session: AgentSession) -> None:
    intake.stop(session, by="ada")
    before = session.events.count()
    intake.stop(session, by="ada")
    intake.close(session, by="ada")
    assert session.events.count() == before
