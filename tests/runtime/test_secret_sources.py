"""Secrets by reference: what a source means, and which are allowed."""

from pathlib import Path

import pytest

from k8s_adapter.secrets import digest_of
from runtimes import secret_sources
from runtimes.base import Cause, PermanentFault, RunRef, RunSpec, SecretFile
from runtimes.names import matches_hash
from runtimes.secret_sources import AllowedSources, Source

HELD = {("berth-harbour", "keys"): {"api": b"inside"}, ("vault", "model"): {"key": b"copied"}}


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AllowedSources:
    """One of each kind can be reached."""
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "key").write_bytes(b"\x00binary\n")
    (tmp_path / "outside").write_text("not yours")
    monkeypatch.setenv("BERTH_SECRET_KEY", "välue")
    monkeypatch.setenv("DATABASE_URL", "postgres://berth:very-secret@db/berth")
    return AllowedSources(
        folder=str(tmp_path / "allowed"),
        namespaces=("vault",),
        namespace="berth-harbour",
        read_secret=lambda namespace, name: HELD.get((namespace, name)),
    )


def test_what_the_control_plane_hands_over_is_read_and_the_pods_own_is_looked_at(allowed: AllowedSources) -> None:
    secrets = (
        SecretFile("file", f"file:{allowed.folder}/key"),
        SecretFile("variable", "env:BERTH_SECRET_KEY"),
        SecretFile("copied", "operators:vault/model/key"),
        SecretFile("mounted", "kubernetes:keys/api"),
        SecretFile("made", "broker:anthropic", "stand-in"),
    )
    assert secret_sources.read(secrets, allowed) == {
        "file": b"\x00binary\n", "variable": "välue".encode(), "copied": b"copied", "made": b"stand-in"
    }  # fmt: skip
    assert [secret_sources.cluster_key(secret) for secret in secrets] == [None, None, None, ("keys", "api"), None]
    assert secret_sources.read_one(secrets[3], allowed) == b"inside"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("env:DATABASE_URL", "only BERTH_SECRET_"),
        ("env:SECRET_KEY", "only BERTH_SECRET_"),
        ("env:BERTH_SECRET_GONE", "no environment variable BERTH_SECRET_GONE"),
        ("file:/etc/passwd", "is not in"),
        ("file:{allowed}/../outside", "is not in"),
        ("file:{allowed}/link", "leads out"),
        ("file:{allowed}/none", "No such file"),
        ("file:{allowed}", "Is a directory"),
        ("file:a\0b", "can't be one"),
        ("kubernetes:keys/other", "no Secret keys with a key other"),
        ("kubernetes:none/api", "no Secret none with a key api"),
        ("kubernetes:berth-run-1/token", "berth-"),
        ("operators:vault/model/none", "no Secret model with a key none"),
        ("operators:kube-system/a/b", "may not be copied"),
        ("operators:berth-harbour/keys/api", "may not be copied"),
        ("operators:vault/model", "must read operators:NAMESPACE/SECRET/KEY"),
    ],
)
def test_what_is_out_of_reach_or_missing_is_named_without_its_value(
    allowed: AllowedSources, source: str, words: str
) -> None:
    (Path(allowed.folder) / "link").symlink_to(Path(allowed.folder).parent / "outside")
    with pytest.raises(PermanentFault, match="'key'") as fault:
        secret_sources.read([SecretFile("key", source.format(allowed=allowed.folder))], allowed)
    assert fault.value.cause is Cause.MOUNT and words in str(fault.value)
    assert "not yours" not in str(fault.value) and "very-secret" not in str(fault.value)


@pytest.mark.parametrize("source", ["env:BERTH_SECRET_KEY", "file:/any", "operators:vault/model/key", "kubernetes:a/b"])
def test_without_settings_only_marked_variables_are_read(
    allowed: AllowedSources, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def readable(allowed: AllowedSources) -> bool:
        try:
            return bool(secret_sources.read_one(SecretFile("key", source), allowed))
        except PermanentFault:
            return False

    assert readable(secret_sources.ENVIRONMENT_ONLY) is source.startswith("env:")
    assert not readable(AllowedSources(env_prefix=""))


@pytest.mark.parametrize("name", ["", "../token", "a/b", ".hidden", "a b", "a" * 300])
def test_a_name_that_is_no_file_name_is_refused(allowed: AllowedSources, name: str) -> None:
    with pytest.raises(PermanentFault) as fault:
        secret_sources.read([SecretFile(name, "env:BERTH_SECRET_KEY")], allowed)
    assert fault.value.cause is Cause.MOUNT


@pytest.mark.parametrize(
    "source", ["", "env:", "vault:a", "ref:a", "kubernetes:only", "kubernetes:/key", "kubernetes:a/"]
)
def test_a_source_that_means_nothing_is_refused(source: str) -> None:
    with pytest.raises(PermanentFault, match="'key'"):
        secret_sources.cluster_key(SecretFile("key", source))


def test_the_secrets_of_other_runs_are_out_of_reach() -> None:
    with pytest.raises(PermanentFault, match="'key'"):
        secret_sources.cluster_key(SecretFile("key", "kubernetes:berth-run-1/token"))


def test_another_kind_of_source_is_a_class(allowed: AllowedSources) -> None:
    @secret_sources.register
    class Reversed(Source):
        scheme = "reversed"

        def read(self) -> bytes:
            return self.path[::-1].encode()

    try:
        assert secret_sources.read([SecretFile("key", "reversed:abc")], allowed) == {"key": b"cba"}
    finally:
        del secret_sources.SOURCES["reversed"]


def test_a_digest_tells_values_apart_and_keeps_none() -> None:
    assert digest_of({"a": b"1", "b": b"2"}) == digest_of({"b": b"2", "a": b"1"})
    assert len({digest_of(each) for each in ({}, {"a": b"1"}, {"a": b"2"}, {"a": b"", "1": b""}, {"a1": b""})}) == 5


def test_a_value_is_shown_nowhere_and_specs_without_one_keep_their_hash() -> None:
    made = SecretFile("key", "broker:anthropic", "stand-in")
    assert "stand-in" not in repr(made)
    ref = RunRef("1", "2", "3", "slug")
    plain = RunSpec(ref, 1, "", ("true",), "jsonl", "http://home", "token", secrets=(SecretFile("a", "env:A"),))
    # As an earlier version of Berth had it: a run that lives through an upgrade is known again.
    assert matches_hash(plain, "5801eaf6458046168266408142abe8e0")
