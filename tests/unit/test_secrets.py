"""Secrets by reference: who may use them, what a run gets, and that no page tells a value."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from groups.choices import SecretKind
from groups.models import AgentGroup, AgentProfile, AuditEntry, OperatorScope, SecretReference, SecretUse
from runtimes.base import Cause, Observed, PermanentFault, Phase, SecretFile
from sessions.lifecycle import reconcile, run_spec, runtime_factory, secrets
from sessions.models import AgentSession, Run
from tests.unit.things import run_of

pytestmark = pytest.mark.django_db
LIST = reverse("admin:groups_secretreference_changelist")
VALUE = "the-value-itself-4711"


@pytest.fixture
def reference(profile: AgentProfile, group: AgentGroup, monkeypatch: pytest.MonkeyPatch) -> SecretReference:
    """A secret that is granted to the profile and the group, and can be read."""
    monkeypatch.setenv("BERTH_SECRET_MODEL", VALUE)
    row = SecretReference.objects.create(name="model-key", kind=SecretKind.ENV, place="BERTH_SECRET_MODEL")
    row.profiles.add(profile)
    row.groups.add(group)
    return row


@pytest.fixture
def run(session: AgentSession, profile: AgentProfile, reference: SecretReference) -> Run:
    """A run of a profile that delivers the secret as the file `key`."""
    AgentProfile.objects.filter(pk=profile.pk).update(secrets={"key": "ref:model-key"})
    runtime_factory.get.cache_clear()
    run_of(session)
    return Run.objects.select_related("session__group", "session__profile").get()


def client(user: User) -> Client:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    found = Client()
    found.force_login(user)
    return found


# --- grants ---


def test_a_run_gets_what_its_profile_and_its_group_may(run: Run) -> None:
    assert secrets.of_run(run) == (SecretFile("key", "env:BERTH_SECRET_MODEL"),)
    assert VALUE not in repr(run_spec.build(run))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("profile", "'model-key' is not granted to the profile workbench"),
        ("group", "'model-key' is not granted to the group harbour"),
        ("name", "there is no secret model-key"),
        ("form", "must say ref:NAME"),
        ("value", "no environment variable BERTH_SECRET_MODEL"),
    ],
)
def test_a_start_without_its_secret_names_it(
    change: str, words: str, run: Run, reference: SecretReference, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    match change:
        case "profile":
            reference.profiles.clear()
        case "group":
            reference.groups.clear()
        case "name":
            SecretReference.objects.update(name="another")
        case "form":
            AgentProfile.objects.update(secrets={"key": "env:BERTH_SECRET_MODEL"})
        case "value":
            monkeypatch.delenv("BERTH_SECRET_MODEL")
    reconcile.reconcile(run.session_id)
    run.refresh_from_db()
    assert run.verdict == Cause.MOUNT and words in run.verdict_words
    assert not (settings.DATA_DIR / "runs" / str(run.pk)).exists() and not SecretUse.objects.exists()


def test_every_group_is_a_grant_too(run: Run, reference: SecretReference) -> None:
    reference.groups.clear()
    SecretReference.objects.update(every_group=True)
    assert secrets.of_run(run)


def test_the_use_is_noted_by_group(run: Run, reference: SecretReference) -> None:
    secrets.record_use(run)
    first = SecretUse.objects.get()
    secrets.record_use(run)
    second = SecretUse.objects.get()
    assert (second.reference, second.group) == (reference, run.session.group) and second.last_at > first.last_at


# --- renewal ---


class Told:
    """A runtime that notes what it is asked to renew."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.asked: list[tuple[SecretFile, ...]] = []
        self.fault = fault

    def renew(self, ref: Any, files: tuple[SecretFile, ...]) -> bool:
        self.asked.append(files)
        if self.fault:
            raise self.fault
        return True


def test_a_living_runs_secrets_are_looked_at_now_and_then(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: now[0])
    now = [1000.0]
    monkeypatch.setattr(secrets, "time", clock)
    runtime: Any = Told()
    for now[0] in (1000.0, 1001.0, 1014.9, 1015.1):
        secrets.renew(run, runtime)
    assert runtime.asked == [(SecretFile("key", "env:BERTH_SECRET_MODEL"),)] * 2


def test_what_cannot_be_renewed_ends_no_run(run: Run, reference: SecretReference) -> None:
    runtime: Any = Told(PermanentFault(Cause.MOUNT, "gone"))
    secrets.renew(run, runtime)
    assert len(runtime.asked) == 1
    secrets._renewed_at.clear()
    reference.groups.clear()
    secrets.renew(run, runtime)
    assert len(runtime.asked) == 1


def test_reconciling_a_run_that_lives_renews(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Run] = []
    monkeypatch.setattr(secrets, "renew", lambda run, runtime: asked.append(run))
    local = runtime_factory.get("local")
    monkeypatch.setattr(type(local), "observe", lambda self, ref: Observed(Phase.RUNNING))
    Run.objects.update(state="working", made_at=timezone.now(), started_at=timezone.now(), claimed_at=timezone.now())
    reconcile.reconcile(run.session_id)
    assert asked == [run]


# --- forms ---


@pytest.mark.parametrize(
    ("kind", "place", "good"),
    [
        ("env", "BERTH_SECRET_MODEL", True),
        ("env", "BERTH_SECRET_", False),
        ("env", "DATABASE_URL", False),
        ("env", "SECRET_KEY", False),
        ("env", "PATH", False),
        ("env", "BERTH_SECRET_A=B", False),
        ("file", "/run/secrets/agents/model", True),
        ("file", "/run/secrets/agents/../berth", False),
        ("file", "/etc/passwd", False),
        ("file", "relative", False),
        ("kubernetes", "model-key/api-key", True),
        ("kubernetes", "model-key", False),
        ("kubernetes", "Model_Key/a", False),
        ("operators", "vault/model-key/api-key", True),
        ("operators", "kube-system/model-key/api-key", False),
        ("operators", "vault/model-key", False),
    ],
)
def test_a_place_is_one_that_the_settings_allow(kind: str, place: str, good: bool, settings: Any) -> None:
    settings.SECRETS_FOLDER, settings.K8S_SECRETS_NAMESPACES = "/run/secrets/agents", ["vault"]
    row = SecretReference(name="key", kind=kind, place=place)
    if good:
        row.full_clean()
        return
    with pytest.raises(ValidationError) as error:
        row.full_clean()
    assert list(error.value.message_dict) == ["place"]


@pytest.mark.parametrize(
    "value", [{"key": "env:A"}, {"key": "kubernetes:a/b"}, {"key": "ref:"}, {".key": "ref:a"}, {"a/b": "ref:a"}, ["a"]]
)
def test_profiles_name_references_alone(profile: AgentProfile, value: Any) -> None:
    profile.secrets = value
    with pytest.raises(ValidationError) as error:
        profile.full_clean()
    assert list(error.value.message_dict) == ["secrets"]
    profile.secrets = {"key": "ref:model-key"}
    profile.full_clean()


# --- people ---


def test_owners_see_names_and_last_use_and_no_place(
    group: AgentGroup, reference: SecretReference, people: dict[str, Any]
) -> None:
    other = AgentGroup.objects.create(slug="other")
    SecretUse.objects.create(reference=reference, group=other, last_at="2031-01-01T00:00Z")
    SecretUse.objects.create(reference=reference, group=group, last_at="2030-02-03T04:05Z")
    SecretReference.objects.create(name="of-others", kind="env", place="BERTH_SECRET_X").groups.add(other)
    browser = client(people["owner"])
    change = reverse("admin:groups_secretreference_change", args=[reference.pk])
    for page in (browser.get(LIST).content.decode(), browser.get(change).content.decode()):
        assert "model-key" in page and "2030" in page
        assert "2031" not in page and "of-others" not in page and "BERTH_SECRET" not in page and VALUE not in page
    assert browser.get(reverse("admin:groups_secretreference_history", args=[reference.pk])).status_code == 404
    assert browser.post(change, {"name": "mine"}).status_code == 403
    assert browser.get(reverse("admin:groups_secretreference_add")).status_code == 403


@pytest.mark.parametrize("who", ["viewer", "member", "outsider"])
def test_others_see_none(reference: SecretReference, people: dict[str, Any], who: str) -> None:
    browser = client(people[who])
    assert "model-key" not in browser.get(LIST).content.decode()
    assert browser.get(reverse("admin:groups_secretreference_change", args=[reference.pk])).status_code == 404


def test_an_operator_of_some_groups_is_no_operator_of_secrets(group: AgentGroup, reference: SecretReference) -> None:
    user = User.objects.create_user("scoped", is_staff=True)
    OperatorScope.objects.create(user=user, group=group)
    user.user_permissions.set(Permission.objects.filter(codename__endswith="secretreference"))
    browser = client(user)
    page = browser.get(reverse("admin:groups_secretreference_change", args=[reference.pk]))
    assert page.status_code == 200 and "BERTH_SECRET" not in page.content.decode()
    assert browser.get(reverse("admin:groups_secretreference_add")).status_code == 403


def test_it_is_said_whether_a_secret_can_be_read(
    reference: SecretReference, people: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_factory.get.cache_clear()
    ask = {"action": "check_secrets", "_selected_action": [reference.pk]}
    owner, operator = client(people["owner"]), client(people["operator"])
    for browser in (owner, operator):
        page = browser.post(LIST, ask, follow=True).content.decode()
        assert "model-key can be read." in page and VALUE not in page
    monkeypatch.delenv("BERTH_SECRET_MODEL")
    told = owner.post(LIST, ask, follow=True).content.decode()
    assert "can&#x27;t be read. Ask an operator." in told and "BERTH_SECRET" not in told
    assert "no environment variable BERTH_SECRET_MODEL" in operator.post(LIST, ask, follow=True).content.decode()


def test_grants_are_in_the_audit_log_and_values_nowhere(
    reference: SecretReference, profile: AgentProfile, people: dict[str, Any]
) -> None:
    other = AgentGroup.objects.create(slug="other")
    fields = {"name": "model-key", "kind": "env", "place": "BERTH_SECRET_MODEL", "profiles": [profile.pk]}
    uses = {"uses-TOTAL_FORMS": 0, "uses-INITIAL_FORMS": 0}
    change = reverse("admin:groups_secretreference_change", args=[reference.pk])
    client(people["operator"]).post(change, fields | uses | {"groups": [other.pk]})
    told = {entry.action: entry.details for entry in AuditEntry.objects.filter(action__startswith="secret.")}
    assert told["secret.grant"]["to"] == ["group other"] and told["secret.revoke"]["of"] == ["group harbour"]
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            assert VALUE not in str(cursor.fetchall()), table


# --- the step from sources to references ---


def test_sources_become_references_and_come_back() -> None:
    step = importlib.import_module("groups.migrations.0006_secret_references")
    editor = SimpleNamespace(connection=connection)
    before = {
        "first": {"key": "kubernetes:model-key/api-key", "other": "env:BERTH_SECRET_OTHER"},
        "second": {"key": "kubernetes:model-key/api-key"},
        "third": {"key": "file:/srv/key"},
        "none": {},
    }
    for slug, named in before.items():
        AgentProfile.objects.create(slug=slug, command=["true"], secrets=named)
    step.refer(apps, editor)
    step.refer(apps, editor)  # again does no harm
    named = {profile.slug: profile.secrets for profile in AgentProfile.objects.all()}
    assert named == {
        "first": {"key": "ref:key", "other": "ref:other"}, "second": {"key": "ref:key"},
        "third": {"key": "ref:key-2"}, "none": {},
    }  # fmt: skip
    shared = SecretReference.objects.get(name="key")
    assert shared.source == "kubernetes:model-key/api-key" and shared.every_group
    assert set(shared.profiles.values_list("slug", flat=True)) == {"first", "second"}
    step.spell_out(apps, editor)
    assert {profile.slug: profile.secrets for profile in AgentProfile.objects.all()} == before


def test_files_are_read_from_their_folder_alone(
    run: Run, reference: SecretReference, tmp_path: Path, settings: Any
) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/key").write_text("from a file")
    settings.SECRETS_FOLDER = str(tmp_path / "agents")
    runtime_factory.get.cache_clear()
    SecretReference.objects.update(kind="file", place=str(tmp_path / "agents/key"))
    reference.refresh_from_db()
    assert secrets.read(reference, run.session.group, "local") == b"from a file"
    (tmp_path / "agents/key").unlink()
    (tmp_path / "agents/key").symlink_to("/etc/passwd")
    assert "leads out" in secrets.unreadable_reason(reference, run.session.group)
