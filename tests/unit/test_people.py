"""Roles, operators of some groups, and what is noted when they change."""

import csv
import io
import uuid
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.urls import reverse
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from groups import audit
from groups.admin.toolkit.bases import FiltersOnly, SuperusersAdmin
from groups.choices import Role
from groups.models import AgentGroup, AgentProfile, AuditEntry, Limits, Membership, OperatorScope
from groups.models.audit import Unchangeable
from groups.permissions import Right, permission_filter
from sessions.models import AgentSession

APPS = ("groups", "sessions", "schedules", "reach", "isolation", "controlplane")


@pytest.fixture
def scoped(group: AgentGroup, django_user_model: Any) -> User:
    """Somebody who operates the group, and has all of Django's permissions."""
    user: User = django_user_model.objects.create_user("scoped", is_staff=True)
    user.user_permissions.set(Permission.objects.all())
    OperatorScope.objects.create(user=user, group=group)
    return user


@pytest.fixture
def other(db: None) -> AgentGroup:
    return AgentGroup.objects.create(slug="other", name="Quay of others")


def browser(user: User) -> Client:
    """Somebody in the admin."""
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client = Client()
    client.force_login(user)
    return client


def noted(action: str) -> list[dict[str, Any]]:
    """The details of these entries, oldest first."""
    return list(AuditEntry.objects.filter(action=action).order_by("pk").values_list("details", flat=True))


@pytest.mark.parametrize(
    ("person", "rights"),
    [
        ("outsider", []),
        ("viewer", [Right.SEE]),
        ("member", [Right.SEE, Right.WRITE]),
        ("owner", [Right.SEE, Right.WRITE, Right.OWN]),
        ("scoped", list(Right)),
        ("operator", list(Right)),
    ],
)
def test_who_has_which_right(
    people: dict[str, Any], scoped: User, group: AgentGroup, other: AgentGroup, person: str, rights: list[Right]
) -> None:
    user = (people | {"scoped": scoped})[person]
    found = [
        right
        for right in Right
        if AgentGroup.objects.filter(permission_filter(user, right, "pk"), pk=group.pk).exists()
    ]
    elsewhere = [r for r in Right if AgentGroup.objects.filter(permission_filter(user, r, "pk"), pk=other.pk).exists()]
    assert found == rights
    assert elsewhere == (list(Right) if person == "operator" else [])
    user.is_active = False
    assert not AgentGroup.objects.visible_to(user).exists()


def test_member_and_operator_at_once_see_each_row_once(scoped: User, session: AgentSession) -> None:
    Membership.objects.create(group=session.group, user=scoped, role=Role.OWNER)
    assert AgentSession.objects.visible_to(scoped).count() == 1
    assert AgentGroup.objects.writable_by(scoped).count() == 1


def test_an_owner_decides_who_is_in_the_group_and_nothing_else(
    people: dict[str, Any], group: AgentGroup, other: AgentGroup
) -> None:
    owner = browser(people["owner"])
    add = reverse("admin:groups_membership_add")
    assert owner.post(add, {"group": group.pk, "person": "outsider", "role": "viewer"}).status_code == 302
    new = Membership.objects.get(user=people["outsider"])
    owner.post(reverse("admin:groups_membership_change", args=[new.pk]), {"role": "member"})
    new.refresh_from_db()
    assert new.role == Role.MEMBER
    assert owner.post(add, {"group": other.pk, "person": "outsider", "role": "owner"}).status_code == 200
    assert "nobody with the username" in owner.post(
        add, {"group": group.pk, "person": "nobody", "role": "viewer"}
    ).content.decode().replace("&#x27;", "'")
    owner.post(reverse("admin:groups_membership_delete", args=[new.pk]), {"post": "yes"})
    assert not Membership.objects.filter(user=people["outsider"]).exists()
    change = reverse("admin:groups_agentgroup_change", args=[group.pk])
    assert owner.post(change, {"max_runs": 99, "is_main": "on"}).status_code == 403
    group.refresh_from_db()
    assert group.max_runs is None and not group.is_main


@pytest.mark.parametrize("person", ["viewer", "member"])
def test_others_of_the_group_decide_nothing(people: dict[str, Any], group: AgentGroup, person: str) -> None:
    client = browser(people[person])
    mine = Membership.objects.get(user=people[person])
    assert client.get(reverse("admin:groups_membership_changelist")).status_code == 200
    assert client.post(reverse("admin:groups_membership_add"), {}).status_code == 403
    change = reverse("admin:groups_membership_change", args=[mine.pk])
    assert client.post(change, {"role": "owner"}).status_code == 403
    assert client.post(reverse("admin:groups_membership_delete", args=[mine.pk]), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [mine.pk], "post": "yes"}
    client.post(reverse("admin:groups_membership_changelist"), chosen)
    mine.refresh_from_db()
    assert mine.role == person


def test_an_operator_of_one_group_changes_that_one(scoped: User, group: AgentGroup, other: AgentGroup) -> None:
    client = browser(scoped)
    held = {"name": "Harbour", "weight": 3, "storage_gib": 10, "hold": "", "hold_reason": ""}
    inline = {"memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0}
    page = reverse("admin:groups_agentgroup_change", args=[group.pk])
    form = client.get(page).context["adminform"].form
    initial = {name: value for name, value in form.initial.items() if value is not None and name in form.fields}
    answer = client.post(page, initial | held | inline)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    group.refresh_from_db()
    assert group.weight == 3
    assert client.get(reverse("admin:groups_agentgroup_change", args=[other.pk])).status_code == 404
    assert client.get(reverse("admin:groups_agentgroup_add")).status_code == 403


def test_an_operator_of_one_group_does_not_make_it_the_main_one(scoped: User, group: AgentGroup) -> None:
    """Its agents would reach every group's tasks."""
    form = browser(scoped).get(reverse("admin:groups_agentgroup_change", args=[group.pk])).context["adminform"].form
    assert "is_main" not in form.fields and "max_runs" in form.fields


def test_who_loses_the_last_group_gains_nothing(scoped: User, profile: AgentProfile) -> None:
    OperatorScope.objects.get(user=scoped).delete()
    client = browser(scoped)
    page = reverse("admin:groups_agentprofile_change", args=[profile.pk])
    assert client.post(page, {}).status_code == 403
    assert client.get(reverse("admin:groups_agentgroup_add")).status_code == 403


def test_actions_of_an_operator_of_one_group_spare_the_others(
    scoped: User, group: AgentGroup, other: AgentGroup
) -> None:
    Membership.objects.create(group=other, user=scoped, role=Role.VIEWER)  # so that it stands in the list
    client = browser(scoped)
    chosen = {"_selected_action": [group.pk, other.pk], "confirmed": "yes", "reason": "storm"}
    client.post(reverse("admin:groups_agentgroup_changelist"), chosen | {"action": "pause"})
    client.post(reverse("admin:groups_agentgroup_changelist"), chosen | {"action": "delete_groups"})
    group.refresh_from_db()
    other.refresh_from_db()
    assert (group.hold, other.hold) == ("paused", "")
    assert group.deleted_at and not other.deleted_at


def test_an_operator_of_one_group_changes_nothing_of_everybodys(
    scoped: User, profile: AgentProfile, people: Any
) -> None:
    client = browser(scoped)
    assert client.get(reverse("admin:groups_agentprofile_changelist")).status_code == 200
    for page in (
        reverse("admin:groups_agentprofile_change", args=[profile.pk]),
        reverse("admin:groups_limits_change", args=[1]),
        reverse("admin:auth_user_change", args=[people["viewer"].pk]),
        reverse("admin:auth_user_password_change", args=[people["operator"].pk]),
        reverse("admin:groups_operatorscope_add"),
        reverse("admin:auth_group_add"),
    ):
        assert client.post(page, {}).status_code == 403, page


def test_who_may_change_people_makes_nobody_powerful(people: dict[str, Any]) -> None:
    clerk = people["outsider"]
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="auth"))
    client = browser(clerk)
    page = reverse("admin:auth_user_change", args=[clerk.pk])
    form = client.get(reverse("admin:auth_user_change", args=[people["viewer"].pk])).context["adminform"].form
    assert not {"is_superuser", "is_staff", "groups", "user_permissions"} & form.fields.keys()
    assert client.post(page, {"username": "outsider", "is_superuser": "on"}).status_code == 403
    boss = reverse("admin:auth_user_password_change", args=[people["operator"].pk])
    assert client.post(boss, {"password1": "x", "password2": "x"}).status_code == 403


# --- what is noted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["groups_membership", "agent_sessions_agentsession", "groups_groupmount"])
def test_a_filter_names_no_group_that_one_does_not_see(
    people: dict[str, Any], scoped: User, group: AgentGroup, other: AgentGroup, model: str
) -> None:
    """The name of a group whose id somebody knows, or guesses, is not told by the filter's box."""
    page = reverse(f"admin:{model}_changelist")
    for person in (scoped, people["owner"]):
        client = browser(person)
        assert other.name not in client.get(page, {"group__id__exact": str(other.pk)}).content.decode()
        assert group.name in client.get(page, {"group__id__exact": str(group.pk)}).content.decode()
    assert other.name in browser(people["operator"]).get(page, {"group__id__exact": str(other.pk)}).content.decode()


def test_addresses_of_people_are_not_guessed(people: dict[str, Any], group: AgentGroup) -> None:
    User.objects.filter(pk=people["member"].pk).update(email="mem@secret.example")
    page = reverse("admin:groups_membership_changelist")
    shown = reverse("admin:groups_membership_change", args=[Membership.objects.get(user=people["member"]).pk])
    for person in (people["owner"], people["viewer"]):
        assert shown not in browser(person).get(page, {"q": "mem@sec"}).content.decode()
        assert shown in browser(person).get(page, {"q": "member"}).content.decode()
    assert shown in browser(people["operator"]).get(page, {"q": "mem@sec"}).content.decode()


@pytest.mark.parametrize(
    "asked",
    [
        {"user__email__startswith": "m"}, {"user__password__startswith": "p"}, {"group__hold_reason__contains": "x"},
        {"role__regex": "(o+)+$"}, {"created_at__gt": "2000-01-01"}, {"user__api_tokens__digest__startswith": "a"},
        {"group__id__regex": "a"}, {"group__name": "Harbour"}, {"group__id__exact__in": "x"},
    ],
)  # fmt: skip
def test_a_list_is_asked_by_its_own_filters_alone(people: dict[str, Any], asked: dict[str, str]) -> None:
    """Whatever else an address asks is no question: it could be put letter by letter, or take minutes."""
    page = reverse("admin:groups_membership_changelist")
    assert browser(people["owner"]).get(page, asked).status_code == 400
    for good in ({"role__exact": "owner"}, {"group__id__exact": str(uuid.uuid4())}, {"o": "1"}, {"q": "x"}):
        assert browser(people["owner"]).get(page, good).status_code == 200


def test_every_list_of_groups_rows_has_these_filters() -> None:
    """An admin of ours that is made later keeps to them too."""
    ours = [each for each in admin.site._registry.values() if type(each).__module__.split(".")[0] in APPS]
    for each in ours:
        assert isinstance(each, FiltersOnly | SuperusersAdmin), each
        for found in each.list_filter:
            kind = found[1] if isinstance(found, tuple) else None
            assert kind is not AutocompleteSelectFilter, each


def test_the_log_offers_the_actions_of_what_one_sees(
    scoped: User, people: dict[str, Any], group: AgentGroup, other: AgentGroup
) -> None:
    scoped.user_permissions.add(Permission.objects.get(codename="view_auditentry"))
    audit.record("mine.done", by="x", group=group)
    audit.record("theirs.done", by="x", group=other)
    page = browser(scoped).get(reverse("admin:groups_auditentry_changelist")).content.decode()
    assert "mine.done" in page and "theirs.done" not in page


def test_a_change_of_role_is_noted_with_from_and_to(people: dict[str, Any], group: AgentGroup) -> None:
    row = Membership.objects.get(user=people["viewer"])
    browser(people["owner"]).post(reverse("admin:groups_membership_change", args=[row.pk]), {"role": "owner"})
    entry = AuditEntry.objects.get(action="membership.change")
    assert (entry.by, entry.group, entry.details) == ("owner", group, {"user": "viewer", "role": ["viewer", "owner"]})
    row.refresh_from_db()
    row.delete()
    assert noted("membership.remove") == [{"user": "viewer", "role": "owner"}]
    assert {"user": "viewer", "role": "viewer"} in noted("membership.add")


def test_changes_of_limits_are_noted_with_from_and_to(group: AgentGroup, profile: AgentProfile) -> None:
    group.max_runs, group.name = 4, "Port"
    group.save()
    group.save()
    limits = Limits.current()
    limits.save()
    limits.max_runs = 9
    limits.save()
    profile.memory_mib, profile.environment = 2048, {"KEY": "never shown"}
    profile.save()
    assert noted("group.change") == [{"name": "Port", "max_runs": [None, 4]}]
    assert noted("limits.change")[-1]["max_runs"] == [None, 9]
    assert noted("profile.change") == [{"name": "workbench", "memory_mib": [1024, 2048]}]
    assert "never shown" not in str(list(AuditEntry.objects.values()))


def test_powers_of_people_are_noted(people: dict[str, Any], group: AgentGroup) -> None:
    viewer = people["viewer"]
    viewer.is_superuser = True
    viewer.save()
    viewer.set_password("a new one")
    viewer.save()
    viewer.save(update_fields=["last_login"])
    viewer.user_permissions.add(Permission.objects.get(codename="change_agentgroup"))
    OperatorScope.objects.create(user=viewer, group=group)
    assert noted("user.change") == [
        {"user": "viewer", "is_superuser": [False, True]},
        {"user": "viewer", "password": "changed"},
    ]
    assert noted("permissions.change")[0]["given"] == ["Groups | group | Can change group"]
    assert noted("operator.add") == [{"user": "viewer"}]
    viewer.delete()
    assert noted("user.remove") == [{"user": "viewer"}]


def test_entries_are_never_changed(people: dict[str, Any], group: AgentGroup) -> None:
    audit.record("session.stop", actor=people["owner"], group=group)
    entry = AuditEntry.objects.get(action="session.stop")
    for change in (
        entry.delete,
        entry.save,
        AuditEntry.objects.all().delete,
        lambda: AuditEntry.objects.update(by="x"),
        lambda: AuditEntry.objects.bulk_update([entry], ["by"]),
    ):
        with pytest.raises(Unchangeable):
            change()


@pytest.mark.parametrize("statement", ["UPDATE groups_auditentry SET by = 'x'", "DELETE FROM groups_auditentry"])
def test_the_database_refuses_to_change_entries(group: AgentGroup, statement: str) -> None:
    if connection.vendor == "sqlite" and statement.startswith("DELETE"):
        pytest.skip("the tests themselves empty SQLite's tables by DELETE: see conftest.py")
    audit.record("session.stop", group=group)
    with pytest.raises(DatabaseError, match="only ever added"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEntry.objects.filter(action="session.stop", by="Berth").exists()


def test_entries_outlive_the_person_and_the_group(people: dict[str, Any], operator: Client) -> None:
    gone, group = people["outsider"], AgentGroup.objects.create(slug="gone")
    audit.record("session.stop", actor=gone, group=group, target="x")
    ids = gone.pk, group.pk
    gone.delete()
    group.delete()
    entry = AuditEntry.objects.get(action="session.stop")
    assert (entry.actor_id, entry.group_id, entry.by) == (*ids, "outsider")
    assert operator.get(reverse("admin:groups_auditentry_changelist")).status_code == 200
    assert operator.get(reverse("admin:groups_auditentry_change", args=[entry.pk])).status_code == 200


@pytest.fixture
def operator(people: dict[str, Any]) -> Client:
    return browser(people["operator"])


def test_an_operator_of_one_group_reads_of_that_one(scoped: User, group: AgentGroup, other: AgentGroup) -> None:
    audit.record("session.stop", group=group, by="ours")
    audit.record("session.stop", group=other, by="theirs")
    page = browser(scoped).get(reverse("admin:groups_auditentry_changelist"), {"action": "session.stop"})
    assert [entry.by for entry in page.context["cl"].result_list] == ["ours"]


def test_the_log_is_exported_from_a_time_on(group: AgentGroup, capsys: Any) -> None:
    audit.record("session.stop", by="=cmd()", group=group, target="t")
    call_command("export_audit")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["action"] for row in rows] == ["group.add", "session.stop"]
    assert rows[1]["by"] == "'=cmd()" and rows[1]["group"] == "harbour"
    call_command("export_audit", "--since", "2999-01-01")
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == []
    with pytest.raises(CommandError, match="Use a date or a time"):
        call_command("export_audit", "--since", "yesterday")
