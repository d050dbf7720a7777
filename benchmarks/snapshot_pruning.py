# SPDX-License-Identifier: GPL-3.0-or-later
"""The cost of retaining many snapshots: requests, time and memory of pruning after a snapshot."""

import tempfile
import time
import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cas3fs.entries.kinds import PagesUse, SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.objectstores.base import ListPage
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import set_policy
from cas3fs.values import SnapshotNumber
from cas3fs.volume.pruner import SnapshotPruner

PAGES_OF_ONE = 64
_PUBLISHINGS = 5
_INTERVAL = timedelta(minutes=5)


class PruningCost(NamedTuple):
    """The average cost of pruning once, and the memory for all snapshots."""

    gets: float
    listings: float
    seconds: float
    memory_mib: float


class _CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.requests["get"] += 1
        return super().get(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self.requests["list"] += 1
        return super().list_page(prefix, start_after)


def measure(snapshots: int) -> PruningCost:
    """Measure a volume with so many snapshots; each new snapshot causes the oldest to be pruned."""
    store = _CountingStore()
    _fill(store, snapshots)
    archive, epochs = SnapshotArchive(Shelf(store)), Epochs(Shelf(store))
    set_policy(archive.shelf, RetentionPolicy(last=snapshots), conditional_writes=True)
    with tempfile.TemporaryDirectory(prefix="cas3fs-bench-") as folder:
        claim = epochs.claim(WriterIdentity.of_this_process(), Path(folder) / "claim.json")
        pruner = SnapshotPruner(archive, epochs, claim, lambda: SnapshotNumber(claim.epoch, 1), shown=dict)
        tracemalloc.start()
        pruner.prune_expired()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        index = Path(folder) / "index"
        requests: Counter[str] = Counter()
        spent_s = 0.0
        for number in range(snapshots + 1, snapshots + 1 + _PUBLISHINGS):
            index.write_bytes(number.to_bytes(8, "big") * 4096)
            pruner.published(archive.create(index, epoch=1, sequence=number))
            store.requests.clear()
            started_s = time.perf_counter()
            pruner.prune_expired()
            spent_s += time.perf_counter() - started_s
            requests += store.requests
    gets, listings = (requests[kind] / _PUBLISHINGS for kind in ("get", "list"))
    return PruningCost(gets, listings, spent_s / _PUBLISHINGS, held / (1 << 20))


def _fill(store: MemoryStore, snapshots: int) -> None:
    begun = datetime.now(UTC) - _INTERVAL * (snapshots + 1)
    for number in range(1, snapshots + 1):
        pages = (str(SnapshotNumber(1, max(number - back, 1))) for back in range(PAGES_OF_ONE))
        entry = SnapshotEntry(
            id=str(SnapshotNumber(1, number)),
            epoch=1,
            sequence=number,
            time=begun + _INTERVAL * number,
            index_size=0,
            segment_size=16384,
            list_length=256,
            parts=(),
            pages=tuple(PagesUse(one, 70_000 + number, 80_000) for one in pages),
        )
        Shelf(store).save(entry)
