# SPDX-License-Identifier: GPL-3.0-or-later
"""The open index: its writer's connection, its group of operations, and copies of it.

The life of a change: `Index.operation` opens the group, if none is open, and a savepoint in it; the statements run;
the operation ends. `Index.commit` ends the group, and `Index.sync` makes durable what was committed. The first two
happen under the caller's one lock, the last without it.

When SQLite finds the disk full, or cannot read, it may undo the whole group, not just the operation. The error then has
``group_lost``, and `Index.lost` says why. The group's changes are made again before the next statement; while that
fails every call fails, reads too, as they would miss what was undone, and nothing is committed.
"""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import Executable, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.blocks import BlockTable
from cas3fs.index.chunks import ChunkTable
from cas3fs.index.files import remove_database
from cas3fs.index.garbage import Garbage
from cas3fs.index.hash_index import RESTORED, HashIndex
from cas3fs.index.index_file import IndexFile
from cas3fs.index.namespace import Namespace
from cas3fs.index.reader import IndexReader
from cas3fs.index.schema import check_revision, create_tables
from cas3fs.index.sqlite import CACHE_SIZE_KIB, SMALL_CACHE_SIZE_KIB, Database, Mode, Operation
from cas3fs.index.statement import Statement
from cas3fs.index.tables import ROOT_INODE, inodes, volume_state

if TYPE_CHECKING:
    from cas3fs.index.copying import SnapshotTables
    from cas3fs.index.repairs import Repairs

ROOT_MODE: Final = stat.S_IFDIR | 0o755
_ADD_ROOT: Final = Statement(
    lambda number, mode, uid, gid, now: (
        insert(inodes)
        .values(
            {"id": number, "mode": mode, "uid": uid, "gid": gid, "nlink": 2, "rdev": 0, "size": 0, "stored_seq": 0}
            | dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns", "crtime_ns"), now)
        )
        .inline()
    )
)


def _set_text(key: Any, value: Any) -> Executable:
    inserted = upsert(volume_state).values(key=key, value=value)
    return inserted.on_conflict_do_update(index_elements=["key"], set_={"value": inserted.excluded.value})


class VolumeState:
    """A few texts by name, such as the volume's uuid and the snapshot counters; they belong to the group as any other
    change does. Those whose names begin with ``has_`` are about the files, and are copied with them
    (`cas3fs.index.copying`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    _get = Statement(lambda key: select(volume_state.c.value).where(volume_state.c.key == key))

    def get(self, key: str) -> str | None:
        """The text kept under `key`, or None."""
        row = self._get.one(key)
        return None if row is None else str(row[0])

    _set = Statement(_set_text)

    def set(self, key: str, value: str) -> None:
        """Keeps `value` under `key`, in place of what was there."""
        self._set.run(key, value)

    _remove = Statement(lambda key: delete(volume_state).where(volume_state.c.key == key))

    def remove(self, key: str) -> None:
        """Removes `key`; nothing happens where it is unknown."""
        self._remove.run(key)


class Index:
    """The index of one volume, open.

    Attributes:
        path: its file.
        file: what moves commits from the log into the file, and pins it; None unless `own_file` was called.
        namespace: inodes and names.
        chunks: chunk lists.
        blocks: blocks and packs.
        state: a few texts about the volume.
        garbage: deletes what no chunk names.

    Every method raises `IndexFull`, `IndexCorrupt` or another `IndexDatabaseError`, and nothing else. An error that
    comes out of an operation's body is raised as it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._operation = Operation(database)
        self.path = database.path
        self.file: IndexFile | None = None
        self.namespace = Namespace(database)
        self.chunks = ChunkTable(database)
        self._hashes = HashIndex(database, beside=database.mode == "write")
        self.blocks = BlockTable(database, self._hashes)
        self.state = VolumeState(database)
        self.garbage = Garbage(database, self._hashes)

    @classmethod
    def open(cls, path: Path, *, create: bool = False, read_only: bool = False, scratch: bool = False) -> Self:
        """Opens an index; `create` makes an empty one where none is. It is not migrated here.

        Args:
            path: the database file.
            create: make it if it is missing or empty, with a root directory of mode 0755 of this process's user.
            read_only: allow no change.
            scratch: it is a copy that may be lost in a crash, to be changed and then read as a file: it stays one file,
                without a write-ahead log, and nothing waits for the disk.

        Raises:
            IndexTooNew: a newer cas3fs made or migrated it.
            IndexCorrupt: it is damaged, or no database.
            IndexDatabaseError: it is missing, has to be migrated first, or cannot be opened.
        """
        mode: Mode = "read" if read_only else "scratch" if scratch else "write"
        cache_kib = SMALL_CACHE_SIZE_KIB if scratch else CACHE_SIZE_KIB
        database = Database(path, mode, create=create, cache_kib=cache_kib, can_redo=mode == "write")
        try:
            if create and not database.catalogue():
                _create(database)
            check_revision(database)
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
        """Why SQLite has undone the group, until its changes are made again; usually empty."""
        return self._database.lost

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Calls `on_lost` with `lost` whenever that changes, under the lock of the caller of the index."""
        self._database.on_lost = on_lost

    @property
    def changed_pages(self) -> int:
        """About how many pages the group has changed; they stay in memory until it ends."""
        return self._database.changed_pages

    @property
    def version(self) -> tuple[int, int]:
        """Differs after every change to the index, and every change undone: while it is the same, so are answers.

        Only the writer's own changes count, but there is no other writer.
        """
        return self._database.version

    @property
    def changes(self) -> int:
        """How many rows were changed through this object; only ever grows."""
        return self._database.changed_rows

    def operation(self) -> Operation:
        """A context within which changes happen all or not at all; opens the group if none is open.

        An exception undoes what was done within, no more, and is raised.
        """
        return self._operation

    def prepare_hashes(self) -> None:
        """Does the long part of that, by any thread, and without the caller's lock."""
        self._hashes.prepare()

    def ensure_hashes(self) -> None:
        """Makes now what finds blocks by their hashes if it is missing, where the first lookup would make it."""
        self._hashes.ensure()

    def mark_restored(self) -> None:
        """Notes that it was made from a snapshot: unreferenced blocks are deleted before any hash is looked for."""
        self.state.set(RESTORED, "")

    def commit(self) -> None:
        """Commits the group, which `sync` makes durable; nothing happens where no group is open."""
        self._database.commit()

    def rollback(self) -> None:
        """Ends the group and undoes all of it; nothing happens where no group is open."""
        self._database.rollback()

    def sync(self) -> None:
        """Makes durable what was committed before the call; needs no lock."""
        self._database.sync()

    def own_file(self) -> None:
        """From now on the caller decides when commits move from the log into the file, by `file`."""
        if self.file is None:
            self.file = IndexFile(self._database)

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

    def repairs(self) -> "Repairs":
        """Changes that repair what a check has found; for an index on which no file system is at work."""
        from cas3fs.index.repairs import Repairs

        return Repairs(self._database, self.blocks, self._hashes)

    def copying(self, source: Path, ledger: Path) -> "SnapshotTables":
        """What makes it hold the files of a snapshot of another volume; for an index on which no file system is at
        work, once in its life."""
        from cas3fs.index.copying import SnapshotTables

        self.ensure_hashes()
        return SnapshotTables(self._database, self.blocks, self.chunks, source=source, ledger=ledger)

    def close(self) -> None:
        """Closes the index; what is uncommitted is undone."""
        file, self.file = self.file, None
        try:
            self._hashes.close()
            if file is not None:
                file.close_connections()
        finally:
            self._database.close()
            if file is not None:
                file.close_descriptors()

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
            self._database.pin()
        except BaseException:
            self._database.close()
            raise

    def copy_to(self, destination: Path) -> None:
        """Writes the pinned state to `destination`, replacing what is there, as one file without a write-ahead log.

        The copy is not synced to the disk.

        Raises:
            IndexFull: no space left for the copy.
            IndexDatabaseError: the index cannot be read, or the copy not written.
        """
        remove_database(destination)
        target = Database(destination, "scratch", create=True)
        try:
            target.copy_from(self._database)
        except BaseException:
            target.close()
            remove_database(destination)
            raise
        target.close()

    def close(self) -> None:
        """Closes the connection, so that the log can be reused."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _create(database: Database) -> None:
    """Makes all tables, and the root directory of mode 0755 of this process's user, in one transaction."""
    database.begin()
    create_tables(database)
    _ADD_ROOT.on(database).run(ROOT_INODE, ROOT_MODE, os.getuid(), os.getgid(), time.time_ns())
    database.commit()
    database.sync()
