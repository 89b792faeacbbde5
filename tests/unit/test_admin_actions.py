"""What operators do in the lists: to many sessions, messages and groups at once; and what is kept of it."""

import csv
import io
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from groups import audit
from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, AuditEntry, Limits, Membership
from sessions.lifecycle import intake, transitions
from sessions.models import AgentSession, Event, Message
from tests.unit.test_admin import address, client, person, queries

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    return client(person("chief", is_superuser=True))


def more(group: AgentGroup, profile: AgentProfile, count: int) -> list[AgentSession]:
    sender = User.objects.first()
    return [
        intake.open_session(group=group, profile=profile, text="Hello", sender=sender, title=f"No {number}")
        for number in range(count)
    ]


def act(who: Client, model: Any, action: str, rows: Any, query: str = "", **fields: str) -> Any:
    """Choose rows in a list and do something to them."""
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    return who.post(address(model, "changelist") + query, chosen | fields)


def told(answer: Any) -> list[str]:
    return [str(message) for message in get_messages(answer.wsgi_request)]


def state(session: AgentSession) -> str:
    return AgentSession.objects.get(pk=session.pk).state


# --- sessions -------------------------------------------------------------------------------------------------------


def test_stop_asks_first_and_counts_what_happened(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    first, second, idle = more(group, profile, 3)
    intake.stop(idle, by="ada")
    question = act(operator, AgentSession, "stop_sessions", [first, second, idle])

    assert "Stop these sessions?" in question.content.decode()
    assert state(first) == "queued"
    answer = act(operator, AgentSession, "stop_sessions", [first, second, idle], confirmed="yes")
    assert told(answer) == ["2 stopped, 1 had nothing to stop."]
    assert [state(each) for each in (first, second)] == ["idle", "idle"]
    assert AuditEntry.objects.filter(action="session.stop", by="chief").count() == 2


def test_close_lets_those_that_run_finish(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    running, waiting = more(group, profile, 2)
    transitions.claim(running.pk, "local")
    answer = act(operator, AgentSession, "close_sessions", [running, waiting])

    assert told(answer) == ["1 closed, 1 had nothing to close."]
    assert running.runs.get().intent == "close"
    assert waiting.messages.get().state == "queued"


def test_retry_queues_what_failed(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    failed, idle = more(group, profile, 2)
    intake.stop(idle, by="ada")
    failed.messages.update(state="failed")
    AgentSession.objects.filter(pk=failed.pk).update(state="failed", queued_at=None)
    answer = act(operator, AgentSession, "retry_sessions", [failed, idle])

    assert told(answer) == ["1 queued again, 1 had nothing to retry."]
    assert failed.messages.get().state == "queued"


def test_each_acts_only_where_they_may_write(group: AgentGroup, profile: AgentProfile, people: dict[str, Any]) -> None:
    other = AgentGroup.objects.create(slug="quay", name="Quay")
    hidden = AgentGroup.objects.create(slug="hidden", name="Hidden")
    (mine,), (read,), (unseen,) = (more(each, profile, 1) for each in (group, other, hidden))
    user = person("mixed", group)
    Membership.objects.create(group=other, user=user, role=Role.VIEWER)
    answer = act(client(user), AgentSession, "stop_sessions", [mine, read, unseen], confirmed="yes")

    assert told(answer) == ["1 stopped, 1 not allowed."]
    assert [state(each) for each in (mine, read, unseen)] == ["idle", "queued", "queued"]


def test_more_than_an_action_takes_is_refused(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groups.admin.toolkit.bulk_actions.MOST", 1)
    rows = more(group, profile, 2)
    answer = act(operator, AgentSession, "stop_sessions", rows, confirmed="yes")

    assert "more than 1 rows" in told(answer)[0]
    assert [state(each) for each in rows] == ["queued", "queued"]


# --- the list of sessions -------------------------------------------------------------------------------------------


def test_the_list_tells_place_last_event_and_age(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    running, waiting, _ = more(group, profile, 3)
    transitions.claim(running.pk, "local")
    page = operator.get(address(AgentSession, "changelist"))
    rows = {row.pk: row for row in page.context["cl"].result_list}

    assert "1st of 2 in the queue: group at its limit of 1." in str(rows[waiting.pk].reason_cell)
    assert "<b>Message</b> Hello" in str(rows[waiting.pk].last_event)
    assert "0 s" in page.content.decode()


def test_what_a_session_said_is_escaped(operator: Client, session: AgentSession) -> None:
    intake.post_message(session, "<script>alert(1)</script>", sender=None)

    assert "<script>alert(1)" not in operator.get(address(AgentSession, "changelist")).content.decode()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?state__exact=idle", ["No 0"]),
        ("?state__exact=idle&state__exact=queued", ["No 0", "No 1", "No 2"]),
        ("?active=hour", ["No 1", "No 2"]),
        ("?active=before", ["No 0"]),
        ("?q=no+2", ["No 2"]),
        ("?q=harbour", ["No 0", "No 1", "No 2"]),
        ("?q=workbench+1", ["No 1"]),
    ],
)
def test_the_list_is_filtered_and_searched(
    query: str, found: list[str], operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    old, *_ = more(group, profile, 3)
    AgentSession.objects.filter(pk=old.pk).update(state="idle", updated_at="2026-01-01T00:00Z")
    page = operator.get(address(AgentSession, "changelist") + query)

    assert sorted(row.title for row in page.context["cl"].result_list) == found


def test_the_list_counts_once_and_joins_no_events(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    more(group, profile, 3)
    sql = queries(operator, address(AgentSession, "changelist"))

    assert len([query for query in sql if "COUNT(" in query]) == 1
    assert len([query for query in sql if f'FROM "{Event._meta.db_table}"' in query]) == 1


# --- messages -------------------------------------------------------------------------------------------------------


def test_messages_that_wait_or_failed_are_cancelled(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    for session, wanted in zip(more(group, profile, 3), ("queued", "failed", "answered"), strict=True):
        session.messages.update(state=wanted)
    rows = Message.objects.all()

    assert "Cancel these messages?" in act(operator, Message, "take_back_messages", rows).content.decode()
    answer = act(operator, Message, "take_back_messages", rows, confirmed="yes")
    assert told(answer) == ["2 cancelled, 1 left as they are."]


def test_messages_that_failed_are_queued_again(
    operator: Client, group: AgentGroup, profile: AgentProfile, people: dict[str, Any]
) -> None:
    session, other = more(group, profile, 2)
    intake.post_message(session, "More", sender=None)
    session.messages.update(state="failed")
    AgentSession.objects.filter(pk=session.pk).update(state="failed", queued_at=None)
    answer = act(operator, Message, "retry_messages", Message.objects.all())

    assert told(answer) == ["1 session(s) queued again."]
    assert set(session.messages.values_list("state", flat=True)) == {"queued"}
    assert other.messages.get().attempts == 0


# --- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "hold", "word"), [("pause", "paused", "Pause"), ("drain", "draining", "Drain")])
def test_a_group_is_held_with_a_reason_and_opened_again(
    action: str, hold: str, word: str, operator: Client, group: AgentGroup
) -> None:
    assert f"{word} groups?" in act(operator, AgentGroup, action, [group]).content.decode()
    assert "required" in act(operator, AgentGroup, action, [group], confirmed="yes", reason="").content.decode()
    answer = act(operator, AgentGroup, action, [group], confirmed="yes", reason="Upgrade until noon")

    group.refresh_from_db()
    assert (group.hold, group.hold_reason) == (hold, "Upgrade until noon")
    assert told(answer) == [f"1 {hold}."]
    act(operator, AgentGroup, "open", [group])
    group.refresh_from_db()
    assert (group.hold, group.hold_reason) == ("", "")
    assert [row.history_user.username for row in group.history.all()[:2]] == ["chief", "chief"]


def test_a_group_is_deleted_kept_and_restored(operator: Client, group: AgentGroup, session: AgentSession) -> None:
    words = f"Everything is kept for {settings.GROUP_GRACE_DAYS} days"
    assert words in act(operator, AgentGroup, "delete_groups", [group]).content.decode()
    act(operator, AgentGroup, "delete_groups", [group], confirmed="yes")
    group.refresh_from_db()
    assert group.deleted_at

    def listed(query: str = "") -> list[str]:
        rows = operator.get(address(AgentGroup, "changelist") + query).context["cl"].result_list
        return [row.slug for row in rows]

    assert (listed(), listed("?presence=deleted"), listed("?presence=all")) == ([], ["harbour"], ["harbour"])
    assert list(operator.get(address(AgentSession, "add")).context["adminform"].form.fields["group"].queryset) == []
    answer = act(operator, AgentGroup, "restore_groups", [group], query="?presence=deleted")
    assert told(answer) == ["1 restored."]
    assert listed() == ["harbour"]
    assert list(AuditEntry.objects.values_list("action", "by")[:2]) == [
        ("group.restore", "chief"),
        ("group.delete", "chief"),
    ]


def test_no_group_is_deleted_at_once(operator: Client, group: AgentGroup) -> None:
    assert operator.post(address(AgentGroup, "delete", group.pk), {"post": "yes"}).status_code == 403
    act(operator, AgentGroup, "delete_selected", [group], post="yes")

    assert AgentGroup.objects.filter(pk=group.pk, deleted_at=None).exists()


@pytest.mark.parametrize("action", ["pause", "drain", "open", "delete_groups", "restore_groups"])
def test_a_member_of_staff_without_permission_does_nothing_to_a_group(action: str, group: AgentGroup) -> None:
    act(client(person("owner", group, Role.OWNER)), AgentGroup, action, [group], confirmed="yes", reason="x")

    group.refresh_from_db()
    assert (group.hold, group.deleted_at) == ("", None)


# --- limits, history, audit -----------------------------------------------------------------------------------------


def test_limits_are_one_page_that_names_the_settings(operator: Client, settings: Any) -> None:
    settings.MAX_RUNS = 7
    answer = operator.get(address(Limits, "changelist"), follow=True)

    assert answer.redirect_chain == [(address(Limits, "change", 1), 302)]
    assert "Empty: 7, as the setting MAX_RUNS says." in answer.content.decode()
    assert not Limits.objects.exists()  # looking makes no row


def test_limits_are_changed_and_everything_is_paused(operator: Client) -> None:
    wanted = {"hold": "paused", "hold_reason": "Upgrade", "max_runs": "3", "max_runs_per_group": ""}
    operator.post(address(Limits, "change", 1), wanted)
    operator.post(address(Limits, "change", 1), wanted | {"hold": "", "hold_reason": ""})

    limits = Limits.current()
    assert (limits.runs, limits.hold) == (3, "")
    assert [row.hold for row in limits.history.all()] == ["", "paused"]
    assert "chief" in operator.get(address(Limits, "history", 1)).content.decode()


def test_limits_are_for_operators(group: AgentGroup) -> None:
    owner = client(person("owner", group, Role.OWNER))

    assert owner.get(address(Limits, "change", 1)).status_code == 403
    assert owner.post(address(Limits, "change", 1), {"hold": "paused"}).status_code == 403
    assert not Limits.objects.exists()


def test_history_tells_who_changed_what(operator: Client, group: AgentGroup) -> None:
    act(operator, AgentGroup, "pause", [group], confirmed="yes", reason="Upgrade until noon")
    page = operator.get(address(AgentGroup, "history", group.pk)).content.decode()

    assert "chief" in page
    assert "Upgrade until noon" in page


@pytest.mark.parametrize("model", [AgentGroup, Membership, AgentProfile])
def test_history_is_for_those_who_see_the_row(model: Any, session: AgentSession, people: dict[str, Any]) -> None:
    outsider = people["outsider"]
    outsider.is_staff = True
    outsider.save()
    row = model.objects.first()

    assert client(outsider).get(address(model, "history", row.pk)).status_code in (403, 404)
    assert client(people["operator"]).get(address(model, "history", row.pk)).status_code == 200
    version = address(model, "history", row.pk) + f"{row.history.first().pk}/"
    assert client(people["operator"]).post(version, {}).status_code == 404


def test_the_audit_log_is_for_operators_and_never_changed(operator: Client, group: AgentGroup) -> None:
    audit.record("session.stop", actor=User.objects.get(username="chief"), target="x", group=group)
    entry = AuditEntry.objects.get(action="session.stop")
    clerk = person("clerk")
    pages = [address(AuditEntry, "changelist"), address(AuditEntry, "change", entry.pk)]

    assert [client(clerk).get(page).status_code for page in pages] == [403, 403]
    clerk.user_permissions.add(Permission.objects.get(codename="view_auditentry"))
    assert [client(clerk).get(page).status_code for page in pages] == [200, 200]
    assert operator.post(address(AuditEntry, "delete", entry.pk), {"post": "yes"}).status_code == 403
    assert operator.post(address(AuditEntry, "change", entry.pk), {"by": "x"}).status_code == 405


def test_the_audit_log_is_filtered(operator: Client) -> None:
    for action, by in [("session.stop", "ada"), ("session.stop", "bob"), ("group.delete", "ada")]:
        audit.record(action, by=by)

    def found(query: str) -> int:
        return len(operator.get(address(AuditEntry, "changelist") + query).context["cl"].result_list)

    today = timezone.now().date()
    everything = AuditEntry.objects.count()
    assert found("?action=session.stop") == 2
    assert found("?by__icontains=ada") == 2
    assert found("?action=group.delete&by__icontains=bob") == 0
    assert found(f"?at_from={today}&at_to={today}") == everything
    assert found("?at_to=2000-01-02") == 0
    assert found("?at_from=nonsense") == everything


def test_the_audit_log_is_taken_along_as_csv(operator: Client, group: AgentGroup) -> None:
    audit.record("session.stop", by="=cmd()", target="t", group=group, run=3)
    answer = act(operator, AuditEntry, "export", AuditEntry.objects.filter(action="session.stop"))
    rows = list(csv.DictReader(io.StringIO(b"".join(answer).decode())))

    assert answer["Content-Type"].startswith("text/csv")
    assert [(row["by"], row["action"], row["group"], row["details"]) for row in rows] == [
        ("'=cmd()", "session.stop", "harbour", '{"run": 3}')
    ]


def test_the_menu_shows_what_one_may_open(operator: Client, group: AgentGroup) -> None:
    def menu(who: Client) -> str:
        return who.get(address(AgentSession, "changelist")).content.decode()

    assert "Audit log" in menu(operator) and "Limits" in menu(operator)
    member = menu(client(person("member", group)))
    assert "Audit log" not in member and "Limits" not in member and "Users" not in member
