# SPDX-License-Identifier: GPL-3.0-or-later
"""gc deletes what nothing references, and never anything else."""

import os
from pathlib import Path

import attrs
import pytest

from cas3fs.blockstore import BlockReader, BlockWriter
from cas3fs.blockstore.reader import WaitGuard
from cas3fs.errors import Fenced, VolumeError
from cas3fs.filesystem import Owner
from cas3fs.filesystem.reading.read_plan import ReadPlan
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.values import Buffer
from tests.maintenance.memory_volume import KIB, NOW, MemoryVolume, noise, write_files

pytestmark = pytest.mark.encryption("plain", "encrypted")


def test_deleted_files_are_freed_with_the_last_snapshot_that_has_them(volume: MemoryVolume) -> None:
    write_files(volume)
    first = volume.publish()
    before = set(volume.packs())
    for name in volume.names():
        volume.remove(name)
    result = volume.gc()
    assert result.dropped_blocks == 8 * 5
    assert set(volume.packs()) == before
    assert result.held_bytes > 160 * KIB
    volume.check_snapshots()
    volume.delete_snapshot(first)
    assert volume.gc().deleted_packs == len(before)
    assert volume.packs() == {}
    volume.check_snapshots()


def test_hardly_anything_is_left_after_everything_was_deleted(tmp_path: Path) -> None:
    volume = MemoryVolume(tmp_path / "volume", block_bytes=64 * KIB)
    for number in range(40):
        volume.write(f"f{number}", noise(number, 256 * KIB))
    first = volume.publish()
    stored = volume.stored_bytes()
    for name in volume.names():
        volume.remove(name)
    volume.publish()
    volume.delete_snapshot(first)
    volume.gc()
    assert volume.packs() == {}
    assert volume.stored_bytes() < 0.01 * stored
    volume.check_snapshots()
    volume.close()


def test_referenced_data_stays(volume: MemoryVolume) -> None:
    write_files(volume)
    volume.publish()
    before = volume.packs()
    result = volume.gc()
    assert (result.dropped_blocks, result.deleted_packs, result.rewritten_packs) == (0, 0, 0)
    assert volume.packs() == before


def test_a_plan_shows_what_is_freed_and_changes_nothing(volume: MemoryVolume) -> None:
    write_files(volume)
    first = volume.publish()
    for name in ("f0", "f1", "f2", "f3", "f4", "f5", "f6"):
        volume.remove(name)
    volume.fs.commit()
    before = {info.key for info in volume.inner.list()}
    plan = volume.collector.plan(NOW)
    assert plan.dead_blocks == 7 * 5
    assert [one.snapshot for one in plan.held] == [first]
    assert plan.held[0].bytes == plan.held[0].bytes_alone == plan.dead_pack_bytes
    assert plan.free_bytes == 0
    assert len(plan.rewrites) == 1
    assert 20 * KIB <= plan.rewrite_bytes < plan.rewrite_bytes + plan.rewrite_frees_bytes
    assert plan.requests.price_usd > 0
    assert {info.key for info in volume.inner.list()} == before
    assert volume.collector.plan(NOW).as_json() == plan.as_json()


def test_a_plan_shows_what_deleting_snapshots_frees(volume: MemoryVolume) -> None:
    write_files(volume, 3)
    first = volume.publish()
    write_files(volume, 3, 10)
    second = volume.publish()
    for name in volume.names():
        volume.remove(name)
    volume.gc()
    held = {one.snapshot: one for one in volume.collector.plan(NOW).held}
    early, late = held[first], held[second]
    assert early.bytes_alone == early.bytes_with_older == 0  # the second snapshot needs all of it, too
    assert 0 < early.bytes < late.bytes == late.bytes_with_older
    assert late.bytes_alone == late.bytes - early.bytes
    volume.delete_snapshot(first)
    volume.delete_snapshot(second)
    assert volume.gc().freed_bytes == late.bytes_with_older


def test_sparse_packs_are_rewritten_within_the_limit(volume: MemoryVolume) -> None:
    write_files(volume, 30)
    first = volume.publish()
    for number in range(30):
        if number % 3:
            volume.remove(f"f{number}")
    left = volume.tree()
    limited = volume.gc(GcSettings(grace_s=0, max_rewrite_bytes=50 * KIB))
    assert 0 < limited.rewritten_bytes <= 50 * KIB
    full = volume.gc()
    assert full.rewritten_packs > limited.rewritten_packs
    volume.check_snapshots()
    for snapshot in [one for one in volume.snapshots if one != volume.newest]:
        volume.delete_snapshot(snapshot)
    assert first not in volume.snapshots
    volume.gc()
    assert sum(volume.packs().values()) < 1.1 * 10 * 20 * KIB
    assert volume.tree() == left
    assert volume.gc().rewritten_packs == 0
    volume.check_snapshots()


def test_without_a_threshold_nothing_is_rewritten(volume: MemoryVolume) -> None:
    write_files(volume)
    volume.publish()
    for number in range(7):
        volume.remove(f"f{number}")
    assert volume.gc(GcSettings(min_live=0, grace_s=0)).rewritten_packs == 0


def test_small_packs_that_are_fully_used_are_not_rewritten(volume: MemoryVolume) -> None:
    for number in range(3):
        volume.write(f"f{number}", b"%d" % number)
        volume.publish()
    assert volume.collector.plan(NOW).rewrites == ()


class TestOrphans:
    """Objects that nothing references."""

    KEY = "packs/00000001/0001" + "ab" * 30

    def test_a_leftover_of_a_failed_upload_is_deleted_after_the_grace_period(self, volume: MemoryVolume) -> None:
        volume.store.put_if_absent(self.KEY, b"half a pack")
        assert volume.gc(GcSettings(grace_s=3600)).strays_left == 1
        assert self.KEY in volume.packs()
        result = volume.gc()
        assert (result.deleted_strays, result.stray_bytes) == (1, 11)
        assert self.KEY not in volume.packs()

    @pytest.mark.parametrize("epoch", [2, 9])
    def test_an_object_of_a_later_epoch_fences_the_writer(self, volume: MemoryVolume, epoch: int) -> None:
        key = self.KEY.replace("00000001", f"{epoch:08d}")
        volume.inner.put_if_absent(key, b"another's")
        with pytest.raises(Fenced):
            volume.gc()
        assert key in volume.packs()

    def test_an_orphan_of_an_ended_epoch_is_deleted(self, volume: MemoryVolume, tmp_path: Path) -> None:
        volume.inner.put_if_absent(self.KEY, b"half a pack")
        after = volume.restarted_after_kill(tmp_path / "after")
        assert after.epoch == 2
        after.gc()
        assert after.packs() == {}
        after.close()

    @pytest.mark.promise("gc-decides-again-when-it-deletes")
    def test_an_orphan_of_an_epoch_that_was_taken_over_stays(self, volume: MemoryVolume, tmp_path: Path) -> None:
        volume.inner.put_if_absent(self.KEY, b"perhaps to be rescued")
        other = MemoryVolume(tmp_path / "other", volume.inner, take_over=True)
        assert other.gc().strays_left == 1
        assert self.KEY in other.packs()
        other.close()

    def test_an_unrecognized_object_stays_and_is_reported(self, volume: MemoryVolume) -> None:
        volume.inner.put_if_absent("holiday/photo.jpg", b"not ours")
        plan = volume.collector.plan(NOW)
        assert [one.key for one in plan.orphans] == ["holiday/photo.jpg"]
        volume.gc()
        assert volume.inner.get("holiday/photo.jpg") == b"not ours"

    def test_pages_of_an_unfinished_snapshot_are_deleted(self, volume: MemoryVolume) -> None:
        write_files(volume, 1)
        volume.publish()
        volume.inner.put_if_absent("pages/00000001-0000000000", b"no manifest")
        volume.inner.put_if_absent("pages/00000001-0000000099", b"yet to come")
        volume.gc()
        left = {info.key for info in volume.inner.list("pages/")}
        assert "pages/00000001-0000000000" not in left
        assert "pages/00000001-0000000099" in left
        volume.check_snapshots()

    @pytest.mark.promise("gc-decides-again-when-it-deletes")
    def test_a_pack_in_flight_is_no_orphan(self, volume: MemoryVolume, monkeypatch: pytest.MonkeyPatch) -> None:
        volume.inner.put_if_absent(self.KEY, b"on its way")
        on_its_way = frozenset({self.KEY.removeprefix("packs/")})
        monkeypatch.setattr(BlockWriter, "unrecorded", property(lambda writer: on_its_way))
        volume.gc()
        assert self.KEY in volume.packs()


class TestConcurrentWrites:
    """gc decides again at the moment when it deletes."""

    @pytest.mark.promise("a-known-block-is-checked-again")
    @pytest.mark.parametrize("step", ["listing", "merging", "dropping blocks", "marking packs", "publishing"])
    def test_data_whose_block_is_being_dropped_is_safe(self, volume: MemoryVolume, step: str) -> None:
        write_files(volume)
        volume.publish()
        for name in volume.names():
            volume.remove(name)

        def write_meanwhile(progress: dict[str, object]) -> None:
            if progress["what"] == step:
                write_files(volume, 4)
                assert volume.fs.staging.files
                volume.fs.store_all()

        volume.gc(report=write_meanwhile)
        for snapshot in [one for one in volume.snapshots if one != volume.newest]:
            volume.delete_snapshot(snapshot)
        volume.gc()
        assert volume.tree() == {f"f{number}": noise(number) for number in range(4)}
        volume.publish()
        volume.check_snapshots()

    @pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
    def test_a_second_gc_at_the_same_time_is_refused(self, volume: MemoryVolume) -> None:
        def gc_again(progress: object) -> None:
            with pytest.raises(VolumeError, match="running"):
                volume.gc()

        volume.gc(report=gc_again)

    def test_a_stopped_gc_ends_before_its_next_step(self, volume: MemoryVolume) -> None:
        volume.collector.stop()
        with pytest.raises(VolumeError, match="stopped"):
            volume.gc()


def test_the_keys_of_a_plan_and_a_result_are_a_format(volume: MemoryVolume) -> None:
    plan, result = volume.collector.plan(NOW).as_json(), volume.gc().as_json()
    assert set(plan) == {
        *("dead_blocks", "dead_block_bytes", "dead_packs", "dead_pack_bytes", "free_packs", "free_bytes", "held"),
        *("rewrite_packs", "rewrite_bytes", "rewrite_frees_bytes", "left", "stray_bytes", "strays", "requests"),
    }
    assert set(result) == {
        *("dropped_blocks", "deleted_packs", "freed_bytes", "deleted_strays", "stray_bytes", "rewritten_packs"),
        *("rewritten_bytes", "held_bytes", "strays_left", "snapshot", "hurt_snapshots", "refused_objects"),
        *("unreadable_packs", "left", "reencryption", "problems"),
    }


def test_a_plan_is_a_value_of_plain_numbers(volume: MemoryVolume) -> None:
    write_files(volume, 2)
    plan = volume.collector.plan(NOW).as_json()
    assert plan["free_packs"] == 0
    assert all(not attrs.has(type(value)) for value in plan.values())


def test_a_read_that_was_planned_before_a_rewrite_finds_its_blocks(volume: MemoryVolume) -> None:
    write_files(volume, 3)
    first = volume.publish()
    for name in ("f0", "f1"):
        volume.remove(name)
    inode = volume.fs.lookup(1, b"f2")
    handle = volume.fs.open(inode.number, os.O_RDONLY, Owner(0, 0))
    execute = ReadPlan.execute

    def late(plan: ReadPlan, reader: BlockReader, wait_guard: WaitGuard) -> Buffer:
        ReadPlan.execute = execute  # type: ignore[method-assign]
        assert volume.gc().rewritten_packs == 1
        for snapshot in [one for one in volume.snapshots if one != volume.newest]:
            volume.delete_snapshot(snapshot)
        assert volume.gc().deleted_packs == 1
        return execute(plan, reader, wait_guard)

    ReadPlan.execute = late  # type: ignore[method-assign]
    try:
        assert bytes(volume.fs.read(handle, 0, inode.size)) == noise(2)
    finally:
        ReadPlan.execute = execute  # type: ignore[method-assign]
    assert first not in volume.snapshots


def test_an_open_file_can_be_read_before_and_after_a_rewrite(volume: MemoryVolume) -> None:
    write_files(volume, 3)
    volume.publish()
    for name in ("f0", "f1"):
        volume.remove(name)
    inode = volume.fs.lookup(1, b"f2")
    handle = volume.fs.open(inode.number, os.O_RDONLY, Owner(0, 0))
    assert bytes(volume.fs.read(handle, 0, 4096)) == noise(2)[:4096]
    assert volume.gc().rewritten_packs == 1
    for snapshot in [one for one in volume.snapshots if one != volume.newest]:
        volume.delete_snapshot(snapshot)
    assert volume.gc().deleted_packs == 1
    assert bytes(volume.fs.read(handle, 0, inode.size)) == noise(2)
    volume.fs.release(handle)
