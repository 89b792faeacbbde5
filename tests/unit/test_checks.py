"""System checks: a wrong setting is named before anything starts, with what to do."""

import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.core.management import call_command
from hypothesis import strategies as st

from controlplane import checks, datafolder, dotenv

TABLE = [
    ("berth.E001", checks.secret_key, {"SECRET_KEY": ""}),
    ("berth.E023", checks.secret_key, {"SECRET_KEY": "x" * 50, "SECRET_KEY_FALLBACKS": ["x" * 50]}),
    ("berth.E002", checks.runtime, {"RUNTIME": "docker"}),
    ("berth.E003", checks.runtime, {"RUNTIME": "kubernetes"}),
    ("berth.E004", checks.courier_url, {"COURIER_URL": "berth:8000"}),
    ("berth.W005", checks.courier_url, {"RUNTIME": "kubernetes", "COURIER_URL": "http://127.0.0.1:8000"}),
    ("berth.E020", checks.secrets_sources, {"SECRETS_ENV_PREFIX": ""}),
    ("berth.E020", checks.secrets_sources, {"SECRETS_ENV_PREFIX": "DATABASE_"}),
    ("berth.E020", checks.secrets_sources, {"SECRETS_FOLDER": "/no/such/folder"}),
    ("berth.E022", checks.broker_allowed, {"BROKER_ALLOWED": ["tool:web_search_*", "web_fetch"]}),
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
    ("berth.E013", checks.sandbox_folders, {"LOCAL_BWRAP": True, "LOCAL_BWRAP_FOLDERS": ["opt"]}),
    ("berth.E013", checks.sandbox_folders, {"LOCAL_BWRAP": True, "LOCAL_BWRAP_FOLDERS": ["/usr/.."]}),
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


def test_an_env_file_that_others_could_read_is_closed_before_a_key_is_written_to_it(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=9000\n")
    file.chmod(0o644)
    assert dotenv.complete(file) == ["SECRET_KEY", "ADMIN_PASSWORD"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_others_can_read_is_named_and_closed(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR, settings.BASE_DIR = tmp_path / "var", tmp_path
    settings.DATA_DIR.mkdir()
    settings.DATA_DIR.chmod(0o755)
    for path in (settings.DATA_DIR / "berth.sqlite3", settings.DATA_DIR / "berth.sqlite3-wal", tmp_path / ".env"):
        path.touch()
        path.chmod(0o644)
    assert [found.id for found in checks.private()] == ["berth.W014"] * 4
    settings.RUNTIME = "kubernetes"
    assert checks.private() == []
    settings.RUNTIME = "local"
    call_command("make_env", stdout=io.StringIO())
    assert checks.private() == [] and (settings.DATA_DIR / "berth.sqlite3").stat().st_mode & 0o777 == 0o600
    assert "SECRET_KEY=" in (tmp_path / ".env").read_text()


@hypothesis.settings(deadline=None, max_examples=5)
@hypothesis.example("#?%41+ ;&$X")
@hypothesis.given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=60))
def test_the_database_lies_in_the_data_folder_however_that_is_called(name: str) -> None:
    with tempfile.TemporaryDirectory() as above:
        data = Path(above, f"var {name}")
        environment = {"PATH": os.environ["PATH"], "SECRET_KEY": "k" * 50, "DATA_DIR": str(data)}
        code = "from controlplane.settings import DATABASES; print(ascii(DATABASES['default']['NAME']))"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ascii(str(data / "berth.sqlite3"))


@pytest.mark.parametrize("how", ["taken", "taken by one that is gone"])
def test_a_data_folder_has_one_holder_as_long_as_anything_of_it_lives(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "var"
    first, beside = datafolder.lock(folder), os.fork()
    if beside == 0:
        signal.pause()
    try:
        if how == "taken by one that is gone":
            os.close(first)
        with pytest.raises(datafolder.InUse, match=f"process {os.getpid()}, or what it started"):
            datafolder.lock(folder)
    finally:
        os.kill(beside, signal.SIGKILL)
        os.waitpid(beside, 0)
    if how == "taken":
        os.close(first)
    os.close(datafolder.lock(folder))


def test_a_new_env_file_is_private(tmp_path: Path) -> None:
    assert dotenv.complete(tmp_path / ".env") == ["SECRET_KEY", "ADMIN_PASSWORD"]
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
