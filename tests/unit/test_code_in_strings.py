"""Code that tests and benches have run inside a stack stands in strings, which no checker reads: its imports exist."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PRODUCT = ("controlplane", "groups", "sessions", "schedules", "egress_policy", "broker", "isolation", "k8s_adapter")
IMPORT = re.compile(rf"\bfrom ((?:{'|'.join(PRODUCT)})[\w.]*) import (\w+(?:, \w+)*)")


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """Module and name of each import that stands in a string."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text()
        strings = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        for string in strings:
            for module, names in IMPORT.findall(string) if isinstance(string, str) else []:
                yield from ((module, name) for name in names.split(", "))


@pytest.mark.parametrize("folder", ["tests", "testbed", "bench"])
def test_imports_in_strings_exist(folder: str) -> None:
    found = list(imports(folder))
    for module, name in found:
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
    assert found
