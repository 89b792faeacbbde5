"""`manage.py sessions`: what a person in a terminal sees and does."""

import io
import json
import re
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from groups.models import AgentGroup, AgentProfile, AuditEntry
from sessions.choices import MessageState, RunState, SessionState
from sessions.courier_api import ingest
from sessions.events import event_log
from sessions.lifecycle import intake
from sessions.management.commands.sessions import person
from sessions.models import AgentSession, Message, Run
from testbed.waiting import wait_for
from tests.unit.things import run_of, say

IDLE = {"state": "idle"}


class Terminal(io.StringIO):
    """A standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def sessions(*words: str, out: io.StringIO | None = None) -> tuple[int, str, str]:
    """Run `manage.py sessions …`; return its exit status and what it printed on both outputs."""
    out, err = out or io.StringIO(), io.StringIO()
    try:
        call_command("sessions", *words, stdout=out, stderr=err)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def short(session: AgentSession) -> str:
    return str(session.pk)[:8]


def failed(session: AgentSession) -> None:
    """Let a session have failed, with its message."""
    run_of(session, ended=timedelta(minutes=3), removed=timedelta(minutes=3))
    Run.objects.update(verdict="agent_error", verdict_words="The agent ended with exit code 3.", last_lines="oh no")
    Message.objects.update(state=MessageState.FAILED, reason="The agent ended with exit code 3.")
    AgentSession.objects.update(state=SessionState.FAILED, queued_at=None, reason="The agent ended with exit code 3.")


def test_the_list_says_why_each_is_in_its_state(
    session: AgentSession, group: AgentGroup, profile: AgentProfile
) -> None:
    other = intake.open_session(group=group, profile=profile, text="Other", sender=None)
    run_of(session)
    _code, out, _ = sessions("list")
    head, *lines = out.splitlines()
    assert head.split() == ["ID", "GROUP", "PROFILE", "STATE", "AGE", "LAST", "REASON"]
    assert {line.split()[0] for line in lines} == {short(session), short(other)}
    line = next(line for line in lines if line.startswith(short(other)))
    assert line.split()[1:4] == ["harbour", "workbench", "Queued"]
    assert "1st of 1 in the queue: group at its limit of 1." in line


def test_the_list_narrows(session: AgentSession) -> None:
    assert short(session) in sessions("list", "--state", "queued", "--group", "harbour")[1]
    assert sessions("list", "--state", "failed")[1] == "No sessions.\n"
    with pytest.raises(CommandError, match="no group 'nobody'"):
        sessions("list", "--group", "nobody")


def test_a_long_list_says_what_is_missing(session: AgentSession, group: AgentGroup, profile: AgentProfile) -> None:
    intake.open_session(group=group, profile=profile, text="Other", sender=None)
    out = sessions("list", "--limit", "1")[1]
    assert out.splitlines()[-1] == "… and 1 more: --limit 0 lists all."
    assert len(sessions("list", "--limit", "0")[1].splitlines()) == 3


def test_the_list_for_programs(session: AgentSession) -> None:
    told = json.loads(sessions("list", "--json")[1])
    assert [(each["id"], each["group"], each["state"]) for each in told] == [(str(session.pk), "harbour", "queued")]


def test_a_failed_session_is_shown_with_its_verdict_and_last_lines(session: AgentSession) -> None:
    failed(session)
    out = sessions("show", short(session))[1]
    assert str(session.pk) in out
    assert "Agent error" in out and "The agent ended with exit code 3." in out and "│ oh no" in out
    assert "1  Failed" in out and "member" in out and "Hello" in out
    told = json.loads(sessions("show", short(session), "--json")[1])
    assert told["runs"][0]["verdict"] == "agent_error"
    assert (told["messages"][0]["state"], told["messages"][0]["text"]) == ("failed", "Hello")


@pytest.mark.parametrize("start", ["zzz", "", "-", "'; DROP TABLE", "0" * 33])
def test_what_is_no_id_is_refused(db: None, start: str) -> None:
    with pytest.raises(CommandError, match="no beginning of an id"):
        sessions("show", "--", start)


def test_an_unknown_id_is_refused(session: AgentSession) -> None:
    with pytest.raises(CommandError, match="There is no session"):
        sessions("show", str(uuid.uuid4()))


def test_an_ambiguous_id_is_refused_and_the_full_one_is_not(
    session: AgentSession, group: AgentGroup, profile: AgentProfile
) -> None:
    ids = [uuid.UUID("abcd0000000040008000000000000001"), uuid.UUID("abcd0000000040008000000000000002")]
    for pk in ids:
        AgentSession.objects.create(pk=pk, group=group, profile=profile)
    with pytest.raises(CommandError, match=r"Several sessions begin with abcd: .*0001, .*0002"):
        sessions("show", "abcd")
    assert sessions("show", str(ids[0]))[0] == 0
    assert sessions("show", "ABCD0000-0000-4000-8000-000000000002")[0] == 0


def test_following_tells_all_that_was_said_page_by_page(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "PAGE_EVENTS", 7)
    say(session, 100, timedelta())
    failed(session)
    code, out, err = sessions("follow", short(session), "--until-idle")
    assert (code, err) == (1, "Failed: The agent ended with exit code 3.\n")
    assert "    member │ Hello\n" in out
    assert [int(number) for number in re.findall(r"line (\d+)", out)] == list(range(100))


def test_following_says_what_is_gone(session: AgentSession) -> None:
    failed(session)
    AgentSession.objects.update(pruned_seq=20)
    assert (
        "Events 1 to 20 were removed after their retention.\n" in sessions("follow", short(session), "--until-idle")[2]
    )


def test_following_from_now_on_tells_only_what_comes(session: AgentSession) -> None:
    failed(session)
    assert sessions("follow", short(session), "--new", "--until-idle")[1] == ""


@pytest.mark.django_db(transaction=True)
def test_following_is_live_and_ends_when_the_agent_has_nothing_to_do(session: AgentSession) -> None:
    run = run_of(session)
    out = io.StringIO()

    def follow() -> None:
        sessions("follow", short(session), "--until-idle", out=out)
        connection.close()

    reader = threading.Thread(target=follow)
    reader.start()
    wait_for(lambda: "Hello" in out.getvalue())
    said = [{"n": n, "kind": "stdout", "at": 1, "text": f"line {n}\n"} for n in range(2, 52)]
    ingest.ingest(run.pk, ingest.parse([{"n": 1, "kind": "delivered", "at": 1, "data": {"number": 1}}, *said]))
    wait_for(lambda: "line 51" in out.getvalue())
    assert reader.is_alive()  # the message is not answered
    last = [{"n": 52, "kind": "result", "at": 1, "text": "Done."}, {"n": 53, "kind": "turn", "at": 1, "data": IDLE}]
    ingest.ingest(run.pk, ingest.parse(last))
    reader.join(10)
    assert not reader.is_alive()
    assert out.getvalue().endswith("     agent │ Done.\n")


def test_a_message_is_sent_and_told_by_number(session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sessions("send", short(session), "And then?")[1] == f"{short(session)}  message 2 is accepted\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("from\na file\n"))
    sessions("send", short(session), "-")
    assert [m.text for m in session.messages.all()] == ["Hello", "And then?", "from\na file\n"]


def test_a_message_may_be_of_any_user(session: AgentSession, people: dict[str, Any]) -> None:
    sessions("send", short(session), "And then?", "--as", "owner")
    assert [m.sender for m in session.messages.all()] == [people["member"], people["owner"]]
    with pytest.raises(CommandError, match="no active user 'nobody'"):
        sessions("send", short(session), "And then?", "--as", "nobody")


def test_what_only_waits_is_stopped_too(session: AgentSession) -> None:
    assert sessions("stop", short(session))[1] == f"{short(session)}  does not wait any more\n"
    assert session.messages.get().state == MessageState.CANCELLED


def test_an_empty_message_is_refused(session: AgentSession) -> None:
    with pytest.raises(CommandError, match="Write a message first"):
        sessions("send", short(session), "  ")


def test_several_are_stopped_and_each_is_told_of(
    session: AgentSession, group: AgentGroup, profile: AgentProfile
) -> None:
    quiet = AgentSession.objects.create(group=group, profile=profile)
    run = run_of(session)
    code, out, err = sessions("stop", short(session), short(quiet), "zzz")
    assert code == 1
    assert out.splitlines() == [f"{short(session)}  is being stopped", f"{short(quiet)}  had nothing to stop"]
    assert err.startswith("zzz  'zzz' is no beginning of an id.")
    run.refresh_from_db()
    assert (run.state, run.intent_by) == (RunState.ENDING, person())
    assert AuditEntry.objects.get(action="session.stop").by == person()


def test_a_run_is_closed(session: AgentSession) -> None:
    run = run_of(session)
    assert sessions("close", short(session))[:2] == (0, f"{short(session)}  closes when its turn ends\n")
    run.refresh_from_db()
    assert run.intent == "close"


def test_what_failed_is_tried_again(session: AgentSession, group: AgentGroup, profile: AgentProfile) -> None:
    quiet = AgentSession.objects.create(group=group, profile=profile)
    failed(session)
    code, out, err = sessions("retry", short(session), short(quiet))
    assert (code, out) == (1, f"{short(session)}  is tried again\n")
    assert "nothing to retry" in err
    session.refresh_from_db()
    assert session.state == SessionState.QUEUED


def test_a_message_is_taken_back(session: AgentSession) -> None:
    assert sessions("cancel", short(session), "1")[1] == f"{short(session)}  It was taken back by {person()}.\n"
    assert session.messages.get().state == MessageState.CANCELLED
    with pytest.raises(CommandError, match="already"):
        sessions("cancel", short(session), "1")


def test_colours_are_for_terminals_and_can_be_switched_off(
    session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for words in (["list"], ["show", short(session)]):
        assert "\x1b[" in sessions(*words, out=Terminal())[1]
        assert "\x1b[" not in sessions(*words)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in sessions("list", out=Terminal())[1]


def test_a_reason_is_cut_at_a_terminals_width_and_whole_for_programs(
    session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(session)
    AgentSession.objects.update(reason="long " * 100)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    assert max(map(len, sessions("list", out=Terminal())[1].splitlines())) == 80
    assert max(map(len, sessions("list")[1].splitlines())) > 500


def test_ages_are_of_the_beginning_and_the_last_news(session: AgentSession) -> None:
    now = timezone.now()
    AgentSession.objects.update(created_at=now - timedelta(days=2, hours=1), updated_at=now - timedelta(minutes=7))
    line = sessions("list")[1].splitlines()[1]
    assert "  2 d  7 min  " in line
