# SPDX-License-Identifier: GPL-3.0-or-later
"""What is inconsistent within an index: one query for each kind of defect.

A query gives a row for each defect and nothing where all is well, so each costs one pass over its tables.
`IndexChecker` reads what is committed, on a connection of its own, as of one instant; for one thread.

Every method raises `IndexDatabaseError` and its kinds, and nothing else.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Executable, FromClause, exists, func, literal, select, union_all

from cas3fs.index.blocks import LOCATION, PLACED_BLOCKS, all_lost
from cas3fs.index.checksums import NOTED, ChunkChecksum, checksum_of, mismatched_files
from cas3fs.index.hash_index import add_temporary_hashes, of_hash
from cas3fs.index.holder import ConnectionHolder
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import OrderedJoin, Row, Statement
from cas3fs.index.tables import ROOT_INODE, blocks, chunks, dentries, inodes, packs, symlinks, xattrs
from cas3fs.values import BlockLocation

_LIMIT: Final = 20
"""So many lines of what SQLite finds are given."""
_TYPES: Final = (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFLNK, stat.S_IFSOCK)
_REACHES: Final = func.max(chunks.c.offset + chunks.c.length)
_IN_BLOCKS: Final = chunks.join(blocks, blocks.c.id == chunks.c.block)
_MAYBE_IN_BLOCKS: Final = chunks.outerjoin(blocks, blocks.c.id == chunks.c.block)
_CHUNK: Final = (chunks.c.inode, chunks.c.offset, chunks.c.length)


def _type(table: FromClause = inodes) -> ColumnElement[int]:
    mode: ColumnElement[int] = table.c.mode
    return mode.bitwise_and(stat.S_IFMT(0o177777))


def _is_folder(table: FromClause = inodes) -> ColumnElement[bool]:
    return _type(table) == stat.S_IFDIR


def _without_inode(table: FromClause, *columns: ColumnElement[Any]) -> Any:
    """Rows of a table whose inode does not exist."""
    return (
        select(*columns).select_from(table.outerjoin(inodes, inodes.c.id == table.c.inode)).where(inodes.c.id.is_(None))
    )


def _root_missing() -> Executable:
    root = exists().where(inodes.c.id == ROOT_INODE, _is_folder())
    return select(literal(ROOT_INODE).label("inode")).where(~root)


def _unreachable() -> Executable:
    folders = (
        # inodes first: they show which few entries are folders
        select(inodes.c.id.label("inode"), dentries.c.parent, dentries.c.id, dentries.c.name)
        .select_from(OrderedJoin(inodes, dentries, dentries.c.inode == inodes.c.id))
        .where(_is_folder())
        .cte("folders")
        .prefix_with("MATERIALIZED")
    )
    reached = select(literal(ROOT_INODE).label("inode")).cte("reached", recursive=True)
    reached = reached.union(
        select(folders.c.inode).select_from(reached.join(folders, folders.c.parent == reached.c.inode))
    )
    return select(folders.c.inode, folders.c.parent, folders.c.id, folders.c.name).where(
        folders.c.inode != ROOT_INODE, folders.c.inode.not_in(select(reached.c.inode))
    )


def _wrong_link_count() -> Executable:
    names = select(dentries.c.inode, func.count().label("names")).group_by(dentries.c.inode).subquery("names")
    below = inodes.alias("below")
    folders = (
        select(dentries.c.parent, func.count().label("folders"))
        .select_from(OrderedJoin(below, dentries, dentries.c.inode == below.c.id))
        .where(_is_folder(below))
        .group_by(dentries.c.parent)
        .subquery("folders")
    )
    counted = 2 + func.coalesce(folders.c.folders, 0)
    return union_all(
        select(inodes.c.id.label("inode"), inodes.c.nlink.label("nlink"), names.c.names.label("counted"))
        .select_from(OrderedJoin(names, inodes, inodes.c.id == names.c.inode))
        .where(~_is_folder(), inodes.c.nlink != names.c.names),
        select(inodes.c.id, inodes.c.nlink, counted)
        .select_from(inodes.outerjoin(folders, folders.c.parent == inodes.c.id))
        .where(
            _is_folder(),
            inodes.c.nlink != counted,
            (inodes.c.id == ROOT_INODE) | inodes.c.id.in_(select(dentries.c.inode)),
        ),
    )


def _chunks_overlap() -> Executable:
    following = func.lead(chunks.c.offset).over(partition_by=chunks.c.inode, order_by=chunks.c.offset)
    found = select(*_CHUNK, following.label("following")).subquery("found")
    return select(*found.c).where(
        found.c.following.is_not(None), found.c.offset + found.c.length > found.c.following, found.c.length > 0
    )


_ENTRY: Final = (dentries.c.id, dentries.c.parent, dentries.c.name)

QUERIES: Final[Mapping[str, Statement]] = MappingProxyType(
    {
        "root-missing": Statement(_root_missing),
        "root-named": Statement(lambda: select(*_ENTRY).where(dentries.c.inode == ROOT_INODE)),
        "inode-without-name": Statement(
            lambda: select(inodes.c.id.label("inode"), inodes.c.mode, inodes.c.nlink).where(
                inodes.c.id != ROOT_INODE, inodes.c.id.not_in(select(dentries.c.inode))
            )
        ),
        "name-without-inode": Statement(
            lambda: _without_inode(dentries, *_ENTRY, dentries.c.inode).where(dentries.c.inode != ROOT_INODE)
        ),
        "name-in-no-folder": Statement(
            lambda: (
                select(*_ENTRY, dentries.c.inode)
                .select_from(dentries.outerjoin(inodes, inodes.c.id == dentries.c.parent))
                .where((inodes.c.id.is_(None) & (dentries.c.parent != ROOT_INODE)) | ~_is_folder())
            )
        ),
        "folder-with-many-names": Statement(
            lambda: (
                select(dentries.c.inode, func.count().label("names"))
                .select_from(dentries.join(inodes, inodes.c.id == dentries.c.inode))
                .where(_is_folder())
                .group_by(dentries.c.inode)
                .having(func.count() > 1)
            )
        ),
        "unreachable": Statement(_unreachable),
        "wrong-link-count": Statement(_wrong_link_count),
        "wrong-type": Statement(
            lambda: select(inodes.c.id.label("inode"), inodes.c.mode).where(_type().not_in(_TYPES))
        ),
        "link-without-target": Statement(
            lambda: select(inodes.c.id.label("inode")).where(
                _type() == stat.S_IFLNK, inodes.c.id.not_in(select(symlinks.c.inode))
            )
        ),
        "target-of-no-link": Statement(
            lambda: (
                select(symlinks.c.inode, symlinks.c.target)
                .select_from(symlinks.join(inodes, inodes.c.id == symlinks.c.inode))
                .where(_type() != stat.S_IFLNK)
            )
        ),
        "chunks-of-no-file": Statement(
            lambda: (
                select(chunks.c.inode, inodes.c.mode)
                .distinct()
                .select_from(chunks.join(inodes, inodes.c.id == chunks.c.inode))
                .where(_type() != stat.S_IFREG)
            )
        ),
        "content-without-inode": Statement(
            lambda: _without_inode(chunks, chunks.c.inode, _REACHES.label("size")).group_by(chunks.c.inode)
        ),
        "target-without-inode": Statement(lambda: _without_inode(symlinks, symlinks.c.inode, symlinks.c.target)),
        "attribute-without-inode": Statement(
            lambda: _without_inode(xattrs, xattrs.c.inode, xattrs.c.name, xattrs.c.value)
        ),
        "size-negative": Statement(lambda: select(inodes.c.id.label("inode"), inodes.c.size).where(inodes.c.size < 0)),
        "chunks-unlike-sums": Statement(mismatched_files),
        "chunk-impossible": Statement(
            lambda: select(*_CHUNK, chunks.c.skip).where(
                (chunks.c.offset < 0) | (chunks.c.length <= 0) | (chunks.c.skip < 0)
            )
        ),
        "chunks-overlap": Statement(_chunks_overlap),
        "chunk-past-end": Statement(
            lambda: (
                select(chunks.c.inode, inodes.c.size, _REACHES.label("reaches"))
                .select_from(chunks.join(inodes, inodes.c.id == chunks.c.inode))
                .where(_type() == stat.S_IFREG)
                .group_by(chunks.c.inode, inodes.c.size)
                .having(inodes.c.size < _REACHES)
            )
        ),
        "chunk-without-block": Statement(
            lambda: (
                select(*_CHUNK, chunks.c.skip, chunks.c.block)
                .select_from(_MAYBE_IN_BLOCKS)
                .where(blocks.c.id.is_(None))
            )
        ),
        "chunk-past-block": Statement(
            lambda: (
                select(*_CHUNK, chunks.c.skip, chunks.c.block, blocks.c.plain_length)
                .select_from(_IN_BLOCKS)
                .where(chunks.c.skip + chunks.c.length > blocks.c.plain_length, chunks.c.skip >= 0)
            )
        ),
        "block-without-pack": Statement(
            lambda: (
                select(blocks.c.id.label("block"), blocks.c.hash, blocks.c.pack.label("number"), blocks.c.plain_length)
                .select_from(blocks.outerjoin(packs, packs.c.id == blocks.c.pack))
                .where(packs.c.id.is_(None))
            )
        ),
        "block-out-of-pack": Statement(
            lambda: (
                select(
                    blocks.c.id.label("block"),
                    blocks.c.hash,
                    packs.c.name.label("pack"),
                    blocks.c.offset,
                    blocks.c.stored_length,
                    blocks.c.plain_length,
                    packs.c.size,
                )
                .select_from(PLACED_BLOCKS)
                .where(
                    (blocks.c.offset < 0)
                    | (blocks.c.stored_length <= 0)
                    | (blocks.c.offset + blocks.c.stored_length > packs.c.size)
                )
            )
        ),
        "pack-dead-but-used": Statement(
            lambda: select(packs.c.name.label("pack"), packs.c.died).where(
                packs.c.died.is_not(None), packs.c.id.in_(select(blocks.c.pack))
            )
        ),
        "pack-dead-before-born": Statement(
            lambda: select(packs.c.name.label("pack"), packs.c.born, packs.c.died).where(
                packs.c.died.is_not(None), packs.c.died < packs.c.born, packs.c.id.not_in(select(blocks.c.pack))
            )
        ),
        "pack-born-in-future": Statement(
            lambda following: select(packs.c.name.label("pack"), packs.c.born, packs.c.size).where(
                packs.c.born > following
            )
        ),
    }
)
"""By the code of a kind of defect, the query that gives a row of named values for each."""


class PlacedChunk(NamedTuple):
    """A chunk, with what the index knows of its block and pack."""

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
    checksum: ChunkChecksum
    """As its inode has it."""
    chunks: tuple[PlacedChunk, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the chunks match the checksum."""
        return checksum_of((one.offset, one.length, one.block, one.skip) for one in self.chunks) == self.checksum


class IndexChecker(ConnectionHolder):
    """Finds defects in an index, and what they touch, as of one instant; for one thread."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        try:
            self._database.pin()
        except BaseException:
            self._database.close()
            raise

    def integrity(self, thorough: bool = False) -> list[str]:
        """What SQLite itself finds wrong, in its words. Names are compared with their indexes row by row, as a lost
        write leaves files there under names that they do not have any more; `thorough` does so with every table."""
        if thorough:
            return self._database.integrity_check(_LIMIT)
        return self._database.quick_check(_LIMIT) + self._database.integrity_check(dentries.name)

    def defects(self, code: str, *values: Any) -> list[dict[str, Any]]:
        """The defects of one kind, a row of named values each."""
        return QUERIES[code].on(self._database).named(*values)

    _stored_seq = Statement(lambda inode: select(inodes.c.stored_seq).where(inodes.c.id == inode))

    def stored_seq(self, inode: int) -> int | None:
        """The newest change of the inode that is stored; None where there is no such inode."""
        row = self._stored_seq.one(inode)
        return None if row is None else int(row[0])

    _name = Statement(
        lambda inode: (
            select(dentries.c.parent, dentries.c.name).where(dentries.c.inode == inode).order_by(dentries.c.id).limit(1)
        )
    )

    def path_of(self, inode: int) -> bytes:
        """A path of the inode from the root, or what there is of one."""
        parts: list[bytes] = []
        seen: set[int] = set()
        while inode != ROOT_INODE and inode not in seen:
            seen.add(inode)
            row = self._name.one(inode)
            if row is None:
                return b"/".join((b"#%d" % inode, *reversed(parts)))
            inode, name = row
            parts.append(name)
        return b"/" + b"/".join(reversed(parts))

    _users_of_pack = Statement(
        lambda pack: (
            select(*_CHUNK)
            .where(chunks.c.block.in_(select(blocks.c.id).select_from(PLACED_BLOCKS).where(packs.c.name == pack)))
            .order_by(chunks.c.inode, chunks.c.offset)
        )
    )

    def users_of_pack(self, pack: str) -> list[Row]:
        """(inode, offset, length) of every chunk in that pack."""
        return self._users_of_pack.all(pack)

    _users_of_block = Statement(
        lambda digest: (
            select(*_CHUNK).select_from(_IN_BLOCKS).where(of_hash(digest)).order_by(chunks.c.inode, chunks.c.offset)
        )
    )

    def users_of_block(self, block: bytes) -> list[Row]:
        """(inode, offset, length) of every chunk of that block."""
        add_temporary_hashes(self._database)
        return self._users_of_block.all(block)

    _blocks_of = Statement(
        lambda pack: select(*LOCATION).select_from(PLACED_BLOCKS).where(packs.c.name == pack).order_by(blocks.c.offset)
    )

    def blocks_of(self, pack: str) -> list[Row]:
        """The blocks that the index places in that pack, as `BlockLocation`."""
        return self._blocks_of.all(pack)

    _locate = Statement(lambda digest: select(*LOCATION).select_from(PLACED_BLOCKS).where(of_hash(digest)))

    def locate(self, block: bytes) -> Row | None:
        """Where the index places a block, as `BlockLocation`; None where it knows no such block, or no place."""
        add_temporary_hashes(self._database)
        row: Row | None = self._locate.one(block)
        return row

    _lost_blocks = Statement(all_lost)

    def lost_blocks(self) -> list[Row]:
        """The blocks that are known to be lost, where the index places them, as `BlockLocation`."""
        return self._lost_blocks.all()

    _file = Statement(
        lambda inode: select(inodes.c.size, inodes.c.mtime_ns, *NOTED).where(
            inodes.c.id == inode, _type() == stat.S_IFREG
        )
    )
    _placed_chunks = Statement(
        lambda inode: (
            select(
                chunks.c.offset, chunks.c.length, chunks.c.skip, chunks.c.block, *LOCATION, packs.c.size, packs.c.born
            )
            .select_from(_MAYBE_IN_BLOCKS.outerjoin(packs, packs.c.id == blocks.c.pack))
            .where(chunks.c.inode == inode)
            .order_by(chunks.c.offset)
        )
    )

    def file_state(self, inode: int) -> FileState | None:
        """The file of that number; None where there is none, or a block of it that lies in no pack."""
        row = self._file.one(inode)
        if row is None:
            return None
        rows = self._placed_chunks.all(inode)
        if any(one[5] is None for one in rows):
            return None
        placed = tuple(
            PlacedChunk(one[0], one[1], one[2], one[3], BlockLocation(*one[4:9]), one[9], one[10]) for one in rows
        )
        return FileState(row[0], row[1], ChunkChecksum(*row[2:]), placed)
