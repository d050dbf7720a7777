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

from cas3fs.index.blocks import PackRow
from cas3fs.index.database import Database
from cas3fs.index.prepared import Prepared, Statement, plain
from cas3fs.index.sums import NUMBER_UNLIKE
from cas3fs.index.texts import blocks as block_texts
from cas3fs.index.texts import garbage as texts
from cas3fs.index.trimming import HashIndex
from cas3fs.values import BlockLocation, StoredPack


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


_UNLIKE: Final = plain(NUMBER_UNLIKE, "after upto")
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
        return [PackUse(*row) for row in texts.PER_PACK.on(self._database).all()]

    def dead_limits(self, young: int, batch: int = BATCH_BLOCKS) -> list[int]:
        """Ids that cut the dead blocks outside of packs born at `young` or later into batches: the last of each."""
        return [limit for (limit,) in texts.LIMITS.on(self._database).all(young, batch)]

    def unlike_sums(self) -> int:
        """The number of files of which the index has other chunks than their sums tell of: it has lost some, and what
        no chunk names may be in use."""
        return int(_UNLIKE.on(self._database).one(-1, 2**63 - 1)[0])

    def live_blocks(self, packs: Sequence[str]) -> Iterator[list[BlockLocation]]:
        """The live blocks of each of these packs that has any, in the order in which they lie there."""
        statement = texts.LIVE_OF.on(self._database)
        for start in range(0, len(packs), texts.PACK_BATCH):
            part = packs[start : start + texts.PACK_BATCH]
            rows = statement.all(*part, *[part[-1]] * (texts.PACK_BATCH - len(part)))
            for _, group in groupby(rows, key=lambda row: row[1]):
                yield [BlockLocation(*row) for row in group]

    def used_packs(self) -> set[str]:
        """The names of the packs in which a live block lies."""
        return {name for (name,) in texts.USED.on(self._database).all()}

    def filled_packs(self) -> list[str]:
        """The names of the packs that are not dead and in which the index places a block."""
        return [name for (name,) in texts.FILLED.on(self._database).all()]

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

    def __init__(self, database: Database, hashes: HashIndex) -> None:
        self._hashes = hashes

        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._drop, self._drop_unnamed, self._bury = on(texts.DROP), on(texts.DROP_UNNAMED), on(texts.BURY)
        self._set_death, self._forget, self._widen = on(texts.SET_DEATH), on(texts.FORGET), on(texts.WIDEN)
        self._pack, self._add_pack, self._move = on(texts.PACK), on(texts.ADD_PACK), on(texts.MOVE)
        self._forget_lost, self._healed = on(texts.FORGET_LOST), on(block_texts.HEALED)

    def drop_dead(self, after: int, upto: int, young: int) -> int:
        """Drops the blocks with ids in (after, upto] that no chunk names, outside of young packs; gives how many."""
        return self._drop.run(young, after, upto)

    def drop_unnamed(self) -> int:
        """Drops every block that no chunk names; for an index that was just restored, as packs that held nothing else
        may be gone by now."""
        return self._drop_unnamed.run()

    def bury(self, died: int, young: int) -> int:
        """Notes of packs without blocks, but for young ones, that snapshots from `died` on do not need them."""
        self._forget_lost.run()
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
        self._hashes.ensure()
        new_id = self._add_pack.insert(new.name, new.size_bytes, born, None)
        ids = {old: self._pack.one(old) for old in set(olds)}
        moved = 0
        for block, old in zip(new.blocks, olds, strict=True):
            if ids[old] is not None:
                moved += self._move.run(block.hash, ids[old][0], new_id, block.offset, block.stored_length)
        self._healed.many([(block.hash, new_id) for block in new.blocks])  # they were read, so they are not lost
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
