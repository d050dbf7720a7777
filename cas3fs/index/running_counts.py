# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts over the whole index that cost nothing: after they were counted once, each change is added.

Counting a million files takes 0.1 to 0.2 s, more than all else that a snapshot does. So triggers of the writer's
connection add up, in a temporary table, what every statement does to inodes, chunks and blocks: a microsecond a row.
An undone change is undone there, too. Packs are few, and are counted each time.

Once an hour everything is counted again, so that a mistake would not last.
"""

import stat
import time
from collections.abc import Mapping
from typing import Final

from cas3fs.index.reader import Counts, IndexReader
from cas3fs.index.sqlite import Database
from cas3fs.index.tables import blocks, chunks, inodes

TOTALS: Final = "totals"
"""The temporary table, of one row."""
_RECOUNT_S: Final = 3600.0
_TYPE: Final = f"({{row}}.mode & {stat.S_IFMT(0o177777)})"
_HALF_BITS: Final = 32
_FILES, _DIRECTORIES, _SYMLINKS = (f"({_TYPE} = {one})" for one in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK))
_SUMS: Final[Mapping[str, Mapping[str, str]]] = {
    inodes.name: {
        "inodes": "1",
        "files": _FILES,
        "directories": _DIRECTORIES,
        "symlinks": _SYMLINKS,
        # in two parts: two sparse files may be larger together than a number can be
        "high": f"{_FILES} * ({{row}}.size >> {_HALF_BITS})",
        "low": f"{_FILES} * ({{row}}.size & {2**_HALF_BITS - 1})",
    },
    chunks.name: {"chunks": "1", "chunk_bytes": "{row}.length"},
    blocks.name: {"blocks": "1", "unique_bytes": "{row}.plain_length", "stored_bytes": "{row}.stored_length"},
}
_CHANGED: Final[Mapping[str, tuple[str, ...]]] = {
    inodes.name: ("mode", "size"),
    chunks.name: ("length",),
    blocks.name: ("plain_length", "stored_length"),
}


class RunningCounts:
    """The counts of the index of a writer's connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._base: Counts | None = None
        """The counts, less what the totals said at that time."""
        self._counted_s = 0.0

    def totals(self) -> Counts:
        """The committed changes of the counts since the triggers were made, without packs. To be called with the
        caller's lock and nothing uncommitted.

        Raises:
            IndexDatabaseError: the index failed.
        """
        database = self._database
        if not database.has_temporary("table", TOTALS):
            self._base = None
            database.sum_rows(TOTALS, _SUMS, _CHANGED)
            database.commit()
        found = database.sums(TOTALS)
        special = found["files"] + found["directories"] + found["symlinks"]
        return Counts(
            found["files"],
            found["directories"],
            found["symlinks"],
            found["inodes"] - special,
            (found["high"] << _HALF_BITS) + found["low"],
            *(found[name] for name in Counts._fields[5:10]),
            *(0 for _ in Counts._fields[10:]),
        )

    def counts(self, totals: Counts, reader: IndexReader) -> Counts:
        """The counts of the state that the reader has pinned, and whose totals were `totals`."""
        base, now_s = self._base, time.monotonic()
        if base is not None and now_s - self._counted_s < _RECOUNT_S:
            sums = Counts(*(one + other for one, other in zip(base, totals, strict=True)))
            return sums._replace(**reader.pack_counts())
        counted = reader.counts()
        self._base = Counts(*(one - other for one, other in zip(counted, totals, strict=True)))
        self._counted_s = now_s
        return counted
