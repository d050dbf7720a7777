# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL is written with SQLAlchemy Core; what only SQLite has is written as text, in the modules of that engine alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cas3fs"
ENGINE = [PACKAGE / "index" / name for name in ("sqlite.py", "sqlite_features.py")]
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {*ENGINE})
SQL = re.compile(
    r"\b(SELECT\s+[\w*(\"]|INSERT\s+(OR\s+\w+\s+)?INTO\b|DELETE\s+FROM\b|UPDATE\s+\w+\s+SET\b|WITH\s+RECURSIVE\b"
    r"|(CREATE|DROP|ALTER)\s+(TEMP|UNIQUE|TABLE|INDEX|TRIGGER|VIEW)|PRAGMA\s|ATTACH\s+DATABASE|VACUUM\b|SAVEPOINT\b"
    r"|(BEGIN|COMMIT|ROLLBACK)$|BEGIN\s+IMMEDIATE)"
)


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """The strings of a module, but for docstrings and the descriptions of constants."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node


def sql_in(source: str) -> list[str]:
    return [f"line {one.lineno}: {one.value}" for one in texts(ast.parse(source)) if SQL.search(str(one.value))]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_has_no_sql_as_text(module: Path) -> None:
    assert sql_in(module.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1", "INSERT OR IGNORE INTO t VALUES (1)", "DELETE FROM t", "UPDATE t SET a = 1",
        "CREATE TEMP TABLE t (a)", "PRAGMA quick_check", "WITH RECURSIVE t AS (SELECT a FROM b)",
        "BEGIN", "SAVEPOINT one", "DROP INDEX t",
    ],
)  # fmt: skip
def test_sql_as_text_would_be_seen(text: str) -> None:
    assert len(sql_in(f"run({text!r})")) == 1
    assert sql_in(f'"""{text}"""') == []


def test_the_engine_has_some() -> None:
    assert all(len(sql_in(one.read_text())) > 5 for one in ENGINE)
