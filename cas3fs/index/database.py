# SPDX-License-Identifier: GPL-3.0-or-later
"""An open SQLite file: how it is opened, how it fails, and how a commit becomes durable.

Here is the one seam where sqlite3's errors become those of `cas3fs.errors`.

Durability. The databases run with ``journal_mode=WAL`` and ``synchronous=NORMAL``: a commit appends to the
write-ahead log and does not wait for the disk. With ``synchronous=FULL`` SQLite would do one thing more, fdatasync
the log after each commit; `Database.sync` does just that, so a commit followed by it is as durable as a FULL one, but
the caller chooses when, and holds no lock meanwhile. Two cases are left, and SQLite covers both under NORMAL: a
checkpoint syncs the log before it copies pages and the database after it, before the log may be used from its start
again; and a new log header is synced before the frames behind it. The directory is synced once, as the log's name may
be new.

A warning. POSIX drops all of a process's locks on a file when it closes any descriptor of it. So nothing in this
process may open the database file but SQLite. The log is not a file that SQLite locks; `sync` keeps a descriptor of
that.
"""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from cas3fs.errors import IndexCorrupt, IndexDatabaseError, IndexFull

Mode = Literal["write", "read", "scratch"]
"""``write``: as above. ``read``: no change is possible. ``scratch``: a copy that nobody misses after a crash, without
a log and without syncing."""

PAGE_SIZE_BYTES: Final = 4096
CACHE_SIZE_KIB: Final = 32 * 1024
# Four times SQLite's default: a checkpoint happens within a commit, under the caller's lock, and writes each page once
# however often it changed, so fewer and larger ones stall less. The log stays near 16 MiB.
CHECKPOINT_PAGES: Final = 4096
BUSY_TIMEOUT_S: Final = 10.0
LEAST_ROOM_BYTES: Final = 1 << 20

_WRITE_PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}",
)
_SCRATCH_PRAGMAS: Final = ("PRAGMA journal_mode=MEMORY", "PRAGMA synchronous=OFF")
_COMMON_PRAGMAS: Final = (
    f"PRAGMA cache_size=-{CACHE_SIZE_KIB}",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA foreign_keys=OFF",
    # zeroes what is deleted where that costs no further page: free room then compresses well in snapshots
    "PRAGMA secure_delete=FAST",
)
_LAYOUT_PRAGMAS: Final = (f"PRAGMA page_size={PAGE_SIZE_BYTES}", "PRAGMA auto_vacuum=NONE")


class Database:
    """One connection to one SQLite file, and the transaction that may be open on it.

    Attributes:
        connection: the driver's own; its errors are to be passed through `fault`.
        path: the file.
    """

    def __init__(self, path: Path, mode: Mode = "write", *, create: bool = False) -> None:
        """Opens the file.

        Raises:
            IndexCorrupt: it is no SQLite file.
            IndexFull: no room on its disk.
            IndexDatabaseError: it is missing (and `create` is not given), or cannot be opened.
        """
        self.path = path
        self._open_transaction = False
        self._log: int | None = None
        self._sync_failed = False
        # the first sync counts: a process that was killed may have left commits that the disk has not seen
        self._commits, self._synced_commits = 1, 0
        self.connection = self._connect(mode, create)
        try:
            self._configure(mode)
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
            )
        except sqlite3.Error as error:
            if not self.path.exists():
                raise IndexDatabaseError(f"{self.path}: no such database") from error
            raise IndexDatabaseError(f"{self.path}: cannot be opened: {error}") from error

    def _configure(self, mode: Mode) -> None:
        pragmas = _COMMON_PRAGMAS
        if mode != "read":
            pragmas = (*_LAYOUT_PRAGMAS, *(_WRITE_PRAGMAS if mode == "write" else _SCRATCH_PRAGMAS), *pragmas)
        for pragma in pragmas:
            self.execute(pragma)
        self.execute("SELECT count(*) FROM sqlite_master")
        if mode == "write":
            self._open_log()

    def _open_log(self) -> None:
        try:
            self._log = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._os_fault(error) from error

    def execute(self, text: str) -> list[tuple[object, ...]]:
        """Runs a statement without parameters and returns its rows; for what is not hot."""
        try:
            return self.connection.execute(text).fetchall()
        except sqlite3.Error as error:
            raise self.fault(error) from error

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self.connection.in_transaction

    def begin(self) -> None:
        """Opens a write transaction, unless one is open."""
        if not self.connection.in_transaction:
            self.execute("BEGIN IMMEDIATE")
            self._open_transaction = True

    def commit(self) -> None:
        """Ends the transaction, if one is open, and keeps its changes; they are durable after `sync`."""
        if self.connection.in_transaction:
            self.execute("COMMIT")
            self._open_transaction = False
            self._commits += 1

    def rollback(self) -> None:
        """Ends the transaction, if one is open, and undoes its changes."""
        self._open_transaction = False
        if self.connection.in_transaction:
            self.execute("ROLLBACK")

    def sync(self) -> None:
        """Makes durable what was committed before the call. May be called by any thread, without a lock.

        A failure stays: the system reports it once and forgets which pages it lost, so a later success would prove
        nothing.

        Raises:
            IndexFull: no room on the disk.
            IndexDatabaseError: the disk failed now or before.
        """
        if self._sync_failed:
            raise IndexDatabaseError(f"{self.path}: an earlier write to the disk failed")
        commits = self._commits
        if self._log is None or self._synced_commits >= commits:
            return
        try:
            os.fdatasync(self._log)
            self._synced_commits = commits
        except OSError as error:
            self._sync_failed = True
            raise self._os_fault(error) from error

    def copy_from(self, source: "Database") -> None:
        """Becomes a copy of what `source` sees, page by page, by SQLite's online backup in one step."""
        try:
            source.connection.backup(self.connection)
        except sqlite3.Error as error:
            raise self.fault(error) from error

    def fault(self, error: sqlite3.Error | OverflowError) -> IndexDatabaseError:
        """The exception that stands for `error`; its `group_lost` tells whether SQLite gave up the transaction."""
        fault = self._translated(error)
        if self._open_transaction and not self.connection.in_transaction:
            self._open_transaction = False
            fault.group_lost = True
        return fault

    def _translated(self, error: sqlite3.Error | OverflowError) -> IndexDatabaseError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and self._disk_is_full()):
            return IndexFull(f"{self.path}: no room on its disk")
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return IndexCorrupt(f"{self.path}: {error}")
        return IndexDatabaseError(f"{self.path}: {error}")

    def _disk_is_full(self) -> bool:
        # SQLite says FULL for the database and its log, but a plain I/O error for its shared-memory file
        try:
            room = os.statvfs(self.path.parent)
        except OSError:
            return False
        return room.f_bavail * room.f_frsize < LEAST_ROOM_BYTES

    def _os_fault(self, error: OSError) -> IndexDatabaseError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return IndexFull(f"{self.path}: no room on its disk")
        return IndexDatabaseError(f"{self.path}: {error.strerror}")

    def close(self) -> None:
        """Closes the file; a transaction that is still open is undone."""
        if self._log is not None:
            os.close(self._log)
            self._log = None
        try:
            self.connection.close()
        except sqlite3.Error as error:
            raise self.fault(error) from error
