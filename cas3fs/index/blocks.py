# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks and the packs that hold them.

The times of birth and death of a pack are snapshots' numbers, each as one integer: the epoch above 40 bits of
sequence, so that they compare as (epoch, sequence) does. An epoch has 23 bits, so that the number stays positive in
64.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Row, Statement, param
from cas3fs.index.tables import blocks, packs
from cas3fs.values import (
    LARGEST_EPOCH,
    LARGEST_SEQUENCE,
    BlockHash,
    BlockLocation,
    SnapshotNumber,
    StoredPack,
)

_SEQUENCE_BITS: Final = LARGEST_SEQUENCE.bit_length()
_BATCH: Final = 64
_BATCH_PARAMS: Final = tuple(f"hash{number}" for number in range(_BATCH))


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


_LOCATION = (blocks.c.hash, packs.c.name, blocks.c.offset, blocks.c.stored_length, blocks.c.plain_length)
_JOINED = blocks.join(packs, packs.c.id == blocks.c.pack)
_AMONG_BATCH = blocks.c.hash.in_([param(name) for name in _BATCH_PARAMS])
_FIND_ONE = Prepared(select(blocks.c.hash, blocks.c.id).where(blocks.c.hash == param("hash")), "hash")
_FIND_BATCH = Prepared(select(blocks.c.hash, blocks.c.id).where(_AMONG_BATCH), " ".join(_BATCH_PARAMS))
_LOCATE_ONE = Prepared(select(*_LOCATION).select_from(_JOINED).where(blocks.c.hash == param("hash")), "hash")
_LOCATE_BATCH = Prepared(select(*_LOCATION).select_from(_JOINED).where(_AMONG_BATCH), " ".join(_BATCH_PARAMS))
_PACK_ID = Prepared(select(packs.c.id).where(packs.c.name == param("name")), "name")
_PACK_SIZE = Prepared(select(packs.c.size).where(packs.c.name == param("name")), "name")
_ADD_PACK = Prepared(
    insert(packs).values(name=param("name"), size=param("size"), born=param("born")).inline(), "name size born"
)
_ADD_BLOCK = Prepared(
    upsert(blocks)
    .values(
        hash=param("hash"),
        pack=param("pack"),
        offset=param("offset"),
        stored_length=param("stored_length"),
        plain_length=param("plain_length"),
    )
    .on_conflict_do_nothing(index_elements=["hash"])
    .inline(),
    "pack hash offset stored_length plain_length",
)
_PACKS = Prepared(select(packs.c.name, packs.c.size, packs.c.born, packs.c.died).order_by(packs.c.id))


class Blocks:
    """Blocks and packs of one index. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, database: Database) -> None:
        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._find_one, self._find_batch = on(_FIND_ONE), on(_FIND_BATCH)
        self._locate_one, self._locate_batch = on(_LOCATE_ONE), on(_LOCATE_BATCH)
        self._pack_id, self._add_pack, self._add_block, self._packs = (
            on(_PACK_ID),
            on(_ADD_PACK),
            on(_ADD_BLOCK),
            on(_PACKS),
        )
        self._pack_size = on(_PACK_SIZE)

    def find(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """The ids of those blocks that the index knows."""
        rows = self._in_batches(hashes, self._find_one, self._find_batch)
        return {block_hash: number for block_hash, number in rows}  # noqa: C416 - dict() would lose the types

    def locate(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, BlockLocation]:
        """Where those blocks lie that the index knows."""
        rows = self._in_batches(hashes, self._locate_one, self._locate_batch)
        return {row[0]: BlockLocation(*row) for row in rows}

    @staticmethod
    def _in_batches(hashes: Sequence[BlockHash], one: Statement, batch: Statement) -> Iterator[Row]:
        # few hashes: one by one costs less than a long list; a short last batch repeats its last hash
        remaining = iter(hashes)
        while part := list(islice(remaining, _BATCH)):
            if len(part) <= _BATCH // 4:
                for block_hash in part:
                    yield from one.all(block_hash)
            else:
                yield from batch.all(*part, *part[-1:] * (_BATCH - len(part)))

    def add_pack(self, pack: StoredPack, born: int) -> None:
        """Enters a pack whose PUT was confirmed, and its blocks; a block already known keeps its place.

        A pack that is entered already is left as it is, so a retry after a failure is harmless.
        """
        known: Any = self._pack_id.one(pack.name)
        pack_id = self._add_pack.insert(pack.name, pack.size_bytes, born) if known is None else known[0]
        self._add_block.many([(pack_id, *block) for block in pack.blocks])

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
