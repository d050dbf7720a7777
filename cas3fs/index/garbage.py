# SPDX-License-Identifier: GPL-3.0-or-later
"""What no chunk names any more: found on a reading connection, taken out of the index on the writer's.

A *live* block is one that a chunk names. A pack is *young* when it was born with the snapshot that is yet to come:
its blocks may be on their way into chunks, so garbage in it is left alone. A pack *dies* when none of its blocks is in
the index any more; its row stays, since earlier snapshots may need it, until its object is gone.

`GarbageReader` sees what is committed and needs no lock. `Garbage` is the writer's: its methods need the caller's
lock, and decide anew what is dead at the moment when they delete. Each of its statements passes over all chunks, about
a tenth of a second for a million; so that other operations get in between, `drop_dead` is given ranges of ids.

Every method raises `IndexDatabaseError` and its kinds, and nothing else.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, Self

from sqlalchemy import ColumnElement, Integer, cast, delete, func, insert, literal_column, select, update

from cas3fs.index.blocks import PackRow
from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Statement, param
from cas3fs.index.tables import blocks, chunks, packs
from cas3fs.values import BlockLocation, StoredPack

_ZERO: ColumnElement[int] = literal_column("0")
_NAMED = select(chunks.c.block)
_PACK_BATCH: Final = 64
_BATCH_PARAMS: Final = tuple(f"name{number}" for number in range(_PACK_BATCH))


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


def _per_pack() -> Prepared:
    is_live = cast(blocks.c.id.in_(_NAMED), Integer).label("live")
    each = select(blocks.c.pack, blocks.c.stored_length, is_live).subquery("each")
    sums = (
        select(
            each.c.pack,
            func.count().label("blocks"),
            func.sum(each.c.stored_length).label("block_bytes"),
            func.sum(each.c.live).label("live_blocks"),
            func.sum(each.c.live * each.c.stored_length).label("live_bytes"),
        )
        .group_by(each.c.pack)
        .subquery("sums")
    )
    numbers = [func.coalesce(sums.c[name], _ZERO) for name in ("blocks", "block_bytes", "live_blocks", "live_bytes")]
    return Prepared(
        select(packs.c.id, packs.c.name, packs.c.size, packs.c.born, packs.c.died, *numbers)
        .select_from(packs.outerjoin(sums, sums.c.pack == packs.c.id))
        .order_by(packs.c.id)
    )


def _is_old() -> ColumnElement[bool]:
    """The block's pack is not young."""
    return blocks.c.pack.in_(select(packs.c.id).where(packs.c.born < param("young")))


def _limits() -> Prepared:
    """The greatest id of each batch of dead blocks."""
    place = func.row_number().over(order_by=blocks.c.id).label("place")
    ranked = (
        select(blocks.c.id, place, func.count().over().label("total"))
        .where(blocks.c.id.not_in(_NAMED), _is_old())
        .subquery("ranked")
    )
    ends_batch = (ranked.c.place % param("batch") == _ZERO) | (ranked.c.place == ranked.c.total)
    return Prepared(select(ranked.c.id).where(ends_batch).order_by(ranked.c.id), "young batch")


def _drop() -> Prepared:
    in_range = (blocks.c.id > param("after")) & (blocks.c.id <= param("upto"))
    named = _NAMED.where(chunks.c.block > param("after"), chunks.c.block <= param("upto"))
    return Prepared(delete(blocks).where(in_range, _is_old(), blocks.c.id.not_in(named)), "young after upto")


_PER_PACK = _per_pack()
_LIMITS = _limits()
_DROP = _drop()
_LIVE_OF = Prepared(
    select(blocks.c.hash, packs.c.name, blocks.c.offset, blocks.c.stored_length, blocks.c.plain_length)
    .select_from(blocks.join(packs, packs.c.id == blocks.c.pack))
    .where(packs.c.name.in_([param(name) for name in _BATCH_PARAMS]), blocks.c.id.in_(_NAMED))
    .order_by(packs.c.id, blocks.c.offset),
    " ".join(_BATCH_PARAMS),
)
_USED = Prepared(select(packs.c.name).where(packs.c.id.in_(select(blocks.c.pack).where(blocks.c.id.in_(_NAMED)))))
_FILLED = Prepared(select(packs.c.name).where(packs.c.died.is_(None), packs.c.id.in_(select(blocks.c.pack))))
_BURY = Prepared(
    update(packs)
    .where(packs.c.died.is_(None), packs.c.born < param("young"), packs.c.id.not_in(select(blocks.c.pack)))
    .values(died=param("died")),
    "died young",
)
_SET_DEATH = Prepared(
    update(packs).where(packs.c.name == param("name"), packs.c.died.is_not(None)).values(died=param("died")),
    "died name",
)
_FORGET = Prepared(delete(packs).where(packs.c.name == param("name"), packs.c.died.is_not(None)), "name")
_PACK = Prepared(select(packs.c.id, packs.c.born, packs.c.died).where(packs.c.name == param("name")), "name")
_ADD_PACK = Prepared(
    insert(packs).values(name=param("name"), size=param("size"), born=param("born"), died=param("died")).inline(),
    "name size born died",
)
_WIDEN = Prepared(
    update(packs).where(packs.c.id == param("id")).values(born=param("born"), died=param("died")), "id born died"
)
_MOVE = Prepared(
    update(blocks)
    .where(blocks.c.hash == param("hash"), blocks.c.pack == param("old"))
    .values(pack=param("new"), offset=param("offset"), stored_length=param("stored_length")),
    "hash old new offset stored_length",
)
_DROP_UNNAMED = Prepared(delete(blocks).where(blocks.c.id.not_in(_NAMED)))

BATCH_BLOCKS: Final = 20_000
"""Dead blocks that are dropped in one go: some tenths of a second under the lock."""


class GarbageReader:
    """Questions about garbage, on a connection of its own; for one thread. One transaction while it is open: all
    answers are of one instant."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        try:
            self._database.execute("BEGIN")
        except BaseException:
            self._database.close()
            raise

    def pack_uses(self) -> list[PackUse]:
        """Every pack with how much of it is used, oldest first."""
        return [PackUse(*row) for row in _PER_PACK.on(self._database).all()]

    def dead_limits(self, young: int, batch: int = BATCH_BLOCKS) -> list[int]:
        """Ids that cut the dead blocks outside of packs born at `young` or later into batches: the last of each."""
        return [limit for (limit,) in _LIMITS.on(self._database).all(young, batch)]

    def live_blocks(self, packs: Sequence[str]) -> Iterator[list[BlockLocation]]:
        """The live blocks of each of these packs that has any, in the order in which they lie there."""
        statement = _LIVE_OF.on(self._database)
        for start in range(0, len(packs), _PACK_BATCH):
            part = packs[start : start + _PACK_BATCH]
            rows = statement.all(*part, *[part[-1]] * (_PACK_BATCH - len(part)))
            for _, group in groupby(rows, key=lambda row: row[1]):
                yield [BlockLocation(*row) for row in group]

    def used_packs(self) -> set[str]:
        """The names of the packs in which a live block lies."""
        return {name for (name,) in _USED.on(self._database).all()}

    def filled_packs(self) -> list[str]:
        """The names of the packs that are not dead and in which the index places a block."""
        return [name for (name,) in _FILLED.on(self._database).all()]

    def close(self) -> None:
        """Closes the connection."""
        self._database.rollback()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Garbage:
    """Takes garbage out of the index; each method is to be called within an operation."""

    def __init__(self, database: Database) -> None:
        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._drop, self._drop_unnamed, self._bury = on(_DROP), on(_DROP_UNNAMED), on(_BURY)
        self._set_death, self._forget, self._widen = on(_SET_DEATH), on(_FORGET), on(_WIDEN)
        self._pack, self._add_pack, self._move = on(_PACK), on(_ADD_PACK), on(_MOVE)

    def drop_dead(self, after: int, upto: int, young: int) -> int:
        """Drops the blocks with ids in (after, upto] that no chunk names, outside of young packs; gives how many."""
        return self._drop.run(young, after, upto)

    def drop_unnamed(self) -> int:
        """Drops every block that no chunk names; for an index that was just restored, as packs that held nothing else
        may be gone by now."""
        return self._drop_unnamed.run()

    def bury(self, died: int, young: int) -> int:
        """Notes of packs without blocks, but for young ones, that snapshots from `died` on do not need them."""
        return self._bury.run(died, young)

    def set_death(self, names: Iterable[str], died: int) -> None:
        """Lets packs that have died be dead from the snapshot `died` on."""
        self._set_death.many([(died, name) for name in names])

    def forget_packs(self, names: Iterable[str]) -> None:
        """Removes the rows of dead packs whose objects are gone."""
        self._forget.many([(name,) for name in names])

    def move_blocks(self, new: StoredPack, olds: Sequence[str], born: int) -> int:
        """Enters the pack `new`, and lets each of its blocks lie there that still lies in the pack of `olds` that
        stands at the same place; gives how many do now."""
        new_id = self._add_pack.insert(new.name, new.size_bytes, born, None)
        ids = {old: self._pack.one(old) for old in set(olds)}
        moved = 0
        for block, old in zip(new.blocks, olds, strict=True):
            if ids[old] is not None:
                moved += self._move.run(block.hash, ids[old][0], new_id, block.offset, block.stored_length)
        return moved

    def merge_packs(self, rows: Sequence[PackRow], number: int) -> int:
        """Sees to it that every pack that the snapshot `number` of another line needs is known to be needed by it.

        A pack that is not known is entered as dead from the next snapshot on. Gives how many rows were changed.
        """
        needed = [row for row in rows if row.born <= number and (row.died is None or number < row.died)]
        return sum(self._merge(row, number) for row in needed)

    def _merge(self, row: PackRow, number: int) -> bool:
        known = self._pack.one(row.name)
        if known is None:
            self._add_pack.insert(row.name, row.size, row.born, number + 1)
            return True
        pack_id, born, died = known
        if born <= number and (died is None or number < died):
            return False
        wider = None if died is None else max(died, number + 1)
        return self._widen.run(pack_id, min(born, number), wider) > 0
