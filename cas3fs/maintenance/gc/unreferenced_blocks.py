# SPDX-License-Identifier: GPL-3.0-or-later
"""Dropping: blocks that no chunk names leave the index, and packs without blocks are marked dead.

What is dead is found off the file system's lock, and decided anew under it: from before the search on, the index notes
what comes to be named (`cas3fs.index.garbage`). The lock is held for some hundred rows at a time.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from cas3fs.filesystem import FileSystem
from cas3fs.index import DeadBlockScan, EmptyPackScan, IndexReader
from cas3fs.maintenance.snapshot_index import check_chunk_sums

ROWS_AT_ONCE: Final = 500
"""Under the lock; each may change a page of the index on hashes that lies alone."""
BATCHES_IN_GROUP: Final = 4
"""What is changed stays in memory until it is committed, and a commit writes it under the lock."""


def drop_unreferenced_blocks(filesystem: FileSystem, young: int, tell: Callable[[Any], None]) -> int:
    """Drops what is dead, outside of packs born at `young` or later, and marks packs that are empty as dead from then
    on; gives how many blocks were dropped.

    Raises:
        IndexCorrupt: it has lost chunks, so nobody knows what is dead.
        IndexDatabaseError: it failed; what was dropped before is dropped.
    """
    dropped = 0
    filesystem.complete_index()
    with _watched(filesystem):
        with IndexReader(filesystem.index_path) as reader:
            check_chunk_sums(reader)
        with DeadBlockScan(filesystem.index_path, young) as dead:
            for number, blocks in enumerate(_pieces(dead), 1):
                tell({"what": "dropping blocks", "done": dropped, "total": 0})
                with filesystem.index_transaction() as index:
                    dropped += index.garbage.delete_blocks(blocks, young)
                time.sleep(0)  # whoever waits for the lock comes first
                if number % BATCHES_IN_GROUP == 0:
                    filesystem.commit()
        filesystem.commit()
        tell({"what": "marking packs"})
        with filesystem.index_transaction() as index:
            index.garbage.delete_stale_lost_marks()
        with EmptyPackScan(filesystem.index_path, young) as empty:
            for packs in _pieces(empty):
                with filesystem.index_transaction() as index:
                    index.garbage.mark_packs_dead(packs, young, young)
                time.sleep(0)
    filesystem.commit()
    return dropped


@contextmanager
def _watched(filesystem: FileSystem) -> Iterator[None]:
    """The index notes meanwhile what is named; everything that was done before is committed."""
    with filesystem.index_transaction() as index:
        index.garbage.watch()
    filesystem.commit()
    try:
        yield
    finally:
        with filesystem.index_transaction() as index:
            index.garbage.unwatch()


def _pieces(batches: Iterable[list[int]]) -> Iterator[list[int]]:
    """The same, `ROWS_AT_ONCE` at a time."""
    for batch in batches:
        for start in range(0, len(batch), ROWS_AT_ONCE):
            yield batch[start : start + ROWS_AT_ONCE]
