# SPDX-License-Identifier: GPL-3.0-or-later
"""The open index: its writer's connection, its group of operations, and copies of it.

The life of a change: `Index.operation` opens the group, if none is open, and a savepoint in it; the statements run;
the operation ends. `Index.commit` ends the group, and `Index.sync` makes durable what was committed. The first two
happen under the caller's one lock, the last without it.

When SQLite runs out of room, or cannot read, it may undo the whole group, not just the operation. The error then says
so by ``group_lost``, and `Index.lost` says why. What the group did is done again before the next statement; while that
fails every call fails, reads too, as they would miss what was undone, and nothing is committed.
"""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cas3fs.errors import IndexDatabaseError, IndexTooNew
from cas3fs.index.blocks import BlockTable
from cas3fs.index.chunks import ChunkTable
from cas3fs.index.database import CACHE_SIZE_KIB, FAULTS, SMALL_CACHE_SIZE_KIB, Database, Mode
from cas3fs.index.files import remove_database
from cas3fs.index.garbage import Garbage
from cas3fs.index.hash_index import HashIndex
from cas3fs.index.namespace import ROOT_INODE, Namespace
from cas3fs.index.reader import IndexReader
from cas3fs.index.repairs import Repairs
from cas3fs.index.revisions import REVISIONS, SCHEMA_REVISION
from cas3fs.index.state import VolumeState
from cas3fs.index.texts import session as texts
from cas3fs.index.texts.schema import CREATE

ROOT_MODE: Final = stat.S_IFDIR | 0o755


class _Operation:
    """A savepoint in the group; it holds nothing, so one object serves all operations of an index, nested ones too."""

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
        database.marks.append(len(database.done))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        database = self._database
        mark = database.marks.pop()
        if kind is None and database.writing:
            try:
                self._execute("RELEASE operation")
            except FAULTS as failure:
                del database.done[mark:]
                raise database.give_up(failure) from failure
            return
        del database.done[mark:]
        if not database.writing:  # SQLite has undone more than the operation
            if kind is None:
                raise database.loss()
            return
        database.undone += 1
        try:
            self._execute("ROLLBACK TO operation")
            self._execute("RELEASE operation")
        except FAULTS as failure:
            raise database.give_up(failure) from failure


class Index:
    """The index of one volume, open.

    Attributes:
        path: its file.
        namespace: inodes and names.
        chunks: chunk lists.
        blocks: blocks and packs.
        state: what it remembers of itself.
        garbage: takes out what no chunk names.

    Every method raises `IndexFull`, `IndexCorrupt` or another `IndexDatabaseError`, and nothing else. An error that
    comes out of an operation's body is raised on as it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._operation = _Operation(database)
        self.path = database.path
        self.namespace = Namespace(database)
        self.chunks = ChunkTable(database)
        self._hashes = HashIndex(database)
        self.blocks = BlockTable(database, self._hashes)
        self.state = VolumeState(database)
        self.garbage = Garbage(database, self._hashes)

    @classmethod
    def open(cls, path: Path, *, create: bool = False, read_only: bool = False, scratch: bool = False) -> Self:
        """Opens an index; `create` makes an empty one where none is. It is not migrated here.

        Args:
            path: the database file. create: if it is missing or empty, make it, with a root directory of mode 0755 of
            this process's user. read_only: allow no change. scratch: it is a copy that nobody misses after a crash,
            to be changed and then read as a file: it stays one file,
                without a write-ahead log, and nothing waits for the disk.

        Raises:
            IndexTooNew: a newer cas3fs made or migrated it.
            IndexCorrupt: it is damaged, or no database.
            IndexDatabaseError: it is missing, has to be migrated first, or cannot be opened.
        """
        mode: Mode = "read" if read_only else "scratch" if scratch else "write"
        cache_kib = SMALL_CACHE_SIZE_KIB if scratch else CACHE_SIZE_KIB
        database = Database(path, mode, create=create, cache_kib=cache_kib, repeats=mode == "write")
        try:
            if create and not database.execute("SELECT 1 FROM sqlite_master LIMIT 1"):
                _create_schema(database)
            _check_revision(database)
            return cls(database)
        except BaseException:
            database.close()
            raise

    @property
    def in_group(self) -> bool:
        """Whether something is uncommitted."""
        return self._database.writing

    @property
    def lost(self) -> str:
        """Why SQLite has undone the group, while it is not done again; empty as a rule."""
        return self._database.lost

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Has `on_lost` called with `lost` whenever that changes, under the lock of whoever calls the index."""
        self._database.on_lost = on_lost

    @property
    def changed_pages(self) -> int:
        """About how many pages the group has changed; they stay in memory until it ends."""
        return self._database.changed_pages

    @property
    def version(self) -> tuple[int, int]:
        """Another one after every change to the index, and every change undone: while it is the same, so are answers.

        Only the writer's own changes count, but there is no other writer.
        """
        return self._database.version

    @property
    def changes(self) -> int:
        """How many rows were changed through this object; only ever grows."""
        return self._database.connection.total_changes

    def operation(self) -> _Operation:
        """A context within which changes happen all or not at all; opens the group if none is open.

        An exception undoes what was done within, no more, and is raised on.
        """
        return self._operation

    def ensure_hash_index(self) -> None:
        """Brings back now what `trimming` took out, where the first who looks for a block by its hash would."""
        self._hashes.ensure()

    def commit(self) -> None:
        """Ends the group and keeps its changes, which `sync` makes durable; nothing happens where no group is open."""
        self._database.commit()

    def rollback(self) -> None:
        """Ends the group and undoes all of it; nothing happens where no group is open."""
        self._database.rollback()

    def sync(self) -> None:
        """Makes durable what was committed before the call; needs no lock. `cas3fs.index.database` says why it does."""
        self._database.sync()

    def pin(self) -> "PinnedIndex":
        """Pins the committed state of this moment for a copy; quick, to be called under the caller's lock."""
        return PinnedIndex(self.path)

    def copy_to(self, destination: Path) -> None:
        """Copies the committed state of this moment to a file, in one step, while the writer goes on; needs no lock."""
        with self.pin() as pinned:
            pinned.copy_to(destination)

    def reader(self) -> IndexReader:
        """A connection of its own for questions about the whole, as of the last commit."""
        return IndexReader(self.path)

    def repairs(self) -> Repairs:
        """Changes that mend what a check has found; for an index on which no file system is at work."""
        return Repairs(self._database, self.blocks)

    def close(self) -> None:
        """Closes the index; what is uncommitted is undone."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PinnedIndex:
    """The state of an index at the instant when this was made; the writer goes on meanwhile.

    While it is open the write-ahead log cannot be reused from its start, so it should not be open for long.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        try:
            # BEGIN alone pins nothing; the first thing read does
            self._database.execute("BEGIN")
            self._database.execute("SELECT count(*) FROM sqlite_master")
        except BaseException:
            self._database.close()
            raise

    def copy_to(self, destination: Path) -> None:
        """Writes the pinned state to `destination`, replacing what is there, as one file without a write-ahead log.

        The copy is not synced to the disk.

        Raises:
            IndexFull: no room for the copy.
            IndexDatabaseError: the index cannot be read, or the copy not written.
        """
        remove_database(destination)
        target = Database(destination, "scratch", create=True)
        try:
            target.copy_from(self._database)
            target.execute("PRAGMA journal_mode=DELETE")
        except BaseException:
            target.close()
            remove_database(destination)
            raise
        target.close()

    def close(self) -> None:
        """Lets go of the state."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _create_schema(database: Database) -> None:
    """Makes all tables, the root directory and the revision's stamp, in one transaction."""
    database.begin()
    for text in CREATE:
        database.change(text)
    texts.STAMP.on(database).run(SCHEMA_REVISION)
    _add_root(database)
    database.commit()
    database.sync()


def _add_root(database: Database) -> None:
    """Makes the root directory, of mode 0755, as this process's user and of now."""
    texts.ADD_ROOT.on(database).run(ROOT_INODE, ROOT_MODE, os.getuid(), os.getgid(), time.time_ns())


def revision_of(database: Database) -> str | None:
    """The revision of the tables; None where nothing was ever stamped."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"):
        return None
    rows = texts.REVISION.on(database).all()
    return str(rows[0][0]) if rows else None


def _check_revision(database: Database) -> None:
    revision = revision_of(database)
    if revision is None:
        raise IndexDatabaseError(f"{database.path}: not an index of cas3fs")
    if revision not in REVISIONS:
        raise IndexTooNew(f"{database.path}: made by a newer cas3fs (its revision is {revision}): use that")
    if revision != SCHEMA_REVISION:
        raise IndexDatabaseError(f"{database.path}: has to be migrated from {revision} to {SCHEMA_REVISION} first")
