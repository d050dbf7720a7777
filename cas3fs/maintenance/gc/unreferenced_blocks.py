# SPDX-License-Identifier: GPL-3.0-or-later
"""Drops blocks from the index that no chunk references, and marks packs without blocks as dead.

Unreferenced blocks are searched without the file system's lock, and each is decided again under it: from before the
search on, the index records which blocks become referenced (`cas3fs.index.garbage`). The lock is held for some hundred
rows at a time.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from cas3fs.filesystem import FileSystem
from cas3fs.index import IndexReader
from cas3fs.index.scans import DeadBlockScan, EmptyPackScan
from cas3fs.maintenance.context import ProgressCallback
from cas3fs.maintenance.snapshot_index import check_chunk_checksums

ROWS_AT_ONCE: Final = 500
"""Rows that are changed under the lock at once; each may change a page of its own in the index on hashes."""
BATCHES_IN_GROUP: Final = 4
"""Changes stay in memory until they are committed, and a commit writes them under the lock."""


def drop_unreferenced_blocks(filesystem: FileSystem, next_ordinal: int, report: ProgressCallback) -> int:
    """Drops unreferenced blocks, but for those in packs that are born with the next snapshot or later, and marks empty
    packs as dead from the next snapshot on.

    Args:
        next_ordinal: of the next snapshot.

    Returns:
        The number of blocks that were dropped.

    Raises:
        IndexCorrupt: the index has lost chunks, so it does not show which blocks are unreferenced.
        IndexDatabaseError: the index failed; what was dropped before stays dropped.
    """
    dropped = 0
    filesystem.complete_index()
    with _references_recorded(filesystem):
        with IndexReader(filesystem.index_path) as reader:
            check_chunk_checksums(reader)
        with DeadBlockScan(filesystem.index_path, next_ordinal) as unreferenced:
            for number, blocks in enumerate(_batches(unreferenced), 1):
                report({"what": "dropping blocks", "done": dropped, "total": 0})
                with filesystem.index_transaction() as index:
                    dropped += index.garbage.delete_blocks(blocks, next_ordinal)
                time.sleep(0)  # lets a thread run that waits for the lock
                if number % BATCHES_IN_GROUP == 0:
                    filesystem.commit()
        filesystem.commit()
        report({"what": "marking packs"})
        with filesystem.index_transaction() as index:
            index.garbage.delete_stale_lost_marks()
        with EmptyPackScan(filesystem.index_path, next_ordinal) as empty:
            for packs in _batches(empty):
                with filesystem.index_transaction() as index:
                    index.garbage.mark_packs_dead(packs, next_ordinal, next_ordinal)
                time.sleep(0)
    filesystem.commit()
    return dropped


@contextmanager
def _references_recorded(filesystem: FileSystem) -> Iterator[None]:
    """While this context is open, the index records which blocks become referenced. All earlier operations are
    committed before."""
    with filesystem.index_transaction() as index:
        index.garbage.watch()
    filesystem.commit()
    try:
        yield
    finally:
        with filesystem.index_transaction() as index:
            index.garbage.unwatch()


def _batches(scan: Iterable[list[int]]) -> Iterator[list[int]]:
    """The ids of a scan, `ROWS_AT_ONCE` at a time."""
    for ids in scan:
        for start in range(0, len(ids), ROWS_AT_ONCE):
            yield ids[start : start + ROWS_AT_ONCE]
