# SPDX-License-Identifier: GPL-3.0-or-later
"""gc frees what nothing names, and never anything else."""

import os
from pathlib import Path

import attrs
import pytest

from cas3fs.blockstore import BlockReader
from cas3fs.blockstore.reader import WaitGuard
from cas3fs.errors import Fenced, VolumeError
from cas3fs.filesystem import Owner
from cas3fs.filesystem.reading.read_plan import ReadPlan
from cas3fs.maintenance.plans import GcSettings
from cas3fs.values import Buffer
from tests.maintenance.rig import KIB, NOW, Rig, fill, noise


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
    def test_one_of_a_later_epoch_ends_the_gc_as_another_writer_has_taken_over(self, rig: Rig, epoch: int) -> None:
        key = self.KEY.replace("00000001", f"{epoch:08d}")
        rig.inner.put_if_absent(key, b"another's")
        with pytest.raises(Fenced):
            rig.gc()
        assert key in rig.packs()

    def test_one_of_an_epoch_that_ended_goes(self, rig: Rig, tmp_path: Path) -> None:
        rig.inner.put_if_absent(self.KEY, b"half a pack")
        after = rig.killed(tmp_path / "after")
        assert after.epoch == 2
        after.gc()
        assert after.packs() == {}
        after.close()

    @pytest.mark.promise("gc-decides-again-when-it-deletes")
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

    @pytest.mark.promise("gc-decides-again-when-it-deletes")
    def test_a_pack_on_its_way_is_known(self, rig: Rig) -> None:
        rig.inner.put_if_absent(self.KEY, b"on its way")
        rig.fs._writer._unrecorded.add(self.KEY.removeprefix("packs/"))
        rig.gc()
        assert self.KEY in rig.packs()


class TestWhatIsWrittenMeanwhile:
    """gc decides anew at the moment when it deletes."""

    @pytest.mark.promise("a-known-block-is-checked-again")
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

    @pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
    def test_a_second_gc_at_the_same_time_is_refused(self, rig: Rig) -> None:
        def again(told: object) -> None:
            with pytest.raises(VolumeError, match="under way"):
                rig.gc()

        rig.gc(report=again)

    def test_a_stopped_gc_ends_before_its_next_step(self, rig: Rig) -> None:
        rig.collector.stop()
        with pytest.raises(VolumeError, match="stopped"):
            rig.gc()


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

    def late(plan: ReadPlan, reader: BlockReader, wait_guard: WaitGuard) -> Buffer:
        ReadPlan.carry_out = carry_out  # type: ignore[method-assign]
        assert rig.gc().rewritten_packs == 1
        for snapshot in [one for one in rig.snapshots if one != rig.newest]:
            rig.drop_snapshot(snapshot)
        assert rig.gc().deleted_packs == 1
        return carry_out(plan, reader, wait_guard)

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
