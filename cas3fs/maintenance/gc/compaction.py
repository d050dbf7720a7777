# SPDX-License-Identifier: GPL-3.0-or-later
"""Compaction: rewrites sparsely used packs, by moving their live blocks to new packs.

For each new pack, the blocks are read, in joined ranges, and checked against their hashes; the pack is put; then one
operation enters it in the index, and moves the blocks to it that are still where they were read. Blocks that were
dropped or moved meanwhile are left as they are. The old packs have no blocks after that, and die with the gc that
follows.

A pack with a live block that cannot be read stays as it is, as copying the others would free nothing. If the store
fails for a while, that ends the compaction, and nothing else.

A crash before the operation is committed leaves nothing, or an unknown pack, which a gc deletes as an orphan.

Memory: the live blocks of one old pack and of one new one.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from cas3fs.blockstore.pack_ranges import coalesce
from cas3fs.blockstore.pack_store import PackStore
from cas3fs.errors import BlockError, StoreError, TransientStoreError
from cas3fs.index.scans import LiveBlockScan
from cas3fs.maintenance.context import ProgressCallback, VolumeContext
from cas3fs.maintenance.new_packs import grouped_by_pack, put_pack
from cas3fs.values import BlockLocation

Encoded = tuple[BlockLocation, bytes]


class PackCompactor:
    """Rewrites packs of one volume.

    Attributes:
        packs: how many packs were read; their live blocks have moved.
        copied_bytes: of those blocks.
        unreadable: how many packs stay as they are, since a block in them cannot be read.
        problems: what was not done, and why; a sentence each.
    """

    def __init__(self, context: VolumeContext, report: ProgressCallback) -> None:
        self._context = context
        self._report = report
        self._pack_store = PackStore(context.store)
        self.packs = 0
        self.copied_bytes = 0
        self.unreadable = 0
        self.problems: list[str] = []
        self._first_reason = ""

    def rewrite(self, packs: Sequence[int], total_bytes: int) -> None:
        """Moves the live blocks of the packs with these ids.

        Raises:
            StoreError: a new pack could not be stored; what was moved before stays moved.
            IndexDatabaseError: the index failed; the same.
        """
        with LiveBlockScan(self._context.filesystem.index_path, packs) as live:
            for group in grouped_by_pack(self._encoded(live), _encoded_size, self._context.pack_size_bytes):
                self._store(group)
                self.copied_bytes += sum(len(encoded) for _, encoded in group)
                self._report({"what": "rewriting packs", "done": self.copied_bytes, "total": total_bytes})
        if self.unreadable:
            self.problems.append(
                f"{self.unreadable:,} sparsely used packs were not rewritten, as a block in each cannot be read "
                f"(`cas3fs fsck --verify-data` lists the files): {self._first_reason}"
            )

    def _encoded(self, packs: Iterable[Sequence[BlockLocation]]) -> Iterator[Encoded]:
        """The encoded live blocks, verified, of each pack of which all live blocks can be read."""
        for blocks in packs:
            try:
                encoded = self._read(blocks)
            except TransientStoreError as error:
                self.problems.append(
                    f"some sparsely used packs were not rewritten, as the store failed; a later gc tries again: {error}"
                )
                return
            except (BlockError, StoreError) as error:
                self.unreadable += 1
                self._first_reason = self._first_reason or f"pack {blocks[0].pack}: {error}"
                continue
            self.packs += 1
            yield from encoded

    def _read(self, blocks: Sequence[BlockLocation]) -> list[Encoded]:
        """Reads blocks of a pack; they stay encoded.

        Raises:
            BlockError: one of them is missing or damaged.
            StoreError: the store failed.
        """
        encoded = []
        for wanted in coalesce(blocks):
            try:
                body = self._pack_store.get_range(wanted)
            except BlockError:
                self._mark_unreadable(wanted.blocks)
                raise
            for block in wanted.blocks:
                with self._marking_lost(block):
                    self._pack_store.decode(body, wanted.start, block)
                start = block.offset - wanted.start
                encoded.append((block, body[start : start + block.stored_length]))
        return encoded

    def _mark_unreadable(self, blocks: Iterable[BlockLocation]) -> None:
        """Marks those of the blocks as lost that cannot be read one by one."""
        for block in blocks:
            with suppress(BlockError, StoreError), self._marking_lost(block):
                self._pack_store.get_block(block)

    @contextmanager
    def _marking_lost(self, block: BlockLocation) -> Iterator[None]:
        """Marks the block as lost in the index if reading it within this context fails."""
        try:
            yield
        except BlockError:
            self._context.filesystem.packs.mark_block_lost(block)
            raise

    def _store(self, group: Sequence[Encoded]) -> None:
        """Stores blocks as a new pack, and moves them to it in the index."""
        stored = put_pack(
            self._context, self._pack_store, ((block.hash, encoded, block.plain_length) for block, encoded in group)
        )
        self._report({"what": "moving blocks"})
        filesystem = self._context.filesystem
        old_packs = [block.pack for block, _ in group]
        with filesystem.index_transaction() as index:
            index.garbage.move_blocks(stored, old_packs, filesystem.next_ordinal)


def _encoded_size(block: Encoded) -> int:
    return len(block[1])
