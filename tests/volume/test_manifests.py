# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the snapshots of a volume is not asked for again, and takes little memory."""

import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cas3fs.entries.kinds import PagesUse, SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.errors import SnapshotDamaged
from cas3fs.objectstores.base import ListPage
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import set_policy
from cas3fs.values import SnapshotNumber
from cas3fs.volume.pruner import SnapshotPruner

START = datetime(2026, 1, 1, tzinfo=UTC)


class Counting(MemoryStore):
    """Counts requests by kind and folder."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.asked[f"GET {key.partition('/')[0]}"] += 1
        return super().get(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self.asked[f"LIST {prefix.partition('/')[0]}"] += 1
        return super().list_page(prefix, start_after)


def fill(store: MemoryStore, count: int, pages: int) -> None:
    """So many snapshots, five minutes apart, each of which needs so many pages entries."""
    for number in range(1, count + 1):
        names = (str(SnapshotNumber(1, max(number - one, 1))) for one in range(pages))
        Shelf(store).save(
            SnapshotEntry(
                id=str(SnapshotNumber(1, number)),
                epoch=1,
                sequence=number,
                time=START + timedelta(minutes=5 * number),
                index_size=0,
                segment_size=512,
                list_length=8,
                parts=(),
                pages=tuple(PagesUse(name, 70_000 + number, 80_000) for name in names),
                facts=dict.fromkeys("abcdefgh", number),
            )
        )


@pytest.mark.promise("manifests-are-read-once")
def test_thinning_lists_once_and_reads_no_manifest_that_is_known(tmp_path: Path) -> None:
    store = Counting()
    fill(store, 36, 20)
    archive, epochs = SnapshotArchive(Shelf(store)), Epochs(Shelf(store))
    set_policy(archive.shelf, RetentionPolicy(last=36), conditional_writes=True)
    claim = epochs.claim(WriterIdentity("host", "user", 1), tmp_path / "claim.json")
    pruner = SnapshotPruner(archive, epochs, claim, lambda: SnapshotNumber(claim.epoch, 99), shown=dict)
    pruner.prune_expired()
    index = tmp_path / "index"
    for sequence in range(37, 40):
        index.write_bytes(bytes([sequence]) * 9000)
        pruner.published(archive.create(index, epoch=1, sequence=sequence))
        store.asked.clear()
        pruner.prune_expired()
        assert archive.ids()[0] == str(SnapshotNumber(1, sequence - 35))
        assert store.asked["GET snapshots"] == 0
        assert store.asked["LIST snapshots"] == 2, "once by this test"
        assert store.asked["LIST pages"] == 1
        assert store.asked["LIST policies"] + store.asked["GET policies"] == 0


@pytest.mark.promise("manifests-are-read-once")
def test_two_hundred_snapshots_take_little_memory() -> None:
    store = MemoryStore()
    fill(store, 200, 64)
    archive = SnapshotArchive(Shelf(store), workers=2)
    tracemalloc.start()
    try:
        assert len(archive.list()) == len(archive.list()) == 200
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4 << 20


@pytest.mark.promise("manifests-are-read-once")
def test_a_manifest_that_changed_in_the_store_is_read_again(tmp_path: Path) -> None:
    store = MemoryStore()
    fill(store, 3, 2)
    archive = SnapshotArchive(Shelf(store))
    assert len(archive.list()) == 3
    key = SnapshotEntry.key_of(str(SnapshotNumber(1, 2)))
    body = bytearray(store.get(key))
    body[100] ^= 1
    store.delete_many([key])
    store.put_if_absent(key, bytes(body))
    with pytest.raises(SnapshotDamaged):
        archive.list()
