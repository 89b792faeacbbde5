"""Judging mounts: what operators allow, what groups ask for, and that nothing accepted leads out of its root."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groups import mounts
from groups.choices import MountKind
from groups.mounts import BLOCKED, MountVerdict, Request, Root, Tenant, evaluate, parts_of, real_folder

CLAIM = Root("shared", MountKind.CLAIM, "team-data", base="published")
NFS = Root("films", MountKind.NFS, "nas.example:/export/films", read_write=True)
WRITER = Tenant(may_write=True)

REFUSED = [
    (Request("data", ""), CLAIM, Tenant(), "the path is empty"),
    (Request("data", "  "), CLAIM, Tenant(), "the path is empty"),
    (Request("data", "/etc"), CLAIM, Tenant(), "absolute"),
    (Request("data", ".."), CLAIM, Tenant(), "leads upwards"),
    (Request("data", "a/../../b"), CLAIM, Tenant(), "leads upwards"),
    (Request("data", "a\0b"), CLAIM, Tenant(), "NUL"),
    (Request("data", "a\nb"), CLAIM, Tenant(), "line break"),
    (Request("data", "a\u202eb"), CLAIM, Tenant(), "invisible"),
    (Request("data", "~/keys"), CLAIM, Tenant(), "~"),
    (Request("data", "a\\..\\b"), CLAIM, Tenant(), "\\"),
    (Request("data", "a/" * 600), CLAIM, Tenant(), "too long"),
    (Request("data", "ä" * 200), CLAIM, Tenant(), "too long"),
    (Request("data", ".ssh"), CLAIM, Tenant(), ".ssh is a blocked name"),
    (Request("data", "home/.SSH/known"), CLAIM, Tenant(), ".SSH is a blocked name"),
    (Request("data", "ID_RSA"), CLAIM, Tenant(), "ID_RSA is a blocked name"),
    (Request("data", "a/payroll"), Root("r", MountKind.CLAIM, "c", blocked=("Payroll",)), Tenant(), "payroll is a"),
    (Request("data", "a"), Root("r", MountKind.CLAIM, "c", base="x/.aws"), Tenant(), ".aws is a blocked name"),
    (Request("data", "a"), Root("r", MountKind.NFS, "nas:/home/.kube"), Tenant(), ".kube is a blocked name"),
    (Request("", "a"), CLAIM, Tenant(), "the name is empty"),
    (Request(".", "a"), CLAIM, Tenant(), "the name must be"),
    (Request("/etc", "a"), CLAIM, Tenant(), "the name is absolute"),
    (Request("../x", "a"), CLAIM, Tenant(), "the name leads upwards"),
    (Request("a//b", "a"), CLAIM, Tenant(), "the name must be"),
    (Request("a/b/c/d/e", "a"), CLAIM, Tenant(), "the name must be"),
    (Request("data", "a"), CLAIM, Tenant(taken=("data",)), "has a mount data already"),
    (Request("data/a", "a"), CLAIM, Tenant(taken=("data",)), "can't lie in the other"),
    (Request("data", "a"), CLAIM, Tenant(taken=("x", "data/a/b")), "can't lie in the other"),
    (Request("data", "a", True), CLAIM, WRITER, "the root shared is read-only"),
    (Request("data", "a", True), CLAIM, Tenant(main=True), "the root shared is read-only"),
    (Request("data", "a", True), NFS, Tenant(), "the group's mounts are read-only"),
    (Request("data", "a"), CLAIM, Tenant(runtime="local"), "a PersistentVolumeClaim, which the runtime local"),
    (Request("data", "a"), Root("r", MountKind.FOLDER, "/srv"), Tenant(runtime="kubernetes"), "a folder of this mach"),
]


@pytest.mark.parametrize(("request_", "root", "tenant", "words"), REFUSED)
def test_what_is_refused_says_why(request_: Request, root: Root, tenant: Tenant, words: str) -> None:
    verdict = evaluate(request_, root, tenant)
    assert not verdict.ok and words in verdict.reason and verdict.path == ""


ACCEPTED = [
    (Request("data", "."), CLAIM, Tenant(), MountVerdict(True, True, "read-only at /workspace/extra/data", "")),
    (Request("data", "a//b/./c"), CLAIM, Tenant(), MountVerdict(True, True, "read-only", "a/b/c")),
    (Request("data/x", "a"), CLAIM, Tenant(taken=("data-2", "dat", "data/y")), MountVerdict(True, True, "", "a")),
    (Request("data", "ssh/.env.example"), CLAIM, Tenant(), MountVerdict(True, True, "", "ssh/.env.example")),
    (Request("data", "a", True), NFS, WRITER, MountVerdict(True, False, "read-write", "a")),
    (Request("data", "a", True), NFS, Tenant(main=True), MountVerdict(True, False, "read-write", "a")),
    (Request("data", "a"), NFS, WRITER, MountVerdict(True, True, "read-only", "a")),
    (Request("data", "$(HOME)"), NFS, WRITER, MountVerdict(True, True, "read-only", "$(HOME)")),
]


@pytest.mark.parametrize(("request_", "root", "tenant", "wanted"), ACCEPTED)
def test_what_is_accepted_says_how(request_: Request, root: Root, tenant: Tenant, wanted: MountVerdict) -> None:
    verdict = evaluate(request_, root, tenant)
    assert (verdict.ok, verdict.read_only, verdict.path) == (wanted.ok, wanted.read_only, wanted.path), verdict.reason
    assert wanted.reason in verdict.reason


@pytest.mark.parametrize("name", sorted(BLOCKED))
def test_every_blocked_name_is_blocked_in_any_case_and_place(name: str) -> None:
    for path in (name, name.upper(), f"a/{name.title()}/b", f"./{name}/"):
        assert not evaluate(Request("data", path), CLAIM, Tenant()).ok, path
    assert evaluate(Request("data", f"{name}x/x{name}"), CLAIM, Tenant()).ok  # whole parts alone


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a folder, and links that lead about."""
    for folder in ("root/data/deep", "root/.ssh", "secret", "rootless"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "root/file").touch()
    links = {
        "inside": "data/deep", "outside": "../secret", "absolute": str(tmp_path / "secret"), "keys": ".ssh",
        "loop": "loop", "dangling": "gone", "beside": "../rootless", "up": "..", "again": "../root/data",
    }  # fmt: skip
    for name, target in links.items():
        (tmp_path / "root" / name).symlink_to(target)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("data", ""),
        ("data/deep", ""),
        ("inside", ""),
        ("again", ""),
        (".", ""),
        ("outside", "leads out of the root"),
        ("absolute", "leads out of the root"),
        ("beside", "leads out of the root"),  # begins like the root, and is not in it
        ("up", "leads out of the root"),
        ("up/root/data", ""),
        ("keys", "really lies in .ssh"),
        ("loop", "there is no folder"),
        ("dangling", "there is no folder"),
        ("gone", "there is no folder"),
        ("file", "there is no folder"),
    ],
)
def test_links_are_followed_before_they_are_judged(tree: Path, path: str, words: str) -> None:
    verdict = evaluate(Request("data", path), Root("r", MountKind.FOLDER, str(tree / "root")), Tenant(), real_folder)
    assert verdict.ok is not bool(words) and words in verdict.reason
    assert str(tree) not in verdict.reason  # nobody learns what lies outside


def test_the_base_is_a_border_too(tree: Path) -> None:
    root = Root("r", MountKind.FOLDER, str(tree / "root"), base="data")
    assert evaluate(Request("x", "deep"), root, Tenant(), real_folder).ok
    (tree / "root/data/out").symlink_to("../.ssh")
    assert "leads out" in evaluate(Request("x", "out"), root, Tenant(), real_folder).reason


def test_a_root_that_is_gone_is_named(tree: Path) -> None:
    root = Root("r", MountKind.FOLDER, str(tree / "none"))
    assert "the root r is not there" in evaluate(Request("x", "."), root, Tenant(), real_folder).reason


def test_the_local_runtime_admits_that_it_keeps_nobody_from_writing(tree: Path) -> None:
    root = Root("r", MountKind.FOLDER, str(tree / "root"))
    assert "can't keep an agent from writing" in evaluate(Request("x", "data"), root, Tenant(), real_folder).reason


PARTS = st.sampled_from(["a", "b", "c", "..", ".", ".ssh", ".ENV", "", "ü", "a b", "~", "\0", "$(x)", "\\"])
PATHS = st.one_of(
    st.text(max_size=30),
    st.lists(PARTS, max_size=6).map("/".join),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join),
)
FOLDERS = st.lists(st.lists(st.sampled_from(["a", "b", "c", ".ssh"]), min_size=1, max_size=3), max_size=6)
LINKS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join),
        st.lists(st.sampled_from(["a", "b", "c", "..", ".ssh", "outside"]), min_size=1, max_size=4).map("/".join),
        st.booleans(),
    ),
    max_size=6,
)


def plant(top: Path, folders: list[list[str]], links: list[tuple[str, str, bool]]) -> None:
    """Make folders and links under `top/root`; a link that is absolute starts at `top`."""
    (top / "root").mkdir()
    (top / "outside" / "a").mkdir(parents=True)
    for parts in folders:
        top.joinpath("root", *parts).mkdir(parents=True, exist_ok=True)
    for name, target, absolute in links:
        link = top / "root" / name
        if link.parent.is_dir() and not link.exists() and not link.is_symlink():
            link.symlink_to(top / target if absolute else target)


@settings(max_examples=300, deadline=None)
@given(PATHS, FOLDERS, LINKS, st.sampled_from(["", "a", "b/c"]))
def test_nothing_accepted_leaves_its_root_or_has_a_blocked_name(
    path: str, folders: list[list[str]], links: list[tuple[str, str, bool]], base: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        plant(top, folders, links)
        root = Root("r", MountKind.FOLDER, str(top / "root"), base=base)
        verdict = evaluate(Request("x", path), root, Tenant(), real_folder)
        if verdict.ok:
            border = (top / "root" / base).resolve(strict=True)
            real = (top / "root" / base / verdict.path).resolve(strict=True)
            assert real == border or border in real.parents
            assert not {part.casefold() for part in real.parts} & BLOCKED
            assert ".." not in verdict.path.split("/") and not verdict.path.startswith("/")


@given(PATHS)
def test_a_cleaned_path_is_clean_and_stays_so(path: str) -> None:
    try:
        cleaned = "/".join(parts_of(path)) or "."
    except mounts.MountRefused as refusal:
        assert str(refusal)
        return
    assert "/".join(parts_of(cleaned)) == ("" if cleaned == "." else cleaned)
    assert not cleaned.startswith("/") and ".." not in cleaned.split("/") and "\0" not in cleaned


@given(st.lists(PATHS, max_size=5), PATHS, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_writing_needs_the_wish_the_root_and_the_group(
    taken: list[str], path: str, wish: bool, root_may: bool, group_may: bool, main: bool
) -> None:
    root = Root("r", MountKind.CLAIM, "c", read_write=root_may)
    verdict: Any = evaluate(Request("x", path, wish), root, Tenant(main, group_may, tuple(taken)))
    if verdict.ok:
        assert verdict.read_only is not wish  # never downgraded in silence
        assert not wish or (root_may and (group_may or main))


WITHIN = [
    (MountKind.NFS, "nas:/export/films", "nas:/export", True),
    (MountKind.NFS, "NAS.:/export//films/", "nas:/./export/", True),
    (MountKind.NFS, "nas:/export/films", "nas:/", True),
    (MountKind.NFS, "nas:/export/", "nas:/export", False),
    (MountKind.NFS, "nas:/exports", "nas:/export", False),
    (MountKind.NFS, "nas:/export/films", "other:/export", False),
    (MountKind.CLAIM, "team/a/b", "team/a", True),
    (MountKind.CLAIM, "team/a", "team", True),
    (MountKind.CLAIM, "team/a", "team/a/", False),
    (MountKind.CLAIM, "teams/a", "team", False),
]


@pytest.mark.parametrize(("kind", "inner", "outer", "within"), WITHIN)
def test_what_lies_in_what_is_told_in_any_spelling(kind: MountKind, inner: str, outer: str, within: bool) -> None:
    assert mounts.is_inside(kind, inner, outer) is within


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_a_folder_is_known_in_any_spelling(data: st.DataObject, inner: int, outer: int) -> None:
    """Each folder has a link `self` to itself and one, `up`, to the folder above."""
    with tempfile.TemporaryDirectory() as top:
        folders = [Path(top), Path(top, "a"), Path(top, "a/a"), Path(top, "a/a/a")]
        for folder in folders[1:]:
            folder.mkdir()
            (folder / "self").symlink_to(".")
            (folder / "up").symlink_to("..")

        def spelled(depth: int) -> str:
            detour = st.sampled_from(["", "/", "/.", "/self", "/self/", "/up/a", "/../a"])
            return top + "".join("/a" + data.draw(detour) for _ in range(depth))

        assert mounts.is_inside(MountKind.FOLDER, spelled(inner), spelled(outer)) is (inner > outer)
