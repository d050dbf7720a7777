# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes to an index in which a check has found defects: each repairs one kind, and deletes no content.

Every method is to be called within an operation, under the index's lock, while no file system is at work on those
inodes and names. All raise `IndexDatabaseError` and its kinds, and nothing else.
"""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Column, Executable, delete, func, insert, select, union_all, update

from cas3fs.index.blocks import LOST_PACK, BlockTable
from cas3fs.index.checks import FileState, PlacedChunk
from cas3fs.index.checksums import ChunkChecksum, raised_by, recomputed, sums_of_rows
from cas3fs.index.hash_index import HashIndex, of_hash
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Row, Statement
from cas3fs.index.tables import ROOT_INODE, blocks, chunks, dentries, inodes, packs, sequences, symlinks, xattrs
from cas3fs.values import BlockHash, BlockLocation, PackedBlock, StoredPack

LOST_FOLDER: Final = b"lost+found"


def _next_number(own: Column[int], named_by: Column[int]) -> Executable:
    """A number that no row of a table has or ever had, and that no chunk names."""
    had = select(func.coalesce(func.max(sequences.c.seq), 1)).where(sequences.c.name == own.table.name)
    used = (select(func.coalesce(func.max(column), 1).label("used")) for column in (own, named_by))
    numbers = union_all(*used, had).subquery("numbers")
    return select(func.max(numbers.c.used) + 1)


class Repairs:
    """Changes that repair defects, on the writer's connection."""

    def __init__(self, database: Database, blocks: BlockTable, hashes: HashIndex) -> None:
        self._database = database
        self._blocks = blocks
        self._hashes = hashes

    # -- inodes and names

    _next_inode = Statement(lambda: _next_number(inodes.c.id, chunks.c.inode))
    _add_inode = Statement(
        lambda number, mode, uid, gid, size, now: (
            insert(inodes)
            .values(
                {
                    "id": number,
                    "mode": mode,
                    "uid": uid,
                    "gid": gid,
                    "nlink": 1,
                    "rdev": 0,
                    "size": size,
                    "stored_seq": 0,
                }
                | dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns", "crtime_ns"), now)
            )
            .inline()
        )
    )
    _recompute_checksum = Statement(lambda inode: recomputed().where(inodes.c.id == inode))

    def add_inode(self, number: int | None, mode: int, size: int = 0) -> int:
        """Makes an inode of that number, or of a new one, of this process's user and of now."""
        if number is None:
            number = int(self._next_inode.one()[0])
        self._add_inode.run(number, mode, os.getuid(), os.getgid(), size, time.time_ns())
        self._recompute_checksum.run(number)  # there may be chunks of that number
        return number

    _child = Statement(
        lambda parent, name: (
            select(dentries.c.inode, inodes.c.mode)
            .select_from(dentries.join(inodes, inodes.c.id == dentries.c.inode))
            .where(dentries.c.parent == parent, dentries.c.name == name)
        )
    )
    _add_name = Statement(
        lambda parent, name, inode: insert(dentries).values(parent=parent, name=name, inode=inode).inline()
    )

    def lost_folder(self) -> int:
        """The number of the folder for what was detached; it is made where it is missing."""
        name, suffix = LOST_FOLDER, 0
        while (row := self._child.one(ROOT_INODE, name)) is not None:
            if stat.S_ISDIR(row[1]):
                return int(row[0])
            suffix += 1
            name = b"%s.%d" % (LOST_FOLDER, suffix)
        number = self.add_inode(None, stat.S_IFDIR | 0o700)
        self._set_links.run(number, 2)
        self._add_name.run(ROOT_INODE, name, number)
        return number

    def attach(self, inode: int, name: bytes = b"") -> bytes:
        """Gives an inode a name in the folder for what was detached, and returns the name."""
        folder = self.lost_folder()
        wanted = given = b"#%d" % inode + (b"-" + name if name else b"")
        suffix = 0
        while self._child.one(folder, given[:255]) is not None:
            suffix += 1
            given = b"%s.%d" % (wanted[:240], suffix)
        self._add_name.run(folder, given[:255], inode)
        return given[:255]

    _delete_name = Statement(lambda entry: delete(dentries).where(dentries.c.id == entry))

    def drop_name(self, entry: int) -> None:
        """Removes a name of an inode that does not exist, or that has another name."""
        self._delete_name.run(entry)

    _names_of = Statement(
        lambda inode: (
            select(dentries.c.id, dentries.c.parent, dentries.c.name)
            .where(dentries.c.inode == inode)
            .order_by(dentries.c.id)
        )
    )

    def names_of(self, inode: int) -> list[Row]:
        """(id, parent, name) of each name of the inode."""
        return self._names_of.all(inode)

    _any_child = Statement(lambda inode: select(dentries.c.id).where(dentries.c.parent == inode).limit(1))
    _any_target = Statement(lambda inode: select(symlinks.c.inode).where(symlinks.c.inode == inode))

    def type_shown(self, inode: int) -> int:
        """The type that an inode's content shows: a folder if something lies in it, a link if it has a target."""
        for query, shown in ((self._any_child, stat.S_IFDIR), (self._any_target, stat.S_IFLNK)):
            if query.one(inode) is not None:
                return shown
        return stat.S_IFREG

    _mode = Statement(lambda inode: select(inodes.c.mode).where(inodes.c.id == inode))

    def mode_of(self, inode: int) -> int | None:
        """Type and permissions as they are now; None where there is no such inode."""
        row = self._mode.one(inode)
        return None if row is None else int(row[0])

    _any_chunk = Statement(lambda inode: select(chunks.c.inode).where(chunks.c.inode == inode).limit(1))

    def has_chunks(self, inode: int) -> bool:
        """Whether the inode has content."""
        return self._any_chunk.one(inode) is not None

    _set_mode = Statement(lambda inode, mode: update(inodes).where(inodes.c.id == inode).values(mode=mode))

    def set_mode(self, inode: int, mode: int) -> None:
        """Corrects type and permissions."""
        self._set_mode.run(inode, mode)

    _set_size = Statement(lambda inode, size: update(inodes).where(inodes.c.id == inode).values(size=size))

    def set_size(self, inode: int, size: int) -> None:
        """Corrects the size."""
        self._set_size.run(inode, size)

    _set_links = Statement(lambda inode, nlink: update(inodes).where(inodes.c.id == inode).values(nlink=nlink))

    def set_links(self, inode: int, nlink: int) -> None:
        """Corrects the link count."""
        self._set_links.run(inode, nlink)

    _move_target = Statement(lambda old, new: update(symlinks).where(symlinks.c.inode == old).values(inode=new))

    def move_target(self, old: int, new: int) -> None:
        """Gives the target of one inode to another, which has none."""
        self._move_target.run(old, new)

    _delete_attribute = Statement(
        lambda inode, name: delete(xattrs).where(xattrs.c.inode == inode, xattrs.c.name == name)
    )

    def drop_attribute(self, inode: int, name: bytes) -> None:
        """Removes an extended attribute of an inode that does not exist."""
        self._delete_attribute.run(inode, name)

    # -- chunks

    _move_chunks = Statement(lambda old, new: update(chunks).where(chunks.c.inode == old).values(inode=new))

    def move_chunks(self, old: int, new: int) -> None:
        """Gives the chunks of one inode to another, which has none."""
        self._move_chunks.run(old, new)
        self._recompute_checksum.run(old)
        self._recompute_checksum.run(new)

    _set_length = Statement(
        lambda inode, offset, length: (
            update(chunks).where(chunks.c.inode == inode, chunks.c.offset == offset).values(length=length)
        )
    )
    _delete_chunk = Statement(
        lambda inode, offset: delete(chunks).where(chunks.c.inode == inode, chunks.c.offset == offset)
    )

    def shorten_chunk(self, inode: int, offset: int, length: int) -> None:
        """Cuts a chunk to `length` bytes; with 0 it is deleted."""
        with self._checksummed(inode):
            if length > 0:
                self._set_length.run(inode, offset, length)
            else:
                self._delete_chunk.run(inode, offset)

    _add_chunk = Statement(
        lambda inode, offset, length, block, skip: (
            insert(chunks).values(inode=inode, offset=offset, length=length, block=block, skip=skip).inline()
        )
    )

    def add_lost_range(self, inode: int, offset: int, length: int) -> None:
        """Notes that a range in which no chunk lies cannot be read."""
        block = self.add_lost_block(None, length)
        with self._checksummed(inode):
            self._add_chunk.run(inode, offset, length, block, 0)

    _checksum = Statement(lambda inode: select(*sums_of_rows()).select_from(chunks).where(chunks.c.inode == inode))
    _add_checksum = Statement(
        lambda inode, *difference: update(inodes).where(inodes.c.id == inode).values(raised_by(difference)),
        ("inode", *ChunkChecksum._fields),
    )

    @contextmanager
    def _checksummed(self, inode: int) -> Iterator[None]:
        """Adds what changes within to the checksum; what was lost before is still missing in it."""
        before = ChunkChecksum(*self._checksum.one(inode))
        yield
        self._add_checksum.run(inode, *(ChunkChecksum(*self._checksum.one(inode)) - before))

    _size_and_mode = Statement(lambda inode: select(inodes.c.size, inodes.c.mode).where(inodes.c.id == inode))
    _copy_chunks = Statement(
        lambda old, new: insert(chunks).from_select(
            ["inode", "offset", "length", "block", "skip"],
            select(new, chunks.c.offset, chunks.c.length, chunks.c.block, chunks.c.skip).where(chunks.c.inode == old),
        )
    )

    def keep_copy(self, inode: int) -> bytes:
        """Copies what the index has of a file, as it is, to a new one in the folder for what was detached; returns its
        name there."""
        size, mode = self._size_and_mode.one(inode)
        number = self.add_inode(None, mode, size)
        self._copy_chunks.run(inode, number)
        self._recompute_checksum.run(number)
        return self.attach(number, b"from-%d" % inode)

    _bounds = Statement(
        lambda inode: select(chunks.c.offset, chunks.c.length).where(chunks.c.inode == inode).order_by(chunks.c.offset)
    )

    def mark_holes_lost(self, inode: int) -> int:
        """Notes that a file's chunks are those that there are, and that what lies between them cannot be read; returns
        how many such ranges there are."""
        position, holes = 0, []
        for offset, length in [*self._bounds.all(inode), (self._size_and_mode.one(inode)[0], 0)]:
            if offset > position:
                holes.append((position, offset - position))
            position = max(position, offset + length)
        for offset, length in holes:
            self.add_lost_range(inode, offset, length)
        self._recompute_checksum.run(inode)
        return len(holes)

    _delete_chunks = Statement(lambda inode: delete(chunks).where(chunks.c.inode == inode))
    _set_content = Statement(
        lambda inode, size, mtime: update(inodes).where(inodes.c.id == inode).values(size=size, mtime_ns=mtime)
    )
    _block_id = Statement(lambda digest: select(blocks.c.id).where(of_hash(digest)))

    def restore_file(self, inode: int, state: FileState) -> None:
        """Makes a file what it is in `state`, which another index has of it."""
        self._hashes.ensure()
        self._delete_chunks.run(inode)
        for chunk in state.chunks:
            row = self._block_id.one(chunk.location.hash)
            if row is None:
                self._enter_block(chunk)
                row = self._block_id.one(chunk.location.hash)
            self._add_chunk.run(inode, chunk.offset, chunk.length, row[0], chunk.skip)
        self._set_content.run(inode, state.size, state.mtime_ns)
        self._recompute_checksum.run(inode)

    def _enter_block(self, chunk: PlacedChunk) -> None:
        place = chunk.location
        self._enter_pack(place.pack, chunk.pack_size, chunk.pack_born)
        block = PackedBlock(place.hash, place.offset, place.stored_length, place.plain_length)
        self._blocks.add_pack(StoredPack(place.pack, chunk.pack_size, [block]), chunk.pack_born)

    # -- blocks and packs

    _pack_id = Statement(lambda name: select(packs.c.id).where(packs.c.name == name))
    _add_pack = Statement(lambda name, size, born: insert(packs).values(name=name, size=size, born=born).inline())

    def lost_pack(self) -> int:
        """The number of the lost pack; it is entered where it is not known."""
        row = self._pack_id.one(LOST_PACK)
        return self._add_pack.insert(LOST_PACK, 0, 0) if row is None else int(row[0])

    _has_block = Statement(lambda number: select(blocks.c.id).where(blocks.c.id == number))

    def has_block(self, number: int) -> bool:
        """Whether there is a block of that number."""
        return self._has_block.one(number) is not None

    _next_block = Statement(lambda: _next_number(blocks.c.id, chunks.c.block))
    _add_block = Statement(
        lambda number, digest, pack, plain: (
            insert(blocks)
            .values(id=number, hash=digest, pack=pack, offset=0, stored_length=1, plain_length=plain)
            .inline()
        )
    )

    def add_lost_block(self, number: int | None, plain_length: int) -> int:
        """Enters a block that cannot be read, under that number or a new one; returns the number."""
        if number is None:
            number = int(self._next_block.one()[0])
        block = BlockHash(os.urandom(32))
        self._hashes.ensure()
        self._add_block.run(number, block, self.lost_pack(), plain_length)
        self._blocks.mark_lost(block, LOST_PACK)
        return number

    _place = Statement(
        lambda digest, pack, offset, stored_length, plain_length: (
            update(blocks)
            .where(of_hash(digest))
            .values(pack=pack, offset=offset, stored_length=stored_length, plain_length=plain_length)
        )
    )

    def mark_missing(self, block: BlockHash, plain_length: int) -> None:
        """Notes that a block is nowhere to be found."""
        self._hashes.ensure()
        self._place.run(block, self.lost_pack(), 0, 1, plain_length)
        self._blocks.mark_lost(block, LOST_PACK)

    def place(self, location: BlockLocation, pack_size: int, born: int) -> None:
        """Notes where a block was found; a pack that is not known is entered, one that was dead is alive again."""
        self._hashes.ensure()
        number = self._enter_pack(location.pack, pack_size, born)
        self._place.run(location.hash, number, location.offset, location.stored_length, location.plain_length)
        self._blocks.mark_found(location.hash, location.pack)

    def _enter_pack(self, pack: str, size: int, born: int) -> int:
        """The number of a pack, which is alive from now on."""
        row = self._pack_id.one(pack)
        number = self._add_pack.insert(pack, size, born) if row is None else int(row[0])
        self._revive.run(pack)
        return number

    _revive = Statement(lambda name: update(packs).where(packs.c.name == name).values(died=None))

    def revive(self, pack: str) -> None:
        """Notes that a pack that was marked dead is in use."""
        self._revive.run(pack)

    _set_died = Statement(lambda name, died: update(packs).where(packs.c.name == name).values(died=died))

    def set_died(self, pack: str, died: int) -> None:
        """Corrects the death of a pack."""
        self._set_died.run(pack, died)

    _set_born = Statement(lambda name, born: update(packs).where(packs.c.name == name).values(born=born))

    def set_born(self, pack: str, born: int) -> None:
        """Corrects the birth of a pack."""
        self._set_born.run(pack, born)

    _set_pack_size = Statement(lambda name, size: update(packs).where(packs.c.name == name).values(size=size))

    def set_pack_size(self, pack: str, size: int) -> None:
        """Corrects the size of a pack's object."""
        self._set_pack_size.run(pack, size)
