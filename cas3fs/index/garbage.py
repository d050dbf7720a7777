# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting what no chunk names any more, on the writer's connection.

A *live* block is one that a chunk names. A pack is *young* when it was born with the next snapshot: its blocks may be
on their way into chunks, so garbage in it is left alone. A pack *dies* when the index has none of its blocks any more;
its row stays, since earlier snapshots may need it, until its object is gone.

Passes over the whole index find what is dead, without a lock (`cas3fs.index.scans`), and it may be named again before
it is deleted. So the index is *watched* before such a pass: the writer's connection then notes every block that a chunk
comes to name, and every pack in which a block comes to lie, whatever statement does that, and what was noted is not
deleted. The notes are undone with the change that made them.

The methods of `Garbage` need the caller's lock. Every one raises `IndexDatabaseError` and its kinds, and nothing else.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Column, Integer, MetaData, Table, delete, exists, insert, select, update
from sqlalchemy.schema import CreateTable

from cas3fs.index.blocks import PackRow, delete_lost_mark
from cas3fs.index.hash_index import HashIndex, delete_unreferenced, of_hash
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement, ddl
from cas3fs.index.tables import blocks, chunks, lost_blocks, packs
from cas3fs.values import StoredPack

NOTES: Final = MetaData(schema="temp")
"""The temporary tables of what was noted."""
_named = Table("named", NOTES, Column("id", Integer, primary_key=True))
_filled = Table("filled", NOTES, Column("id", Integer, primary_key=True))
_WATCHED: Final = ((chunks.c.block, _named), (blocks.c.pack, _filled))

add_pack = Statement(
    lambda name, size, born, died: insert(packs).values(name=name, size=size, born=born, died=died).inline()
)


class Garbage:
    """Deletes garbage from the index; each method is to be called within an operation."""

    def __init__(self, database: Database, hashes: HashIndex) -> None:
        self._database, self._hashes = database, hashes

    _forget_named = Statement(lambda: delete(_named))
    _forget_filled = Statement(lambda: delete(_filled))

    def watch(self) -> None:
        """Begins to note what is named; to be committed before any pass looks for what is dead."""
        for column, notes in _WATCHED:
            self._database.change(ddl(CreateTable(notes, if_not_exists=True)))
            self._database.watch_column(column.table.name, column.name, notes.name)
        self._forget_notes()

    def unwatch(self) -> None:
        """Ends that."""
        for _, notes in _WATCHED:
            self._database.unwatch_column(notes.name)
        self._forget_notes()  # the tables stay: dropping them fails while any statement of the connection runs

    def _forget_notes(self) -> None:
        self._forget_named.run()
        self._forget_filled.run()

    _delete_block = Statement(
        lambda block, young: delete(blocks).where(
            blocks.c.id == block,
            blocks.c.id.not_in(select(_named.c.id)),
            exists().where(packs.c.id == blocks.c.pack, packs.c.born < young),
        )
    )

    def delete_blocks(self, blocks: Sequence[int], young: int) -> int:
        """Deletes those of these blocks, which were dead after `watch`, that are still dead, but for those in young
        packs; returns how many."""
        return self._delete_block.many([(block, young) for block in blocks])

    _delete_unreferenced = Statement(delete_unreferenced)

    def delete_unreferenced_blocks(self) -> int:
        """Deletes every block that no chunk names; for an index that was just restored, as packs that held nothing
        else may be gone by now."""
        return self._delete_unreferenced.run()

    _mark_pack_dead = Statement(
        lambda died, pack, young: (
            update(packs)
            .where(
                packs.c.id == pack,
                packs.c.died.is_(None),
                packs.c.born < young,
                packs.c.id.not_in(select(_filled.c.id)),
            )
            .values(died=died)
        )
    )

    def mark_packs_dead(self, packs: Sequence[int], died: int, young: int) -> None:
        """Notes of those of these packs, which were empty after `watch`, that are still empty, but for young ones, that
        snapshots from `died` on do not need them."""
        self._mark_pack_dead.many([(died, pack, young) for pack in packs])

    _delete_stale_lost_marks = Statement(
        lambda: delete(lost_blocks).where(lost_blocks.c.block.not_in(select(blocks.c.id)))
    )

    def delete_stale_lost_marks(self) -> None:
        """Deletes the marks of lost blocks that are not in the index any more."""
        self._delete_stale_lost_marks.run()

    _set_died = Statement(
        lambda died, name: update(packs).where(packs.c.name == name, packs.c.died.is_not(None)).values(died=died)
    )

    def set_died(self, names: Iterable[str], died: int) -> None:
        """Makes packs that have died dead from the snapshot `died` on."""
        self._set_died.many([(died, name) for name in names])

    _revive = Statement(lambda name: update(packs).where(packs.c.name == name).values(died=None))

    def revive_packs(self, names: Iterable[str]) -> None:
        """Notes that blocks lie in these packs again, if they have died: their objects are in the store."""
        self._revive.many([(name,) for name in names])

    _delete_pack = Statement(lambda name: delete(packs).where(packs.c.name == name, packs.c.died.is_not(None)))

    def delete_packs(self, names: Iterable[str]) -> None:
        """Deletes the rows of dead packs whose objects are gone."""
        self._delete_pack.many([(name,) for name in names])

    _delete_blocks_of = Statement(
        lambda name: delete(blocks).where(blocks.c.pack.in_(select(packs.c.id).where(packs.c.name == name)))
    )
    _forget_pack = Statement(lambda name: delete(packs).where(packs.c.name == name))

    def forget_pack(self, name: str) -> None:
        """Deletes the rows of a pack whose object is gone, and those of its blocks. Chunks that name these are left: it
        is for an index whose chunks are made anew, and that no snapshot was made of since the pack was stored."""
        self._delete_blocks_of.run(name)
        self._forget_pack.run(name)
        self._delete_stale_lost_marks.run()

    _pack = Statement(lambda name: select(packs.c.id, packs.c.born, packs.c.died).where(packs.c.name == name))

    def unknown_packs(self, names: Iterable[str]) -> list[str]:
        """Those of these packs that are not in the index, the open group included."""
        return [name for name in names if self._pack.one(name) is None]

    def still_dead(self, names: Iterable[str], published: int) -> list[str]:
        """Those of these packs that snapshots from `published` on do not need."""
        rows = ((name, self._pack.one(name)) for name in names)
        return [name for name, row in rows if row is not None and row[2] is not None and row[2] <= published]

    _add_pack = add_pack
    _move_block = Statement(
        lambda digest, old, new, offset, stored_length: (
            update(blocks)
            .where(of_hash(digest), blocks.c.pack == old)
            .values(pack=new, offset=offset, stored_length=stored_length)
        )
    )
    _delete_lost_mark = Statement(delete_lost_mark)

    def move_blocks(self, new: StoredPack, olds: Sequence[str], born: int) -> int:
        """Enters the pack `new`, and places in it each of its blocks that still lies in the pack of `olds` that stands
        at the same position; returns how many lie in it now."""
        self._hashes.ensure()
        new_id = self._add_pack.insert(new.name, new.size_bytes, born, None)
        ids = {old: self._pack.one(old) for old in set(olds)}
        moved = 0
        for block, old in zip(new.blocks, olds, strict=True):
            if ids[old] is not None:
                moved += self._move_block.run(block.hash, ids[old][0], new_id, block.offset, block.stored_length)
        self._delete_lost_mark.many([(block.hash, new_id) for block in new.blocks])  # they were read, so not lost
        return moved

    def merge_packs(self, rows: Sequence[PackRow], number: int) -> int:
        """Makes sure that every pack that the snapshot `number` of another line needs is known to be needed by it.

        A pack that is not known is entered as dead from the next snapshot on. Returns how many rows were changed.
        """
        needed = [row for row in rows if row.born <= number and (row.died is None or number < row.died)]
        return sum(self._merge(row, number) for row in needed)

    _set_life = Statement(
        lambda number, born, died: update(packs).where(packs.c.id == number).values(born=born, died=died)
    )

    def _merge(self, row: PackRow, number: int) -> bool:
        known = self._pack.one(row.name)
        if known is None:
            self._add_pack.insert(row.name, row.size, row.born, number + 1)
            return True
        pack_id, born, died = known
        if born <= number and (died is None or number < died):
            return False
        last = None if died is None else max(died, number + 1)
        return self._set_life.run(pack_id, min(born, number), last) > 0
