# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements: SQLAlchemy Core in, SQLite's text out, compiled once and run with values by position."""

import importlib
import pkgutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import Executable, func, literal, select
from sqlalchemy.schema import CreateTable

import cas3fs.index as subpackage
from cas3fs.index import Index, StagingIndex, garbage, hash_index, reader, scans, tree_difference, usage
from cas3fs.index.ledger import CopyLedger
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import BoundStatement, OrderedJoin, Statement, ddl
from cas3fs.index.tables import dentries, inodes


def statements_in(holder: object, prefix: str) -> Iterator[tuple[str, Statement]]:
    for name, value in (holder if isinstance(holder, Mapping) else vars(holder)).items():
        is_own_class = isinstance(value, type) and value.__module__.endswith(f".{prefix}")
        if isinstance(value, Statement):
            yield f"{prefix}.{name}", value
        elif is_own_class or (isinstance(value, Mapping) and not name.startswith("__")):
            yield from statements_in(value, f"{prefix}.{name}")


MODULES = [
    importlib.import_module(f"{subpackage.__name__}.{one.name}") for one in pkgutil.iter_modules(subpackage.__path__)
]
STATEMENTS = dict(
    found for module in MODULES for found in statements_in(module, module.__name__.removeprefix("cas3fs.index."))
)
"""All statements of the subpackage, by module, class and name."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A new index with everything that a statement may name: notes, scans, other indexes, rows of staging, a ledger."""
    folder = tmp_path_factory.mktemp("fresh")
    for name in ("index", "older"):
        Index.open(folder / f"{name}.sqlite", create=True).close()
    StagingIndex(folder / "staging.sqlite").close()
    made = Database(folder / "index.sqlite")
    made.connection.execute("COMMIT")
    made.attach(folder / "older.sqlite", reader.OLDER)
    made.attach(folder / "staging.sqlite", "staging")
    CopyLedger(folder / "copied.sqlite", "pair").close()
    made.attach(folder / "copied.sqlite", "ledger")
    for name in ("source", "copy"):
        made.attach(folder / "older.sqlite", name)
    hash_index.add_temporary_hashes(made)
    for notes in (garbage.NOTES, scans.TEMPORARY, tree_difference.TEMPORARY, usage.TEMPORARY):
        for table in notes.sorted_tables:
            made.execute(ddl(CreateTable(table)))
    yield made.connection
    made.close()


def test_there_are_statements_in_every_part_of_the_room() -> None:
    assert len(STATEMENTS) > 150
    assert {"namespace.Namespace._lookup", "checks.QUERIES.unreachable", "pack_merge._KNOWN"} <= STATEMENTS.keys()


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlite_accepts_every_statement(name: str, database: sqlite3.Connection) -> None:
    statement = STATEMENTS[name]
    database.execute(f"EXPLAIN {statement.text}", [None] * statement.text.count("?"))


def test_a_statement_is_compiled_once_for_all_databases(index: Index, tmp_path: Path) -> None:
    built = []

    def build(number: object) -> Executable:
        built.append(number)
        return select(inodes.c.id).where(inodes.c.id == number)

    class Holder:
        one = Statement(build)

        def __init__(self, database: Database) -> None:
            self._database = database

    with Index.open(tmp_path / "other.sqlite", create=True) as other:
        first, second = Holder(index._database), Holder(other._database)
        assert not built
        assert first.one.one(1) == second.one.one(1) == first.one.one(1) == (1,)
    assert len(built) == 1
    assert first.one is first.one
    assert isinstance(first.one, BoundStatement)


def test_values_are_given_in_the_order_of_the_lambda(index: Index) -> None:
    statement = Statement(
        lambda a, b: select(inodes.c.id).where(inodes.c.uid + inodes.c.gid >= b, inodes.c.id == a, inodes.c.id < b)
    )
    assert statement.text.split("WHERE ")[1] == "inodes.uid + inodes.gid >= ? AND inodes.id = ? AND inodes.id < ?"
    assert statement.on(index._database).all(1, -1) == []
    changed = Statement(lambda a, b: select(literal(1)).where(b == "x", a == 5))
    assert changed.on(index._database).all(5, "x") == [(1,)]


def test_constants_become_part_of_the_text() -> None:
    statement = Statement(
        lambda: select(inodes.c.id).where(inodes.c.nlink == 0, func.coalesce(None, "a") != "b").limit(1)
    )
    assert statement.text == (
        "SELECT inodes.id FROM inodes WHERE inodes.nlink = 0 AND coalesce(NULL, 'a') != 'b' LIMIT 1 OFFSET 0"
    )


def test_a_parameter_that_is_not_used_is_refused() -> None:
    statement = Statement(lambda a, b: select(inodes.c.id).where(inodes.c.id == a))
    with pytest.raises(ValueError, match="parameters"):
        statement.text  # noqa: B018


def test_an_ordered_join_is_a_cross_join_for_sqlite() -> None:
    joined = OrderedJoin(inodes, dentries, dentries.c.inode == inodes.c.id)
    statement = Statement(lambda: select(dentries.c.id).select_from(joined))
    assert statement.text == "SELECT dentries.id FROM inodes CROSS JOIN dentries ON dentries.inode = inodes.id"


def test_rows_come_by_name_too(index: Index) -> None:
    statement = Statement(lambda: select(inodes.c.id.label("number"), inodes.c.nlink))
    assert statement.on(index._database).named() == [{"number": 1, "nlink": 2}]


def test_every_table_of_a_fresh_database_is_declared(database: sqlite3.Connection) -> None:
    for notes in (garbage.NOTES, scans.TEMPORARY, tree_difference.TEMPORARY, usage.TEMPORARY):
        assert {one.schema for one in notes.sorted_tables} == {"temp"}
