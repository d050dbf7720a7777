# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery: finds blocks elsewhere that are not where the index has them.

It looks in packs of the store, by their tables of contents (one request each for most packs); then in the disk cache;
then in staging. Only packs that may hold more than the index has in them are read: packs that it does not know, packs
that are larger than their blocks, and packs in which it has one of the blocks that are looked for. A block that is
found in a pack gets that location; one that is found on this machine is stored again, in a new pack. Every block is
checked against its hash before anything is changed.

Blocks that are found nowhere are lost. Where the whole pack is missing, it is recorded as lost (`lost_blocks`), and its
blocks keep their location; any other block is moved to the lost pack (`cas3fs.index.repairs`). Either way its ranges
give an I/O error, and the index knows that it is lost (`cas3fs.index.blocks`): copying in a file with the same bytes
heals all files that share them.

A crash leaves orphaned packs at most; everything else is one operation.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

import attrs

from cas3fs.blocks.codec import encode, hash_block
from cas3fs.blocks.packs import PackBuilder
from cas3fs.blockstore.pack_store import PackStore, epoch_of_pack, pack_name_in
from cas3fs.caches.base import BlockCache
from cas3fs.errors import BlockError, ObjectArchived, ObjectMissing
from cas3fs.filesystem.state.extents import unpack_ranges
from cas3fs.filesystem.state.recovery import damage_of
from cas3fs.index import Index, IndexChecker, PackEntry, PackScan, StagingIndex
from cas3fs.maintenance.context import ProgressCallback, VolumeContext
from cas3fs.maintenance.inventory import PackComparison
from cas3fs.maintenance.lost_blocks import lost_packs, set_lost_packs
from cas3fs.maintenance.pack_usage import expected_pack_bytes
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.values import BlockHash, BlockLocation

_WORKERS: Final = 8
PACKS_AT_ONCE: Final = 64
_log = logging.getLogger(__name__)


@attrs.frozen
class RecoveryResult:
    """What became of the blocks: those that were found in packs, and those that were stored again; the rest is lost.

    damaged: packs that name one of them in their table of contents, and hold something else there.
    """

    found: frozenset[BlockHash]
    stored: frozenset[BlockHash]
    damaged: frozenset[str]


class BlockRecovery:
    """Looks for blocks; see the module.

    Args:
        cache: the disk cache, if there is one.
        rows: of staging, while no file system works with it.
    """

    def __init__(
        self, context: VolumeContext, cache: BlockCache | None, rows: StagingIndex | None, report: ProgressCallback
    ) -> None:
        self._context = context
        self._cache = cache
        self._rows = rows
        self._report = report
        self._pack_store = PackStore(context.store)
        self._damaged: set[str] = set()
        self._sizes: dict[str, int] = {}
        """Of packs in which something was found."""
        self._listed: set[str] = set()
        """Of the packs in which the index places what is looked for, those that are in the store."""

    def recover(self, wanted: Mapping[BlockHash, BlockLocation]) -> RecoveryResult:
        """Finds what can be found of `wanted`: blocks with where the index places them (a pack of no name: nowhere).

        Raises:
            StoreError: the store failed; nothing is changed.
            IndexDatabaseError: the index failed; nothing is changed.
        """
        places = self._in_packs(wanted)
        left = [block for block in wanted if block not in places]
        plain = dict(self._here(left))
        stored = self._store(plain)
        born = self._context.filesystem.next_ordinal
        with self._context.filesystem.index_transaction() as index:
            repairs = index.repairs()
            for found in places.values():
                repairs.place(found, self._sizes[found.pack], 0)
            for made, size in stored.values():
                repairs.place(made, size, born)
            lost = [block for block in left if block not in stored]
            for block in lost:
                self._lose(index, block, wanted[block])
        return RecoveryResult(frozenset(places), frozenset(stored), frozenset(self._damaged))

    def _lose(self, index: Index, block: BlockHash, place: BlockLocation) -> None:
        if place.pack and place.pack not in self._listed:
            set_lost_packs(index, lost_packs(index) | {place.pack})
            index.blocks.mark_lost(block, place.pack)
        else:
            index.repairs().mark_missing(block, place.plain_length)

    # -- in packs

    def _in_packs(self, wanted: Mapping[BlockHash, BlockLocation]) -> dict[BlockHash, BlockLocation]:
        """Where the blocks really lie, each read and verified there."""
        found: dict[BlockHash, BlockLocation] = {}
        candidates = self._candidates(wanted)
        read = 0
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="contents") as pool:
            while len(found) < len(wanted) and (some := list(islice(candidates, PACKS_AT_ONCE))):
                self._report({"what": "reading contents of packs", "done": read, "total": 0})
                read += len(some)
                for info, places in zip(some, pool.map(self._contents, some), strict=True):
                    for place in places:
                        if place.hash not in wanted or place.hash in found:
                            continue
                        if self._is_good(place):
                            found[place.hash] = place
                            self._sizes[place.pack] = info.size
                        else:
                            self._damaged.add(place.pack)
        for _ in candidates if len(found) < len(wanted) else ():
            pass  # to the end, so that it is known what is listed
        return found

    def _candidates(self, wanted: Mapping[BlockHash, BlockLocation]) -> Iterator[ObjectInfo]:
        """The packs that may hold one of the blocks at a place that the index does not tell."""
        index_path = self._context.filesystem.index_path
        with IndexChecker(index_path) as index_checker:
            rows = [index_checker.locate(block) for block in wanted]
        placed = {row[1] for row in rows if row is not None} | {place.pack for place in wanted.values()}
        with PackScan(index_path) as scan:
            due: list[ObjectInfo] = []

            def listed(pack: PackEntry, info: ObjectInfo) -> None:
                if pack.name in placed:
                    self._listed.add(pack.name)
                if pack.name in placed or info.size != expected_pack_bytes(pack.blocks, pack.block_bytes):
                    due.append(info)

            comparison = PackComparison(scan, listed=listed, unknown=due.append)
            for info in self._pack_store.list_objects():
                if epoch_of_pack(pack_name_in(info.key)) is not None:
                    comparison.add(info)
                yield from due
                due.clear()

    def _contents(self, info: ObjectInfo) -> Sequence[BlockLocation]:
        name = pack_name_in(info.key)
        try:
            return self._pack_store.get_contents(name, info.size)
        except (BlockError, ObjectMissing, ObjectArchived) as error:
            _log.warning("the table of contents of pack %s cannot be read: %s", name, error)
            return []

    def _is_good(self, place: BlockLocation) -> bool:
        try:
            self._pack_store.get_block(place)
        except (BlockError, ObjectArchived):
            return False
        return True

    # -- on this machine

    def _here(self, blocks: Sequence[BlockHash]) -> Iterator[tuple[BlockHash, bytes]]:
        if not blocks:
            return
        for block in blocks:
            plain = None if self._cache is None else self._cache.get(block)
            if plain is not None and hash_block(plain) == block:
                yield block, plain
        yield from self._in_staging(set(blocks))

    def _in_staging(self, blocks: set[BlockHash]) -> Iterator[tuple[BlockHash, bytes]]:
        """Blocks whose bytes wait for the store once more, at the place where the index has them."""
        if self._rows is None:
            return
        folder = self._context.filesystem.staging.folder
        with IndexChecker(self._context.filesystem.index_path) as index_checker:
            users = {(inode, offset): (block, length) for block in blocks
                     for inode, offset, length in index_checker.users_of_block(block)}  # fmt: skip
        wanted_inodes = {inode for inode, _ in users}
        for row in self._rows.rows():
            if row.inode not in wanted_inodes or damage_of(row):
                continue
            path = folder / f"{row.inode:x}-{row.seq:x}"
            position = 0
            for start, end in unpack_ranges(row.ranges):
                data = row.data[position : position + end - start] if row.data is not None else b""
                position += end - start
                if row.data is None and path.is_file():
                    with open(path, "rb") as file:
                        file.seek(start)
                        data = file.read(end - start)
                for (inode, offset), (block, length) in users.items():
                    piece = data[offset - start : offset - start + length] if offset >= start else b""
                    if inode == row.inode and len(piece) == length and hash_block(piece) == block:
                        yield block, piece

    def _store(self, plain: Mapping[BlockHash, bytes]) -> dict[BlockHash, tuple[BlockLocation, int]]:
        """Stores blocks again, in packs of their own; gives where, and how large the pack is."""
        stored: dict[BlockHash, tuple[BlockLocation, int]] = {}
        for group in _groups(plain, self._context.pack_size_bytes):
            builder = PackBuilder()
            for block in group:
                builder.add(block, encode(plain[block], self._context.compression), len(plain[block]))
            image = builder.finish()
            self._context.publisher.check_fence()
            pack = self._pack_store.put(image, self._context.epoch)
            for one in pack.blocks:
                stored[one.hash] = (BlockLocation(one.hash, pack.name, *one[1:]), pack.size_bytes)
        return stored


def _groups(plain: Mapping[BlockHash, bytes], limit_bytes: int) -> Iterator[list[BlockHash]]:
    group: list[BlockHash] = []
    size_bytes = 0
    for block, data in plain.items():
        if group and size_bytes + len(data) > limit_bytes:
            yield group
            group, size_bytes = [], 0
        group.append(block)
        size_bytes += len(data)
    if group:
        yield group
