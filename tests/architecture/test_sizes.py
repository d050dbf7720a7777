# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules and functions are small enough to read in one go, and modules have a licence and a docstring."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES = 600
FUNCTION_LINES = 60
MODULES = sorted(
    path for folder in ("cas3fs", "benchmarks", "migrations") for path in (ROOT / folder).rglob("*.py") if path.exists()
)

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


@each_module
def test_a_module_has_fewer_than_600_lines(module: Path) -> None:
    assert len(module.read_text().splitlines()) < MODULE_LINES, f"{module}: split it by meaning"


@each_module
def test_a_function_has_at_most_60_lines(module: Path) -> None:
    too_long = {
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    }
    assert not too_long


@each_module
def test_a_module_has_a_licence_and_a_docstring(module: Path) -> None:
    text = module.read_text()
    assert text.startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n")
    assert ast.get_docstring(ast.parse(text)), "no docstring"
