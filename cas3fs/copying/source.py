# SPDX-License-Identifier: GPL-3.0-or-later
"""The source of a copy: its snapshots and blocks, which are only read."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blockstore.reader import BlockReader
from cas3fs.caches.memory import MemoryCache
from cas3fs.entries.kinds import SnapshotEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import Cas3fsError, ObjectMissing, SnapshotDamaged
from cas3fs.index import IndexReader, migrations
from cas3fs.index.copying import unplaced_chunks
from cas3fs.index.files import remove_database
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.snapshot_reader import RestoreProgress
from cas3fs.units import MIB
from cas3fs.values import BlockLocation

HINTED_BLOCKS: Final = 256
"""So many blocks are announced to the reader before they are needed."""
_READ_AHEAD_BYTES: Final = 8 * MIB
"""For each request that may run in parallel."""
_LEAST_MEMORY_BYTES: Final = 64 * MIB
_MOST_MEMORY_BYTES: Final = 512 * MIB


class SnapshotGone(Cas3fsError):
    """The writer of the source has deleted the snapshot that is being copied."""


class CopySource:
    """An opened volume that is copied.

    Args:
        store: its store, which gives plain bytes.
        entry: what it was made with.
        requests: how many requests may run in parallel.
    """

    def __init__(self, store: ObjectStore, entry: VolumeEntry, requests: int) -> None:
        self.store = store
        self.entry = entry
        self.archive = SnapshotArchive(Shelf(store), workers=requests)
        self.chunker = make_chunker(entry.chunker, entry.block_size)
        self.reader = block_reader(store, entry, requests)

    @property
    def is_encrypted(self) -> bool:
        """Whether its hashes are keyed."""
        return self.entry.cipher is not None

    def has_snapshot(self, snapshot_id: str) -> bool:
        """Whether a snapshot exists now; raises StoreError if the store failed."""
        try:
            self.store.head(SnapshotEntry.key_of(snapshot_id))
        except ObjectMissing:
            return False
        return True

    def check_snapshot(self, snapshot_id: str) -> None:
        """Raises SnapshotGone if a snapshot does not exist any more."""
        if not self.has_snapshot(snapshot_id):
            raise SnapshotGone(f"{self.store.url} has no snapshot {snapshot_id} any more")

    def restore(self, snapshot_id: str, index: Path, progress: RestoreProgress) -> None:
        """Writes the index of a snapshot to a file, in place of what is there, and checks it.

        Raises:
            SnapshotGone: it does not exist any more.
            SnapshotDamaged: it cannot be read, or its index has lost chunks.
            StoreError, IndexDatabaseError: store or disk failed.
        """
        remove_database(index)
        self.check_snapshot(snapshot_id)
        self.archive.restore(snapshot_id, index, progress)
        migrations.upgrade(index)
        with IndexReader(index) as reader:
            defects = reader.checksum_mismatches()
        if defects or unplaced_chunks(index):
            raise SnapshotDamaged(
                f"the index of snapshot {snapshot_id} has lost where parts of files are stored: "
                f"`cas3fs fsck --repair {self.store.url}` mends the newest state; then copy that"
            )

    def close(self) -> None:
        """Ends the reader; the caller closes the store."""
        self.reader.close()


def block_reader(store: ObjectStore, entry: VolumeEntry, requests: int) -> BlockReader:
    """A reader for blocks that are needed once, in order, with as many parallel requests."""
    memory_bytes = min(max(_LEAST_MEMORY_BYTES, 2 * requests * _READ_AHEAD_BYTES), _MOST_MEMORY_BYTES)
    return BlockReader(
        store,
        MemoryCache(memory_bytes),
        None,
        metrics=Metrics(),
        fetch_workers=requests,
        ahead_bytes=memory_bytes // 2,
        pack_size_bytes=entry.pack_size,
    )


def announced(reader: BlockReader, blocks: Iterable[BlockLocation]) -> Iterator[BlockLocation]:
    """The blocks, in order; those that follow are announced to the reader in time."""
    remaining = iter(blocks)
    group = list(islice(remaining, HINTED_BLOCKS))
    reader.prefetch(group)
    while group:
        following: Sequence[BlockLocation] = list(islice(remaining, HINTED_BLOCKS))
        reader.prefetch(following)
        yield from group
        group = list(following)
