# SPDX-License-Identifier: GPL-3.0-or-later
"""gc frees what nothing names, and never anything else."""

import os
import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from cas3fs.blockstore import BlockReader
from cas3fs.blockstore.reader import Gate
from cas3fs.errors import BlockMissing, ObjectMissing, SnapshotError, StoreBusy, StoreError, VolumeError
from cas3fs.filesystem import Owner
from cas3fs.filesystem.contents import ReadPlan
from cas3fs.maintenance.base import Report, silent
from cas3fs.maintenance.plans import GcSettings
from cas3fs.maintenance.survey import key_of_pack
from cas3fs.objectstores.base import Body, ListPage, ObjectInfo, ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.values import Buffer
from tests.maintenance.rig import KIB, NOW, Rig, noise


def fill(rig: Rig, count: int = 8, start: int = 0) -> None:
    for number in range(start, start + count):
        rig.write(f"f{number}", noise(number))


def test_deleted_files_are_freed_when_the_last_snapshot_that_shows_them_goes(rig: Rig) -> None:
    fill(rig)
    first = rig.publish()
    before = set(rig.packs())
    for name in rig.names():
        rig.remove(name)
    result = rig.gc()
    assert result.dropped_blocks == 8 * 5
    assert set(rig.packs()) == before
    assert result.held_bytes > 160 * KIB
    rig.check_snapshots()
    rig.drop_snapshot(first)
    assert rig.gc().deleted_packs == len(before)
    assert rig.packs() == {}
    rig.check_snapshots()


def test_after_everything_was_deleted_next_to_nothing_is_left(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rig", block_bytes=64 * KIB)
    for number in range(40):
        rig.write(f"f{number}", noise(number, 256 * KIB))
    first = rig.publish()
    stored = rig.stored_bytes()
    for name in rig.names():
        rig.remove(name)
    rig.publish()
    rig.drop_snapshot(first)
    rig.gc()
    assert rig.packs() == {}
    assert rig.stored_bytes() < 0.01 * stored
    rig.check_snapshots()
    rig.close()


def test_what_is_named_stays(rig: Rig) -> None:
    fill(rig)
    rig.publish()
    before = rig.packs()
    result = rig.gc()
    assert (result.dropped_blocks, result.deleted_packs, result.rewritten_packs) == (0, 0, 0)
    assert rig.packs() == before


def test_a_plan_tells_what_is_freed_and_changes_nothing(rig: Rig) -> None:
    fill(rig)
    first = rig.publish()
    for name in ("f0", "f1", "f2", "f3", "f4", "f5", "f6"):
        rig.remove(name)
    rig.fs.commit()
    before = {info.key for info in rig.inner.list()}
    plan = rig.collector.plan(NOW)
    assert plan.dead_blocks == 7 * 5
    assert [one.snapshot for one in plan.held] == [first]
    assert plan.held[0].bytes == plan.held[0].bytes_alone == plan.dead_pack_bytes
    assert plan.free_bytes == 0
    assert len(plan.rewrites) == 1
    assert 20 * KIB <= plan.rewrite_bytes < plan.rewrite_bytes + plan.rewrite_frees_bytes
    assert plan.requests.price_usd > 0
    assert {info.key for info in rig.inner.list()} == before
    assert rig.collector.plan(NOW).as_json() == plan.as_json()


def test_a_plan_tells_what_goes_free_with_each_snapshot_and_with_all_older_ones(rig: Rig) -> None:
    fill(rig, 3)
    first = rig.publish()
    fill(rig, 3, 10)
    second = rig.publish()
    for name in rig.names():
        rig.remove(name)
    rig.gc()
    held = {one.snapshot: one for one in rig.collector.plan(NOW).held}
    early, late = held[first], held[second]
    assert early.bytes_alone == early.bytes_with_older == 0  # the second needs all of it, too
    assert 0 < early.bytes < late.bytes == late.bytes_with_older
    assert late.bytes_alone == late.bytes - early.bytes
    rig.drop_snapshot(first)
    rig.drop_snapshot(second)
    assert rig.gc().freed_bytes == late.bytes_with_older


def test_sparse_packs_are_rewritten_within_the_limit(rig: Rig) -> None:
    fill(rig, 30)
    first = rig.publish()
    for number in range(30):
        if number % 3:
            rig.remove(f"f{number}")
    left = rig.tree()
    limited = rig.gc(GcSettings(grace_s=0, max_rewrite_bytes=50 * KIB))
    assert 0 < limited.rewritten_bytes <= 50 * KIB
    full = rig.gc()
    assert full.rewritten_packs > limited.rewritten_packs
    rig.check_snapshots()
    for snapshot in [one for one in rig.snapshots if one != rig.newest]:
        rig.drop_snapshot(snapshot)
    assert first not in rig.snapshots
    rig.gc()
    assert sum(rig.packs().values()) < 1.1 * 10 * 20 * KIB
    assert rig.tree() == left
    assert rig.gc().rewritten_packs == 0
    rig.check_snapshots()


def test_without_a_threshold_nothing_is_rewritten(rig: Rig) -> None:
    fill(rig)
    rig.publish()
    for number in range(7):
        rig.remove(f"f{number}")
    assert rig.gc(GcSettings(min_live=0, grace_s=0)).rewritten_packs == 0


def test_small_packs_that_are_wholly_used_are_not_rewritten_for_ever(rig: Rig) -> None:
    for number in range(3):
        rig.write(f"f{number}", b"%d" % number)
        rig.publish()
    assert rig.collector.plan(NOW).rewrites == ()


class TestStrays:
    """Objects that nothing knows."""

    KEY = "packs/00000001/" + "ab" * 32

    def test_one_of_an_interrupted_upload_goes_when_it_is_old_enough(self, rig: Rig) -> None:
        rig.inner.put_if_absent(self.KEY, b"half a pack")
        assert rig.gc(GcSettings(grace_s=3600)).strays_left == 1
        assert self.KEY in rig.packs()
        result = rig.gc()
        assert (result.deleted_strays, result.stray_bytes) == (1, 11)
        assert self.KEY not in rig.packs()

    @pytest.mark.parametrize("epoch", [2, 9])
    def test_one_of_a_later_epoch_stays(self, rig: Rig, epoch: int) -> None:
        key = self.KEY.replace("00000001", f"{epoch:08d}")
        rig.inner.put_if_absent(key, b"another's")
        result = rig.gc()
        assert key in rig.packs()
        assert result.strays_left == 1

    def test_one_of_an_epoch_that_ended_goes(self, rig: Rig, tmp_path: Path) -> None:
        rig.inner.put_if_absent(self.KEY, b"half a pack")
        after = rig.killed(tmp_path / "after")
        assert after.epoch == 2
        after.gc()
        assert after.packs() == {}
        after.close()

    def test_one_of_an_epoch_that_was_taken_over_stays(self, rig: Rig, tmp_path: Path) -> None:
        rig.inner.put_if_absent(self.KEY, b"perhaps to be rescued")
        other = Rig(tmp_path / "other", rig.inner, take_over=True)
        assert other.gc().strays_left == 1
        assert self.KEY in other.packs()
        other.close()

    def test_one_of_no_kind_stays_and_is_told(self, rig: Rig) -> None:
        rig.inner.put_if_absent("holiday/photo.jpg", b"not ours")
        plan = rig.collector.plan(NOW)
        assert [one.key for one in plan.strays] == ["holiday/photo.jpg"]
        rig.gc()
        assert rig.inner.get("holiday/photo.jpg") == b"not ours"

    def test_pages_of_a_snapshot_that_was_never_finished_go(self, rig: Rig) -> None:
        fill(rig, 1)
        rig.publish()
        rig.inner.put_if_absent("pages/00000001-0000000000", b"no manifest")
        rig.inner.put_if_absent("pages/00000001-0000000099", b"yet to come")
        rig.gc()
        left = {info.key for info in rig.inner.list("pages/")}
        assert "pages/00000001-0000000000" not in left
        assert "pages/00000001-0000000099" in left
        rig.check_snapshots()

    def test_a_pack_on_its_way_is_known(self, rig: Rig) -> None:
        rig.inner.put_if_absent(self.KEY, b"on its way")
        rig.fs._writer._unrecorded.add(self.KEY.removeprefix("packs/"))
        rig.gc()
        assert self.KEY in rig.packs()


class TestWhatIsWrittenMeanwhile:
    """gc decides anew at the moment when it deletes."""

    @pytest.mark.parametrize("step", ["listing", "merging", "dropping blocks", "marking packs", "publishing"])
    def test_data_whose_block_is_being_collected_is_safe(self, rig: Rig, step: str) -> None:
        fill(rig)
        rig.publish()
        for name in rig.names():
            rig.remove(name)

        def meddle(told: dict[str, object]) -> None:
            if told["what"] == step:
                fill(rig, 4)
                with rig.fs.lock:
                    assert rig.fs.staging.files
                rig.fs.store_all()

        rig.gc(report=meddle)
        for snapshot in [one for one in rig.snapshots if one != rig.newest]:
            rig.drop_snapshot(snapshot)
        rig.gc()
        assert rig.tree() == {f"f{number}": noise(number) for number in range(4)}
        rig.publish()
        rig.check_snapshots()

    def test_a_second_gc_at_the_same_time_is_refused(self, rig: Rig) -> None:
        def again(told: object) -> None:
            with pytest.raises(VolumeError, match="under way"):
                rig.gc()

        rig.gc(report=again)

    def test_a_stopped_gc_ends_before_its_next_step(self, rig: Rig) -> None:
        rig.collector.stop()
        with pytest.raises(VolumeError, match="stopped"):
            rig.gc()


class Killed(BaseException):
    """The process is gone."""


def garbage(rig: Rig) -> None:
    """Some dead packs, some sparse ones, some held by snapshots, and a stray."""
    fill(rig, 12)
    first = rig.publish()
    fill(rig, 8, 20)
    second = rig.publish()
    for number in (0, 1, 2, 3, 5, 7, 9, 20, 21, 22, 23, 24, 25):
        rig.remove(f"f{number}")
    rig.publish()
    rig.drop_snapshot(first)
    rig.drop_snapshot(second)
    rig.inner.put_if_absent("packs/00000001/" + "cd" * 32, b"stray")


STEPS = (
    "publishing",
    "rewriting packs",
    "moving blocks",
    "listing",
    "merging",
    "dropping blocks",
    "marking packs",
    "putting the snapshot",
    "acknowledging the snapshot",
    "deleting packs",
    "forgetting packs",
    "deleting strays",
)


@pytest.mark.parametrize("commit", [False, True], ids=["in the group", "committed"])
@pytest.mark.parametrize("step", STEPS)
def test_a_gc_that_is_killed_loses_nothing_and_the_next_one_finishes(
    rig: Rig, tmp_path: Path, step: str, commit: bool
) -> None:
    garbage(rig)
    tree = rig.tree()

    def kill(told: dict[str, object]) -> None:
        if told["what"] == step:
            if commit:
                rig.fs.commit()
            raise Killed

    with pytest.raises(Killed):
        rig.gc(report=kill)
    after = rig.killed(tmp_path / "after")
    after.snapshots.update({one: tree for one in after.archive.ids() if one not in after.snapshots})
    assert after.tree() == tree
    after.check_snapshots()
    after.gc()
    after.check_snapshots()
    for snapshot in [one for one in after.snapshots if one != after.newest]:
        after.drop_snapshot(snapshot)
    after.gc()
    assert after.tree() == tree
    after.check_snapshots()
    assert sum(after.packs().values()) < 1.1 * 20 * KIB * len(tree)
    after.close()


class ScriptedStore(MemoryStore):
    """Lists in short pages; what a test says goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.failing_page = 0
        self.dropped_key = ""
        self.dropped_from: str | None = None
        """The one prefix whose listing lacks that key; None for any."""
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
    """Whatever is not complete ends the gc before the first deletion."""

    @pytest.fixture
    def scripted(self, tmp_path: Path) -> Rig:
        rig = Rig(tmp_path / "scripted", ScriptedStore())
        garbage(rig)
        return rig

    def check_nothing_went(self, rig: Rig, error: type[Exception], text: str, report: Report = silent) -> None:
        tree, before = rig.tree(), {info.key for info in rig.inner.list("p")}
        with pytest.raises(error, match=text):
            rig.gc(report=report)
        assert before <= {info.key for info in rig.inner.list("p")}
        assert rig.tree() == tree
        rig.check_snapshots()
        rig.close()

    def test_an_error_on_page_three(self, scripted: Rig) -> None:
        scripted.inner.failing_page = 3
        scripted.inner.pages = 0
        self.check_nothing_went(scripted, StoreError, "503 for page 3")

    def test_a_listing_that_lacks_the_snapshot_that_was_just_published(self, scripted: Rig) -> None:
        def hide(_: object) -> None:
            scripted.inner.dropped_key = f"snapshots/{scripted.newest}"

        self.check_nothing_went(scripted, StoreError, "does not list snapshot", hide)

    @pytest.mark.parametrize("prefix", ["", "snapshots/"])
    def test_two_listings_of_which_one_lacks_an_old_snapshot(self, scripted: Rig, prefix: str) -> None:
        scripted.inner.dropped_key = f"snapshots/{scripted.archive.ids()[0]}"
        scripted.inner.dropped_from = prefix
        self.check_nothing_went(scripted, SnapshotError, "two listings of the snapshots differ")

    def test_a_listing_that_lacks_a_pack(self, scripted: Rig) -> None:
        scripted.inner.dropped_key = next(iter(scripted.packs()))
        before = len(scripted.inner._objects) if hasattr(scripted.inner, "_objects") else None
        with pytest.raises(StoreError, match="not listed"):
            scripted.gc()
        assert before is None or len(scripted.inner._objects) >= before
        scripted.check_snapshots()
        scripted.close()

    def test_a_manifest_that_cannot_be_read(self, rig: Rig) -> None:
        garbage(rig)
        oldest = rig.archive.ids()[0]
        data = bytearray(rig.inner.get(f"snapshots/{oldest}"))
        data[len(data) // 2] ^= 1
        rig.inner.delete_many([f"snapshots/{oldest}"])
        rig.inner.put_if_absent(f"snapshots/{oldest}", bytes(data))
        packs = rig.packs()
        with pytest.raises(SnapshotError, match="nothing is deleted"):
            rig.gc()
        assert set(packs) <= set(rig.packs())

    def test_a_pack_that_is_gone(self, rig: Rig) -> None:
        garbage(rig)
        packs = rig.packs()
        rig.inner.delete_many([next(iter(packs))])
        with pytest.raises((StoreError, BlockMissing), match=r"lost|not listed"):
            rig.gc()
        assert set(rig.packs()) >= set(list(packs)[1:])

    def test_a_pack_that_is_listed_and_answers_404(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        garbage(rig)
        tree, before = rig.tree(), {info.key for info in rig.inner.list("p")}
        sparse = {key_of_pack(name) for name in rig.collector.plan(NOW).rewrites}
        assert sparse
        get_range = rig.inner.get_range

        def answer(key: str, start: int, length: int) -> bytes:
            if key in sparse:
                raise ObjectMissing(f"404 for {key}")
            return get_range(key, start, length)

        with monkeypatch.context() as patch:
            patch.setattr(rig.inner, "get_range", answer)
            with pytest.raises(BlockMissing):
                rig.gc()
        assert before <= {info.key for info in rig.inner.list("p")}
        assert rig.tree() == tree
        rig.check_snapshots()


def test_a_plan_is_a_value_of_plain_numbers(rig: Rig) -> None:
    fill(rig, 2)
    told = rig.collector.plan(NOW).as_json()
    assert told["free_packs"] == 0
    assert all(not attrs.has(type(value)) for value in told.values())


def test_a_read_that_was_planned_before_a_rewrite_finds_its_blocks(rig: Rig) -> None:
    fill(rig, 3)
    first = rig.publish()
    for name in ("f0", "f1"):
        rig.remove(name)
    inode = rig.fs.lookup(1, b"f2")
    handle = rig.fs.open(inode.number, os.O_RDONLY, Owner(0, 0))
    carry_out = ReadPlan.carry_out

    def late(plan: ReadPlan, reader: BlockReader, gate: Gate) -> Buffer:
        ReadPlan.carry_out = carry_out  # type: ignore[method-assign]
        assert rig.gc().rewritten_packs == 1
        for snapshot in [one for one in rig.snapshots if one != rig.newest]:
            rig.drop_snapshot(snapshot)
        assert rig.gc().deleted_packs == 1
        return carry_out(plan, reader, gate)

    ReadPlan.carry_out = late  # type: ignore[method-assign]
    try:
        assert bytes(rig.fs.read(handle, 0, inode.size)) == noise(2)
    finally:
        ReadPlan.carry_out = carry_out  # type: ignore[method-assign]
    assert first not in rig.snapshots


def test_an_open_file_that_was_read_before_a_rewrite_is_read_on_after_it(rig: Rig) -> None:
    fill(rig, 3)
    rig.publish()
    for name in ("f0", "f1"):
        rig.remove(name)
    inode = rig.fs.lookup(1, b"f2")
    handle = rig.fs.open(inode.number, os.O_RDONLY, Owner(0, 0))
    assert bytes(rig.fs.read(handle, 0, 4096)) == noise(2)[:4096]
    assert rig.gc().rewritten_packs == 1
    for snapshot in [one for one in rig.snapshots if one != rig.newest]:
        rig.drop_snapshot(snapshot)
    assert rig.gc().deleted_packs == 1
    assert bytes(rig.fs.read(handle, 0, inode.size)) == noise(2)
    rig.fs.release(handle)


class Flaky(ObjectStore):
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

    def get_suffix(self, key: str, length: int) -> bytes:
        self._may_fail()
        return self.inner.get_suffix(key, length)

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
    flaky = Flaky(MemoryStore(), seed)
    rig = Rig(tmp_path / "rig", flaky)
    garbage(rig)
    tree = rig.tree()
    flaky.share = 0.1
    for _ in range(60):
        with suppress(StoreError, SnapshotError):
            rig.gc()
            break
    flaky.share = 0.0
    # what a snapshot showed could not always be read when it was taken
    rig.snapshots.update({one: tree for one in rig.archive.ids() if not rig.snapshots.get(one)})
    rig.check_snapshots()
    assert rig.tree() == tree
    rig.gc()
    rig.check_snapshots()
    rig.close()


def rounds(folder: Path, seed: int, count: int) -> None:
    """Writes, deletes, snapshots, collects and is killed at random; everything retained is compared each time."""
    chance = random.Random(seed)
    rig = Rig(folder / "0")
    for number in range(count):
        for _ in range(chance.randrange(1, 8)):
            name = f"f{chance.randrange(20)}"
            if name in rig.names() and chance.random() < 0.5:
                rig.remove(name)
            else:
                rig.write(name, noise(chance.randrange(12), chance.randrange(1, 40 * KIB)))
        if chance.random() < 0.6:
            rig.publish()
        retained = sorted(one for one in rig.snapshots if one != rig.newest)
        if retained and chance.random() < 0.5:
            rig.drop_snapshot(chance.choice(retained))
        tree = rig.tree()
        if chance.random() < 0.7:
            killed_at = chance.randrange(1, 30)
            steps = 0

            def maybe(told: object, killed_at: int = killed_at) -> None:
                nonlocal steps
                steps += 1
                if steps == killed_at:
                    raise Killed

            try:
                rig.gc(report=maybe)
            except Killed:
                after = rig.killed(folder / f"{number + 1}")
                after.snapshots.update({one: tree for one in after.archive.ids() if one not in after.snapshots})
                rig = after
        # what was not committed when it was killed is not promised: gc commits it first
        assert rig.tree() == tree
        rig.check_snapshots()
    rig.close()


@pytest.mark.parametrize("seed", range(4))
def test_rounds_of_everything_with_kills_lose_nothing(tmp_path: Path, seed: int, long: bool) -> None:
    rounds(tmp_path, seed, 50 if long else 10)
