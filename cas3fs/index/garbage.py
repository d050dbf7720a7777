# SPDX-License-Identifier: GPL-3.0-or-later
"""What no chunk names any more: taken out of the index, on the writer's connection.

A *live* block is one that a chunk names. A pack is *young* when it was born with the snapshot that is yet to come:
its blocks may be on their way into chunks, so garbage in it is left alone. A pack *dies* when none of its blocks is in
the index any more; its row stays, since earlier snapshots may need it, until its object is gone.

What is dead is found by passes over the whole index, without a lock (`cas3fs.index.scans`), and may be named again
before it is taken out. So whoever takes out garbage has the index *watched* first, and looks for it afterwards: the
writer's connection then notes every block that a chunk comes to name, and every pack in which a block comes to lie,
whatever statement does that, and what was noted stays. The notes are undone with the change that made them.

The methods of `Garbage` need the caller's lock. Every one raises `IndexDatabaseError` and its kinds, and nothing else.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from cas3fs.index.blocks import PackRow
from cas3fs.index.database import Database
from cas3fs.index.hash_index import HashIndex
from cas3fs.index.prepared import Prepared, Statement, plain
from cas3fs.index.texts import blocks as block_texts
from cas3fs.index.texts import garbage as texts
from cas3fs.values import StoredPack

_NOTED: Final = (("chunk_named", "chunks", "block", "named"), ("block_placed", "blocks", "pack", "filled"))
"""The trigger, the table that it watches, the column, and the table of what was noted."""
_WATCH: Final = tuple(
    statement
    for trigger, table, column, notes in _NOTED
    for statement in (
        f"CREATE TEMP TABLE IF NOT EXISTS {notes} (id INTEGER PRIMARY KEY)",
        f"DELETE FROM temp.{notes}",
        f"CREATE TEMP TRIGGER IF NOT EXISTS {trigger}_new AFTER INSERT ON main.{table} "
        f"BEGIN INSERT OR IGNORE INTO {notes} VALUES (new.{column}); END",
        f"CREATE TEMP TRIGGER IF NOT EXISTS {trigger}_changed AFTER UPDATE OF {column} ON main.{table} "
        f"BEGIN INSERT OR IGNORE INTO {notes} VALUES (new.{column}); END",
    )
)
_UNWATCH: Final = tuple(
    statement
    for trigger, _, _, notes in _NOTED
    for statement in (
        f"DROP TRIGGER IF EXISTS temp.{trigger}_new",
        f"DROP TRIGGER IF EXISTS temp.{trigger}_changed",
        f"DELETE FROM temp.{notes}",  # the table stays: dropping it fails while any statement of the connection runs
    )
)
_DROP: Final = plain(
    "DELETE FROM blocks WHERE id = :p_block AND id NOT IN (SELECT id FROM temp.named) "
    "AND EXISTS (SELECT 1 FROM packs WHERE packs.id = blocks.pack AND packs.born < :p_young)",
    "block young",
)
_MARK_DEAD: Final = plain(
    "UPDATE packs SET died = :p_died WHERE id = :p_pack AND died IS NULL AND born < :p_young "
    "AND id NOT IN (SELECT id FROM temp.filled)",
    "died pack young",
)


class Garbage:
    """Takes garbage out of the index; each method is to be called within an operation."""

    def __init__(self, database: Database, hashes: HashIndex) -> None:
        self._hashes = hashes

        def on(prepared: Prepared) -> Statement:
            return prepared.on(database)

        self._database = database
        self._drop, self._drop_unnamed, self._mark_dead = on(_DROP), on(texts.DROP_UNNAMED), on(_MARK_DEAD)
        self._set_death, self._forget, self._widen = on(texts.SET_DEATH), on(texts.FORGET), on(texts.WIDEN)
        self._pack, self._add_pack, self._move = on(texts.PACK), on(texts.ADD_PACK), on(texts.MOVE)
        self._forget_lost, self._healed = on(texts.FORGET_LOST), on(block_texts.HEALED)

    def watch(self) -> None:
        """Begins to note what is named; to be committed before anything dead is looked for."""
        for statement in _WATCH:
            self._database.change(statement)

    def unwatch(self) -> None:
        """Ends that."""
        for statement in _UNWATCH:
            self._database.change(statement)

    def delete_blocks(self, blocks: Sequence[int], young: int) -> int:
        """Drops those of these blocks, which were dead after `watch`, that are so still, outside of young packs; gives
        how many."""
        before = self._database.connection.total_changes
        self._drop.many([(block, young) for block in blocks])
        return self._database.connection.total_changes - before

    def delete_unreferenced_blocks(self) -> int:
        """Drops every block that no chunk names; for an index that was just restored, as packs that held nothing else
        may be gone by now."""
        return self._drop_unnamed.run()

    def mark_packs_dead(self, packs: Sequence[int], died: int, young: int) -> None:
        """Notes of those of these packs, which were empty after `watch`, that are so still, but for young ones, that
        snapshots from `died` on do not need them."""
        self._mark_dead.many([(died, pack, young) for pack in packs])

    def delete_stale_lost_marks(self) -> None:
        """Removes what is noted of lost blocks that are gone."""
        self._forget_lost.run()

    def set_died(self, names: Iterable[str], died: int) -> None:
        """Lets packs that have died be dead from the snapshot `died` on."""
        self._set_death.many([(died, name) for name in names])

    def delete_packs(self, names: Iterable[str]) -> None:
        """Removes the rows of dead packs whose objects are gone."""
        self._forget.many([(name,) for name in names])

    def unknown_packs(self, names: Iterable[str]) -> list[str]:
        """Those of these packs that are not in the index, the open group included."""
        return [name for name in names if self._pack.one(name) is None]

    def still_dead(self, names: Iterable[str], published: int) -> list[str]:
        """Those of these packs that snapshots from `published` on do not need."""
        rows = ((name, self._pack.one(name)) for name in names)
        return [name for name, row in rows if row is not None and row[2] is not None and row[2] <= published]

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
