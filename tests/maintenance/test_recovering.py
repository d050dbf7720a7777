# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repair takes from this machine, what it puts aside, and that it does neither when another writer has come."""

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from cas3fs.caches.memory import MemoryCache
from cas3fs.errors import Fenced, ObjectExists, StoreUnreachable
from cas3fs.filesystem.state.extents import pack_ranges
from cas3fs.index import IndexChecker, StagedRow
from cas3fs.maintenance.fsck import put_aside
from cas3fs.values import BlockHash
from tests.maintenance.rig import KIB, noise
from tests.maintenance.ward import Ward, codes, flip, lose_staged_bytes, pack_of_f0, remove_a_pack

SIZE = 20 * KIB


def fenced() -> None:
    raise Fenced("another writer")


def blocks_of_f0(ward: Ward) -> dict[int, BlockHash]:
    """By offset; to be called while they lie in a pack."""
    with IndexChecker(ward.fs.index.path) as checker:
        hashes = [BlockHash(row[0]) for row in checker.blocks_of(pack_of_f0(ward))]
        users = {one: checker.users_of_block(one) for one in hashes}
    return {user[1]: one for one, found in users.items() for user in found if user[0] == ward.inode("f0")}


@pytest.mark.promise("repair-trusts-only-hashes")
@pytest.mark.parametrize("seed", [0, 99], ids=["the bytes that were stored", "others"])
def test_blocks_are_taken_from_a_record_of_staging_if_they_are_the_same(ward: Ward, seed: int) -> None:
    rows = ward.rows = ward.fs.staging.records
    row = StagedRow(ward.inode("f0"), 0, 0, SIZE, 0, 0, pack_ranges([(0, SIZE)]), noise(seed))
    rows.save([row])
    rows.commit()
    remove_a_pack(ward)
    assert ward.fsck().status == 1
    assert ward.found()["f0"] == (noise(0) if seed == 0 else None)
    assert codes(ward.check(verify_data=True)) == {"known-loss"}


@pytest.mark.promise("repair-trusts-only-hashes")
def test_a_cache_with_other_bytes_under_a_blocks_name_is_not_believed(ward: Ward) -> None:
    ward.cache = MemoryCache(10 << 20)
    for block in blocks_of_f0(ward).values():
        ward.cache.put(block, noise(99, 4096))
    remove_a_pack(ward)
    before = ward.packs()
    assert ward.fsck().status == 1
    assert ward.packs() == before
    assert ward.found()["f0"] is None


@pytest.mark.promise("a-fenced-writer-stops")
def test_who_was_taken_over_from_stores_nothing_again(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    ward.cache = MemoryCache(10 << 20)
    for offset, block in blocks_of_f0(ward).items():
        ward.cache.put(block, noise(0)[offset : offset + 4096])
    remove_a_pack(ward)
    before = ward.packs()
    monkeypatch.setattr(ward.publishing, "check_fence", fenced)
    with pytest.raises(Fenced):
        ward.fsck()
    assert ward.packs() == before


@pytest.mark.promise("a-fenced-writer-stops")
def test_who_was_taken_over_from_puts_no_snapshot_aside(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(ward, f"snapshots/{ward.newest}")
    monkeypatch.setattr(ward.publishing, "check_fence", fenced)
    with pytest.raises(Fenced):
        ward.fsck()
    assert ward.inner.get(f"snapshots/{ward.newest}")


@pytest.mark.promise("repair-trusts-only-hashes")
def test_a_manifest_stays_until_it_is_put_aside(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"snapshots/{ward.newest}"
    body = ward.inner.get(key)

    def fail(*_: object) -> None:
        raise StoreUnreachable("no route")

    with monkeypatch.context() as patch:
        patch.setattr(ward.inner, "put_if_absent", fail)
        with pytest.raises(StoreUnreachable):
            put_aside(ward.archive, str(ward.newest))
    assert ward.inner.get(key) == body
    ward.inner.put_if_absent(f"damaged/{key}", b"another one, of the same name")
    with pytest.raises(ObjectExists):
        put_aside(ward.archive, str(ward.newest))
    assert ward.inner.get(key) == body


@pytest.mark.promise("repair-trusts-only-hashes")
def test_records_of_staging_stay_until_they_are_put_aside(ward: Ward) -> None:
    lose_staged_bytes(ward)
    rows = ward.fs.staging.records
    before = list(rows.rows())
    Path(ward.folder / "staging" / "records-put-aside.json").mkdir()
    with pytest.raises(IsADirectoryError):
        ward.fsck()
    assert list(rows.rows()) == before != []


def test_records_of_staging_that_are_put_aside_are_on_the_disk_before_they_go(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_staged_bytes(ward)
    rows = ward.fs.staging.records
    fsync, delete = os.fsync, rows.delete
    synced: list[str] = []
    before: list[list[str]] = []

    def seen(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def delete_late(keys: Collection[tuple[int, int]]) -> None:
        before.append(list(synced))
        delete(keys)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(rows, "delete", delete_late)
    ward.fsck()
    staging = ward.folder / "staging"
    assert [one[-2:] for one in before] == [[str(staging / "records-put-aside.json"), str(staging)]]
