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
    ("berth.E020", checks.secrets_sources, {"SECRETS_ENV_PREFIX": ""}),
    ("berth.E020", checks.secrets_sources, {"SECRETS_ENV_PREFIX": "DATABASE_"}),
    ("berth.E020", checks.secrets_sources, {"SECRETS_FOLDER": "/no/such/folder"}),
    ("berth.E021", checks.project, {"PROJECT_FOLDER": "relative"}),
    ("berth.E006", checks.limits, {"MAX_RUNS": 0}),
    ("berth.E040", checks.single_sign_on, {"OIDC_URL": "https://id.example"}),
    (
        "berth.E040",
        checks.single_sign_on,
        {"OIDC_URL": "http://id.example", "OIDC_CLIENT_ID": "berth", "OIDC_CLIENT_SECRET": "x"},
    ),
    ("berth.E041", checks.single_sign_on, {"PROXIES": -1}),
    ("berth.E041", checks.single_sign_on, {"PROXY_NETWORKS": ["10.0.0.1/8"]}),
    ("berth.W042", checks.single_sign_on, {"PROXIES": 1, "RUNTIME": "kubernetes"}),
    ("berth.E006", checks.limits, {"LOGIN_FAILURES": 0}),
    ("berth.W008", checks.embedded_on_a_cluster, {"RUNTIME": "kubernetes", "EMBEDDED": True}),
    ("berth.E010", checks.egress, {"EGRESS_TOKEN": "short"}),
    ("berth.E010", checks.egress, {"EGRESS_TOKEN": "x" * 40, "EGRESS_TOKEN_FILE": "/etc/hostname"}),
    ("berth.E010", checks.egress, {"EGRESS_TOKEN_FILE": "/no/such/file"}),
    ("berth.E010", checks.egress, {"EGRESS_TOKEN_FILE": "/dev/null"}),
    ("berth.E011", checks.egress, {"EGRESS_TOKEN": "x" * 40, "EGRESS_PROXY_URL": "proxy:3128"}),
    ("berth.E011", checks.egress, {"EGRESS_TOKEN": "x" * 40, "EGRESS_PROXY_URL": "http://user:word@proxy:3128"}),
    ("berth.W012", checks.egress, {"EGRESS_PROXY_URL": "http://proxy:3128"}),
    ("berth.E013", checks.sandbox, {"LOCAL_BWRAP": True}),
    ("berth.E009", checks.log_format, {"LOG_FORMAT": "xml"}),
    ("berth.E006", checks.limits, {"GROUP_PODS": 0}),
    ("berth.E030", checks.selectors, {"K8S_EGRESS_SELECTOR": "berth/egress"}),
    ("berth.W031", checks.selectors, {"RUNTIME": "kubernetes", "COURIER_URL": "http://web.berth.svc:8000"}),
]


@pytest.mark.parametrize(("id_", "check", "wrong"), TABLE, ids=[row[0] for row in TABLE])
def test_a_wrong_setting_is_named(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, id_: str, check: Any, wrong: dict[str, Any]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
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
