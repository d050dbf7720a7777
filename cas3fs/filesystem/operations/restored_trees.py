# SPDX-License-Identifier: GPL-3.0-or-later
"""Entering a tree out of a snapshot again, as rows: no data is copied, since the blocks are in the store.

The inodes get new numbers, and are otherwise as they were: owners, modes, times (but for that of the last change),
extended attributes, lists, links, holes. Flags that forbid changes are left out, as nobody could rename or remove the
tree. A name that an inode has outside of the tree is not restored.

A block that the index knows is used where it lies. One that gc has dropped comes back with the place that the snapshot
has for it, and the death of its pack is taken back. The pack is still in the store: a gc deletes a pack only when no
retained snapshot needs it, and the caller keeps the snapshot from being deleted, asks the store for the packs, and
keeps any gc from deleting and publishing until this is done. All of it is one operation, so a crash leaves either
everything or nothing, and the pack dead as before; the snapshot still needs it then.
"""

import stat
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Final

from cas3fs.errors import StoreError
from cas3fs.filesystem.operations.directories import Directories
from cas3fs.filesystem.operations.xattrs import CAPABILITY, Xattrs
from cas3fs.filesystem.state import access_lists
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.filesystem.state.inode_flags import PROTECTED
from cas3fs.index import LOST_PACK, InodeRow, TreeRows
from cas3fs.values import BlockHash, PackedBlock, StoredPack

_STORED_SEQ: Final = 1
"""The files have been stored: 0 would say that they have no chunks yet."""


class RestoredTrees:
    """Enters trees; takes the lock itself."""

    def __init__(self, state: FileSystemState, directories: Directories, xattrs: Xattrs) -> None:
        self._state = state
        self._directories = directories
        self._xattrs = xattrs

    def packs_to_revive(self, tree: TreeRows) -> set[str]:
        """The packs that hold blocks of the tree which the index does not know any more.

        Raises:
            IndexDatabaseError: the index failed.
        """
        with self._state.lock:
            return self._unknown_packs(tree)

    def _unknown_packs(self, tree: TreeRows) -> set[str]:
        known = self._state.index.blocks.find(list(tree.blocks))
        return {one.pack for digest, one in tree.blocks.items() if digest not in known} - {LOST_PACK}

    def insert(self, parent: int, name: bytes, tree: TreeRows, stored: Collection[str]) -> None:
        """Enters a tree under a name that must not be taken.

        Args:
            parent: the directory.
            name: the name of the tree in it.
            tree: the tree.
            stored: packs that the store has, all of `packs_to_revive` among them.

        Raises:
            FileSystemError: EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL, ENOSPC, EROFS; EPERM, a flag forbids it.
            StoreError: the index has changed since then, and other packs would have to be asked for.
            IndexDatabaseError: the index failed; nothing was entered.
        """
        state = self._state
        with state.lock:
            state.access.check_change()
            directory = self._directories.check_new_name(parent, name)
            if not self._unknown_packs(tree) <= set(stored):
                raise StoreError("blocks of the tree were moved or deleted meanwhile; try again")
            with state.operation():
                top = self._enter(parent, name, tree)
            state.access_lists.set_succeeded()
            if _has(tree, CAPABILITY):
                self._xattrs.has_capabilities = True
                self._xattrs.on_capability_restored()
            directory.nlink += stat.S_ISDIR(tree.inodes[0].mode)
            state.entries_changed(directory)
            state.dentries.insert(parent, name, top)

    def _enter(self, parent: int, name: bytes, tree: TreeRows) -> int:
        """Enters all rows, within an operation; the number of the top."""
        state, space = self._state, self._state.index.namespace
        first = state.dentries.reserve_number()
        numbers = {one.number: first + place for place, one in enumerate(tree.inodes)}
        space.insert_inodes(_inode_rows(tree, numbers))
        entries = [
            (parent, name, first),
            *((numbers[above], one, numbers[inode]) for above, one, inode in tree.entries),
        ]
        last_entry = space.last_numbers()[1]
        space.add_entries((last_entry + place, *entry) for place, entry in enumerate(entries, 1))
        for inode, target in tree.symlinks:
            space.add_symlink(numbers[inode], target)
        for inode, attribute, value in tree.xattrs:
            space.set_xattr(numbers[inode], attribute, value)
        if any(_has(tree, one) for one in access_lists.NAMES):
            state.access_lists.lists_added()
        if _has(tree, CAPABILITY):
            self._xattrs.capability_added()
        self._enter_chunks(tree, numbers)
        return first

    def _enter_chunks(self, tree: TreeRows, numbers: Mapping[int, int]) -> None:
        blocks = self._enter_blocks(tree)
        files = [one for one in tree.inodes if stat.S_ISREG(one.mode)]
        now = time.time_ns()
        self._state.index.chunks.all_stored(
            [(numbers[one.number], one.size, one.mtime_ns, now, _STORED_SEQ) for one in files],
            [
                (numbers[inode], (offset, length, blocks[digest], skip))
                for inode, offset, length, skip, digest in tree.chunks
            ],
        )

    def _enter_blocks(self, tree: TreeRows) -> dict[BlockHash, int]:
        """The numbers of the blocks, after those that the index does not know were entered with their packs."""
        index = self._state.index
        known = index.blocks.find(list(tree.blocks))
        unknown = {digest: one for digest, one in tree.blocks.items() if digest not in known}
        if not unknown:
            return known
        lost = {(one.hash, one.pack) for one in index.blocks.lost()}
        by_pack: dict[str, list[PackedBlock]] = defaultdict(list)
        for one in unknown.values():
            by_pack[one.pack].append(PackedBlock(one.hash, one.offset, one.stored_length, one.plain_length))
        for name, contents in by_pack.items():
            pack = tree.packs[name]
            index.blocks.add_pack(StoredPack(name, pack.size, contents), pack.born)
        index.garbage.revive_packs(by_pack)
        known |= index.blocks.find(list(unknown))
        for digest, one in unknown.items():  # what is known to be lost there stays so
            if digest in tree.lost or (digest, one.pack) in lost or one.pack == LOST_PACK:
                index.blocks.mark_lost(digest, one.pack)
        return known


def _has(tree: TreeRows, name: bytes) -> bool:
    return any(one == name for _, one, _ in tree.xattrs)


def _inode_rows(tree: TreeRows, numbers: Mapping[int, int]) -> list[tuple[int, ...]]:
    """The rows of the inodes, with the links that they have within the tree."""
    links = Counter(inode for _, _, inode in tree.entries)
    links[tree.inodes[0].number] += 1
    is_directory = {one.number: stat.S_ISDIR(one.mode) for one in tree.inodes}
    folders = Counter(parent for parent, _, inode in tree.entries if is_directory[inode])
    now = time.time_ns()

    def row(one: InodeRow) -> tuple[int, ...]:
        nlink = 2 + folders[one.number] if is_directory[one.number] else links[one.number]
        changed = one._replace(number=numbers[one.number], nlink=nlink, flags=one.flags & ~PROTECTED, ctime_ns=now)
        return tuple(changed[:12])

    return [row(one) for one in tree.inodes]
