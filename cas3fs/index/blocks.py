# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks and the packs that hold them.

A *lost* block is one whose bytes were found missing or wrong. Its row stays, as chunks name it; but nothing is
deduplicated onto it, and who has the same bytes stores them again: then its row says where they lie now, so every file
that has it is whole again.

The times of birth and death of a pack are snapshots' numbers, each as one integer: the epoch above 40 bits of
sequence, so that they compare as (epoch, sequence) does. An epoch has 23 bits, so that the number stays positive in
64.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from cas3fs.index.database import Database
from cas3fs.index.hash_index import HashIndex
from cas3fs.index.prepared import Prepared, Row, Statement
from cas3fs.index.texts import blocks as texts
from cas3fs.values import (
    LARGEST_EPOCH,
    LARGEST_SEQUENCE,
    BlockHash,
    BlockLocation,
    SnapshotNumber,
    StoredPack,
)

_SEQUENCE_BITS: Final = LARGEST_SEQUENCE.bit_length()


class PackRow(NamedTuple):
    """A pack that the index knows; `born` and `died` as by `ordinal_of`."""

    name: str
    size: int
    born: int
    died: int | None


def ordinal_of(number: SnapshotNumber) -> int:
    """A snapshot's number as one integer, in the same order.

    Raises:
        ValueError: epoch or sequence is negative or too great.
    """
    if not (0 <= number.epoch <= LARGEST_EPOCH and 0 <= number.sequence <= LARGEST_SEQUENCE):
        raise ValueError(f"{number} is out of range")
    return number.epoch << _SEQUENCE_BITS | number.sequence


def number_of(ordinal: int) -> SnapshotNumber:
    """The snapshot's number of which `ordinal_of` made `ordinal`."""
    return SnapshotNumber(ordinal >> _SEQUENCE_BITS, ordinal & (1 << _SEQUENCE_BITS) - 1)


class BlockTable:
    """Blocks and packs of one index. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, database: Database, hashes: HashIndex) -> None:
        self._database, self._hashes = database, hashes
        self._has_lost, self._known = False, -1
        """Whether any block is lost, as known when so much had been undone: a look into a table for each hash that is
        asked for would make each a sixth slower."""

        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._find_one, self._find_batch = on(texts.FIND_ONE), on(texts.FIND_BATCH)
        self._locate_one, self._locate_batch = on(texts.LOCATE_ONE), on(texts.LOCATE_BATCH)
        self._pack_id, self._add_pack, self._add_block, self._packs = (
            on(texts.PACK_ID),
            on(texts.ADD_PACK),
            on(texts.ADD_BLOCK),
            on(texts.PACKS),
        )
        self._pack_size, self._packs_after = on(texts.PACK_SIZE), on(texts.PACKS_AFTER)
        self._any_lost, self._is_lost, self._lost = on(texts.ANY_LOST), on(texts.IS_LOST), on(texts.LOST)
        self._lose_block, self._lose_pack = on(texts.LOSE_BLOCK), on(texts.LOSE_PACK)
        self._heal, self._healed = on(texts.HEAL), on(texts.HEALED)

    def find(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """The ids of those blocks that the index knows, but for those that are known to be lost."""
        self._hashes.ensure()
        rows = self._in_batches(hashes, self._find_one, self._find_batch)
        if self._any():
            return {block_hash: number for block_hash, number in rows if self._is_lost.one(number) is None}
        return {block_hash: number for block_hash, number in rows}  # noqa: C416 - dict() would lose the types

    def locate(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, BlockLocation]:
        """Where those blocks lie that the index knows, but for those that are known to be lost."""
        self._hashes.ensure()
        there = list(self.find(hashes)) if self._any() else hashes
        rows = self._in_batches(there, self._locate_one, self._locate_batch)
        return {row[0]: BlockLocation(*row) for row in rows}

    @staticmethod
    def _in_batches(hashes: Sequence[BlockHash], one: Statement, batch: Statement) -> Iterator[Row]:
        # few hashes: one by one costs less than a long list; a short last batch repeats its last hash
        remaining = iter(hashes)
        while part := list(islice(remaining, texts.BATCH)):
            if len(part) <= texts.BATCH // 4:
                for block_hash in part:
                    yield from one.all(block_hash)
            else:
                yield from batch.all(*part, *part[-1:] * (texts.BATCH - len(part)))

    def add_pack(self, pack: StoredPack, born: int) -> None:
        """Enters a pack whose PUT was confirmed, and its blocks; a block already known keeps its place, unless it is
        known to be lost: that one lies here from now on, in every file that has it.

        A pack that is entered already is left as it is, so a retry after a failure is harmless.
        """
        self._hashes.ensure()
        known: Any = self._pack_id.one(pack.name)
        pack_id = self._add_pack.insert(pack.name, pack.size_bytes, born) if known is None else known[0]
        self._add_block.many([(pack_id, *block) for block in pack.blocks])
        if self._any():
            self._heal.many([(pack_id, *block) for block in pack.blocks])
            self._healed.many([(block.hash, pack_id) for block in pack.blocks])
            self._known = -1

    def mark_lost(self, block: BlockHash, pack: str) -> bool:
        """Notes that a block is not to be had from that pack (no name: it lies in none), unless it lies elsewhere by
        now; whether that is news."""
        self._hashes.ensure()
        self._known = -1
        return self._lose_block.run(block, pack) > 0

    def mark_pack_lost(self, pack: str) -> int:
        """Notes that no block is to be had from that pack; gives for how many that is news."""
        self._known = -1
        return self._lose_pack.run(pack)

    def mark_found(self, block: BlockHash, pack: str) -> None:
        """Notes that a block lies in that pack after all, if it is placed there."""
        row = self._pack_id.one(pack)
        if row is not None:
            self._healed.run(block, row[0])
            self._known = -1

    def _any(self) -> bool:
        if self._known != self._database.undone:
            self._has_lost = self._any_lost.one() is not None
            self._known = self._database.undone
        return self._has_lost

    def lost(self) -> list[BlockLocation]:
        """The blocks that are known to be lost, and not stored again so far, with where they should be."""
        return [BlockLocation(*row) for row in self._lost.all()]

    def packs_after(self, born: int) -> list[str]:
        """The names of packs that were stored for snapshots later than that one."""
        return [row[0] for row in self._packs_after.all(born)]

    def pack_size(self, name: str) -> int:
        """The size of a known pack in bytes.

        Raises:
            KeyError: there is no such pack.
        """
        row = self._pack_size.one(name)
        if row is None:
            raise KeyError(name)
        return int(row[0])

    def packs(self) -> list[PackRow]:
        """All packs, oldest first."""
        return [PackRow(*row) for row in self._packs.all()]
