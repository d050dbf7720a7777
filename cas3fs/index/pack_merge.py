# SPDX-License-Identifier: GPL-3.0-or-later
"""Making an older state of the index the newest again, without forgetting what the newest one knew of packs.

A retained snapshot needs a pack if it was born before and died after it; this is read from the newest index alone. So
that one has to keep a row for every pack that any index before it had:

- a pack that the older state uses is alive, whatever happened to it since;
- an earlier death is kept;
- what only the newest state knew stays as it was born, and is dead from now on, or since it died.

What the newest state knows to be lost is lost in the older one too, where that places it in the same pack.

Numbers of inodes, names, blocks and packs go on from the greater of both sides, so none is used again.
"""

from pathlib import Path

from cas3fs.index.database import Database
from cas3fs.index.hash_index import restore_hash_index
from cas3fs.index.texts import blocks, garbage
from cas3fs.index.texts import merging as texts


def merge_newest_packs(path: Path, newest: Path, died: int) -> None:
    """Bring into the index `path`, a copy of an older state that nobody misses, what `newest` knows of packs.

    Args:
        died: the ordinal of the snapshot that is to be made of `path`.

    Raises:
        IndexDatabaseError: one of them cannot be read, or `path` not written.
    """
    with_newest = Database(newest, "read")
    try:
        rows = blocks.PACKS.on(with_newest).all()
        lost = [(row[0], row[1]) for row in blocks.LOST.on(with_newest).all()]
        sequences: dict[str, int] = {name: number for name, number in texts.SEQUENCES.on(with_newest).all()}  # noqa: C416
    finally:
        with_newest.close()
    if lost:
        restore_hash_index(path)
    database = Database(path, "scratch")
    try:
        database.begin()
        blocks.LOSE_BLOCK.on(database).many(lost)
        _raise_sequences(database, sequences)
        known = {name for (name,) in texts.KNOWN.on(database).all()}
        garbage.ADD_PACK.on(database).many(
            (name, size, born, died if death is None else death)
            for name, size, born, death in rows
            if name not in known
        )
        database.commit()
    finally:
        database.close()


def _raise_sequences(database: Database, sequences: dict[str, int]) -> None:
    own: dict[str, int] = {name: number for name, number in texts.SEQUENCES.on(database).all()}  # noqa: C416
    set_sequence, add = texts.SET_SEQUENCE.on(database), texts.ADD_SEQUENCE.on(database)
    for name, number in sequences.items():
        if name not in own:
            add.run(name, number)
        elif own[name] < number:
            set_sequence.run(name, number)
