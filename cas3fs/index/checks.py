# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong in an index with itself: one set query for each kind of defect.

A query gives a row for each defect and nothing where all is well, so each costs one pass over its tables.
`IndexChecker` reads what is committed, on a connection of its own, as of one instant; for one thread.

Every method raises `IndexDatabaseError` and its kinds, and nothing else.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from cas3fs.index.checksums import MISMATCHED_FILES, ChunkChecksum, checksum_of
from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, plain
from cas3fs.values import BlockLocation

_DIRECTORY = "(%s.mode & 61440) = 16384"
_IS_DIRECTORY: Final = _DIRECTORY % "i"


QUERIES: Final[Mapping[str, Prepared]] = MappingProxyType(
    {
        "root-missing": plain(
            f"SELECT 1 AS inode WHERE NOT EXISTS (SELECT 1 FROM inodes i WHERE i.id = 1 AND {_IS_DIRECTORY})"
        ),
        "root-named": plain("SELECT id, parent, name FROM dentries WHERE inode = 1"),
        "inode-without-name": plain(
            "SELECT id AS inode, mode, nlink FROM inodes WHERE id <> 1 AND id NOT IN (SELECT inode FROM dentries)"
        ),
        "name-without-inode": plain(
            "SELECT d.id, d.parent, d.name, d.inode FROM dentries d LEFT JOIN inodes i ON i.id = d.inode "
            "WHERE i.id IS NULL AND d.inode <> 1"
        ),
        "name-in-no-folder": plain(
            "SELECT d.id, d.parent, d.name, d.inode FROM dentries d LEFT JOIN inodes i ON i.id = d.parent "
            f"WHERE (i.id IS NULL AND d.parent <> 1) OR NOT ({_IS_DIRECTORY})"
        ),
        "folder-with-many-names": plain(
            "SELECT d.inode, count(*) AS names FROM dentries d JOIN inodes i ON i.id = d.inode "
            f"WHERE {_IS_DIRECTORY} GROUP BY d.inode HAVING count(*) > 1"
        ),
        "unreachable": plain(
            # inodes first: they tell folders from the many files
            "WITH RECURSIVE folders(inode, parent, id, name) AS MATERIALIZED (SELECT i.id, d.parent, d.id, d.name "
            f"FROM inodes i CROSS JOIN dentries d ON d.inode = i.id WHERE {_IS_DIRECTORY}), "
            "reached(inode) AS (SELECT 1 UNION SELECT f.inode FROM reached r JOIN folders f ON f.parent = r.inode) "
            "SELECT inode, parent, id, name FROM folders WHERE inode <> 1 AND inode NOT IN (SELECT inode FROM reached)"
        ),
        "wrong-link-count": plain(
            "SELECT i.id AS inode, i.nlink, c.names AS counted "
            "FROM (SELECT inode, count(*) AS names FROM dentries GROUP BY inode) c "
            "CROSS JOIN inodes i ON i.id = c.inode "
            f"WHERE NOT ({_IS_DIRECTORY}) AND i.nlink <> c.names "
            "UNION ALL SELECT i.id, i.nlink, 2 + coalesce(c.folders, 0) FROM inodes i "
            "LEFT JOIN (SELECT d.parent, count(*) AS folders FROM inodes s CROSS JOIN dentries d ON d.inode = s.id "
            f"WHERE {_DIRECTORY % 's'} GROUP BY d.parent) c ON c.parent = i.id "
            f"WHERE {_IS_DIRECTORY} AND i.nlink <> 2 + coalesce(c.folders, 0) "
            "AND (i.id = 1 OR i.id IN (SELECT inode FROM dentries))"
        ),
        "wrong-type": plain(
            "SELECT id AS inode, mode FROM inodes "
            "WHERE (mode & 61440) NOT IN (4096, 8192, 16384, 24576, 32768, 40960, 49152)"
        ),
        "link-without-target": plain(
            "SELECT id AS inode FROM inodes WHERE (mode & 61440) = 40960 AND id NOT IN (SELECT inode FROM symlinks)"
        ),
        "target-of-no-link": plain(
            "SELECT s.inode, s.target FROM symlinks s JOIN inodes i ON i.id = s.inode WHERE (i.mode & 61440) <> 40960"
        ),
        "chunks-of-no-file": plain(
            "SELECT DISTINCT c.inode, i.mode FROM chunks c JOIN inodes i ON i.id = c.inode "
            "WHERE (i.mode & 61440) <> 32768"
        ),
        "content-without-inode": plain(
            "SELECT c.inode, max(c.offset + c.length) AS size FROM chunks c LEFT JOIN inodes i ON i.id = c.inode "
            "WHERE i.id IS NULL GROUP BY c.inode"
        ),
        "target-without-inode": plain(
            "SELECT s.inode, s.target FROM symlinks s LEFT JOIN inodes i ON i.id = s.inode WHERE i.id IS NULL"
        ),
        "attribute-without-inode": plain(
            "SELECT x.inode, x.name, x.value FROM xattrs x LEFT JOIN inodes i ON i.id = x.inode WHERE i.id IS NULL"
        ),
        "size-negative": plain("SELECT id AS inode, size FROM inodes WHERE size < 0"),
        "chunks-unlike-sums": plain(MISMATCHED_FILES),
        "chunk-impossible": plain(
            "SELECT c.inode, c.offset, c.length, c.skip FROM chunks c WHERE c.offset < 0 OR c.length <= 0 OR c.skip < 0"
        ),
        "chunks-overlap": plain(
            "SELECT inode, offset, length, following FROM (SELECT inode, offset, length, "
            "lead(offset) OVER (PARTITION BY inode ORDER BY offset) AS following FROM chunks) AS c "
            "WHERE following IS NOT NULL AND offset + length > following AND length > 0"
        ),
        "chunk-past-end": plain(
            "SELECT c.inode, i.size, max(c.offset + c.length) AS reaches FROM chunks c JOIN inodes i ON i.id = c.inode "
            "WHERE (i.mode & 61440) = 32768 GROUP BY c.inode, i.size HAVING max(c.offset + c.length) > i.size"
        ),
        "chunk-without-block": plain(
            "SELECT c.inode, c.offset, c.length, c.skip, c.block FROM chunks c LEFT JOIN blocks b ON b.id = c.block "
            "WHERE b.id IS NULL"
        ),
        "chunk-past-block": plain(
            "SELECT c.inode, c.offset, c.length, c.skip, c.block, b.plain_length FROM chunks c "
            "JOIN blocks b ON b.id = c.block WHERE c.skip + c.length > b.plain_length AND c.skip >= 0"
        ),
        "block-without-pack": plain(
            "SELECT b.id AS block, b.hash, b.pack AS number, b.plain_length FROM blocks b "
            "LEFT JOIN packs p ON p.id = b.pack WHERE p.id IS NULL"
        ),
        "block-out-of-pack": plain(
            "SELECT b.id AS block, b.hash, p.name AS pack, b.offset, b.stored_length, b.plain_length, p.size "
            "FROM blocks b JOIN packs p ON p.id = b.pack "
            "WHERE b.offset < 0 OR b.stored_length <= 0 OR b.offset + b.stored_length > p.size"
        ),
        "pack-dead-but-used": plain(
            "SELECT name AS pack, died FROM packs WHERE died IS NOT NULL AND id IN (SELECT pack FROM blocks)"
        ),
        "pack-dead-before-born": plain(
            "SELECT name AS pack, born, died FROM packs WHERE died IS NOT NULL AND died < born "
            "AND id NOT IN (SELECT pack FROM blocks)"
        ),
        "pack-born-in-future": plain("SELECT name AS pack, born, size FROM packs WHERE born > :p_next", "next"),
    }
)
_NAMES = plain("SELECT parent, name FROM dentries WHERE inode = :p_inode ORDER BY id LIMIT 1 OFFSET 0", "inode")
_USERS = plain(
    "SELECT c.inode, c.offset, c.length FROM chunks c WHERE c.block IN "
    "(SELECT b.id FROM blocks b JOIN packs p ON p.id = b.pack WHERE p.name = :p_pack) ORDER BY c.inode, c.offset",
    "pack",
)
_USERS_OF_BLOCK = plain(
    "SELECT c.inode, c.offset, c.length FROM chunks c JOIN blocks b ON b.id = c.block WHERE b.hash = :p_hash "
    "ORDER BY c.inode, c.offset",
    "hash",
)
_BLOCKS_OF = plain(
    "SELECT b.hash, p.name, b.offset, b.stored_length, b.plain_length FROM blocks b JOIN packs p ON p.id = b.pack "
    "WHERE p.name = :p_pack ORDER BY b.offset",
    "pack",
)
_LOCATE = plain(
    "SELECT b.hash, p.name, b.offset, b.stored_length, b.plain_length FROM blocks b JOIN packs p ON p.id = b.pack "
    "WHERE b.hash = :p_hash",
    "hash",
)
_LOST_BLOCKS = plain(
    "SELECT b.hash, p.name, b.offset, b.stored_length, b.plain_length FROM lost_blocks l "
    "JOIN blocks b ON b.id = l.block JOIN packs p ON p.id = b.pack ORDER BY p.name, b.offset"
)
_FILE = plain(
    "SELECT size, mtime_ns, chunk_count, chunk_sum FROM inodes WHERE id = :p_inode AND (mode & 61440) = 32768", "inode"
)
_PLACED_CHUNKS = plain(
    "SELECT c.offset, c.length, c.skip, c.block, b.hash, p.name, b.offset, b.stored_length, b.plain_length, p.size, "
    "p.born FROM chunks c LEFT JOIN blocks b ON b.id = c.block LEFT JOIN packs p ON p.id = b.pack "
    "WHERE c.inode = :p_inode ORDER BY c.offset",
    "inode",
)
_STORED_SEQ = plain("SELECT stored_seq FROM inodes WHERE id = :p_inode", "inode")


class PlacedChunk(NamedTuple):
    """A chunk, with all that is to be known of its block and pack."""

    offset: int
    length: int
    skip: int
    block: int
    location: BlockLocation
    pack_size: int
    pack_born: int


class FileState(NamedTuple):
    """A file as an index has it."""

    size: int
    mtime_ns: int
    sums: ChunkChecksum
    """As its inode has them."""
    chunks: tuple[PlacedChunk, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the chunks are those that the sums tell of."""
        return checksum_of((one.offset, one.length, one.block, one.skip) for one in self.chunks) == self.sums


class IndexChecker:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        try:
            self._database.execute("BEGIN")
            self._name = _NAMES.on(self._database)
        except BaseException:
            self._database.close()
            raise

    def integrity(self, thorough: bool = False) -> list[str]:
        """What SQLite itself finds wrong, as it says it. Names are compared with their indexes row by row, as a lost
        write leaves files there under names that they do not have any more; `thorough` does so with every table."""
        pragmas = ("integrity_check(20)",) if thorough else ("quick_check(20)", "integrity_check(dentries)")
        lines = [str(line) for pragma in pragmas for (line,) in self._database.execute(f"PRAGMA {pragma}")]
        return [line for line in lines if line != "ok"]

    def defects(self, code: str, *values: Any) -> list[dict[str, Any]]:
        """The defects of one kind, a row of named values each."""
        try:
            query = QUERIES[code]
            placed = values if query.place is None else query.place(values)
            cursor = self._database.connection.execute(query.text, placed)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except sqlite3.Error as error:
            raise self._database.fault(error) from error

    def stored_seq(self, inode: int) -> int | None:
        """The newest change of the inode that is stored; None where there is no such inode."""
        row = _STORED_SEQ.on(self._database).one(inode)
        return None if row is None else int(row[0])

    def path_of(self, inode: int) -> bytes:
        """A path of the inode from the root, or what there is of one."""
        parts: list[bytes] = []
        seen: set[int] = set()
        while inode != 1 and inode not in seen:
            seen.add(inode)
            row = self._name.one(inode)
            if row is None:
                return b"/".join((b"#%d" % inode, *reversed(parts)))
            inode, name = row
            parts.append(name)
        return b"/" + b"/".join(reversed(parts))

    def users_of_pack(self, pack: str) -> list[tuple[Any, ...]]:
        """(inode, offset, length) of every chunk in that pack."""
        return _USERS.on(self._database).all(pack)

    def users_of_block(self, block: bytes) -> list[tuple[Any, ...]]:
        """(inode, offset, length) of every chunk of that block."""
        return _USERS_OF_BLOCK.on(self._database).all(block)

    def blocks_of(self, pack: str) -> list[tuple[Any, ...]]:
        """The blocks that the index places in that pack, as `BlockLocation`."""
        return _BLOCKS_OF.on(self._database).all(pack)

    def locate(self, block: bytes) -> tuple[Any, ...] | None:
        """Where the index places a block, as `BlockLocation`; None where it knows no such block, or no place."""
        row: tuple[Any, ...] | None = _LOCATE.on(self._database).one(block)
        return row

    def lost_blocks(self) -> list[tuple[Any, ...]]:
        """The blocks that are known to be lost, where the index places them, as `BlockLocation`."""
        return _LOST_BLOCKS.on(self._database).all()

    def file_state(self, inode: int) -> FileState | None:
        """The file of that number; None where there is none, or a block of it that lies in no pack."""
        row = _FILE.on(self._database).one(inode)
        if row is None:
            return None
        rows = _PLACED_CHUNKS.on(self._database).all(inode)
        if any(one[5] is None for one in rows):
            return None
        chunks = tuple(
            PlacedChunk(one[0], one[1], one[2], one[3], BlockLocation(*one[4:9]), one[9], one[10]) for one in rows
        )
        return FileState(row[0], row[1], ChunkChecksum(row[2], row[3]), chunks)

    def close(self) -> None:
        """Closes the connection."""
        self._database.rollback()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
