# SPDX-License-Identifier: GPL-3.0-or-later
"""Making an older state of the index the newest again, without forgetting what the newest one knew of packs.

A retained snapshot needs a pack if it was born before and died after it; only the newest index is read for this. So
that one has to keep a row for every pack that any index before it had:

- a pack that the older state uses is alive, whatever happened to it since;
- an earlier death stays;
- what only the newest state knew stays as it was born, and is dead from now on, or since it died.

What the newest state knows to be lost is lost in the older one too, where that places it in the same pack.

Numbers of inodes, names, blocks and packs go on from the greater of both sides, so none is used again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import insert, select, update

from cas3fs.index.blocks import add_lost_mark, all_lost, all_packs
from cas3fs.index.garbage import add_pack
from cas3fs.index.hash_index import add_temporary_hashes
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Statement
from cas3fs.index.tables import packs, sequences

_PACKS: Final = Statement(all_packs)
_LOST: Final = Statement(all_lost)
_MARK_LOST: Final = Statement(add_lost_mark)
_KNOWN: Final = Statement(lambda: select(packs.c.name))
SEQUENCES: Final = Statement(lambda: select(sequences.c.name, sequences.c.seq))
_SET_SEQUENCE: Final = Statement(lambda name, seq: update(sequences).where(sequences.c.name == name).values(seq=seq))
_ADD_SEQUENCE: Final = Statement(lambda name, seq: insert(sequences).values(name=name, seq=seq).inline())


def merge_newest_packs(path: Path, newest: Path, died: int) -> None:
    """Brings into the index `path`, a scratch copy of an older state, what `newest` knows of packs.

    Args:
        path: the older state.
        newest: the newest state, which is not changed.
        died: the ordinal of the snapshot that is to be made of `path`.

    Raises:
        IndexDatabaseError: one of them cannot be read, or `path` not written.
    """
    with_newest = Database(newest, "read")
    try:
        rows = _PACKS.on(with_newest).all()
        lost = [(row[0], row[1]) for row in _LOST.on(with_newest).all()]
        numbers: dict[str, int] = dict(SEQUENCES.on(with_newest).all())
    finally:
        with_newest.close()
    database = Database(path, "scratch")
    try:
        database.begin()
        if lost:
            add_temporary_hashes(database)
            _MARK_LOST.on(database).many(lost)
        raise_sequences(database, numbers)
        known = {name for (name,) in _KNOWN.on(database).all()}
        add_pack.on(database).many(
            (name, size, born, died if death is None else death)
            for name, size, born, death in rows
            if name not in known
        )
        database.commit()
    finally:
        database.close()


def raise_sequences(database: Database, numbers: Mapping[str, int]) -> None:
    """Makes tables go on from these numbers, by the table's name, where theirs are smaller."""
    own: dict[str, int] = dict(SEQUENCES.on(database).all())
    set_sequence, add_sequence = _SET_SEQUENCE.on(database), _ADD_SEQUENCE.on(database)
    for name, number in numbers.items():
        if name not in own:
            add_sequence.run(name, number)
        elif own[name] < number:
            set_sequence.run(name, number)
