# SPDX-License-Identifier: GPL-3.0-or-later
"""gc skips what it cannot delete or read: everything else is freed, and the result says what is left."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cas3fs.index.checks import IndexChecker
from cas3fs.maintenance.gc import deletion
from cas3fs.testing.faults import FaultKind, Faults
from cas3fs.testing.faulty_store import FaultyStore
from cas3fs.testing.store_damage import corrupt_object
from cas3fs.values import BlockHash
from tests.encrypted import stored_offset
from tests.maintenance.memory_volume import KIB, MemoryVolume, noise, write_files

pytestmark = pytest.mark.encryption("plain", "encrypted")


@pytest.fixture
def faulty(encryption: str, tmp_path: Path) -> Iterator[MemoryVolume]:
    made = MemoryVolume(tmp_path / "lying", wrap=FaultyStore)
    yield made
    made.close()


def faults(volume: MemoryVolume) -> Faults:
    return cast(FaultyStore, volume.wrapped).faults


def make_dead_packs(volume: MemoryVolume) -> list[str]:
    """Makes packs that nothing needs any more, and returns their keys."""
    write_files(volume, 12)
    first = volume.publish()
    packs = sorted(volume.packs())
    for name in volume.names():
        volume.remove(name)
    volume.publish()
    volume.delete_snapshot(first)
    assert len(packs) > 3
    return packs


def keep_newest(volume: MemoryVolume) -> None:
    for snapshot in [one for one in volume.snapshots if one != volume.newest]:
        volume.delete_snapshot(snapshot)


class TestRefusedDeletions:
    """The store refuses to delete an object, because of a lock or of access rights."""

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_other_packs_are_deleted_and_the_refused_one_by_a_later_gc(
        self, faulty: MemoryVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deletion, "DELETE_BATCH", 2)
        packs = make_dead_packs(faulty)
        with faults(faulty).on(FaultKind.DELETION_REFUSED, keys=[packs[1]]):
            result = faulty.gc()
            assert list(faulty.packs()) == [packs[1]]
            assert (result.deleted_packs, result.refused_objects) == (len(packs) - 1, 1)
            (problem,) = result.problems
            assert packs[1] in problem and "access denied" in problem
            assert faulty.gc().refused_objects == 1
        result = faulty.gc()
        assert (result.deleted_packs, result.refused_objects, result.problems) == (1, 0, ())
        assert faulty.packs() == {}
        faulty.check_snapshots()

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_other_orphans_are_deleted(self, faulty: MemoryVolume) -> None:
        orphans = [f"packs/00000001/{digit * 64}" for digit in "abc"]
        for key in orphans:
            faulty.inner.put_if_absent(key, b"half a pack")
        with faults(faulty).on(FaultKind.DELETION_REFUSED, keys=[orphans[0]]):
            result = faulty.gc()
        assert list(faulty.packs()) == [orphans[0]]
        assert (result.deleted_strays, result.refused_objects) == (2, 1)
        assert faulty.gc().deleted_strays == 1

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_a_clock_probe_that_cannot_be_deleted_does_not_stop_the_gc(self, faulty: MemoryVolume) -> None:
        packs = make_dead_packs(faulty)
        orphan = "packs/00000001/" + "ab" * 32
        faulty.inner.put_if_absent(orphan, b"half a pack")
        with faults(faulty).on(FaultKind.DELETION_REFUSED, key_prefix="probe/"):
            faulty.gc()
        assert not set(packs) & set(faulty.packs())
        assert [info.key for info in faulty.inner.list("probe/")]
        faulty.gc()
        assert list(faulty.inner.list("probe/")) == []
        assert faulty.packs() == {}


class TestBlocksThatCannotBeRead:
    """A sparsely used pack has a damaged block, or is missing."""

    def prepare(self, volume: MemoryVolume) -> tuple[str, str]:
        """Makes two sparsely used packs, one with a damaged block of f3, and dead packs; returns the first two keys."""
        volume.write("f0", noise(0))
        volume.write("f1", noise(1))
        volume.write("f2", noise(2))
        first = volume.publish()
        volume.write("f3", noise(3))
        volume.write("f4", noise(4))
        volume.write("f5", noise(5))
        volume.publish()
        volume.write("big", noise(9, 200 * KIB))
        volume.publish()
        for name in ("f0", "f1", "f4", "f5", "big"):
            volume.remove(name)
        volume.publish()
        assert first in volume.snapshots
        keep_newest(volume)
        good, bad = (f"packs/{self.pack_of(volume, number)}" for number in (2, 3))
        return good, bad

    @staticmethod
    def pack_of(volume: MemoryVolume, number: int) -> str:
        volume.fs.commit()
        with IndexChecker(volume.fs.index_path) as index_checker:
            place = index_checker.locate(BlockHash(volume.store.hash_content(noise(number)[:4096])))
        assert place is not None
        return str(place[1])

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_a_pack_with_a_damaged_block_stays_and_others_are_freed(self, volume: MemoryVolume) -> None:
        good, bad = self.prepare(volume)
        corrupt_object(volume.inner, bad, stored_offset(volume.store.get(bad).index(noise(3)[:4096])))
        before = volume.packs()
        result = volume.gc()
        assert (result.rewritten_packs, result.unreadable_packs) == (1, 1)
        (problem,) = result.problems
        assert bad.removeprefix("packs/") in problem and "fsck --verify-data" in problem
        assert volume.read("f2") == noise(2)
        keep_newest(volume)
        volume.gc()
        assert good not in volume.packs()
        assert bad in volume.packs()
        assert sum(volume.packs().values()) < before[bad] + 25 * KIB
        assert volume.gc().rewritten_bytes == 0  # intact blocks beside the damaged one are not copied again and again

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_a_pack_that_is_missing_is_skipped(self, faulty: MemoryVolume) -> None:
        good, bad = self.prepare(faulty)
        with faults(faulty).on(FaultKind.HIDDEN, operations=["get"], keys=[bad]):
            result = faulty.gc()
        assert (result.rewritten_packs, result.unreadable_packs) == (1, 1)
        faulty.snapshots[str(faulty.newest)] = faulty.tree()  # it could not be read when it was taken
        keep_newest(faulty)
        faulty.gc()
        assert good not in faulty.packs()
        assert faulty.read("f3") == noise(3)
        faulty.check_snapshots()

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_a_store_that_fails_during_rewriting_ends_only_that(self, faulty: MemoryVolume) -> None:
        good, bad = self.prepare(faulty)
        before = set(faulty.packs())
        with faults(faulty).on(FaultKind.UNAVAILABLE, operations=["get"], key_prefix="packs/"):
            result = faulty.gc()
        assert result.rewritten_packs == 0 and result.deleted_packs > 0
        assert "503" in result.problems[0]
        assert {good, bad} <= set(faulty.packs()) < before
        faulty.snapshots[str(faulty.newest)] = faulty.tree()  # it could not be read when it was taken
        faulty.check_snapshots()


@pytest.mark.promise("one-failure-does-not-stop-gc")
def test_a_newest_snapshot_that_cannot_be_read_counts_as_needing_all(faulty: MemoryVolume) -> None:
    for number in range(40):
        faulty.write(f"f{number}", noise(number, 256 * KIB))
    first = faulty.publish()
    dead = set(faulty.packs())
    for name in faulty.names():
        faulty.remove(name)
    second = faulty.publish()
    faulty.delete_snapshot(first)
    with faults(faulty).on(FaultKind.HIDDEN, operations=["get"], key_prefix=f"pages/{second}"):
        result = faulty.gc()
    assert result.held_bytes > 9_000_000 and set(faulty.packs()) == dead
    faulty.delete_snapshot(second)
    assert faulty.gc().deleted_packs == len(dead)
