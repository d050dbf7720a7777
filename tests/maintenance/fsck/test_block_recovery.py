# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repair takes from this machine and what it quarantines; after a take-over it does neither."""

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from cas3fs.caches.memory import MemoryCache
from cas3fs.errors import Fenced, ObjectExists, StoreUnreachable
from cas3fs.filesystem.state.extents import pack_ranges
from cas3fs.index import StagedRow
from cas3fs.index.checks import IndexChecker
from cas3fs.maintenance.damaged_objects import quarantine_snapshot
from cas3fs.values import BlockHash
from tests.maintenance.damaged_volume import (
    DamagedVolume,
    codes,
    flip_byte,
    lose_staged_bytes,
    pack_of_f0,
    remove_a_pack,
)
from tests.maintenance.memory_volume import KIB, noise

SIZE = 20 * KIB


def fenced() -> None:
    raise Fenced("another writer")


def blocks_of_f0(damaged: DamagedVolume) -> dict[int, BlockHash]:
    """The blocks of f0 by offset; to be called while they are in a pack."""
    with IndexChecker(damaged.fs.index_path) as index_checker:
        hashes = [BlockHash(row[0]) for row in index_checker.blocks_of(pack_of_f0(damaged))]
        users = {one: index_checker.users_of_block(one) for one in hashes}
    return {user[1]: one for one, found in users.items() for user in found if user[0] == damaged.inode("f0")}


@pytest.mark.promise("repair-trusts-only-hashes")
@pytest.mark.parametrize("seed", [0, 99], ids=["the bytes that were stored", "others"])
def test_blocks_are_taken_from_staging_if_their_hash_matches(damaged: DamagedVolume, seed: int) -> None:
    rows = damaged.rows = damaged.fs.staging.rows.records
    row = StagedRow(damaged.inode("f0"), 0, 0, SIZE, 0, 0, pack_ranges([(0, SIZE)]), noise(seed))
    rows.save([row])
    rows.commit()
    remove_a_pack(damaged)
    assert damaged.fsck().status == 1
    assert damaged.readable_contents()["f0"] == (noise(0) if seed == 0 else None)
    assert codes(damaged.check(verify_data=True)) == {"known-loss"}


@pytest.mark.promise("repair-trusts-only-hashes")
def test_a_cached_block_with_other_bytes_is_not_used(damaged: DamagedVolume) -> None:
    damaged.cache = MemoryCache(10 << 20)
    for block in blocks_of_f0(damaged).values():
        damaged.cache.put(block, noise(99, 4096))
    remove_a_pack(damaged)
    before = damaged.packs()
    assert damaged.fsck().status == 1
    assert damaged.packs() == before
    assert damaged.readable_contents()["f0"] is None


@pytest.mark.promise("a-fenced-writer-stops")
def test_a_fenced_writer_stores_no_block(damaged: DamagedVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged.cache = MemoryCache(10 << 20)
    for offset, block in blocks_of_f0(damaged).items():
        damaged.cache.put(block, noise(0)[offset : offset + 4096])
    remove_a_pack(damaged)
    before = damaged.packs()
    monkeypatch.setattr(damaged.publisher, "check_fence", fenced)
    with pytest.raises(Fenced):
        damaged.fsck()
    assert damaged.packs() == before


@pytest.mark.promise("a-fenced-writer-stops")
def test_a_fenced_writer_quarantines_no_snapshot(damaged: DamagedVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_byte(damaged, f"snapshots/{damaged.newest}")
    monkeypatch.setattr(damaged.publisher, "check_fence", fenced)
    with pytest.raises(Fenced):
        damaged.fsck()
    assert damaged.inner.get(f"snapshots/{damaged.newest}")


@pytest.mark.promise("repair-trusts-only-hashes")
def test_a_manifest_stays_until_its_copy_is_stored(damaged: DamagedVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"snapshots/{damaged.newest}"
    body = damaged.inner.get(key)

    def fail(*_: object) -> None:
        raise StoreUnreachable("no route")

    with monkeypatch.context() as patch:
        patch.setattr(damaged.inner, "put_if_absent", fail)
        with pytest.raises(StoreUnreachable):
            quarantine_snapshot(damaged.archive, str(damaged.newest))
    assert damaged.inner.get(key) == body
    damaged.inner.put_if_absent(f"damaged/{key}", b"another one, of the same name")
    with pytest.raises(ObjectExists):
        quarantine_snapshot(damaged.archive, str(damaged.newest))
    assert damaged.inner.get(key) == body


@pytest.mark.promise("repair-trusts-only-hashes")
def test_records_of_staging_stay_until_they_are_in_a_file(damaged: DamagedVolume) -> None:
    lose_staged_bytes(damaged)
    rows = damaged.fs.staging.rows.records
    before = list(rows.rows())
    Path(damaged.folder / "staging" / "records-put-aside.json").mkdir()
    with pytest.raises(IsADirectoryError):
        damaged.fsck()
    assert list(rows.rows()) == before != []


def test_removed_records_of_staging_are_durable_in_a_file_first(
    damaged: DamagedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_staged_bytes(damaged)
    rows = damaged.fs.staging.rows.records
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
    damaged.fsck()
    staging = damaged.folder / "staging"
    assert [one[-2:] for one in before] == [[str(staging / "records-put-aside.json"), str(staging)]]
