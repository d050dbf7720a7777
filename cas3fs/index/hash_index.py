# SPDX-License-Identifier: GPL-3.0-or-later
"""Trimming: a copy that is to be kept as a snapshot does without what can be made again from the rest.

That is the index on the hashes of blocks. Hashes are random, so every new block changes another page of it, and random
pages do not compress: of a thousand changed files it would be most of what a snapshot stores. Its pages become free
ones, which are overwritten with zeros. Making it again takes about a microsecond a block. Nothing that only reads files
looks for a hash, so an index that was restored goes without until the first is asked for (`HashIndex`).

Before any hash can be found in it, the blocks that no chunk names are dropped: packs that held nothing else may be gone
(`cas3fs.maintenance.snapshot_index`), so none of them may be used again. Both happen in one transaction.
"""

from pathlib import Path

from cas3fs.index.database import CACHE_SIZE_KIB, Database, Mode
from cas3fs.index.files import remove_fingerprint
from cas3fs.index.texts.garbage import DROP_UNNAMED
from cas3fs.index.texts.schema import CREATE_TRIMMED, DROP_TRIMMED, TRIMMED


def drop_hash_index(path: Path) -> None:
    """Take out of a copy, which nobody has open or misses, what `restore_hash_index` brings back; it is not synced.

    Raises:
        IndexDatabaseError: it cannot be written.
    """
    database = Database(path, "scratch")
    try:
        database.execute("PRAGMA secure_delete=ON")
        database.execute("PRAGMA journal_mode=OFF")
        database.execute(DROP_TRIMMED)
    finally:
        database.close()


def restore_hash_index(path: Path, mode: Mode = "scratch") -> bool:
    """Bring back what `drop_hash_index` took out of an index that nobody has open; whether anything was missing.

    Args:
        mode: "scratch" for a copy that nobody misses: nothing waits for the disk.

    Raises:
        IndexDatabaseError: it cannot be written.
    """
    database = Database(path, mode, cache_kib=CACHE_SIZE_KIB)  # what is sorted should fit
    try:
        made = _complete(database)
        if made:
            remove_fingerprint(path)
        database.commit()
        return made
    finally:
        database.close()


class HashIndex:
    """The index on hashes of an open index; whoever looks for one calls `ensure` first. Needs the caller's lock."""

    __slots__ = ("_database", "_known")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: int | None = None

    def ensure(self) -> None:
        """Makes it where it is missing, once in the life of a restored index: about 0.2 s for 200,000 blocks.

        Raises:
            IndexDatabaseError: it cannot be written; nothing has changed.
        """
        if self._known == self._database.undone:  # else what was undone may have been this
            return
        is_alone = not self._database.writing and not self._database.lost
        if _complete(self._database) and is_alone:
            self._database.commit()
        self._known = self._database.undone


def _complete(database: Database) -> bool:
    """Brings back what is missing, in the transaction that is open or a new one; whether anything was."""
    if database.execute(f"SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = '{TRIMMED}'"):
        return False
    DROP_UNNAMED.on(database).run()
    database.change(CREATE_TRIMMED)
    return True
