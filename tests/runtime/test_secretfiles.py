"""Secrets by reference."""

from pathlib import Path

import pytest

from k8s_adapter import secretfiles
from k8s_adapter.runtime import Cause, PermanentFault, SecretFile


def test_files_and_variables_are_read_and_cluster_secrets_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(b"\x00binary\n")
    monkeypatch.setenv("A_KEY", "välue")
    secrets = (
        SecretFile("file", f"file:{tmp_path}/key"),
        SecretFile("variable", "env:A_KEY"),
        SecretFile("remote", "kubernetes:keys/api"),
    )
    assert secretfiles.read(secrets) == {"file": b"\x00binary\n", "variable": "välue".encode()}
    assert [secretfiles.cluster_key(secret) for secret in secrets] == [None, None, ("keys", "api")]


@pytest.mark.parametrize("name", ["", "../token", "a/b", ".hidden", "a b", "a" * 300])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(PermanentFault) as fault:
        secretfiles.read([SecretFile(name, "env:HOME")])
    assert fault.value.cause is Cause.MOUNT


@pytest.mark.parametrize("source", ["", "env:", "vault:a", "kubernetes:only", "kubernetes:/key", "kubernetes:a/"])
def test_a_source_that_means_nothing_is_refused(source: str) -> None:
    with pytest.raises(PermanentFault, match="'key'"):
        secretfiles.cluster_key(SecretFile("key", source))


def test_the_secrets_of_other_runs_are_out_of_reach() -> None:
    with pytest.raises(PermanentFault, match="'key'"):
        secretfiles.cluster_key(SecretFile("key", "kubernetes:berth-run-1/token"))
