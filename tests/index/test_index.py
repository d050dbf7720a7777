# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations, the group, durability, and what a killed process leaves."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from cas3fs.errors import IndexCorrupt, IndexDatabaseError, IndexFull, IndexTooNew
from cas3fs.index import Index
from cas3fs.index import sqlite as sqlite_module
from tests.index.conftest import add_file


class Oops(Exception):
    pass


def test_an_operation_that_fails_undoes_itself_and_nothing_else(index: Index) -> None:
    with index.operation():
        add_file(index, b"before")
    with pytest.raises(Oops), index.operation():
        add_file(index, b"failed")
        raise Oops
    with index.operation():
        add_file(index, b"after")
    index.commit()
    assert [row[1] for row in index.namespace.entries(1, 0, 9)] == [b"before", b"after"]


def test_an_operation_within_another_fails_alone(index: Index) -> None:
    with index.operation():
        add_file(index, b"outer")
        with suppress(Oops), index.operation():
            add_file(index, b"inner")
            raise Oops
    assert [row[1] for row in index.namespace.entries(1, 0, 9)] == [b"outer"]


def test_a_failed_statement_undoes_its_operation(index: Index) -> None:
    add_file(index, b"taken")
    with pytest.raises(IndexDatabaseError) as caught, index.operation():
        number = add_file(index, b"new")
        index.namespace.add_entry(1, b"taken", number)
    assert not caught.value.group_lost
    assert (index.in_group, index.namespace.child(1, b"new")) == (True, None)


def test_the_group_is_open_from_the_first_change_to_the_commit(index: Index) -> None:
    index.namespace.lookup(1, b"a")
    assert not index.in_group
    with index.operation():
        add_file(index, b"a")
    assert index.in_group
    index.commit()
    assert not index.in_group
    index.commit()
    add_file(index, b"outside of an operation")
    assert index.in_group


def test_a_rollback_undoes_the_group(index: Index) -> None:
    add_file(index, b"kept")
    index.commit()
    with index.operation():
        add_file(index, b"undone")
    index.rollback()
    assert not index.in_group
    assert [row[1] for row in index.namespace.entries(1, 0, 9)] == [b"kept"]


def test_closing_keeps_what_was_committed_and_leaves_one_file(path: Path) -> None:
    with Index.open(path, create=True) as index:
        add_file(index, b"kept")
        index.commit()
        add_file(index, b"uncommitted")
    with Index.open(path) as index:
        assert [row[1] for row in index.namespace.entries(1, 0, 9)] == [b"kept"]
    assert list(path.parent.iterdir()) == [path]


def test_a_closed_index_holds_no_file_open(path: Path) -> None:
    index = Index.open(path, create=True)
    add_file(index, b"a")
    index.namespace.lookup(1, b"a")
    index.commit()
    reader = index.reader()
    reader.counts()
    reader.close()
    index.close()
    held = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [name for name in held if name.startswith(str(path))] == []
    assert list(path.parent.iterdir()) == [path]


def test_any_thread_may_use_the_index_under_a_lock(index: Index) -> None:
    lock, errors = threading.Lock(), []

    def work(who: int) -> None:
        try:
            for number in range(50):
                with lock, index.operation():
                    add_file(index, b"%d-%d" % (who, number))
                    if number % 10 == 0:
                        index.commit() if not index.in_group else None
                index.sync()
        except Exception as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(index.namespace.entries(1, 0, 999)) == 200


def test_a_sync_syncs_the_log_once_for_each_commit(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    index.sync()
    add_file(index)
    index.sync()
    assert synced == [], "nothing was committed since the index was made"
    index.commit()
    index.sync()
    index.sync()
    assert synced == [f"{index.path}-wal"]


def test_commits_of_an_earlier_process_are_synced_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Index.open(path, create=True).close()
    synced: list[int] = []
    with Index.open(path) as index:
        monkeypatch.setattr(os, "fdatasync", synced.append)
        index.sync()
    assert len(synced) == 1


@pytest.mark.promise("staged-bytes-outlive-their-index-entry")
def test_a_commit_during_a_sync_is_synced_by_the_next_one(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def fdatasync(log: int) -> None:
        synced.append(log)
        if len(synced) == 1:
            add_file(index)
            index.commit()

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    add_file(index)
    index.commit()
    index.sync()
    index.sync()
    assert len(synced) == 2


@pytest.mark.promise("staged-bytes-outlive-their-index-entry")
def test_a_sync_that_failed_never_succeeds_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    add_file(index)
    index.commit()
    with monkeypatch.context() as patch, pytest.raises(IndexDatabaseError, match="Input/output error"):
        patch.setattr(os, "fdatasync", fail)
        index.sync()
    with pytest.raises(IndexDatabaseError, match="earlier"):
        index.sync()


VICTIM = """
import sys
from pathlib import Path
from cas3fs.index import Index
index = Index.open(Path(sys.argv[1]), create=True)
def make(name):
    with index.operation():
        number = index.namespace.last_numbers()[0] + 1
        index.namespace.insert_inodes([(number, 0o100644, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1)])
        index.namespace.add_entry(1, name, number)
for number in range(3000):
    make(b"committed%d" % number)
    if number % 1000 == 999:
        index.commit()
index.sync()
make(b"uncommitted")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_what_it_committed(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        victim.send_signal(signal.SIGKILL)
    with Index.open(path) as index:
        names = [row[1] for row in index.namespace.entries(1, 0, 9999)]
        assert names == [b"committed%d" % number for number in range(3000)]
        assert index._database.execute("PRAGMA integrity_check") == [("ok",)]


def test_a_full_database_loses_the_group_and_says_so(index: Index) -> None:
    add_file(index, b"kept")
    index.commit()
    connection = index._database.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + 20}")
    with pytest.raises(IndexFull) as caught:
        for number in range(10_000):
            with index.operation():
                add_file(index, b"%0200d" % number)
        index.commit()
    assert caught.value.group_lost is not index.in_group
    index.rollback()
    connection.execute("PRAGMA max_page_count=1000000")
    with index.operation():
        add_file(index, b"after")
    index.commit()
    assert [row[1] for row in index.namespace.entries(1, 0, 9)] == [b"kept", b"after"]


def test_a_transaction_that_sqlite_undoes_is_reported_as_lost(index: Index) -> None:
    with pytest.raises(IndexDatabaseError) as caught, index.operation():
        add_file(index, b"a")
        index._database.connection.execute("ROLLBACK")
        index.namespace.add_entry(1, b"\0" * 10, "no number")  # type: ignore[arg-type]
        index.namespace.set_xattr(1, b"a", None)  # type: ignore[arg-type]
    assert caught.value.group_lost
    assert not index.in_group


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, IndexFull),
        (sqlite3.SQLITE_CORRUPT, IndexCorrupt),
        (sqlite3.SQLITE_CORRUPT_INDEX, IndexCorrupt),
        (sqlite3.SQLITE_NOTADB, IndexCorrupt),
        (sqlite3.SQLITE_IOERR_READ, IndexDatabaseError),
        (sqlite3.SQLITE_BUSY, IndexDatabaseError),
    ],
)
def test_an_error_of_sqlite_becomes_an_index_error(index: Index, code: int, kind: type[Exception]) -> None:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    assert type(index._database.fault(error)) is kind


def test_an_io_error_on_a_full_disk_means_that_it_is_full(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    monkeypatch.setattr(sqlite_module, "FULL_DISK_BYTES", 1 << 62)
    assert isinstance(index._database.fault(error), IndexFull)


def test_a_number_beyond_64_bits_is_an_index_error(index: Index) -> None:
    with pytest.raises(IndexDatabaseError):
        index.namespace.save_attributes([(1, 0, 0, 0, 0, 0, 2**63)])


def test_space_for_the_log_is_allocated_beforehand(index: Index) -> None:
    log = Path(f"{index.path}-wal").stat()
    assert log.st_size >= sqlite_module.LOG_RESERVE_BYTES
    assert log.st_blocks * 512 >= sqlite_module.LOG_RESERVE_BYTES


def test_a_missing_index_is_an_error_and_stays_missing(path: Path) -> None:
    with pytest.raises(IndexDatabaseError, match="no such"):
        Index.open(path)
    assert not path.exists()


def test_a_file_that_is_no_database_is_corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database " * 1000)
    with pytest.raises(IndexCorrupt):
        Index.open(path)
    with pytest.raises(IndexCorrupt):
        Index.open(path, create=True)


def test_a_damaged_index_is_corrupt(path: Path) -> None:
    with Index.open(path, create=True) as index:
        for number in range(2000):
            add_file(index, b"%d" % number)
        index.commit()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4096 * 2)
        file.write(os.urandom(size - 4096 * 2))
    with pytest.raises(IndexCorrupt), Index.open(path) as index:
        index.namespace.entries(1, 0, 10_000)


def test_an_empty_file_is_taken_for_a_missing_index(path: Path) -> None:
    path.touch()
    with Index.open(path, create=True) as index:
        assert index.namespace.inode(1) is not None


def test_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(IndexDatabaseError, match="not an index"):
        Index.open(path, create=True)


def test_an_index_of_an_unknown_revision_is_too_new(path: Path) -> None:
    Index.open(path, create=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(IndexTooNew, match="9999"):
        Index.open(path)


def test_a_read_only_index_refuses_changes(path: Path) -> None:
    Index.open(path, create=True).close()
    with Index.open(path, read_only=True) as index:
        assert index.namespace.inode(1) is not None
        with pytest.raises(IndexDatabaseError):
            add_file(index)


@pytest.mark.promise("migrations-work-on-a-copy")
def test_pages_have_one_size_and_are_never_vacuumed(index: Index) -> None:
    assert index._database.execute("PRAGMA page_size") == [(4096,)]
    assert index._database.execute("PRAGMA auto_vacuum") == [(0,)]
    assert index._database.execute("PRAGMA journal_mode") == [("wal",)]


def test_the_log_is_used_from_its_start_again(index: Index) -> None:
    index._database.execute("PRAGMA wal_autocheckpoint=100")
    for _ in range(40):
        for number in range(200):
            add_file(index, os.urandom(20) + b"%d" % number)
        index.commit()
    assert Path(f"{index.path}-wal").stat().st_size == sqlite_module.LOG_RESERVE_BYTES
    connection = sqlite3.connect(index.path)
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    connection.close()
    assert frames < 1000
