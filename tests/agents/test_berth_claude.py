"""The entry script of the claude image, with a stand-in for the CLI that tells how it was started."""

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "images" / "claude" / "berth-claude"
KEY = "sk-secret-of-a-test"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("bin", "home", "workspace", "secrets of the group"):
        (tmp_path / name).mkdir()
    cli = tmp_path / "bin" / "claude"
    cli.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\necho --environment--\nenv\n')
    cli.chmod(0o755)
    (tmp_path / "secrets of the group" / "anthropic-api-key").write_text(KEY)
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "BERTH_WORKSPACE": str(folder / "workspace"),
        "BERTH_SECRETS": str(folder / "secrets of the group"),
    }
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=30, check=True)


def test_the_cli_starts_in_the_workspace_with_the_contract_s_arguments_and_those_of_the_run(folder: Path) -> None:
    lines = start(folder, "--resume", "an id").stdout.split("--environment--")[0].splitlines()

    assert lines[0] == str(folder / "workspace")
    assert lines[1:6] == ["-p", "--input-format", "stream-json", "--output-format", "stream-json"]
    assert lines[-2:] == ["--resume", "an id"]


def test_the_key_is_in_no_argument_and_no_variable_but_the_helper_finds_it(folder: Path) -> None:
    ran = start(folder)

    assert KEY not in ran.stdout
    assert ran.stderr == ""
    settings = json.loads((folder / "home" / ".claude" / "settings.json").read_text())
    environment = {"BERTH_SECRETS": str(folder / "secrets of the group")}
    helper = subprocess.run(
        ["/bin/sh", "-c", settings["apiKeyHelper"]], env=environment, capture_output=True, text=True
    )
    assert helper.stdout == KEY


def test_settings_that_are_there_are_left_alone(folder: Path) -> None:
    settings = folder / "home" / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"model": "mine"}')

    start(folder)

    assert settings.read_text() == '{"model": "mine"}'
    assert [path.name for path in settings.parent.iterdir()] == ["settings.json"]


def test_the_cli_is_told_to_stay_offline_and_to_keep_all_state_in_its_folder(folder: Path) -> None:
    environment = start(folder).stdout.split("--environment--")[1].splitlines()

    assert "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1" in environment
    assert "DISABLE_AUTOUPDATER=1" in environment
    assert f"CLAUDE_CONFIG_DIR={folder / 'home' / '.claude'}" in environment


def test_a_missing_key_is_told_on_stderr_and_the_cli_starts(folder: Path) -> None:
    (folder / "secrets of the group" / "anthropic-api-key").unlink()

    ran = start(folder)

    assert "no API key" in ran.stderr
    assert "--permission-mode" in ran.stdout
