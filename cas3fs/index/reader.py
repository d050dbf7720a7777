# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about the whole index, or two states of it, answered by one statement each, on a connection that only
reads.

It sees what is committed, may be used by any one thread while the writer goes on, and keeps no transaction open
between calls.
"""

import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cas3fs.index.checksums import MISMATCH_COUNT
from cas3fs.index.database import Database
from cas3fs.index.prepared import plain
from cas3fs.index.texts import comparing
from cas3fs.index.texts import sets as texts


class Counts(NamedTuple):
    """What the index holds; the committed state of one instant."""

    files: int
    """Regular files; one with several names counts once."""
    directories: int
    symlinks: int
    others: int
    """Devices, fifos and sockets."""
    logical_bytes: int
    """Sum of the sizes of all regular files, holes included."""
    chunks: int
    chunk_bytes: int
    """Sum of all chunks: what would be kept without deduplication."""
    blocks: int
    unique_bytes: int
    """Sum of the plain bytes of all blocks: what would be kept without compression."""
    stored_bytes: int
    """Sum of the encoded bytes of all blocks."""
    packs: int
    """Packs that have not died."""
    pack_bytes: int
    """Of all packs that are in the store, dead ones too."""
    dead_packs: int
    """Packs that no file needs now, and that snapshots may need."""
    dead_pack_bytes: int


class IndexReader:
    """A connection that only reads. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        self._by_type, self._chunks = texts.BY_TYPE.on(self._database), texts.CHUNKS.on(self._database)
        self._unlike = plain(MISMATCH_COUNT, "after upto").on(self._database)
        self._blocks, self._packs = texts.BLOCKS.on(self._database), texts.PACKS.on(self._database)
        self._born_after = texts.BORN_AFTER.on(self._database)

    def counts(self) -> Counts:
        """Counts and sums over everything; about 0.1 s for a million files."""
        self._database.execute("BEGIN")
        try:
            return self._counts()
        finally:
            self._database.rollback()

    def pack_bytes_after(self, ordinal: int) -> int:
        """The size of all packs that were stored after the snapshot of that ordinal."""
        size: int = self._born_after.one(ordinal)[0]
        return size

    def _counts(self) -> Counts:
        types = {kind: (count, (high << texts.HALF_BITS) + low) for kind, count, high, low in self._by_type.all()}
        files, logical_bytes = types.pop(stat.S_IFREG, (0, 0))
        directories, _ = types.pop(stat.S_IFDIR, (0, 0))
        links, _ = types.pop(stat.S_IFLNK, (0, 0))
        others = sum(count for count, _ in types.values())
        return Counts(
            files,
            directories,
            links,
            others,
            logical_bytes,
            *self._chunks.one(),
            *self._blocks.one(),
            *self._packs.one(),
        )

    def checksum_mismatches(self, after: int = -1, upto: int = 2**63 - 1) -> int:
        """How many numbers of inodes in (after, upto] have other chunks than the inode's checksum says; 10 ms for
        10,000. Any at all means that the index has lost chunks, and that what no chunk names may be in use."""
        return int(self._unlike.one(after, upto)[0])

    def last_inode(self) -> int:
        """The greatest number of an inode."""
        return int(str(self._database.execute("SELECT coalesce(max(id), 0) FROM inodes")[0][0]))

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    def __enter__(self) -> "IndexReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Differences(NamedTuple):
    """What one state has and an older one lacks, as numbers of inodes."""

    changed: frozenset[int]
    """New, or with other contents, attributes or names."""
    moved: frozenset[int]
    """Known before, and under another name now: all that is below is elsewhere too."""


def differences(path: Path, older: Path) -> Differences:
    """What `path` has that `older` lacks.

    Raises:
        IndexDatabaseError: one of them cannot be read.
    """
    database = Database(path, "read")
    try:
        database.execute(f"ATTACH DATABASE 'file:{quote(str(older.absolute()))}?mode=ro' AS {comparing.OLDER}")
        placed = {row[2] for row in comparing.PLACED.on(database).all()}
        changed = {row[0] for row in comparing.CHANGED.on(database).all()}
        known = {row[0] for row in comparing.KNOWN.on(database).all()} if placed else set()
        return Differences(frozenset(changed | placed), frozenset(placed & known))
    finally:
        database.close()
