# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about the whole index, or two states of it, answered by one statement each, on a connection that only
reads.

It sees what is committed, may be used by any one thread while the writer goes on, and has no transaction open
between calls, unless it was pinned.
"""

import stat
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Executable, MetaData, Table, case, func, select

from cas3fs.index.checksums import mismatch_count
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement
from cas3fs.index.tables import blocks, chunks, dentries, inodes, packs, volume_state

_HALF_BITS: Final = 32
_IS_DEAD: Final = packs.c.died.is_not(None)


def _total(value: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(value), 0)


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
    """Sum of all chunks: what would be stored without deduplication."""
    blocks: int
    unique_bytes: int
    """Sum of the plain bytes of all blocks: what would be stored without compression."""
    stored_bytes: int
    """Sum of the encoded bytes of all blocks."""
    packs: int
    """Packs that have not died."""
    pack_bytes: int
    """Of all packs that are in the store, dead ones too."""
    dead_packs: int
    """Packs that no file needs now, and that snapshots may need."""
    dead_pack_bytes: int


class PackLifetime(NamedTuple):
    """Packs that the same snapshots need: those from `born` on, and before `died` where they have died (ordinals)."""

    born: int
    died: int | None
    size_bytes: int
    """Of all of them."""


class IndexReader:
    """A connection that only reads. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        self._is_pinned = False

    def pin(self) -> None:
        """Reads the state that is committed now, from here on and until it is closed."""
        self._database.pin()
        self._is_pinned = True

    def page_count(self) -> int:
        """How many pages the database has."""
        return self._database.page_count

    _by_type = Statement(
        lambda: select(
            inodes.c.mode.bitwise_and(stat.S_IFMT(0o177777)).label("type"),
            func.count(),
            # in two parts: two sparse files may be larger together than a number can be
            func.sum(inodes.c.size.bitwise_rshift(_HALF_BITS)),
            func.sum(inodes.c.size.bitwise_and(2**_HALF_BITS - 1)),
        ).group_by("type")
    )
    _chunks = Statement(lambda: select(func.count(), _total(chunks.c.length)).select_from(chunks))
    _blocks = Statement(
        lambda: select(func.count(), _total(blocks.c.plain_length), _total(blocks.c.stored_length)).select_from(blocks)
    )
    _packs = Statement(
        lambda: select(
            _total(case((_IS_DEAD, 0), else_=1)),
            _total(packs.c.size),
            _total(case((_IS_DEAD, 1), else_=0)),
            _total(case((_IS_DEAD, packs.c.size), else_=0)),
        ).select_from(packs)
    )

    def counts(self) -> Counts:
        """Counts and sums over everything; about 0.1 s for a million files."""
        if self._is_pinned:
            return self._counts()
        self._database.pin()
        try:
            return self._counts()
        finally:
            self._database.rollback()

    def _counts(self) -> Counts:
        types = {kind: (count, (high << _HALF_BITS) + low) for kind, count, high, low in self._by_type.all()}
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

    def pack_counts(self) -> dict[str, int]:
        """Those of the counts that are about packs, by name."""
        return dict(zip(Counts._fields[-4:], self._packs.one(), strict=True))

    _born_after = Statement(lambda born: select(_total(packs.c.size)).where(packs.c.born > born))

    def pack_bytes_after(self, ordinal: int) -> int:
        """The size of all packs that were stored after the snapshot of that ordinal."""
        size: int = self._born_after.one(ordinal)[0]
        return size

    _lifetimes = Statement(
        lambda: select(packs.c.born, packs.c.died, func.sum(packs.c.size)).group_by(packs.c.born, packs.c.died)
    )

    def pack_lifetimes(self) -> list[PackLifetime]:
        """Which snapshots need how many bytes of packs; one row for all packs that were born, and died, together."""
        return [PackLifetime(*row) for row in self._lifetimes.all()]

    _state = Statement(lambda key: select(volume_state.c.value).where(volume_state.c.key == key))

    def state(self, key: str) -> str | None:
        """The text that the index keeps under `key`, or None."""
        row = self._state.one(key)
        return None if row is None else str(row[0])

    _mismatches = Statement(mismatch_count)

    def checksum_mismatches(self, after: int = -1, upto: int = 2**63 - 1) -> int:
        """How many numbers of inodes in (after, upto] have other chunks than the inode's checksum says; 10 ms for
        10,000. Any at all means that the index has lost chunks, and that what no chunk names may be in use."""
        return int(self._mismatches.one(after, upto)[0])

    _last_inode = Statement(lambda: select(func.coalesce(func.max(inodes.c.id), 0)))

    def last_inode(self) -> int:
        """The greatest number of an inode."""
        return int(self._last_inode.one()[0])

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    def __enter__(self) -> "IndexReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


OLDER: Final = "older"
"""The name under which an older state is attached."""
_older = MetaData(schema=OLDER)
_older_inodes = inodes.to_metadata(_older, schema=OLDER)
_older_dentries = dentries.to_metadata(_older, schema=OLDER)
# the time of change stands for owner and extended attributes too
_COMPARED: Final = ("id", "mode", "rdev", "size", "mtime_ns", "ctime_ns", "stored_seq")
_NAMED: Final = ("parent", "name", "inode")


def _lacking(table: Table, older: Table, names: tuple[str, ...]) -> Executable:
    """Rows of one table that differ from all of the other in these columns."""
    return select(*(table.c[name] for name in names)).except_(select(*(older.c[name] for name in names)))


_CHANGED: Final = Statement(lambda: _lacking(inodes, _older_inodes, _COMPARED))
_PLACED: Final = Statement(lambda: _lacking(dentries, _older_dentries, _NAMED))
_KNOWN: Final = Statement(lambda: select(_older_inodes.c.id))


class Differences(NamedTuple):
    """What one state has and an older one lacks, as numbers of inodes."""

    changed: frozenset[int]
    """New, or with other contents, attributes or names."""
    moved: frozenset[int]
    """Known before, and under another name now: all that is below has another path too."""


def differences(path: Path, older: Path) -> Differences:
    """What `path` has that `older` lacks.

    Raises:
        IndexDatabaseError: one of them cannot be read.
    """
    database = Database(path, "read")
    try:
        database.attach(older, OLDER)
        placed = {row[2] for row in _PLACED.on(database).all()}
        changed = {row[0] for row in _CHANGED.on(database).all()}
        known = {row[0] for row in _KNOWN.on(database).all()} if placed else set()
        return Differences(frozenset(changed | placed), frozenset(placed & known))
    finally:
        database.close()
