# SPDX-License-Identifier: GPL-3.0-or-later
"""What gc and fsck take beside the store's answers does not grow with the volume: memory, listings, the time that the
lock is held, and the packs that a repair reads. The times are measured by ``./dev bench crowd``.
"""

import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cas3fs.errors import StoreError
from cas3fs.index import Index, scans
from cas3fs.maintenance import inventory
from cas3fs.maintenance.gc import deletion, unreferenced_blocks
from cas3fs.objectstores.base import Body, ListPage, ObjectInfo
from cas3fs.objectstores.memory import MemoryStore
from tests.maintenance.damaged_volume import DamagedVolume, flip_byte, make_volume, pack_of_f0
from tests.maintenance.memory_volume import KIB, NOW, MemoryVolume, noise, write_files

SIZE = 8_000_000
OLD = datetime.now(UTC) - timedelta(days=1)


class StoreWithManyPacks(MemoryStore):
    """Lists many packs that it does not have, and counts what is listed and read of packs."""

    def __init__(self, packs: int = 0) -> None:
        super().__init__()
        self._count = packs
        self.whole_listings = 0
        self.read: list[str] = []

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self.whole_listings += prefix == start_after == ""
        page = super().list_page(prefix, start_after)
        if self._count and "packs/00000001/".startswith(prefix):
            crowd = self._many_packs(start_after)
            own = [info for info in page.objects if not crowd or info.key <= crowd[-1].key or len(crowd) < 1000]
            found = sorted([*own, *crowd], key=lambda info: info.key)
            is_last = page.next_start is None and len(own) == len(page.objects) and len(crowd) < 1000
            return ListPage(found, None if is_last else found[-1].key)
        return page

    def _many_packs(self, start_after: str) -> list[ObjectInfo]:
        key = "packs/00000001/{:064x}".format
        after = 0
        if start_after.startswith("packs/00000001/"):
            after = int(start_after.rpartition("/")[2], 16) + 1
        elif start_after > "packs/00000001/":
            return []
        return [ObjectInfo(key(one), SIZE, OLD) for one in range(after, min(after + 1000, self._count))]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start + length == self.head(key).size:  # the table of contents is at the end
            self.read.append(key)
        return super().get_range(key, start, length)

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        super().put_if_absent(key, body, metadata)


def enter_packs(volume: MemoryVolume, packs: int) -> None:
    """Enters those packs in the index, each with an unreferenced block."""
    volume.fs.commit()
    with closing(sqlite3.connect(volume.folder / "index.sqlite")) as database, database:
        names = ((1000 + one, f"00000001/{one:064x}", SIZE, 1) for one in range(packs))
        database.executemany("INSERT INTO packs (id, name, size, born) VALUES (?, ?, ?, ?)", names)
        blocks = ((one.to_bytes(32, "big"), 1000 + one) for one in range(packs))
        database.executemany(
            "INSERT INTO blocks (hash, pack, offset, stored_length, plain_length) VALUES (?, ?, 32, 4000, 4096)", blocks
        )


def peak_memory_of_a_plan(folder: Path, packs: int) -> int:
    """The most memory that planning a gc takes, in bytes."""
    volume = MemoryVolume(folder, StoreWithManyPacks(packs))
    write_files(volume, 2)
    volume.publish()
    enter_packs(volume, packs)
    volume.collector.plan(NOW)
    tracemalloc.start()
    plan = volume.collector.plan(NOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.dead_packs == packs
    volume.close()
    return peak


@pytest.mark.promise("gc-memory-is-bounded")
def test_the_memory_of_a_gc_does_not_grow_with_the_number_of_packs(tmp_path: Path) -> None:
    few, many = peak_memory_of_a_plan(tmp_path / "few", 3000), peak_memory_of_a_plan(tmp_path / "many", 30_000)
    # holding a name and a number of each would take 6 MB more; garbage that Python has not collected yet varies
    assert many < few + 1000 * KIB


@pytest.mark.promise("gc-memory-is-bounded")
def test_a_gc_lists_once_and_rereads_only_the_newest_manifest(tmp_path: Path) -> None:
    store = StoreWithManyPacks()
    volume = MemoryVolume(tmp_path / "volume", store)
    for number in range(5):
        volume.write(f"f{number}", noise(number))
        volume.publish()
    volume.remove("f0")
    store.whole_listings = 0
    asked: list[str] = []
    get = store.get
    store.get = lambda key: asked.append(key) or get(key)  # type: ignore[method-assign,func-returns-value]
    volume.gc()
    manifests = [key for key in asked if key.startswith("snapshots/")]
    assert store.whole_listings == 1
    newest = max(manifests)
    again = Counter(manifests) - Counter(set(manifests))
    assert again == {newest: 1}, "its index is searched, so it is restored"
    volume.close()


@pytest.mark.promise("gc-memory-is-bounded")
def test_the_lock_is_held_for_a_bounded_number_of_rows(volume: MemoryVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "PAGE_ROWS", 10)
    monkeypatch.setattr(deletion, "DELETE_BATCH", 10)
    monkeypatch.setattr(unreferenced_blocks, "BATCHES_IN_GROUP", 3)
    for number in range(30):
        volume.write(f"f{number}", noise(number))
        volume.fs.store_all()
    first = volume.publish()
    for number in range(30):
        volume.remove(f"f{number}")
    volume.publish()
    volume.delete_snapshot(first)
    changed: list[int] = []
    transaction = volume.fs.index_transaction

    @contextmanager
    def counted() -> Iterator[Index]:
        with transaction() as index:
            before = index.changes
            yield index
            changed.append(index.changes - before)

    monkeypatch.setattr(volume.fs, "index_transaction", counted)
    assert volume.gc().deleted_packs == 30
    assert len(changed) > 15
    assert max(changed) <= 20


@pytest.mark.promise("gc-memory-is-bounded")
def test_a_listing_out_of_order_is_not_relied_on(volume: MemoryVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(volume, 8)
    first = volume.publish()
    for name in volume.names():
        volume.remove(name)
    volume.publish()
    volume.delete_snapshot(first)
    packs = volume.packs()
    listed = volume.store.list

    def list_reversed(prefix: str = "", start_after: str = "") -> Iterator[ObjectInfo]:
        found = list(listed(prefix, start_after))
        return iter(found[::-1] if prefix == "" else found)

    with monkeypatch.context() as patch:
        patch.setattr(volume.store, "list", list_reversed)
        with pytest.raises(StoreError, match="cannot be relied on"):
            volume.gc()
    assert volume.packs() == packs


def test_a_listing_in_ranges_misses_no_dead_or_unknown_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "RANGE_OBJECTS", 1)
    store = StoreWithManyPacks()
    store.lists_side_by_side = True
    volume = MemoryVolume(tmp_path / "volume", store)
    for number in range(8):
        volume.write(f"f{number}", noise(number))
        volume.fs.store_all()
    first = volume.publish()
    for number in range(4):
        volume.remove(f"f{number}")
    volume.publish()
    volume.delete_snapshot(first)
    unknown = [f"packs/00000001/{digit * 64}" for digit in "05af"]
    for key in unknown:
        store.put_if_absent(key, b"of nobody")
    store.whole_listings = 0
    result = volume.gc()
    assert (result.deleted_packs, result.deleted_strays) == (4, len(unknown))
    assert len(volume.packs()) == 4
    assert store.whole_listings == 1, "the first range begins where a listing of everything does"
    volume.close()


@pytest.mark.encryption("plain")  # which bytes are read tells which are looked for
class TestRecoveryOfALostBlock:
    """A repair searches packs for a lost block."""

    @pytest.fixture
    def damaged(self, encryption: str, tmp_path: Path) -> Iterator[DamagedVolume]:
        made = make_volume(tmp_path / "volume", store=StoreWithManyPacks())
        yield made
        made.close()

    @pytest.mark.promise("repair-reads-only-what-may-help")
    def test_packs_with_only_the_blocks_of_the_index_are_not_read(self, damaged: DamagedVolume) -> None:
        for number in range(20):
            damaged.write(f"other{number}", noise(100 + number))
            damaged.fs.store_all()
        pack = f"packs/{pack_of_f0(damaged)}"
        flip_byte(damaged, pack, 5000)
        assert isinstance(damaged.inner, StoreWithManyPacks)
        damaged.inner.read.clear()
        assert damaged.fsck(verify_data=True).status == 1
        assert set(damaged.inner.read) == {pack}

    @pytest.mark.promise("repair-reads-only-what-may-help")
    def test_packs_with_more_blocks_and_unknown_packs_are_read(self, damaged: DamagedVolume) -> None:
        damaged.write("a", noise(100))
        damaged.write("b", noise(101))
        damaged.fs.store_all()
        damaged.remove("a")
        damaged.gc()
        damaged.inner.put_if_absent("packs/00000001/" + "ab" * 32, b"an upload that broke off")
        pack = f"packs/{pack_of_f0(damaged)}"
        flip_byte(damaged, pack, 5000)
        assert isinstance(damaged.inner, StoreWithManyPacks)
        damaged.inner.read.clear()
        damaged.fsck(verify_data=True)
        assert pack in damaged.inner.read and "packs/00000001/" + "ab" * 32 in damaged.inner.read
        assert len(set(damaged.inner.read)) == 3
