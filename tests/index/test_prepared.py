# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements as compiled text with parameters by position."""

import pytest
from sqlalchemy import select

from cas3fs.index import Index
from cas3fs.index.prepared import Prepared, count_param, param
from cas3fs.index.tables import inodes


def test_parameters_are_given_in_the_order_that_the_author_names() -> None:
    statement = select(inodes.c.id).where(
        inodes.c.uid == param("b"), inodes.c.gid == param("a"), param("b") > 0 * param("a")
    )
    with pytest.raises(ValueError, match="parameters"):
        Prepared(statement, "a b")  # the 0 became a parameter
    statement = select(inodes.c.id).where(
        inodes.c.uid == param("b"), inodes.c.gid == param("a"), inodes.c.id > param("b")
    )
    prepared = Prepared(statement, "a b")
    assert prepared.text.split("WHERE ")[1] == "inodes.uid = ? AND inodes.gid = ? AND inodes.id > ?"
    assert prepared.place is not None
    assert prepared.place(("A", "B")) == ("B", "A", "B")
    in_place = Prepared(select(inodes.c.id).where(inodes.c.uid == param("a"), inodes.c.gid == param("b")), "a b")
    assert in_place.place is None


@pytest.mark.parametrize("names", ["", "a", "a b c"])
def test_missing_and_surplus_parameters_are_refused(names: str) -> None:
    statement = select(inodes.c.id).where(inodes.c.uid == param("a"), inodes.c.gid == param("b"))
    with pytest.raises(ValueError, match="parameters"):
        Prepared(statement, names)


def test_a_statement_runs_on_an_index(index: Index) -> None:
    statement = Prepared(
        select(inodes.c.id).where(inodes.c.id >= param("least")).limit(count_param("most")).offset(count_param("skip")),
        "least most skip",
    )
    assert statement.on(index._database).all(1, 5, 0) == [(1,)]
    assert statement.on(index._database).one(2, 5, 0) is None
