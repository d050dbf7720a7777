# SPDX-License-Identifier: GPL-3.0-or-later
"""A group that SQLite undoes is noticed whatever statement failed, redone, and never committed in part."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError, IndexFull
from cas3fs.index import Index
from cas3fs.testing.sqlite_faults import SqliteFault, SqliteFaults, sqlite_faults
from tests.index.conftest import add_file

LOSING = [SqliteFault.FULL, SqliteFault.IOERR, SqliteFault.NOMEM]


@pytest.fixture
def faults() -> Iterator[SqliteFaults]:
    with sqlite_faults() as made:
        yield made


@pytest.fixture
def index(faults: SqliteFaults, path: Path) -> Iterator[Index]:
    with Index.open(path, create=True) as index:
        add_file(index, b"committed")
        index.commit()
        yield index


def names(index: Index) -> list[bytes]:
    return [row[1] for row in index.namespace.entries(1, 0, 99)]


def make(index: Index, name: bytes) -> None:
    with index.operation():
        add_file(index, name)


@pytest.mark.promise("a-lost-transaction-is-noticed")
@pytest.mark.parametrize("kind", LOSING)
def test_a_read_that_loses_the_group_is_noticed_and_the_group_redone(
    index: Index, faults: SqliteFaults, kind: SqliteFault
) -> None:
    told: list[str] = []
    index.watch(told.append)
    make(index, b"before")
    with faults.on(kind), pytest.raises(IndexDatabaseError) as caught:
        index.namespace.lookup(1, b"committed")
    assert caught.value.group_lost
    assert index.lost
    make(index, b"after")
    assert (index.lost, len(told), told[-1]) == ("", 2, "")
    index.commit()
    assert names(index) == [b"committed", b"before", b"after"]


@pytest.mark.parametrize("kind", LOSING)
def test_an_operation_that_loses_the_group_is_undone_alone(
    index: Index, faults: SqliteFaults, kind: SqliteFault
) -> None:
    make(index, b"before")
    with pytest.raises(IndexDatabaseError), index.operation():
        add_file(index, b"half")
        with faults.on(kind):
            index.namespace.set_xattr(1, b"user.a", b"")
    assert names(index) == [b"committed", b"before"]
    index.commit()
    assert names(index) == [b"committed", b"before"]


def test_an_operation_whose_beginning_was_undone_does_nothing_more(index: Index, faults: SqliteFaults) -> None:
    with pytest.raises(IndexDatabaseError, match="since the last commit"), index.operation():
        add_file(index, b"first half")
        with faults.on(SqliteFault.IOERR), pytest.raises(IndexDatabaseError):
            index.namespace.inode(1)
        add_file(index, b"second half")
    index.commit()
    assert names(index) == [b"committed"]


@pytest.mark.promise("a-lost-transaction-is-noticed")
def test_while_a_group_stays_lost_nothing_is_read_or_committed(index: Index, faults: SqliteFaults) -> None:
    make(index, b"before")
    with faults.on(SqliteFault.FULL, times=None):
        with pytest.raises(IndexFull):
            index.commit()
        for use in (index.commit, lambda: names(index), lambda: make(index, b"later"), index.commit):
            with pytest.raises(IndexDatabaseError) as caught:
                use()
            assert caught.value.group_lost
    index.commit()
    assert names(index) == [b"committed", b"before"]


def test_not_every_read_tries_to_redo_a_lost_group(index: Index, faults: SqliteFaults) -> None:
    make(index, b"before")
    with faults.on(SqliteFault.FULL, times=None) as armed:
        for _ in range(50):
            with pytest.raises(IndexDatabaseError):
                names(index)
    assert armed.seen < 10


def test_a_savepoint_that_cannot_be_undone_loses_the_group_which_is_redone(index: Index, faults: SqliteFaults) -> None:
    make(index, b"before")
    with faults.on(SqliteFault.FULL_STATEMENT, text="ROLLBACK TO"), pytest.raises(IndexDatabaseError):  # noqa: SIM117
        with index.operation():
            add_file(index, b"half")
            raise KeyError
    assert names(index) == [b"committed", b"before"]


def test_a_rollback_ends_a_lost_group_for_good(index: Index, faults: SqliteFaults) -> None:
    make(index, b"before")
    with faults.on(SqliteFault.FULL), pytest.raises(IndexFull):
        index.commit()
    index.rollback()
    assert (index.lost, names(index)) == ("", [b"committed"])


@pytest.mark.promise("a-lost-transaction-is-noticed")
@pytest.mark.parametrize("kind", [*LOSING, SqliteFault.FULL_STATEMENT])
def test_an_error_at_any_statement_loses_no_operation_and_halves_none(
    faults: SqliteFaults, tmp_path: Path, kind: SqliteFault
) -> None:
    for at in range(1, 1000):
        with Index.open(tmp_path / f"{at}.sqlite", create=True) as index, faults.on(kind, at=at) as armed:
            done = [name for name in (b"a", b"b", b"c") if _was_done(index, name)]
        with Index.open(index.path) as index:
            assert names(index) == done, f"the {at}th statement failed"
            assert [index.namespace.get_xattr(row[2], b"user.a") for row in index.namespace.entries(1, 0, 9)] == [
                b"1" for _ in done
            ]
        if not armed.times_triggered:
            return
    pytest.fail("it never ended")


def _was_done(index: Index, name: bytes) -> bool:
    """Makes a file with an attribute, in one operation, and commits until it succeeds."""
    try:
        with index.operation():
            index.namespace.set_xattr(add_file(index, name), b"user.a", b"1")
            index.namespace.lookup(1, name)
    except IndexDatabaseError:
        was_done = False
    else:
        was_done = True
    for _ in range(2):
        try:
            index.commit()
        except IndexDatabaseError:
            continue
        return was_done
    raise AssertionError("the second commit failed, too")
