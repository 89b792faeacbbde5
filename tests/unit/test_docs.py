"""What the documents say of the code is true: settings, checks, commands, states, verdicts, links."""

import ast
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from django.core.management import get_commands

from sessions import choices
from sessions.choices import EndReason
from sessions.lifecycle import end_reasons
from sessions.stream import consumers

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = re.compile(r"^(\.|var$|node_modules$)")
PAGES = sorted(page for page in ROOT.rglob("*.md") if not any(map(NOT_OURS.match, page.relative_to(ROOT).parts)))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CHECK = re.compile(r"berth\.[EW]\d{3}")


def table(page: str, head: str) -> dict[str, list[str]]:
    """The rows of the table whose first column is headed `head`: first cell (without backticks) → the other cells."""
    lines = iter((ROOT / page).read_text().splitlines())
    next(line for line in lines if line.startswith(f"| {head} |"))
    next(lines)  # |---|---|
    rows = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *others = [cell.strip() for cell in line.strip().strip("|").split("|")]
        rows[first.strip("`")] = others
    return rows


def code_of(page: Path) -> str:
    """What a page shows as code, in blocks and within lines."""
    text = page.read_text()
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


def settings_read() -> dict[str, ast.expr]:
    """Name → default (an empty text if there is none) of every `env.…("NAME", …)`, `number(…)`, `numbers(…)`."""
    tree = ast.parse((ROOT / "controlplane" / "settings.py").read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"env(\.\w+)?|numbers?", ast.unparse(node.func)) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant):
                named = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
                defaults = named or node.args[1:]
                found[str(name.value)] = defaults[0] if defaults else ast.Constant("")
    return found


def plain(default: ast.expr) -> str | None:
    """A default as the table writes it; None for one that is made from other settings."""
    if any(isinstance(node, ast.Name) for node in ast.walk(default)):
        return None
    value = eval(ast.unparse(default), {})
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get: https://docs.github.com/get-started/writing-on-github"""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_setting_has_a_row_and_every_row_is_a_setting() -> None:
    assert set(table("docs/settings.md", "setting")) == set(settings_read())


def test_the_rows_tell_the_settings_own_defaults() -> None:
    told = {name: row[0].strip("`") for name, row in table("docs/settings.md", "setting").items()}
    real = {name: plain(default) for name, default in settings_read().items()}
    assert {name: told[name] for name, value in real.items() if value is not None} == {
        name: value for name, value in real.items() if value is not None
    }
    assert all(told[name] for name, value in real.items() if value is None)


def test_the_system_checks_in_the_table_are_those_there_are() -> None:
    documented = set(CHECK.findall((ROOT / "docs" / "settings.md").read_text()))
    assert documented == set(CHECK.findall((ROOT / "controlplane" / "checks.py").read_text()))


def test_other_variables_are_read_where_the_table_says() -> None:
    made = "".join((ROOT / name).read_text() for name in ("Makefile", "Procfile", "controlplane/checks.py"))
    for name in table("docs/settings.md", "variable"):
        assert re.search(rf"\b{name}\b", made), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = code_of(page)
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= targets
    assert set(re.findall(r"manage\.py ([a-z_]+)", code)) <= set(get_commands())


def test_the_readme_starts_with_the_two_commands() -> None:
    assert re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)[:2] == ["run", "test"]


def test_production_starts_the_processes_as_the_procfile_does() -> None:
    commands = table("docs/operations.md", "process")
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, _, command = line.partition(": ")
        bare = re.sub(r"^exec |^trap .*; until |; do .*", "", command)
        asked = bare.replace("${HOST:-127.0.0.1}", "0.0.0.0").replace("${PORT:-8000}", "8000")
        assert commands[name][0] == f"`{asked}`"


def test_the_architecture_names_files_that_exist() -> None:
    for name in re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", (ROOT / "docs" / "architecture.md").read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("head", "moves"), [("run's state", choices.RUN_MOVES), ("message's state", choices.MESSAGE_MOVES)]
)
def test_the_state_tables_are_the_moves_that_are_allowed(head: str, moves: dict[Any, frozenset[Any]]) -> None:
    told = {state: set(re.findall(r"\w+", row[0])) for state, row in table("docs/architecture.md", head).items()}
    assert told == {str(state): {str(target) for target in targets} for state, targets in moves.items()}


def test_every_state_of_a_session_is_explained() -> None:
    assert list(table("docs/architecture.md", "session's state")) == choices.SessionState.values


def test_the_close_codes_are_those_of_the_stream() -> None:
    assert set(table("docs/architecture.md", "close code")) == {
        str(code) for code in (consumers.NO_LOGIN, consumers.NOT_YOURS, consumers.TOO_MANY)
    }


def test_every_verdict_is_told_with_its_words_and_advice() -> None:
    told = table("docs/operations.md", "verdict")
    assert set(told) == {str(cause) for cause in EndReason}
    for cause, advice in end_reasons.ADVICE.items():
        words, following, safe, again, session = told[cause]
        assert words.startswith(re.split(r"[{.]", advice.message)[0].rstrip()), cause
        assert following == advice.next
        assert (safe, again) == tuple("yes" if it else "no" for it in (advice.retry_safe, advice.retries)), cause
        assert session == ("failed" if advice.failure else "idle")


def test_the_log_lines_in_the_table_are_written_somewhere() -> None:
    apps = ("sessions", "schedules", "controlplane")
    code = "".join(path.read_text() for app in apps for path in (ROOT / app).rglob("*.py"))
    for row in table("docs/operations.md", "event"):
        for event in row.split("`, `"):
            assert f'"{event}"' in code, event


PACKAGES = (
    "controlplane isolation schedules egress_policy broker sessions groups k8s_adapter runtimes courier redaction"
    " egress agents"
)
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def modules() -> list[Path]:
    """The product's modules, from the project's root; no migrations, no `apps.py`, no package's face."""
    found = [path.relative_to(ROOT) for package in PACKAGES.split() for path in (ROOT / package).rglob("*.py")]
    return [path for path in found if path.name not in ("__init__.py", "apps.py") and "migrations" not in path.parts]


def test_the_layout_names_every_module() -> None:
    folders: list[str] = []
    named = set()
    for line in re.findall(r"```text\n(.*?)```", ARCHITECTURE.read_text(), re.DOTALL)[0].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        if name.endswith(".py"):
            named.add("".join(folders))
    assert named == {path.as_posix() for path in modules()}


def test_the_arrows_are_those_of_the_imports() -> None:
    rows = table("docs/architecture.md", "package")
    names = {*PACKAGES.split()}
    imported: dict[str, set[str]] = {name: set() for name in names}
    for path in modules():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            whole = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            whole += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            imported[path.parts[0]] |= {each.partition(".")[0] for each in whole} & names - {path.parts[0]}
    assert {name: {*re.findall(r"`(\w+)`", cells[0])} for name, cells in rows.items()} == imported


def test_every_step_of_a_journey_exists() -> None:
    steps = re.findall(
        r"^\| \d+ \| .* \| `([\w/]+\.(?:py|js|sh))`(?:: `([\w.]+)`)? \|$", ARCHITECTURE.read_text(), re.MULTILINE
    )
    assert len(steps) > 30
    for path, function in steps:
        text = (ROOT / path).read_text()
        if not path.endswith(".py"):
            assert not function or re.search(rf"\b{function}\b", text), f"{path}: {function}"
            continue
        body: list[ast.stmt] = ast.parse(text).body
        for name in function.split(".") if function else []:
            found = [node for node in body if getattr(node, "name", "") == name]
            assert found, f"{path} has no {function}"
            body = getattr(found[0], "body", [])
