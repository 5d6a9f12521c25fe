"""The oracle is a second opinion: it shares nothing with the code that it checks."""

import ast
from pathlib import Path

import pytest

import pvq_ref.oracle

FOLDER = Path(pvq_ref.oracle.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
STANDARD = {
    "collections", "dataclasses", "fractions", "functools", "hashlib", "itertools", "json", "math",
    "operator", "re", "statistics", "struct", "typing",
}  # fmt: skip


def imports(path):
    """Full names of all modules that a file imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "exec", "eval"), path
    return names


def test_the_modules_are_found():
    assert len(MODULES) >= 9


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_only_the_errors_are_shared(path):
    for name in imports(path):
        if name.startswith("pvq_ref"):
            assert name == "pvq_ref.errors" or name.startswith("pvq_ref.oracle."), name
        elif path.name in ("gain.py", "law.py"):
            assert name.split(".")[0] in STANDARD | {"mpmath"}, name
        else:
            assert name.split(".")[0] in STANDARD, name


def test_the_package_needs_no_mpmath():
    """Neither __init__ nor what it imports, directly or not, reaches a module with mpmath."""
    seen, todo = set(), ["__init__"]
    while todo:
        module = todo.pop()
        seen.add(module)
        for name in imports(FOLDER / f"{module}.py"):
            assert name != "mpmath", module
            last = name.removeprefix("pvq_ref.oracle.")
            if last != name and last not in seen:
                todo.append(last)
    assert {"counting", "ranking", "search"} < seen


def test_exports():
    assert pvq_ref.oracle.__all__ == ["count", "rank", "search", "unrank"]
    assert pvq_ref.oracle.search([1.0], 2) == (2,)
