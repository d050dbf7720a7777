# SPDX-License-Identifier: GPL-3.0-or-later
"""Rewriting: the live blocks of packs that are mostly empty move to new packs.

For each new pack: the blocks are read, in joined ranges, and each is checked against its hash; the pack is put; then
one operation enters it and lets those blocks lie there that still lie where they were read. What was dropped or moved
meanwhile is left as it is. The old packs lose their blocks by that, and die with the gc that follows.

A pack of which a live block cannot be read stays as it is: copying the others would free nothing. A store that fails
for a while ends the rewriting, and nothing else.

Where the process may die: before the put: nothing happened; after it: the pack is unknown, and goes as a stray when
it is old enough; within the operation, or before it is committed: the same; after that: it is done.

Memory: the live blocks of one old pack and of one new one.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from cas3fs.blocks.packs import PackBuilder
from cas3fs.blockstore.pack_ranges import coalesce
from cas3fs.blockstore.pack_store import PackStore
from cas3fs.errors import BlockError, StoreError, TransientStoreError
from cas3fs.index.scans import LiveBlockScan
from cas3fs.maintenance.context import ProgressCallback, VolumeContext
from cas3fs.maintenance.gc.pack_selection import SkippedPacks
from cas3fs.values import BlockLocation

Encoded = tuple[BlockLocation, bytes]


class PackCompactor:
    """Rewrites packs of one volume."""

    def __init__(self, context: VolumeContext, report: ProgressCallback) -> None:
        self._context = context
        self._report = report
        self._pack_store = PackStore(context.store)
        self.packs = 0
        """Of which the live blocks were read and have moved."""
        self.copied_bytes = 0
        self.unreadable = 0
        """Packs that stay as they are, since a block of theirs cannot be read."""
        self.problems: list[str] = []
        """What was not done, and why; a sentence each."""
        self.left: tuple[SkippedPacks, ...] = ()
        """What was not to be rewritten."""
        self._first_reason = ""

    def rewrite(self, packs: Sequence[int], total_bytes: int) -> None:
        """Moves the live blocks of the packs of those ids.

        Raises:
            StoreError: a new pack could not be stored; what was moved before is moved.
            IndexDatabaseError: the index failed; the same.
        """
        with LiveBlockScan(self._context.filesystem.index_path, packs) as live:
            for group in self._groups(self._encoded(live)):
                self._store(group)
                self.copied_bytes += sum(len(encoded) for _, encoded in group)
                self._report({"what": "rewriting packs", "done": self.copied_bytes, "total": total_bytes})
        if self.unreadable:
            self.problems.append(
                f"{self.unreadable:,} packs that are mostly unused stay, as a block in each cannot be read "
                f"(`cas3fs fsck --verify-data` tells more): {self._first_reason}"
            )

    def _encoded(self, packs: Iterable[Sequence[BlockLocation]]) -> Iterator[Encoded]:
        """The live blocks of each pack of which all can be read, as they are stored, verified."""
        for blocks in packs:
            try:
                encoded = self._read(blocks)
            except TransientStoreError as error:
                self.problems.append(
                    f"packs that are mostly unused stay until a later gc, as the store failed: {error}"
                )
                return
            except (BlockError, StoreError) as error:
                self.unreadable += 1
                self._first_reason = self._first_reason or f"pack {blocks[0].pack}: {error}"
                continue
            self.packs += 1
            yield from encoded

    def _read(self, blocks: Sequence[BlockLocation]) -> list[Encoded]:
        """These blocks of a pack, as they are stored.

        Raises:
            BlockError: one of them is missing or damaged.
            StoreError: the store failed.
        """
        encoded = []
        for wanted in coalesce(blocks):
            with self._losing(wanted.blocks):
                body = self._pack_store.get_range(wanted)
            for block in wanted.blocks:
                with self._losing([block]):
                    self._pack_store.decode(body, wanted.start, block)
                start = block.offset - wanted.start
                encoded.append((block, body[start : start + block.stored_length]))
        return encoded

    @contextmanager
    def _losing(self, blocks: Iterable[BlockLocation]) -> Iterator[None]:
        """Whatever cannot be read within is known to be lost."""
        try:
            yield
        except BlockError:
            for block in blocks:
                self._context.filesystem.packs.mark_block_lost(block)
            raise

    def _groups(self, blocks: Iterable[Encoded]) -> Iterator[list[Encoded]]:
        """As many blocks as fit in a pack, one group after the other."""
        group: list[Encoded] = []
        size_bytes = 0
        for block in blocks:
            if group and size_bytes + len(block[1]) > self._context.pack_size_bytes:
                yield group
                group, size_bytes = [], 0
            group.append(block)
            size_bytes += len(block[1])
        if group:
            yield group

    def _store(self, group: Sequence[Encoded]) -> None:
        builder = PackBuilder()
        for block, encoded in group:
            builder.add(block.hash, encoded, block.plain_length)
        image = builder.finish()
        self._context.publisher.check_fence()
        stored = self._pack_store.put(image, self._context.epoch)
        self._report({"what": "moving blocks"})
        filesystem = self._context.filesystem
        olds = [block.pack for block, _ in group]
        with filesystem.index_transaction() as index:
            index.garbage.move_blocks(stored, olds, filesystem.next_ordinal)
