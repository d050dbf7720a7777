# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes to an index that a check has found wanting: each mends one kind of defect, and forgets no content.

The *lost pack* is a pack that no store has. A block that is placed in it cannot be read, so the ranges of files that
need it give an I/O error; without it a join would come out empty, and they would read as zeros.

Every method is to be called within an operation, by who holds the index's lock, while no file system is at work on
those inodes and names. All raise `IndexDatabaseError` and its kinds, and nothing else.
"""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from cas3fs.index.blocks import BlockTable
from cas3fs.index.checks import FileState, PlacedChunk
from cas3fs.index.checksums import RECOMPUTE_CHECKSUMS, ROW_CHECKSUM, ChunkChecksum
from cas3fs.index.database import Database
from cas3fs.index.namespace import ROOT_INODE
from cas3fs.index.prepared import Prepared, Row, plain
from cas3fs.values import BlockHash, BlockLocation, PackedBlock, StoredPack

LOST_PACK: Final = "00000000/" + "0" * 64
"""Epochs begin at 1, and no digest is that: nobody has ever stored such a pack."""
LOST_FOLDER: Final = b"lost+found"


_ADD_INODE = plain(
    "INSERT INTO inodes (id, mode, uid, gid, nlink, rdev, size, atime_ns, mtime_ns, ctime_ns, crtime_ns, stored_seq) "
    "VALUES (:p_id, :p_mode, :p_uid, :p_gid, :p_nlink, 0, :p_size, :p_a, :p_m, :p_c, :p_r, 0)",
    "id mode uid gid nlink size a m c r",
)
_NEXT_INODE = plain(
    "SELECT max(m) + 1 FROM (SELECT coalesce(max(id), 1) AS m FROM inodes UNION ALL "
    "SELECT coalesce(max(seq), 1) FROM sqlite_sequence WHERE name = 'inodes' UNION ALL "
    "SELECT coalesce(max(inode), 1) FROM chunks) AS numbers"
)
_MODE = plain("SELECT mode FROM inodes WHERE id = :p_id", "id")
_SET_MODE = plain("UPDATE inodes SET mode = :p_mode WHERE id = :p_id", "id mode")
_SET_SIZE = plain("UPDATE inodes SET size = :p_size WHERE id = :p_id", "id size")
_SET_LINKS = plain("UPDATE inodes SET nlink = :p_nlink WHERE id = :p_id", "id nlink")
_CHILD = plain(
    "SELECT d.inode, i.mode FROM dentries d JOIN inodes i ON i.id = d.inode WHERE d.parent = :p_parent "
    "AND d.name = :p_name",
    "parent name",
)
_ADD_NAME = plain(
    "INSERT INTO dentries (parent, name, inode) VALUES (:p_parent, :p_name, :p_inode)", "parent name inode"
)
_DROP_NAME = plain("DELETE FROM dentries WHERE id = :p_id", "id")
_NAMES_OF = plain("SELECT id, parent, name FROM dentries WHERE inode = :p_inode ORDER BY id", "inode")
_ANY_CHILD = plain("SELECT 1 FROM dentries WHERE parent = :p_inode LIMIT 1 OFFSET 0", "inode")
_ANY_TARGET = plain("SELECT 1 FROM symlinks WHERE inode = :p_inode", "inode")
_HAS_BLOCK = plain("SELECT 1 FROM blocks WHERE id = :p_block", "block")
_ANY_CHUNK = plain("SELECT 1 FROM chunks WHERE inode = :p_inode LIMIT 1 OFFSET 0", "inode")
_MOVE_TARGET = plain("UPDATE symlinks SET inode = :p_new WHERE inode = :p_old", "old new")
_DROP_ATTRIBUTE = plain("DELETE FROM xattrs WHERE inode = :p_inode AND name = :p_name", "inode name")
_MOVE_CHUNKS = plain("UPDATE chunks SET inode = :p_new WHERE inode = :p_old", "old new")
_DROP_CHUNK = plain("DELETE FROM chunks WHERE inode = :p_inode AND offset = :p_offset", "inode offset")
_SET_CHUNK = plain(
    "UPDATE chunks SET length = :p_length WHERE inode = :p_inode AND offset = :p_offset", "inode offset length"
)
_ADD_CHUNK = plain(
    "INSERT INTO chunks (inode, offset, length, block, skip) VALUES "
    "(:p_inode, :p_offset, :p_length, :p_block, :p_skip)",
    "inode offset length block skip",
)
_DROP_CHUNKS = plain("DELETE FROM chunks WHERE inode = :p_inode", "inode")
_COPY_CHUNKS = plain(
    "INSERT INTO chunks (inode, offset, length, block, skip) "
    "SELECT :p_new, offset, length, block, skip FROM chunks WHERE inode = :p_old",
    "old new",
)
_BOUNDS = plain("SELECT offset, length FROM chunks WHERE inode = :p_inode ORDER BY offset", "inode")
_SIZE_AND_MODE = plain("SELECT size, mode FROM inodes WHERE id = :p_id", "id")
_SET_CONTENT = plain("UPDATE inodes SET size = :p_size, mtime_ns = :p_mtime WHERE id = :p_id", "id size mtime")
_SUMS = plain(
    f"SELECT count(*), coalesce(sum({ROW_CHECKSUM.format('')}), 0) FROM chunks WHERE inode = :p_inode", "inode"
)
_SUM_UP = plain(f"{RECOMPUTE_CHECKSUMS} WHERE id = :p_id", "id")
_CHANGE_SUMS = plain(
    "UPDATE inodes SET chunk_count = chunk_count + :p_number, chunk_sum = chunk_sum + :p_total WHERE id = :p_id",
    "id number total",
)
_BLOCK_ID = plain("SELECT id FROM blocks WHERE hash = :p_hash", "hash")
_PACK_ID = plain("SELECT id FROM packs WHERE name = :p_name", "name")
_ADD_PACK = plain("INSERT INTO packs (name, size, born) VALUES (:p_name, :p_size, :p_born)", "name size born")
_REVIVE = plain("UPDATE packs SET died = NULL WHERE name = :p_name", "name")
_SET_DEATH = plain("UPDATE packs SET died = :p_died WHERE name = :p_name", "name died")
_SET_BIRTH = plain("UPDATE packs SET born = :p_born WHERE name = :p_name", "name born")
_SET_PACK_SIZE = plain("UPDATE packs SET size = :p_size WHERE name = :p_name", "name size")
_ADD_BLOCK = plain(
    "INSERT INTO blocks (id, hash, pack, offset, stored_length, plain_length) "
    "VALUES (:p_id, :p_hash, :p_pack, 0, 1, :p_plain)",
    "id hash pack plain",
)
_NEXT_BLOCK = plain(
    "SELECT max(m) + 1 FROM (SELECT coalesce(max(id), 1) AS m FROM blocks UNION ALL "
    "SELECT coalesce(max(block), 1) FROM chunks UNION ALL "
    "SELECT coalesce(max(seq), 1) FROM sqlite_sequence WHERE name = 'blocks') AS numbers"
)
_PLACE = plain(
    "UPDATE blocks SET pack = :p_pack, offset = :p_offset, stored_length = :p_stored, plain_length = :p_plain "
    "WHERE hash = :p_hash",
    "hash pack offset stored plain",
)


class Repairs:
    """See the module."""

    def __init__(self, database: Database, blocks: BlockTable) -> None:
        self._database = database
        self._blocks = blocks

    def _run(self, change: Prepared, *values: Any) -> int:
        return change.on(self._database).run(*values)

    def _one(self, query: Prepared, *values: Any) -> Any:
        return query.on(self._database).one(*values)

    # -- inodes and names

    def add_inode(self, number: int | None, mode: int, size: int = 0) -> int:
        """Makes an inode of that number, or of a new one, of this process's user and of now."""
        now = time.time_ns()
        if number is None:
            number = int(self._one(_NEXT_INODE)[0])
        self._run(_ADD_INODE, number, mode, os.getuid(), os.getgid(), 1, size, now, now, now, now)
        self._run(_SUM_UP, number)  # there may be chunks of that number
        return number

    def lost_folder(self) -> int:
        """The number of the folder for what was detached; it is made where it is missing."""
        name, suffix = LOST_FOLDER, 0
        while (row := self._one(_CHILD, ROOT_INODE, name)) is not None:
            if stat.S_ISDIR(row[1]):
                return int(row[0])
            suffix += 1
            name = b"%s.%d" % (LOST_FOLDER, suffix)
        number = self.add_inode(None, stat.S_IFDIR | 0o700)
        self._run(_SET_LINKS, number, 2)
        self._run(_ADD_NAME, ROOT_INODE, name, number)
        return number

    def attach(self, inode: int, name: bytes = b"") -> bytes:
        """Gives an inode a name in the folder for what was detached, and says which."""
        folder = self.lost_folder()
        wanted = given = b"#%d" % inode + (b"-" + name if name else b"")
        suffix = 0
        while self._one(_CHILD, folder, given[:255]) is not None:
            suffix += 1
            given = b"%s.%d" % (wanted[:240], suffix)
        self._run(_ADD_NAME, folder, given[:255], inode)
        return given[:255]

    def drop_name(self, entry: int) -> None:
        """Removes a name that stands for nothing, or stood for what has another one."""
        self._run(_DROP_NAME, entry)

    def names_of(self, inode: int) -> list[Row]:
        """(id, parent, name) of each name of the inode."""
        return _NAMES_OF.on(self._database).all(inode)

    def type_shown(self, inode: int) -> int:
        """The type that an inode's content shows: a folder if something lies in it, a link if it has a target."""
        for query, shown in ((_ANY_CHILD, stat.S_IFDIR), (_ANY_TARGET, stat.S_IFLNK)):
            if self._one(query, inode) is not None:
                return shown
        return stat.S_IFREG

    def mode_of(self, inode: int) -> int | None:
        """Type and permissions as they are now; None where there is no such inode."""
        row = self._one(_MODE, inode)
        return None if row is None else int(row[0])

    def has_chunks(self, inode: int) -> bool:
        """Whether the inode has content."""
        return self._one(_ANY_CHUNK, inode) is not None

    def set_mode(self, inode: int, mode: int) -> None:
        """Corrects type and permissions."""
        self._run(_SET_MODE, inode, mode)

    def set_size(self, inode: int, size: int) -> None:
        """Corrects the size."""
        self._run(_SET_SIZE, inode, size)

    def set_links(self, inode: int, nlink: int) -> None:
        """Corrects the link count."""
        self._run(_SET_LINKS, inode, nlink)

    def move_target(self, old: int, new: int) -> None:
        """Gives the target of one inode to another, which has none."""
        self._run(_MOVE_TARGET, old, new)

    def drop_attribute(self, inode: int, name: bytes) -> None:
        """Removes an extended attribute of an inode that does not exist."""
        self._run(_DROP_ATTRIBUTE, inode, name)

    # -- chunks

    def move_chunks(self, old: int, new: int) -> None:
        """Gives the chunks of one inode to another, which has none."""
        self._run(_MOVE_CHUNKS, old, new)
        self._run(_SUM_UP, old)
        self._run(_SUM_UP, new)

    def shorten_chunk(self, inode: int, offset: int, length: int) -> None:
        """Cuts a chunk to `length` bytes; with 0 it goes."""
        with self._counted(inode):
            if length > 0:
                self._run(_SET_CHUNK, inode, offset, length)
            else:
                self._run(_DROP_CHUNK, inode, offset)

    def add_lost_range(self, inode: int, offset: int, length: int) -> None:
        """Notes that a range in which no chunk lies cannot be read."""
        block = self.add_lost_block(None, length)
        with self._counted(inode):
            self._run(_ADD_CHUNK, inode, offset, length, block, 0)

    @contextmanager
    def _counted(self, inode: int) -> Iterator[None]:
        """What changes within is added to the sums; what was lost before still lacks in them."""
        before = ChunkChecksum(*self._one(_SUMS, inode))
        yield
        self._run(_CHANGE_SUMS, inode, *(ChunkChecksum(*self._one(_SUMS, inode)) - before))

    def keep_copy(self, inode: int) -> bytes:
        """Gives what the index has of a file, as it is, to another one, in the folder for what was detached; its name
        there."""
        size, mode = self._one(_SIZE_AND_MODE, inode)
        number = self.add_inode(None, mode, size)
        self._run(_COPY_CHUNKS, inode, number)
        self._run(_SUM_UP, number)
        return self.attach(number, b"from-%d" % inode)

    def mark_holes_lost(self, inode: int) -> int:
        """Notes that a file's chunks are those that there are, and that what lies between them cannot be read; gives
        how many such ranges there are."""
        position, holes = 0, []
        for offset, length in [*_BOUNDS.on(self._database).all(inode), (self._one(_SIZE_AND_MODE, inode)[0], 0)]:
            if offset > position:
                holes.append((position, offset - position))
            position = max(position, offset + length)
        for offset, length in holes:
            self.add_lost_range(inode, offset, length)
        self._run(_SUM_UP, inode)
        return len(holes)

    def restore_file(self, inode: int, state: FileState) -> None:
        """Lets a file be as in `state`, which another index has of it."""
        self._run(_DROP_CHUNKS, inode)
        for chunk in state.chunks:
            row = self._one(_BLOCK_ID, chunk.location.hash)
            if row is None:
                self._enter_block(chunk)
                row = self._one(_BLOCK_ID, chunk.location.hash)
            self._run(_ADD_CHUNK, inode, chunk.offset, chunk.length, row[0], chunk.skip)
        self._run(_SET_CONTENT, inode, state.size, state.mtime_ns)
        self._run(_SUM_UP, inode)

    def _enter_block(self, chunk: PlacedChunk) -> None:
        place = chunk.location
        self._enter_pack(place.pack, chunk.pack_size, chunk.pack_born)
        block = PackedBlock(place.hash, place.offset, place.stored_length, place.plain_length)
        self._blocks.add_pack(StoredPack(place.pack, chunk.pack_size, [block]), chunk.pack_born)

    # -- blocks and packs

    def lost_pack(self) -> int:
        """The number of the lost pack; it is entered where it is not known."""
        row = self._one(_PACK_ID, LOST_PACK)
        if row is None:
            self._run(_ADD_PACK, LOST_PACK, 0, 0)
            row = self._one(_PACK_ID, LOST_PACK)
        return int(row[0])

    def has_block(self, number: int) -> bool:
        """Whether there is a block of that number."""
        return self._one(_HAS_BLOCK, number) is not None

    def add_lost_block(self, number: int | None, plain_length: int) -> int:
        """Enters a block that cannot be read, under that number or a new one; gives the number."""
        if number is None:
            number = int(self._one(_NEXT_BLOCK)[0])
        block = BlockHash(os.urandom(32))
        self._run(_ADD_BLOCK, number, block, self.lost_pack(), plain_length)
        self._blocks.mark_lost(block, LOST_PACK)
        return number

    def mark_missing(self, block: BlockHash, plain_length: int) -> None:
        """Notes that a block is nowhere to be found."""
        self._run(_PLACE, block, self.lost_pack(), 0, 1, plain_length)
        self._blocks.mark_lost(block, LOST_PACK)

    def place(self, location: BlockLocation, pack_size: int, born: int) -> None:
        """Notes where a block was found; a pack that is not known is entered, one that was dead is alive again."""
        number = self._enter_pack(location.pack, pack_size, born)
        self._run(_PLACE, location.hash, number, location.offset, location.stored_length, location.plain_length)
        self._blocks.mark_found(location.hash, location.pack)

    def _enter_pack(self, pack: str, size: int, born: int) -> int:
        """The number of a pack, which is alive from now on."""
        row = self._one(_PACK_ID, pack)
        if row is None:
            self._run(_ADD_PACK, pack, size, born)
            row = self._one(_PACK_ID, pack)
        self._run(_REVIVE, pack)
        return int(row[0])

    def revive(self, pack: str) -> None:
        """A pack that was said to be dead is in use."""
        self._run(_REVIVE, pack)

    def set_died(self, pack: str, died: int) -> None:
        """Corrects the death of a pack."""
        self._run(_SET_DEATH, pack, died)

    def set_born(self, pack: str, born: int) -> None:
        """Corrects the birth of a pack."""
        self._run(_SET_BIRTH, pack, born)

    def set_pack_size(self, pack: str, size: int) -> None:
        """Corrects the size of a pack's object."""
        self._run(_SET_PACK_SIZE, pack, size)
