"""Mounts and people: owners ask, operators decide, and a start is judged anew."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from groups import mount_requests
from groups.choices import MountKind, MountState
from groups.models import AgentGroup, AuditEntry, GroupMount, Membership, MountRoot, OperatorScope
from runtimes.base import Cause, FolderSource, PermanentFault
from sessions.lifecycle import mounts, reconcile, runtime_factory
from sessions.models import AgentSession, Run
from tests.unit.things import run_of

pytestmark = pytest.mark.django_db
LIST = reverse("admin:groups_groupmount_changelist")
TRY = reverse("admin:groups_groupmount_dry_run")


@pytest.fixture
def root(tmp_path: Path) -> MountRoot:
    (tmp_path / "shared/data/deep").mkdir(parents=True)
    return MountRoot.objects.create(name="shared", kind=MountKind.FOLDER, place=str(tmp_path / "shared"))


def client(user: User) -> Client:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    found = Client()
    found.force_login(user)
    return found


def wish(group: AgentGroup, root: MountRoot, **more: Any) -> dict[str, Any]:
    return {"group": str(group.pk), "root": root.pk, "path": "data", "name": "data", "reason": "to read"} | more


def mount(group: AgentGroup, root: MountRoot, **more: Any) -> GroupMount:
    fields = {"path": "data", "name": "data", "state": MountState.APPROVED} | more
    return GroupMount.objects.create(group=group, root=root, **fields)


def decide(browser: Client, action: str, *rows: GroupMount, versions: dict[str, str] | None = None) -> str:
    seen = json.dumps(versions or {str(row.pk): row.version for row in rows})
    chosen = {"action": action, "_selected_action": [row.pk for row in rows]}
    answer = browser.post(LIST, chosen | {"confirmed": "yes", "reason": "because", "seen": seen}, follow=True)
    return answer.content.decode()


def operator_of(group: AgentGroup, *rights: str) -> User:
    user = User.objects.create_user("scoped", is_staff=True)
    OperatorScope.objects.create(user=user, group=group)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    return user


# --- asking and deciding ---


def test_an_owner_asks_and_an_operator_decides(group: AgentGroup, root: MountRoot, people: dict[str, Any]) -> None:
    answer = client(people["owner"]).post(reverse("admin:groups_groupmount_add"), wish(group, root), follow=True)
    assert "An operator has to approve it" in answer.content.decode()
    row = GroupMount.objects.get()
    assert (row.state, row.requested_by) == (MountState.REQUESTED, people["owner"])

    operator = client(people["operator"])
    page = operator.post(LIST, {"action": "approve", "_selected_action": [row.pk]}).content.decode()
    assert "data of Harbour: data of shared, read-only" in page and row.version in page
    assert "1 approved" in decide(operator, "approve", row)
    row.refresh_from_db()
    assert (row.state, row.decided_by, row.decision) == (MountState.APPROVED, people["operator"], "because")
    assert list(AuditEntry.objects.filter(action__startswith="mount.").order_by("pk").values_list("action", "by")) == [
        ("mount.request", "owner"),
        ("mount.approve", "operator"),
    ]


@pytest.mark.parametrize("who", ["viewer", "member", "outsider"])
def test_others_ask_for_nothing(group: AgentGroup, root: MountRoot, people: dict[str, Any], who: str) -> None:
    row, browser = mount(group, root, name="sea-charts"), client(people[who])
    change = reverse("admin:groups_groupmount_change", args=[row.pk])
    assert browser.get(reverse("admin:groups_groupmount_add")).status_code == 403
    assert browser.get(TRY).status_code == 403
    assert browser.get(change).status_code == (404 if who == "outsider" else 200)
    assert browser.post(change, wish(group, root, path="data/deep")).status_code == 403
    decide(browser, "refuse", row)
    row.refresh_from_db()
    assert (row.path, row.state) == ("data", MountState.APPROVED)
    assert ("sea-charts" in browser.get(LIST).content.decode()) is (who != "outsider")


def test_an_owner_neither_decides_nor_asks_for_others(
    group: AgentGroup, root: MountRoot, people: dict[str, Any]
) -> None:
    browser, other = client(people["owner"]), AgentGroup.objects.create(slug="other", name="Other")
    row = mount(group, root, state=MountState.REQUESTED)
    decide(browser, "approve", row)
    row.refresh_from_db()
    assert row.state == MountState.REQUESTED
    answer = browser.post(reverse("admin:groups_groupmount_add"), wish(other, root))
    assert answer.status_code == 200 and not other.mounts.exists()
    assert browser.get(reverse("admin:groups_mountroot_changelist")).status_code == 403


def test_what_changes_is_asked_for_anew(group: AgentGroup, root: MountRoot, people: dict[str, Any]) -> None:
    row, browser = mount(group, root, decided_by=people["operator"]), client(people["owner"])
    change = reverse("admin:groups_groupmount_change", args=[row.pk])
    browser.post(change, wish(group, root, reason="for another reason"))
    row.refresh_from_db()
    assert (row.state, row.reason) == (MountState.APPROVED, "for another reason")
    browser.post(change, wish(group, root, path="data/deep"))
    row.refresh_from_db()
    assert (row.state, row.path, row.decided_by) == (MountState.REQUESTED, "data/deep", None)


def test_only_what_was_on_the_page_is_approved(group: AgentGroup, root: MountRoot, people: dict[str, Any]) -> None:
    row = mount(group, root, state=MountState.REQUESTED)
    shown = {str(row.pk): row.version}
    row.path = "."
    mount_requests.request(row, people["owner"])
    assert "changed meanwhile" in decide(client(people["operator"]), "approve", row, versions=shown)
    row.refresh_from_db()
    assert row.state == MountState.REQUESTED
    stale = GroupMount.objects.get()
    mount_requests.request(row, people["owner"])
    assert not mount_requests.decide(stale, MountState.APPROVED, people["operator"])


def test_operators_of_some_groups_decide_on_those_alone(group: AgentGroup, root: MountRoot) -> None:
    other = AgentGroup.objects.create(slug="other", name="Other")
    user = operator_of(group, "approve_groupmount", "add_mountroot", "change_mountroot")
    Membership.objects.create(group=other, user=user, role="owner")
    mine, theirs = (mount(each, root, state=MountState.REQUESTED) for each in (group, other))
    told = decide(client(user), "approve", mine, theirs)
    assert "1 approved" in told and "1 not allowed" in told
    assert {row.group.slug: row.state for row in GroupMount.objects.all()} == {
        "harbour": MountState.APPROVED, "other": MountState.REQUESTED
    }  # fmt: skip
    assert client(user).get(reverse("admin:groups_mountroot_add")).status_code == 403


def test_what_would_be_refused_is_not_saved(group: AgentGroup, root: MountRoot, people: dict[str, Any]) -> None:
    browser = client(people["owner"])
    mount(group, root, name="taken")
    for more, words in (
        ({"path": "gone"}, "there is no folder gone"),
        ({"path": "../other"}, "leads upwards"),
        ({"read_write": "on"}, "the root shared is read-only"),
        ({"name": "taken/inside"}, "can&#x27;t lie in the other"),
    ):
        answer = browser.post(reverse("admin:groups_groupmount_add"), wish(group, root, **more))
        assert words in answer.content.decode(), more
    assert GroupMount.objects.count() == 1


def test_a_dry_run_tells_the_verdict_and_saves_nothing(
    group: AgentGroup, root: MountRoot, people: dict[str, Any]
) -> None:
    browser = client(people["owner"])
    assert TRY in browser.get(LIST).content.decode()
    good = browser.post(TRY, wish(group, root)).content.decode()
    assert "Accepted" in good and "read-only at /workspace/extra/data" in good and "can&#x27;t keep" in good
    (Path(root.place) / "out").symlink_to("/etc")
    bad = browser.post(TRY, wish(group, root, path="out")).content.decode()
    assert "Refused" in bad and "out leads out of the root shared" in bad and "/etc" not in bad
    other = AgentGroup.objects.create(slug="other")
    assert "Accepted" not in browser.post(TRY, wish(other, root)).content.decode()
    assert not GroupMount.objects.exists()


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"kind": "folder", "place": "relative"}, "place"),
        ({"kind": "folder", "place": "/"}, "place"),
        ({"kind": "folder", "place": "/srv/../etc"}, "place"),
        ({"kind": "folder", "place": "/no/such/folder"}, "base"),
        ({"kind": "claim", "place": "Team Data"}, "place"),
        ({"kind": "nfs", "place": "nas.example"}, "place"),
        ({"kind": "nfs", "place": "nas.example:/a", "base": "../b"}, "base"),
        ({"kind": "claim", "place": "data", "blocked": ["a/b"]}, "blocked"),
        ({"kind": "claim", "place": "data", "base": "home/.ssh"}, "base"),
        ({"kind": "claim", "place": "data", "base": "published"}, None),
        ({"kind": "nfs", "place": "nas.example:/export/films"}, None),
    ],
)
def test_a_root_is_judged_when_it_is_saved(fields: dict[str, Any], wrong: str | None, settings: Any) -> None:
    settings.RUNTIME = "kubernetes" if fields["kind"] != "folder" else "local"
    root = MountRoot(name="r", **fields)
    if wrong is None:
        root.full_clean()
        return
    with pytest.raises(ValidationError) as error:
        root.full_clean()
    assert list(error.value.message_dict) == [wrong]


# --- starts ---


@pytest.fixture
def run(session: AgentSession) -> Run:
    return run_of(session)


def test_a_run_gets_what_was_approved(group: AgentGroup, root: MountRoot, run: Run) -> None:
    mount(group, root)
    mount(group, root, name="asked", state=MountState.REQUESTED)
    mount(group, root, name="refused", state=MountState.REFUSED)
    (found,) = mounts.of_run(run)
    assert (found.name, found.path, found.read_only) == ("data", "data", True)
    assert found.source == FolderSource(root.place, "data") and ".ssh" in found.blocked


def test_what_is_only_asked_for_stops_no_start(group: AgentGroup, root: MountRoot, run: Run) -> None:
    mount(group, root, name="data/inside", state=MountState.REQUESTED)
    mount(group, root)
    assert len(mounts.of_run(run)) == 1


@pytest.mark.parametrize("change", ["root", "writing", "link"])
def test_a_start_is_refused_once_a_mount_would_be(
    change: str, group: AgentGroup, root: MountRoot, run: Run, settings: Any
) -> None:
    mount(group, root, read_write=change == "writing")
    if change == "root":
        MountRoot.objects.update(place="/no/such/folder")
    if change == "link":
        (Path(root.place) / "data/deep").rmdir()
        (Path(root.place) / "data").rmdir()
        (Path(root.place) / "data").symlink_to("/etc")
    runtime_factory.get.cache_clear()
    reconcile.reconcile(run.session_id)
    run.refresh_from_db()
    assert run.verdict == Cause.MOUNT and "mount 'data'" in run.verdict_words
    assert not (settings.DATA_DIR / "runs" / str(run.pk)).exists()


def test_mounts_may_be_written_where_root_and_group_say_so(group: AgentGroup, root: MountRoot, run: Run) -> None:
    mount(group, root, read_write=True)
    MountRoot.objects.update(read_write=True)
    AgentGroup.objects.update(writes_mounts=True)
    assert [each.read_only for each in mounts.of_run(run)] == [False]


@pytest.mark.parametrize("spelled", ["shared/data", "shared//data/", "./shared/./data", "link/data", "link//data//"])
def test_what_lies_in_a_folder_that_agents_write_to_is_refused(
    group: AgentGroup, root: MountRoot, run: Run, tmp_path: Path, spelled: str
) -> None:
    """An agent could put a link to a neighbour's folder in its place, which would be followed at the next start."""
    MountRoot.objects.update(read_write=True)
    AgentGroup.objects.update(writes_mounts=True)
    mount(group, root, read_write=True)
    assert len(mounts.of_run(run)) == 1
    (tmp_path / "link").symlink_to("shared")
    again = MountRoot.objects.create(name="again", kind=MountKind.FOLDER, place=f"{tmp_path}/{spelled}")
    inside = mount(group, again, name="inside", path="deep")
    with pytest.raises(PermanentFault, match="'inside': it lies in 'data' of 'shared', which agents may write to"):
        mounts.of_run(run)
    GroupMount.objects.filter(root=root).update(read_write=False)
    assert inside.name in [each.name for each in mounts.of_run(run)]


def test_sources_name_the_volume_and_the_border(group: AgentGroup, run: Run) -> None:
    Run.objects.update(runtime="kubernetes")
    run.refresh_from_db()
    claim = MountRoot.objects.create(name="claim", kind="claim", place="team", base="published/")
    nfs = MountRoot.objects.create(name="nfs", kind="nfs", place="nas:/export")
    mount(group, claim, name="a", path="./x//y")
    mount(group, nfs, name="b", path=".")
    first, second = mounts.of_run(run)
    assert (first.source.subpath, first.base) == ("published/x/y", "published")
    assert (second.source, second.base) == (type(second.source)("nas", "/export", ""), "")


# --- the command ---


def check(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("check_mounts", *words, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


def test_the_command_judges_all(group: AgentGroup, root: MountRoot, django_assert_max_num_queries: Any) -> None:
    assert check() == (0, "0 mounts, 0 of them would be refused.\n")
    mount(group, root)
    mount(group, root, name="gone", path="gone", state=MountState.REQUESTED)
    with django_assert_max_num_queries(4):
        status, told = check()
    assert status == 0 and "harbour data (approved): ok" in told and "REFUSED: there is no folder gone" in told
    GroupMount.objects.update(state=MountState.APPROVED)
    status, told = check("--json", "--group", "harbour")
    assert status == 1 and [each["ok"] for each in json.loads(told)] == [True, False]
