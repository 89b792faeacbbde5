"""System checks: a wrong setting is named before anything starts, with what to do."""

from pathlib import Path
from typing import Any

import pytest

from controlplane import checks, dotenv

TABLE = [
    ("berth.E001", checks.secret_key, {"SECRET_KEY": ""}),
    ("berth.E002", checks.runtime, {"RUNTIME": "docker"}),
    ("berth.E003", checks.runtime, {"RUNTIME": "kubernetes"}),
    ("berth.E004", checks.courier_url, {"COURIER_URL": "berth:8000"}),
    ("berth.W005", checks.courier_url, {"RUNTIME": "kubernetes", "COURIER_URL": "http://127.0.0.1:8000"}),
    ("berth.E006", checks.limits, {"MAX_RUNS": 0}),
    ("berth.W008", checks.embedded_on_a_cluster, {"RUNTIME": "kubernetes", "EMBEDDED": True}),
    ("berth.E009", checks.log_format, {"LOG_FORMAT": "xml"}),
]


@pytest.mark.parametrize(("id_", "check", "wrong"), TABLE, ids=[row[0] for row in TABLE])
def test_a_wrong_setting_is_named(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, id_: str, check: Any, wrong: dict[str, Any]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, value in wrong.items():
        setattr(settings, name, value)
    found = check()
    assert [message.id for message in found] == [id_] and found[0].hint


def test_good_settings_pass(settings: Any) -> None:
    settings.SECRET_KEY, settings.LOG_FORMAT = "x" * 50, "text"
    for check in {row[1] for row in TABLE}:
        assert check() == []


def test_an_env_file_gets_the_keys_it_lacks_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("SECRET_KEY=mine\nPORT=9000")
    assert dotenv.complete(file) == ["ADMIN_PASSWORD"]
    assert file.read_text().startswith("SECRET_KEY=mine\nPORT=9000\nADMIN_PASSWORD=")
    assert dotenv.complete(file) == []


def test_a_new_env_file_is_private(tmp_path: Path) -> None:
    assert dotenv.complete(tmp_path / ".env") == ["SECRET_KEY", "ADMIN_PASSWORD"]
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
