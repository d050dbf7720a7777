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

from cas3fs.blocks.codec import encode
from cas3fs.blockstore.pack_store import PackStore, epoch_of_pack, pack_name_in
from cas3fs.caches.base import BlockCache
from cas3fs.errors import BlockError, ObjectArchived, ObjectMissing
from cas3fs.filesystem.state.extents import unpack_ranges
from cas3fs.filesystem.state.recovery import damage_of
from cas3fs.index import Index, PackContents, StagedRow, StagingIndex
from cas3fs.index.checks import IndexChecker
from cas3fs.index.scans import PackScan
from cas3fs.maintenance.context import ProgressCallback, VolumeContext
from cas3fs.maintenance.inventory import PackComparison
from cas3fs.maintenance.lost_blocks import lost_packs, set_lost_packs
from cas3fs.maintenance.new_packs import grouped_by_pack, put_pack
from cas3fs.maintenance.pack_usage import is_pack_size
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.values import BlockHash, BlockLocation

_WORKERS: Final = 8
PACKS_AT_ONCE: Final = 64
_log = logging.getLogger(__name__)


@attrs.frozen
class RecoveryResult:
    """What became of the blocks; those that are in neither set are lost.

    Attributes:
        found: in packs.
        stored: stored again from this machine.
        damaged: names of packs whose table of contents has one of the blocks, where the pack holds other bytes.
    """

    found: frozenset[BlockHash]
    stored: frozenset[BlockHash]
    damaged: frozenset[str]


class BlockRecovery:
    """Finds blocks in the packs of the store, and on this machine.

    Args:
        cache: the disk cache, if there is one.
        staging_rows: the records of staging, if no file system uses them.
    """

    def __init__(
        self,
        context: VolumeContext,
        cache: BlockCache | None,
        staging_rows: StagingIndex | None,
        report: ProgressCallback,
    ) -> None:
        self._context = context
        self._cache = cache
        self._staging_rows = staging_rows
        self._report = report
        self._pack_store = PackStore(context.store)
        self._damaged: set[str] = set()
        self._sizes: dict[str, int] = {}
        """By name, the sizes of the packs in which a block was found."""
        self._listed: set[str] = set()
        """Of the packs in which the index has one of the blocks, those that are in the store."""

    def recover(self, wanted: Mapping[BlockHash, BlockLocation]) -> RecoveryResult:
        """Finds blocks, or records them as lost.

        Args:
            wanted: the blocks, with their locations in the index; one without a location has an empty name of a pack.

        Raises:
            StoreError: the store failed; nothing is changed.
            IndexDatabaseError: the index failed; nothing is changed.
        """
        found = self._find_in_packs(wanted)
        left = [block for block in wanted if block not in found]
        stored = self._store(dict(self._find_here(left)))
        next_ordinal = self._context.filesystem.next_ordinal
        with self._context.filesystem.index_transaction() as index:
            repairs = index.repairs()
            for location in found.values():
                repairs.place(location, self._sizes[location.pack], 0)
            for location, pack_size in stored.values():
                repairs.place(location, pack_size, next_ordinal)
            for block in left:
                if block not in stored:
                    self._record_lost(index, block, wanted[block])
        return RecoveryResult(frozenset(found), frozenset(stored), frozenset(self._damaged))

    def _record_lost(self, index: Index, block: BlockHash, location: BlockLocation) -> None:
        if location.pack and location.pack not in self._listed:
            set_lost_packs(index, lost_packs(index) | {location.pack})
            index.blocks.mark_lost(block, location.pack)
        else:
            index.repairs().mark_missing(block, location.plain_length)

    # -- in packs

    def _find_in_packs(self, wanted: Mapping[BlockHash, BlockLocation]) -> dict[BlockHash, BlockLocation]:
        """The locations where the blocks really are, each read and verified there."""
        found: dict[BlockHash, BlockLocation] = {}
        candidates = self._candidates(wanted)
        read = 0
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="contents") as pool:
            while len(found) < len(wanted) and (batch := list(islice(candidates, PACKS_AT_ONCE))):
                self._report({"what": "reading contents of packs", "done": read, "total": 0})
                read += len(batch)
                for info, contents in zip(batch, pool.map(self._contents, batch), strict=True):
                    for location in contents:
                        if location.hash not in wanted or location.hash in found:
                            continue
                        if self._can_be_read(location):
                            found[location.hash] = location
                            self._sizes[location.pack] = info.size
                        else:
                            self._damaged.add(location.pack)
        if len(found) < len(wanted):
            for _ in candidates:  # to the end of the listing, for `_listed`
                pass
        return found

    def _candidates(self, wanted: Mapping[BlockHash, BlockLocation]) -> Iterator[ObjectInfo]:
        """The packs that may hold one of the blocks at a location that the index does not have."""
        index_path = self._context.filesystem.index_path
        with IndexChecker(index_path) as index:
            rows = [index.locate(block) for block in wanted]
        suspects = {row[1] for row in rows if row is not None} | {location.pack for location in wanted.values()}
        with PackScan(index_path) as scan:
            due: list[ObjectInfo] = []

            def listed(pack: PackContents, info: ObjectInfo) -> None:
                if pack.name in suspects:
                    self._listed.add(pack.name)
                if pack.name in suspects or not is_pack_size(info.size, pack.blocks, pack.block_bytes):
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

    def _can_be_read(self, location: BlockLocation) -> bool:
        try:
            self._pack_store.get_block(location)
        except (BlockError, ObjectArchived):
            return False
        return True

    # -- on this machine

    def _find_here(self, blocks: Sequence[BlockHash]) -> Iterator[tuple[BlockHash, bytes]]:
        """The plain bytes of blocks that the cache or staging has."""
        if not blocks:
            return
        for block in blocks:
            plain = None if self._cache is None else self._cache.get(block)
            if plain is not None and self._context.store.hash_content(plain) == block:
                yield block, plain
        yield from self._find_in_staging(set(blocks))

    def _find_in_staging(self, blocks: set[BlockHash]) -> Iterator[tuple[BlockHash, bytes]]:
        """The plain bytes of blocks that were written once more, at the same offset of the same file."""
        if self._staging_rows is None:
            return
        users: dict[int, list[tuple[int, int, BlockHash]]] = {}
        with IndexChecker(self._context.filesystem.index_path) as index:
            for block in blocks:
                for inode, offset, length in index.users_of_block(block):
                    users.setdefault(inode, []).append((offset, length, block))
        for row in self._staging_rows.rows():
            if row.inode not in users or damage_of(row):
                continue
            for start, data in self._staged_ranges(row):
                for offset, length, block in users[row.inode]:
                    piece = data[offset - start : offset - start + length] if offset >= start else b""
                    if len(piece) == length and self._context.store.hash_content(piece) == block:
                        yield block, piece

    def _staged_ranges(self, row: StagedRow) -> Iterator[tuple[int, bytes]]:
        """The ranges of a record of staging: offset and data of each. Missing data is left out."""
        path = self._context.filesystem.staging.folder / f"{row.inode:x}-{row.seq:x}"
        position = 0
        for start, end in unpack_ranges(row.ranges):
            data = row.data[position : position + end - start] if row.data is not None else b""
            position += end - start
            if row.data is None and path.is_file():
                with open(path, "rb") as file:
                    file.seek(start)
                    data = file.read(end - start)
            yield start, data

    def _store(self, plain: Mapping[BlockHash, bytes]) -> dict[BlockHash, tuple[BlockLocation, int]]:
        """Stores blocks again, in new packs.

        Returns:
            The location of each block, and the size of its pack.
        """
        stored: dict[BlockHash, tuple[BlockLocation, int]] = {}
        for group in grouped_by_pack(plain, lambda block: len(plain[block]), self._context.pack_size_bytes):
            blocks = ((block, encode(plain[block], self._context.compression), len(plain[block])) for block in group)
            pack = put_pack(self._context, self._pack_store, blocks)
            for one in pack.blocks:
                stored[one.hash] = (BlockLocation(one.hash, pack.name, *one[1:]), pack.size_bytes)
        return stored
