# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks and the packs that hold them.

A *lost* block is one whose bytes were found missing or wrong. Its row stays, as chunks name it; but nothing is
deduplicated onto it, and a file with the same bytes stores them again: then its row says where they lie now, so every
file that has it is whole again.

The *lost pack* is a pack that no store has. A block that is placed in it cannot be read, so the ranges of files that
need it give an I/O error; without it a join would come out empty, and they would read as zeros.

The times of birth and death of a pack are snapshots' numbers, each as one integer: the epoch above 40 bits of
sequence, so that they compare as (epoch, sequence) does. An epoch has 23 bits, so that the number stays positive in
64.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Executable, Select, delete, exists, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.hash_index import FOUND_BLOCKS, PREFIX_BYTES, HashIndex, found_by, of_hash
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import BoundStatement, OrderedJoin, Row, Statement
from cas3fs.index.tables import block_hashes, blocks, lost_blocks, packs
from cas3fs.values import (
    LARGEST_EPOCH,
    LARGEST_SEQUENCE,
    BlockHash,
    BlockLocation,
    SnapshotNumber,
    StoredPack,
)

LOST_PACK: Final = "00000000/" + "0" * 64
"""Epochs begin at 1, and no digest is all zeros, so no store has such a pack."""
_SEQUENCE_BITS: Final = LARGEST_SEQUENCE.bit_length()
BATCH: Final = 64
"""So many hashes are looked up by one statement."""
_BATCH_NAMES: Final = tuple(f"prefix{number}" for number in range(BATCH))
LOCATION: Final = (blocks.c.hash, packs.c.name, blocks.c.offset, blocks.c.stored_length, blocks.c.plain_length)
"""The columns of a `BlockLocation`."""
PLACED_BLOCKS: Final = blocks.join(packs, packs.c.id == blocks.c.pack)
"""Blocks and the packs that hold them."""
_FOUND_PLACES: Final = OrderedJoin(FOUND_BLOCKS, packs, packs.c.id == blocks.c.pack)


class PackRow(NamedTuple):
    """A pack that the index knows; `born` and `died` as by `ordinal_of`."""

    name: str
    size: int
    born: int
    died: int | None


class PackContents(NamedTuple):
    """A pack, and what the index places in it; sizes in bytes."""

    name: str
    size: int
    born: int
    died: int | None
    blocks: int
    block_bytes: int
    """Of those blocks, encoded."""

    @property
    def used(self) -> bool:
        """Whether the index places blocks in it."""
        return self.blocks > 0


class PackUse(NamedTuple):
    """How much of a pack the index uses; sizes in bytes."""

    id: int
    name: str
    size: int
    born: int
    died: int | None
    blocks: int
    """Blocks that the index places in it."""
    block_bytes: int
    """Their encoded bytes."""
    live_blocks: int
    live_bytes: int


class DeadPack(NamedTuple):
    """A pack that no file uses any more; `born` and `died` are ordinals of snapshots."""

    name: str
    size: int
    born: int
    died: int


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


def delete_lost_mark(digest: Any, pack: Any) -> Executable:
    """SQL: the block of that hash is not lost any more, if it is placed in the pack of that number."""
    placed = select(blocks.c.id).where(of_hash(digest), blocks.c.pack == pack)
    return delete(lost_blocks).where(lost_blocks.c.block.in_(placed))


def add_lost_mark(digest: Any, pack: Any) -> Executable:
    """SQL: the block of that hash is lost, if it is placed in the pack of that name (empty: in none)."""
    name = select(packs.c.name).where(packs.c.id == blocks.c.pack).scalar_subquery()
    return _mark_lost(select(blocks.c.id).where(of_hash(digest), func.coalesce(name, "") == pack))


def all_packs() -> Executable:
    """SQL: the values of `PackRow` of all packs, oldest first."""
    return select(packs.c.name, packs.c.size, packs.c.born, packs.c.died).order_by(packs.c.id)


def all_lost() -> Executable:
    """SQL: the values of `BlockLocation` of all lost blocks, as they lie in packs."""
    placed = lost_blocks.join(blocks, blocks.c.id == lost_blocks.c.block).join(packs, packs.c.id == blocks.c.pack)
    return select(*LOCATION).select_from(placed).order_by(packs.c.name, blocks.c.offset)


def _mark_lost(found: Select[Any]) -> Executable:
    return upsert(lost_blocks).from_select(["block"], found).on_conflict_do_nothing()


def _find(condition: ColumnElement[bool]) -> Executable:
    return select(blocks.c.hash, blocks.c.id).select_from(FOUND_BLOCKS).where(condition)


def _locate(condition: ColumnElement[bool]) -> Executable:
    return select(*LOCATION).select_from(_FOUND_PLACES).where(condition)


def _begin_with(prefixes: Sequence[Any]) -> ColumnElement[bool]:
    return block_hashes.c.prefix.in_(prefixes)


def _added_block(digest: Any, **values: Any) -> Executable:
    """SQL: a block, unless there is one of that hash."""
    known = select(blocks.c.id).select_from(FOUND_BLOCKS).where(found_by(digest))
    return insert(blocks).from_select(list(values), select(*values.values()).where(~exists(known))).inline()


def _entered(**values: Any) -> Executable:
    changed = {name: values[name] for name in ("pack", "offset", "stored_length")}
    return upsert(blocks).values(values).on_conflict_do_update(index_elements=["id"], set_=changed).inline()


class BlockTable:
    """Blocks and packs of one index. Every method raises `IndexDatabaseError` and its kinds, and nothing else."""

    def __init__(self, database: Database, hashes: HashIndex) -> None:
        self._database, self._hashes = database, hashes
        self._has_lost, self._known = False, -1
        """Whether any block is lost, as known when so many changes had been undone: to look into a table for each hash
        would make each lookup a sixth slower."""

    _find_one = Statement(lambda digest: _find(found_by(digest)))
    _find_batch = Statement(lambda *prefixes: _find(_begin_with(prefixes)), _BATCH_NAMES)
    _is_lost = Statement(lambda block: select(lost_blocks.c.block).where(lost_blocks.c.block == block))

    def find(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """The ids of those blocks that the index knows, but for those that are known to be lost."""
        self._hashes.ensure()
        rows = self._in_batches(hashes, self._find_one, self._find_batch)
        if self._any():
            return {block_hash: number for block_hash, number in rows if self._is_lost.one(number) is None}
        return {block_hash: number for block_hash, number in rows}  # noqa: C416 - dict() would lose the types

    _locate_one = Statement(lambda digest: _locate(found_by(digest)))
    _locate_batch = Statement(lambda *prefixes: _locate(_begin_with(prefixes)), _BATCH_NAMES)

    def locate(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, BlockLocation]:
        """Where those blocks lie that the index knows, but for those that are known to be lost."""
        self._hashes.ensure()
        there = list(self.find(hashes)) if self._any() else hashes
        rows = self._in_batches(there, self._locate_one, self._locate_batch)
        return {row[0]: BlockLocation(*row) for row in rows}

    @staticmethod
    def _in_batches(hashes: Sequence[BlockHash], one: BoundStatement, batch: BoundStatement) -> Iterator[Row]:
        # few hashes: one by one costs less than a long list; a short last batch repeats its last hash
        remaining = iter(hashes)
        while part := list(islice(remaining, BATCH)):
            if len(part) <= BATCH // 4:
                for block_hash in part:
                    yield from one.all(block_hash)
            else:
                wanted = set(part)
                prefixes = [block_hash[:PREFIX_BYTES] for block_hash in part]
                rows = batch.all(*prefixes, *prefixes[-1:] * (BATCH - len(part)))
                yield from (row for row in rows if row[0] in wanted)

    _pack_id = Statement(lambda name: select(packs.c.id).where(packs.c.name == name))
    _add_pack = Statement(lambda name, size, born: insert(packs).values(name=name, size=size, born=born).inline())
    _add_block = Statement(
        lambda pack, digest, offset, stored_length, plain_length: _added_block(
            digest, pack=pack, hash=digest, offset=offset, stored_length=stored_length, plain_length=plain_length
        )
    )
    _place_lost = Statement(
        lambda pack, digest, offset, stored_length, plain_length: (
            update(blocks)
            .where(of_hash(digest), blocks.c.id.in_(select(lost_blocks.c.block)))
            .values(pack=pack, offset=offset, stored_length=stored_length, plain_length=plain_length)
        )
    )
    _delete_lost_mark = Statement(delete_lost_mark)

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
            self._place_lost.many([(pack_id, *block) for block in pack.blocks])
            self._delete_lost_mark.many([(block.hash, pack_id) for block in pack.blocks])
            self._known = -1

    _enter = Statement(
        lambda number, pack, digest, offset, stored_length, plain_length: _entered(
            id=number, pack=pack, hash=digest, offset=offset, stored_length=stored_length, plain_length=plain_length
        )
    )
    _delete_mark = Statement(lambda number: delete(lost_blocks).where(lost_blocks.c.block == number))

    def enter(self, number: int, place: BlockLocation, pack_size: int, born: int) -> None:
        """Makes a block of an index what it is in a later state of that index: the same number, and that place. So no
        hash is looked for.

        Args:
            number: of the block.
            place: its hash, and where it lies.
            pack_size: of that pack, in bytes.
            born: of that pack, if it is not known here.
        """
        known = self._pack_id.one(place.pack)
        pack = self._add_pack.insert(place.pack, pack_size, born) if known is None else known[0]
        self._enter.run(number, pack, place.hash, place.offset, place.stored_length, place.plain_length)
        self._delete_mark.run(number)
        self._known = -1

    _mark_lost = Statement(add_lost_mark)

    def mark_lost(self, block: BlockHash, pack: str) -> bool:
        """Notes that a block cannot be read from that pack (empty name: it lies in none), unless it lies elsewhere by
        now; returns whether that is new."""
        self._hashes.ensure()
        self._known = -1
        return self._mark_lost.run(block, pack) > 0

    _mark_pack_lost = Statement(
        lambda pack: _mark_lost(select(blocks.c.id).select_from(PLACED_BLOCKS).where(packs.c.name == pack))
    )

    def mark_pack_lost(self, pack: str) -> int:
        """Notes that no block can be read from that pack; returns for how many that is new."""
        self._known = -1
        return self._mark_pack_lost.run(pack)

    def mark_found(self, block: BlockHash, pack: str) -> None:
        """Notes that a block can be read from that pack after all, if it is placed there."""
        row = self._pack_id.one(pack)
        if row is not None:
            self._delete_lost_mark.run(block, row[0])
            self._known = -1

    _any_lost = Statement(lambda: select(lost_blocks.c.block).limit(1))

    def _any(self) -> bool:
        if self._known != self._database.undone:
            self._has_lost = self._any_lost.one() is not None
            self._known = self._database.undone
        return self._has_lost

    _lost = Statement(all_lost)

    def lost(self) -> list[BlockLocation]:
        """The blocks that are known to be lost, and not stored again so far, with where they should be."""
        return [BlockLocation(*row) for row in self._lost.all()]

    _packs_after = Statement(lambda born: select(packs.c.name).where(packs.c.born > born).order_by(packs.c.id))

    def packs_after(self, born: int) -> list[str]:
        """The names of packs that were stored for snapshots later than that one."""
        return [row[0] for row in self._packs_after.all(born)]

    _pack_size = Statement(lambda name: select(packs.c.size).where(packs.c.name == name))

    def pack_size(self, name: str) -> int:
        """The size of a known pack in bytes.

        Raises:
            KeyError: there is no such pack.
        """
        row = self._pack_size.one(name)
        if row is None:
            raise KeyError(name)
        return int(row[0])

    _packs = Statement(all_packs)

    def packs(self) -> list[PackRow]:
        """All packs, oldest first."""
        return [PackRow(*row) for row in self._packs.all()]
