# SPDX-License-Identifier: GPL-3.0-or-later
"""gc on stores that fail, or whose listings are incomplete: it deletes nothing."""

import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from cas3fs.blockstore.pack_store import pack_key
from cas3fs.errors import ObjectMissing, SnapshotError, StoreBusy, StoreError
from cas3fs.maintenance.context import ProgressCallback, ignore_progress
from cas3fs.objectstores.base import Body, ListPage, ObjectInfo, ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from tests.maintenance.memory_volume import NOW, MemoryVolume, make_garbage


class ScriptedStore(MemoryStore):
    """Lists in short pages, with faults that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.failing_page = 0
        self.dropped_key = ""
        self.dropped_from: str | None = None
        """The prefix whose listing lacks that key; None for any."""
        self.pages = 0

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        page = super().list_page(prefix, start_after)
        self.pages += prefix == ""
        if self.failing_page and self.pages >= self.failing_page and not prefix:
            raise StoreError("503 for page 3")
        dropped_key = self.dropped_key if self.dropped_from in {None, prefix} else ""
        shown = [info for info in page.objects if info.key != dropped_key][:4]
        return ListPage(shown, shown[-1].key if len(page.objects) > 4 else page.next_start)


class TestStoresThatFail:
    """An incomplete listing or an unreadable manifest ends the gc before the first deletion."""

    @pytest.fixture
    def scripted(self, tmp_path: Path) -> MemoryVolume:
        volume = MemoryVolume(tmp_path / "scripted", ScriptedStore())
        make_garbage(volume)
        return volume

    def check_nothing_is_deleted(
        self, volume: MemoryVolume, error: type[Exception], text: str, report: ProgressCallback = ignore_progress
    ) -> None:
        tree, before = volume.tree(), {info.key for info in volume.inner.list("p")}
        with pytest.raises(error, match=text):
            volume.gc(report=report)
        assert before <= {info.key for info in volume.inner.list("p")}
        assert volume.tree() == tree
        volume.check_snapshots()
        volume.close()

    @pytest.mark.promise("gc-deletes-nothing-on-doubt")
    def test_an_error_on_a_page_of_the_listing(self, scripted: MemoryVolume) -> None:
        scripted.inner.failing_page = 3
        scripted.inner.pages = 0
        self.check_nothing_is_deleted(scripted, StoreError, "503 for page 3")

    @pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
    def test_a_listing_that_lacks_the_snapshot_that_was_just_published(self, scripted: MemoryVolume) -> None:
        def hide(_: object) -> None:
            scripted.inner.dropped_key = f"snapshots/{scripted.newest}"

        self.check_nothing_is_deleted(scripted, StoreError, "does not list snapshot", hide)

    @pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
    def test_two_listings_of_which_one_lacks_an_old_snapshot(self, scripted: MemoryVolume) -> None:
        scripted.inner.dropped_key = f"snapshots/{scripted.archive.ids()[0]}"
        scripted.inner.dropped_from = ""
        self.check_nothing_is_deleted(scripted, StoreError, "does not list snapshot")

    def test_a_listing_of_snapshots_that_lacks_one_which_is_there(self, scripted: MemoryVolume) -> None:
        scripted.inner.dropped_key = f"snapshots/{scripted.archive.ids()[0]}"
        scripted.inner.dropped_from = "snapshots/"
        scripted.gc()
        scripted.inner.dropped_key = ""
        scripted.check_snapshots()

    @pytest.mark.promise("gc-deletes-nothing-on-doubt")
    def test_a_listing_that_lacks_a_pack(self, scripted: MemoryVolume) -> None:
        scripted.inner.dropped_key = next(iter(scripted.packs()))
        before = len(scripted.inner._objects) if hasattr(scripted.inner, "_objects") else None
        with pytest.raises(StoreError, match="does not list 1 packs"):
            scripted.gc()
        assert before is None or len(scripted.inner._objects) >= before
        scripted.check_snapshots()
        scripted.close()

    @pytest.mark.promise("packs-of-all-snapshots-are-merged-first", "gc-deletes-nothing-on-doubt")
    def test_a_manifest_that_cannot_be_read(self, volume: MemoryVolume) -> None:
        make_garbage(volume)
        oldest = volume.archive.ids()[0]
        data = bytearray(volume.inner.get(f"snapshots/{oldest}"))
        data[len(data) // 2] ^= 1
        volume.inner.delete_many([f"snapshots/{oldest}"])
        volume.inner.put_if_absent(f"snapshots/{oldest}", bytes(data))
        packs = volume.packs()
        with pytest.raises(SnapshotError, match="nothing is deleted"):
            volume.gc()
        assert set(packs) <= set(volume.packs())

    def test_a_missing_pack(self, volume: MemoryVolume) -> None:
        make_garbage(volume)
        packs = volume.packs()
        volume.inner.delete_many([next(iter(packs))])
        with pytest.raises(StoreError, match="does not list 1 packs"):
            volume.gc()
        assert set(volume.packs()) >= set(list(packs)[1:])

    def test_a_pack_that_is_listed_but_missing(self, volume: MemoryVolume, monkeypatch: pytest.MonkeyPatch) -> None:
        make_garbage(volume)
        tree = volume.tree()
        sparse = {pack_key(name) for name in volume.collector.plan(NOW).rewrites}
        assert sparse
        get_range = volume.inner.get_range

        def answer(key: str, start: int, length: int) -> bytes:
            if key in sparse:
                raise ObjectMissing(f"404 for {key}")
            return get_range(key, start, length)

        with monkeypatch.context() as patch:
            patch.setattr(volume.inner, "get_range", answer)
            result = volume.gc()
        assert result.unreadable_packs == len(sparse) and "404" in result.problems[0]
        assert sparse <= {info.key for info in volume.inner.list("p")}
        assert volume.tree() == tree
        volume.snapshots[str(volume.newest)] = tree  # it could not be read when it was taken
        volume.check_snapshots()


class FlakyStore(ObjectStore):
    """One request in ten fails."""

    def __init__(self, inner: ObjectStore, seed: int) -> None:
        self.inner, self.url = inner, inner.url
        self.random = random.Random(seed)
        self.share = 0.0

    def _may_fail(self) -> None:
        if self.random.random() < self.share:
            raise StoreBusy("503 for the test")

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self._may_fail()
        self.inner.put_if_absent(key, body, metadata)
        self._may_fail()

    def get(self, key: str) -> bytes:
        self._may_fail()
        return self.inner.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._may_fail()
        return self.inner.get_range(key, start, length)

    def head(self, key: str) -> ObjectInfo:
        self._may_fail()
        return self.inner.head(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self._may_fail()
        return self.inner.list_page(prefix, start_after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._may_fail()
        self.inner.delete_many(list(keys))
        self._may_fail()

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("seed", range(6))
def test_on_a_store_that_fails_one_request_in_ten_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    flaky = FlakyStore(MemoryStore(), seed)
    volume = MemoryVolume(tmp_path / "volume", flaky)
    make_garbage(volume)
    tree = volume.tree()
    flaky.share = 0.1
    for _ in range(60):
        with suppress(StoreError, SnapshotError):
            volume.gc()
            break
    flaky.share = 0.0
    # what a snapshot showed could not always be read when it was taken
    volume.snapshots.update({one: tree for one in volume.archive.ids() if not volume.snapshots.get(one)})
    volume.check_snapshots()
    assert volume.tree() == tree
    volume.gc()
    volume.check_snapshots()
    volume.close()
