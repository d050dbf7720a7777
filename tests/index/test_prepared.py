# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements as text with parameters by position."""

import importlib
import subprocess
import sys

import pytest
from sqlalchemy import select

from cas3fs.index import Index
from cas3fs.index.prepared import Prepared, plain
from cas3fs.index.statements.keeping import Kept, kept, names
from cas3fs.index.statements.writing import Written, count_param, param
from cas3fs.index.tables import inodes


def test_parameters_are_given_in_the_order_that_the_author_names() -> None:
    statement = select(inodes.c.id).where(
        inodes.c.uid == param("b"), inodes.c.gid == param("a"), param("b") > 0 * param("a")
    )
    with pytest.raises(ValueError, match="parameters"):
        Written(statement, "a b")  # the 0 became a parameter
    statement = select(inodes.c.id).where(
        inodes.c.uid == param("b"), inodes.c.gid == param("a"), inodes.c.id > param("b")
    )
    written = Written(statement, "a b")
    assert written.text.split("WHERE ")[1] == "inodes.uid = ? AND inodes.gid = ? AND inodes.id > ?"
    prepared = Prepared(written.text, written.order)
    assert prepared.place is not None
    assert prepared.place(("A", "B")) == ("B", "A", "B")
    in_place = Written(select(inodes.c.id).where(inodes.c.uid == param("a"), inodes.c.gid == param("b")), "a b")
    assert Prepared(in_place.text, in_place.order).place is None


@pytest.mark.parametrize("parameters", ["", "a", "a b c"])
def test_missing_and_surplus_parameters_are_refused(parameters: str) -> None:
    statement = select(inodes.c.id).where(inodes.c.uid == param("a"), inodes.c.gid == param("b"))
    with pytest.raises(ValueError, match="parameters"):
        Written(statement, parameters)
    with pytest.raises(ValueError, match="parameters"):
        plain("SELECT id FROM inodes WHERE uid = :p_a AND gid = :p_b", parameters)


def test_a_statement_runs_on_an_index(index: Index) -> None:
    written = Written(
        select(inodes.c.id).where(inodes.c.id >= param("least")).limit(count_param("most")).offset(count_param("skip")),
        "least most skip",
    )
    statement = Prepared(written.text, written.order)
    assert statement.on(index._database).all(1, 5, 0) == [(1,)]
    assert statement.on(index._database).one(2, 5, 0) is None


def test_a_statement_that_is_written_as_text_takes_its_values_in_the_order_named(index: Index) -> None:
    statement = plain("SELECT :p_b, :p_a, :p_b FROM inodes WHERE id = :p_a", "a b")
    assert statement.on(index._database).all(1, "x") == [("x", 1, "x")]


def _shown(value: Kept) -> object:
    if isinstance(value, Prepared):
        return value.text, value.order
    return tuple(map(_shown, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", names())
def test_the_texts_that_are_kept_are_what_sqlalchemy_makes_of_the_statements(name: str) -> None:
    module = importlib.import_module(f"cas3fs.index.texts.{name}")
    found = {one: _shown(value) for one, value in vars(module).items() if one.isupper()}
    assert found == {one: _shown(value) for one, value in kept(name).items()}


def test_a_mount_imports_no_sqlalchemy() -> None:
    script = "import sys, cas3fs.commands.mount; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
