# SPDX-License-Identifier: GPL-3.0-or-later
"""Trimming: a copy that is to be kept as a snapshot does without what can be made again from the rest.

That is the index on the hashes of blocks. Hashes are random, so every new block changes another page of it, and random
pages do not compress: of a thousand changed files it would be most of what a snapshot stores. Its pages become free
ones, which are overwritten with zeros. Making it again takes 1 to 2 microseconds a block.
"""

from pathlib import Path

from cas3fs.index.database import CACHE_SIZE_KIB, Database
from cas3fs.index.texts.schema import CREATE_TRIMMED, DROP_TRIMMED, TRIMMED


def trim(path: Path) -> None:
    """Take out of a copy, which nobody has open or misses, what `complete` brings back; it is not synced.

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


def complete(path: Path) -> bool:
    """Bring back what `trim` took out of a copy, which nobody has open; whether anything was missing.

    Nothing waits for the disk: an index that is in use was never trimmed, so what lacks something is a copy still.

    Raises:
        IndexDatabaseError: it cannot be written.
    """
    database = Database(path, "scratch", cache_kib=CACHE_SIZE_KIB)  # what is sorted should fit
    try:
        present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
        if TRIMMED in present:
            return False
        database.execute(CREATE_TRIMMED)
        return True
    finally:
        database.close()
