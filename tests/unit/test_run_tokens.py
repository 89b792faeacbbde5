"""API tokens: what they may do, until when, whom they are shown to, and what is noted of them."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from groups.choices import Scope
from groups.models import AgentGroup, ApiToken, AuditEntry, Membership
from sessions.api import token_auth
from sessions.models import AgentSession


def program(user: Any, **options: Any) -> Client:
    """A client with a token of these options."""
    return Client(headers={"Authorization": f"Bearer {ApiToken.issue(user, 'ci', **options)}"})


def send(client: Client, session: AgentSession) -> Any:
    """Post a message."""
    return client.post(f"/api/v1/sessions/{session.pk}/messages", {"text": "hi"}, content_type="application/json")


def test_a_token_to_read_reads(people: dict[str, Any], session: AgentSession) -> None:
    reader = program(people["member"], scope=Scope.READ)
    assert reader.get(f"/api/v1/sessions/{session.pk}").status_code == 200
    answer = send(reader, session)
    assert answer.status_code == 403 and answer["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"] == "This token has the scope read; this call needs the scope write."
    for method, path in [("post", "stop"), ("post", "close"), ("post", "retry"), ("delete", "messages/1")]:
        assert getattr(reader, method)(f"/api/v1/sessions/{session.pk}/{path}").status_code == 403
    assert session.messages.count() == 1


def test_a_token_to_write_may_no_more_than_its_person(people: dict[str, Any], session: AgentSession) -> None:
    assert send(program(people["member"]), session).status_code == 202
    assert send(program(people["viewer"]), session).status_code == 403
    assert send(program(people["outsider"]), session).status_code == 404


def test_a_token_of_one_group_reaches_no_other(people: dict[str, Any], session: AgentSession, profile: Any) -> None:
    other = AgentGroup.objects.create(slug="other")
    Membership.objects.create(group=other, user=people["member"], role="owner")
    for user in (people["member"], people["operator"]):
        bound = program(user, group=other)
        assert [one["slug"] for one in bound.get("/api/v1/groups").json()] == ["other"]
        assert bound.get(f"/api/v1/sessions/{session.pk}").status_code == 404
        assert send(bound, session).status_code == 404
        made = bound.post(
            "/api/v1/groups/other/sessions",
            {"profile": profile.slug, "message": "x"},
            content_type="application/json",
        )
        assert made.status_code == 201


def test_a_token_runs_out(people: dict[str, Any]) -> None:
    client = program(people["member"], days=1)
    assert client.get("/api/v1/groups").status_code == 200
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.get("/api/v1/groups").status_code == 401


def test_a_token_without_end_has_to_be_asked_for(people: dict[str, Any]) -> None:
    ApiToken.issue(people["member"], "usual")
    ApiToken.issue(people["member"], "for ever", days=0)
    usual, forever = (ApiToken.objects.get(name=name) for name in ("usual", "for ever"))
    assert usual.expires_at and timedelta(89) < usual.expires_at - timezone.now() < timedelta(91)
    assert forever.expires_at is None


def test_the_last_use_is_noted_once_a_minute(people: dict[str, Any], django_assert_num_queries: Any) -> None:
    token = ApiToken.issue(people["member"])
    first = ApiToken.authenticate(token)
    noted = ApiToken.objects.get().last_used_at
    assert first and noted
    with django_assert_num_queries(1):
        ApiToken.authenticate(token)
    assert ApiToken.objects.get().last_used_at == noted
    ApiToken.objects.update(last_used_at=noted - timedelta(minutes=2))
    ApiToken.authenticate(token)
    assert ApiToken.objects.get().last_used_at != noted - timedelta(minutes=2)


def test_a_stream_ends_with_its_token(people: dict[str, Any], session: AgentSession) -> None:
    token = ApiToken.issue(people["viewer"])
    may_see = token_auth.may_see(token, session.pk)
    assert may_see()
    people["viewer"].memberships.all().delete()
    assert not may_see()
    Membership.objects.create(group=session.group, user=people["viewer"], role="viewer")
    assert may_see()
    ApiToken.objects.all().delete()
    assert not may_see()


def test_what_a_token_does_is_noted_with_its_name(people: dict[str, Any], session: AgentSession) -> None:
    send(program(people["member"]), session)
    entry = AuditEntry.objects.get(action="message.send")
    assert (entry.actor, entry.by, entry.target, entry.group) == (
        people["member"],
        "member",
        str(session.pk),
        session.group,
    )
    assert entry.details == {"number": 2, "via": "token ci"}
    program(people["member"]).post(f"/api/v1/sessions/{session.pk}/stop")
    assert AuditEntry.objects.get(action="session.stop").details["via"] == "token ci"


def browser(user: Any) -> Client:
    """Somebody in the admin."""
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def test_people_make_their_own_and_see_it_once(people: dict[str, Any], group: AgentGroup) -> None:
    member = browser(people["member"])
    other = AgentGroup.objects.create(slug="other", name="Others")
    form = member.get(reverse("admin:groups_apitoken_add")).content.decode()
    assert "Harbour" in form and "Others" not in form
    wanted = {"name": "ci", "scope": "read", "group": str(group.pk), "days": "30"}
    answer = member.post(reverse("admin:groups_apitoken_add"), wanted)
    row = ApiToken.objects.get()
    token = answer.context["token"]
    assert answer.status_code == 200 and "no-store" in answer["Cache-Control"]
    assert token in answer.content.decode() and row.digest == ApiToken.hash(token)
    assert (row.user, row.scope, row.group) == (people["member"], "read", group)
    page = member.get(reverse("admin:groups_apitoken_change", args=[row.pk])).content.decode()
    assert token not in page and row.digest not in page
    assert token not in str(list(AuditEntry.objects.values())) and token not in str(dict(member.session))
    made = AuditEntry.objects.get(action="token.make")
    assert (made.by, made.details["scope"]) == ("member", "read")
    assert member.post(reverse("admin:groups_apitoken_add"), wanted | {"group": str(other.pk)}).status_code == 200
    assert ApiToken.objects.count() == 1


def test_people_revoke_their_own_alone(people: dict[str, Any]) -> None:
    ApiToken.issue(people["owner"], "laptop")
    row = ApiToken.objects.get()
    address = reverse("admin:groups_apitoken_delete", args=[row.pk])
    assert browser(people["member"]).post(address, {"post": "yes"}).status_code == 404
    assert browser(people["owner"]).post(address, {"post": "yes"}).status_code == 302
    assert not ApiToken.objects.exists()
    assert AuditEntry.objects.get(action="token.revoke").details == {"name": "laptop", "user": "owner"}


def test_the_command_makes_what_it_is_told_to(people: dict[str, Any], group: AgentGroup, capsys: Any) -> None:
    call_command("create_token", "member", "--name", "ci", "--scope", "read", "--days", "7", "--group", "harbour")
    row = ApiToken.objects.get()
    assert (row.scope, row.group, row.name) == ("read", group, "ci")
    assert row.expires_at and row.expires_at - timezone.now() < timedelta(days=8)
    assert AuditEntry.objects.get(action="token.make").by == "manage.py create_token"
    assert capsys.readouterr().out.strip() not in str(list(AuditEntry.objects.values()))
    with pytest.raises(CommandError, match="no group 'harbour'"):
        call_command("create_token", "outsider", "--group", "harbour")
    with pytest.raises(CommandError, match="--days is -1"):
        call_command("create_token", "member", "--days", "-1")
