# SPDX-License-Identifier: GPL-3.0-or-later
"""The SQLite engine: how a database file is opened, how it fails, and how a commit becomes durable.

All that is SQLite's alone is said here, as plain SQL: pragmas, transactions, its catalogue, triggers. Here, too, is the
one place where sqlite3's errors become those of `cas3fs.errors`.

Durability. The databases run with ``journal_mode=WAL`` and ``synchronous=NORMAL``: a commit appends to the write-ahead
log and does not wait for the disk. With ``synchronous=FULL`` SQLite would do one thing more, fdatasync the log after
each commit; `Database.sync` does just that, so a commit followed by it is as durable as a FULL one, but the caller
chooses when, and holds no lock meanwhile. Two cases are left, and SQLite covers both under NORMAL: a checkpoint syncs
the log before it copies pages and the database after it, before the log may be used from its start again; and a new log
header is synced before the frames behind it. The directory is synced once, as the log's name may be new.

Reads between transactions. Outside of a transaction every read takes and releases a lock on SQLite's shared memory, two
system calls that cost as much as the read itself (a miss in `dentries`: 4.2 microseconds, within a transaction 2.1). So
between its write transactions the writer's connection stays in a read transaction, which is opened anew with every
commit. It would hide what others commit, but there is no other writer; and it never stops a checkpoint from finishing,
as that happens within the commit, before it is opened.

Disk space. A commit that finds the disk full makes SQLite undo the whole transaction. So space for the log is allocated
when it is opened, more than it usually needs, unless the disk is nearly full already. SQLite copes with bytes behind
the end of a log, as every log that is used anew has some; and a sync has less to do when the file does not grow.

Spilling. Within a transaction that has outgrown its cache SQLite writes changed pages to the log early. Before 3.50.2
it then loses commits: a page is changed and written again in its place in the log, a savepoint is rolled back, and the
frames that follow are left without checksums. Readers of the live log see the commit, and recovery after a crash ends
before it. Every operation here is a savepoint. So a writer never spills, and is refused where SQLite cannot be
stopped from it; its changed pages stay in memory until the commit, and `changed_pages` lets callers bound them.

A lost group. SQLite answers some errors, a full disk and failed reads among them, by undoing the whole transaction, and
only `in_transaction` shows it. `fault` looks there, whatever statement failed. From then on nothing is read or
committed that lacks what was undone: a database that was opened with `can_redo` has a list of the group's changes, and
makes them once more before the next statement; until that has succeeded every statement fails.

A warning. POSIX drops all of a process's locks on a file when it closes any descriptor of it. So only SQLite may open
the database file in this process. The log is not a file that SQLite locks; `sync` keeps a descriptor of that.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

from cas3fs.durable import sync_folder
from cas3fs.errors import IndexCorrupt, IndexDatabaseError, IndexFull, IndexRowRefused
from cas3fs.index.files import os_fault
from cas3fs.index.sqlite_features import SQLiteFeatures

Mode = Literal["write", "read", "scratch", "mover"]
"""``write``: as above. ``read``: no change is possible. ``scratch``: a copy that nobody misses after a crash, without a
log and without syncing. ``mover``: moves pages from the log to the file (`cas3fs.index.index_file`), and no more."""

PAGE_SIZE_BYTES: Final = 4096
CACHE_SIZE_KIB: Final = 32 * 1024
SMALL_CACHE_SIZE_KIB: Final = 4 * 1024  # for what is read or written once, from one end to the other
# Four times SQLite's default: a checkpoint happens within a commit, under the caller's lock, and writes each page once
# however often it changed, so fewer and larger ones stall less. The log stays near 16 MiB.
CHECKPOINT_PAGES: Final = 4096
BUSY_TIMEOUT_S: Final = 10.0
FULL_DISK_BYTES: Final = 1 << 20
"""A disk with less space than that is full."""
REDO_PAUSE_S: Final = 1.0
"""Reads try to make the changes of a lost group again no more often than that."""

FAULTS: Final = (sqlite3.Error, OverflowError, MemoryError)
"""What the driver raises when a statement fails: a number has more than 64 bits; SQLite finds no memory."""
_ROW_CODES: Final = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})

Step = tuple[Callable[..., Any], str, Sequence[Any]]
"""A change that was made: the driver's call, the statement's text, its parameters or rows of them."""

LOG_RESERVE_BYTES: Final = 32 << 20
_WRITE_PRAGMAS: Final = (
    "PRAGMA synchronous=NORMAL",
    f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}",
    "PRAGMA cache_spill=OFF",
    # a log that has grown is cut when it is used from its start again
    f"PRAGMA journal_size_limit={2 * LOG_RESERVE_BYTES}",
)
_MOVER_PRAGMAS: Final = ("PRAGMA synchronous=NORMAL", "PRAGMA wal_autocheckpoint=0")
_SCRATCH_PRAGMAS: Final = ("PRAGMA journal_mode=MEMORY", "PRAGMA synchronous=OFF")
_COMMON_PRAGMAS: Final = (
    "PRAGMA temp_store=MEMORY",
    "PRAGMA foreign_keys=OFF",
    # a database that came from the store names no function that does more than compute
    "PRAGMA trusted_schema=OFF",
    # zeroes what is deleted where that costs no further page: free space then compresses well in snapshots
    "PRAGMA secure_delete=FAST",
)
_LAYOUT_PRAGMAS: Final = (f"PRAGMA page_size={PAGE_SIZE_BYTES}", "PRAGMA auto_vacuum=NONE")
_READ_SOMETHING: Final = "SELECT count(*) FROM sqlite_master"


class Database(SQLiteFeatures):
    """One connection to one SQLite file, and the transaction that may be open on it.

    Attributes:
        connection: the driver's own; its errors are to be passed through `fault`.
        path: the file.
        mode: how it was opened.
        can_write: whether changes are possible.
        writing: whether a write transaction is open.
        undone: grows whenever changes were undone, or may have been.
        changed_rows: how many rows its statements have changed, without what triggers did; only ever grows.
        lost: why SQLite has undone the group, until its changes are made again; usually empty.
        on_lost: called with `lost` whenever that changes, in the thread that uses the database at the time.
        redo_list: the changes of the open group, in order, for making them again.
        savepoints: the length of `redo_list` when each operation under way began.
    """

    connection_class: ClassVar[type[sqlite3.Connection]] = sqlite3.Connection
    """The class of connections; tests replace it by one that fails (`cas3fs.testing.sqlite_faults`)."""

    def __init__(
        self,
        path: Path,
        mode: Mode = "write",
        *,
        create: bool = False,
        cache_kib: int = SMALL_CACHE_SIZE_KIB,
        can_redo: bool = False,
    ) -> None:
        """Opens the file; `cache_kib` bounds SQLite's page cache. With `can_redo`, the changes of a group that SQLite
        has undone are made again.

        Raises:
            IndexCorrupt: it is not a SQLite file.
            IndexFull: no space left on its disk.
            IndexDatabaseError: it is missing (and `create` is not given), or cannot be opened.
        """
        super().__init__()
        self.path = path
        self.mode: Final = mode
        self.can_write = mode != "read"
        self.writing = False
        self.undone = 0
        self.changed_rows = self._changed_before = 0
        self.lost = ""
        self.on_lost: Callable[[str], None] = lambda lost: None
        self.can_redo = can_redo
        self.redo_list: list[Step] = []
        self.savepoints: list[int] = []
        self._redo_at_s = 0.0
        self._values_bytes = 0
        self._reads_between = mode == "write"
        self._cursors: list[sqlite3.Cursor] = []
        self._log: int | None = None
        self._sync_failed = ""
        # the first sync counts: a process that was killed may have left commits that the disk has not seen
        self._commits, self._synced_commits = 1, 0
        self.connection = self._connect(mode, create)
        try:
            self._configure(mode, cache_kib)
        except BaseException:
            self.connection.close()
            raise

    def _connect(self, mode: Mode, create: bool) -> sqlite3.Connection:
        access = "ro" if mode == "read" else "rwc" if create else "rw"
        uri = f"file:{quote(os.fsencode(self.path.absolute()))}?mode={access}"
        try:
            return sqlite3.connect(
                uri,
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
                factory=self.connection_class,
            )
        except sqlite3.Error as error:
            if not create and not os.path.lexists(self.path):
                raise IndexDatabaseError(f"{self.path}: no such database") from error
            raise IndexDatabaseError(f"{self.path}: cannot be opened: {error}") from error

    def _configure(self, mode: Mode, cache_kib: int) -> None:
        pragmas: tuple[str, ...] = (f"PRAGMA cache_size=-{cache_kib}", *_COMMON_PRAGMAS)
        if mode == "scratch":
            pragmas = (*_LAYOUT_PRAGMAS, *_SCRATCH_PRAGMAS, *pragmas)
        elif mode == "read":
            # a sort or a copy of a whole table goes to a file of SQLite's own, not into memory
            pragmas = (*pragmas, "PRAGMA temp_store=FILE")
        elif mode == "mover":
            pragmas = (*pragmas, *_MOVER_PRAGMAS)
        elif mode == "write":
            pragmas = (*_LAYOUT_PRAGMAS, *_WRITE_PRAGMAS, *pragmas)
        for pragma in pragmas:
            self.execute(pragma)
        if mode == "write":
            self._refuse_spilling()
            self._start_log()
        self.execute(_READ_SOMETHING)
        if mode == "write":
            self._open_log()
            self._start_reading()

    def _refuse_spilling(self) -> None:
        if self.execute("PRAGMA cache_spill") != [(0,)]:
            raise IndexDatabaseError(
                f"{self.path}: SQLite {sqlite3.sqlite_version} cannot be stopped from writing pages before a commit, "
                "which may lose commits: use SQLite 3.50.2 or later"
            )

    def _start_log(self) -> None:
        if self.execute("PRAGMA journal_mode=WAL") != [("wal",)]:
            raise IndexDatabaseError(f"{self.path}: its file system has no shared memory, which SQLite's log needs")

    def _open_log(self) -> None:
        try:
            self._log = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC)
            self._reserve(self._log)
            sync_folder(self.path.parent)
        except OSError as error:
            raise os_fault(self.path, error) from error

    def _reserve(self, log: int) -> None:
        if self._free_bytes() < LOG_RESERVE_BYTES * 4:
            return
        with suppress(OSError):  # a file system that cannot do it
            os.posix_fallocate(log, 0, LOG_RESERVE_BYTES)

    def execute(self, text: str) -> list[tuple[object, ...]]:
        """Runs a statement without parameters and returns its rows; for what is rare, and no change of a group."""
        try:
            return self.connection.execute(text).fetchall()
        except FAULTS as error:
            raise self.fault(error) from error

    def change(self, text: str) -> None:
        """Runs a change without parameters within the group; for what is rare."""
        self.begin()
        self.execute(text)
        if self.can_redo:
            self.redo_list.append((self.connection.execute, text, ()))

    def cursor(self) -> sqlite3.Cursor:
        """A cursor that is closed with the database; SQLite would otherwise hold the database open for it."""
        cursor = self.connection.cursor()
        self._cursors.append(cursor)
        return cursor

    # -- the group

    def begin(self) -> None:
        """Opens a write transaction, unless one is open; the changes of a lost group are made again first.

        Raises:
            IndexDatabaseError: neither is possible now; with `group_lost` while the group stays lost.
        """
        if self.lost:
            self._redo()
        if not self.writing:
            self._end("COMMIT")
            self.execute("BEGIN IMMEDIATE")
            self._changed_before = self.changed_rows
            self.writing = True

    def redo_before_reading(self) -> None:
        """Comes before reads: makes the changes of a lost group again, at most once a second; raises as `begin`."""
        if self.lost:
            if time.monotonic() < self._redo_at_s:
                raise self.lost_error()
            self.begin()

    @property
    def version(self) -> tuple[int, int]:
        """Differs after every change that this connection made or undid."""
        return self.connection.total_changes, self.undone

    @property
    def changed_pages(self) -> int:
        """About how many pages the open group has changed, all of which stay in memory until it ends: at most one for
        each row, as rows that are made together lie together, and those of large values."""
        if not self.writing:
            return 0
        return self.changed_rows - self._changed_before + self._values_bytes // PAGE_SIZE_BYTES

    def add_value_bytes(self, size_bytes: int) -> None:
        """Counts a value of that size among the changes of the group."""
        self._values_bytes += size_bytes

    def commit(self) -> None:
        """Commits the write transaction, if one is open; its changes are durable after `sync`.

        Raises:
            IndexDatabaseError: with `group_lost` where SQLite has undone it; the next commit makes its changes again.
        """
        if self.lost:
            self.begin()
        if self.writing:
            if not self.connection.in_transaction:
                raise self._group_undone("SQLite has ended the transaction by itself")
            self._end("COMMIT")
            self._commits += 1
            self._ended()

    def rollback(self) -> None:
        """Ends the transaction, if one is open, and undoes its changes; what was lost stays undone."""
        self.undone += 1
        try:
            self._end("ROLLBACK")
        except IndexDatabaseError as error:
            raise self.undo_group(error) from error
        self._ended()

    def _ended(self) -> None:
        self.writing = False
        self.redo_list.clear()
        self._values_bytes = 0
        self._set_lost("")
        while self.unsynced:
            self.execute(f"PRAGMA {self.unsynced.pop()}.synchronous=OFF")
        self._start_reading()

    def undo_group(self, error: BaseException) -> IndexDatabaseError:
        """Undoes the whole group, as a part of it could not be undone; returns the exception to be raised for that."""
        with suppress(*FAULTS):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        return self._group_undone(str(error) or type(error).__name__)

    def _group_undone(self, reason: str) -> IndexDatabaseError:
        self.writing = False
        self.undone += 1
        self._set_lost(reason)
        return self.lost_error()

    def _redo(self) -> None:
        """Makes all changes of the lost group once more, in a new transaction.

        Within an operation that has lost its own beginning nothing more is possible.
        """
        if not self.can_redo or self.savepoints:
            raise self.lost_error()
        self._redo_at_s = time.monotonic() + REDO_PAUSE_S
        try:
            if self.connection.in_transaction:  # one that reads, or what could not be undone
                self.connection.execute("ROLLBACK")
            self.connection.execute("BEGIN IMMEDIATE")
            for run, text, values in self.redo_list:
                run(text, values)
        except FAULTS as error:
            raise self.undo_group(self._translated(error)) from error
        self.undone += 1
        self.writing = True
        self._set_lost("")

    def lost_error(self) -> IndexDatabaseError:
        """The exception to be raised while the group is lost."""
        error = IndexDatabaseError(f"{self.path}: SQLite has undone the changes since the last commit: {self.lost}")
        error.group_lost = True
        return error

    def _set_lost(self, reason: str) -> None:
        if reason != self.lost:
            self.lost = reason
            self.on_lost(reason)

    def _end(self, how: str) -> None:
        if self.connection.in_transaction:
            self.execute(how)

    def _start_reading(self) -> None:
        if self._reads_between:
            # for speed alone: if something is wrong, the next statement that matters will raise it
            with suppress(IndexDatabaseError):
                self.execute("BEGIN")
                self.execute(_READ_SOMETHING)

    def sync(self) -> None:
        """Makes durable what was committed before the call. May be called by any thread, without a lock.

        A failure stays: the system reports it once and forgets which pages it lost, so a later success would prove
        nothing.

        Raises:
            IndexFull: no space left on the disk.
            IndexDatabaseError: the disk failed now or before; `is_final` if before.
        """
        if self._sync_failed:
            raise self.sync_failed(self._sync_failed)
        commits = self._commits
        if self._log is None or self._synced_commits >= commits:
            return
        try:
            if not os.fstat(self._log).st_nlink:
                raise self.sync_failed(f"{self.path}: another process has removed its log, and commits with it")
            os.fdatasync(self._log)
            self._synced_commits = commits
        except OSError as error:
            self._sync_failed = f"{self.path}: an earlier write to the disk failed"
            raise os_fault(self.path, error) from error

    def sync_failed(self, why: str) -> IndexDatabaseError:
        """Notes that what was committed may be lost, for good; returns the exception to be raised for that."""
        self._sync_failed = why
        error = IndexDatabaseError(why)
        error.is_final = True
        return error

    # -- what only SQLite has

    def pin(self) -> None:
        """Opens a read transaction: what the database holds now is what is read until `unpin`."""
        self.execute("BEGIN")
        self.execute(_READ_SOMETHING)  # BEGIN alone pins nothing

    def unpin(self) -> None:
        """Ends the read transaction."""
        self._end("COMMIT")

    def copy_from(self, source: "Database") -> None:
        """Becomes a copy of what `source` sees, page by page, by SQLite's online backup in one step; the file is then
        complete without a journal or log."""
        try:
            source.connection.backup(self.connection)
        except sqlite3.Error as error:
            raise self.fault(error) from error
        self.drop_log()

    def fault(self, error: sqlite3.Error | OverflowError | MemoryError) -> IndexDatabaseError:
        """The exception that stands for `error`; its `group_lost` says whether SQLite has undone the transaction."""
        self.undone += 1
        fault = self._translated(error)
        if self.writing and not self.connection.in_transaction:
            self.writing = False
            fault.group_lost = True
            self._set_lost(str(fault))
        return fault

    def _translated(self, error: sqlite3.Error | OverflowError | MemoryError) -> IndexDatabaseError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and self._disk_is_full()):
            return IndexFull(f"{self.path}: no space left on its disk")
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return IndexCorrupt(f"{self.path}: {error}")
        if primary in _ROW_CODES or isinstance(error, OverflowError) or "binding parameter" in str(error):
            return IndexRowRefused(f"{self.path}: {error}")
        return IndexDatabaseError(f"{self.path}: {str(error) or 'no memory'}")

    def _free_bytes(self) -> int:
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def _disk_is_full(self) -> bool:
        # SQLite says FULL for the database and its log, but a plain I/O error for its shared-memory file
        try:
            return self._free_bytes() < FULL_DISK_BYTES
        except OSError:
            return False

    def close(self) -> None:
        """Closes the file; a transaction that is still open is undone. A second call does nothing."""
        if self._log is not None:
            os.close(self._log)
            self._log = None
        cursors, self._cursors = self._cursors, []
        try:
            for cursor in cursors:
                with suppress(sqlite3.Error):  # the connection is closed in any case, or it would keep its lock
                    cursor.close()
            self.connection.close()
        except sqlite3.Error as error:
            raise self.fault(error) from error


class Operation:
    """A savepoint in the group. It keeps nothing, so one object serves all operations, nested ones too."""

    __slots__ = ("_database", "_execute")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._execute = database.cursor().execute

    def __enter__(self) -> None:
        database = self._database
        if not database.writing:
            database.begin()
        try:
            self._execute("SAVEPOINT operation")
        except FAULTS as error:
            raise database.fault(error) from error
        database.savepoints.append(len(database.redo_list))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        database = self._database
        start = database.savepoints.pop()
        if kind is None and database.writing:
            try:
                self._execute("RELEASE operation")
            except FAULTS as failure:
                del database.redo_list[start:]
                raise database.undo_group(failure) from failure
            return
        del database.redo_list[start:]
        if not database.writing:  # SQLite has undone more than the operation
            if kind is None:
                raise database.lost_error()
            return
        database.undone += 1
        try:
            self._execute("ROLLBACK TO operation")
            self._execute("RELEASE operation")
        except FAULTS as failure:
            raise database.undo_group(failure) from failure
