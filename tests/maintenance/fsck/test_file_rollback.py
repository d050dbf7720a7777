# SPDX-License-Identifier: GPL-3.0-or-later
"""A write to the index that the disk has lost: a check reports it, a gc deletes nothing, and a repair takes the files
from snapshots."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from cas3fs.errors import BlockError, IndexCorrupt
from cas3fs.filesystem import Owner
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.maintenance.snapshot_index import referenced_packs
from cas3fs.testing.sqlite_pages import checkpointed_bytes, leaf_pages, lose_write
from tests.maintenance.damaged_volume import DamagedVolume, codes
from tests.maintenance.memory_volume import noise

OWNER: Final = Owner(0, 0)
OLD: Final = {f"old{number}": noise(number, 300) for number in range(150)}
NEW: Final = {f"new{number}": noise(1000 + number, 3000) for number in range(40)}


def reopened(damaged: DamagedVolume) -> DamagedVolume:
    return DamagedVolume(damaged.folder, store=damaged.inner, snapshots=damaged.snapshots)


@pytest.fixture
def lost_chunks(tmp_path: Path) -> Iterator[DamagedVolume]:
    """A volume whose index has lost the write with the chunks of new files, after a snapshot of them was taken."""
    damaged = DamagedVolume(tmp_path / "volume")
    for name, data in OLD.items():
        damaged.write(name, data)
    damaged.publish()
    damaged.close()
    index = damaged.folder / "index.sqlite"
    before = checkpointed_bytes(index)
    damaged = reopened(damaged)
    for name, data in NEW.items():
        damaged.write(name, data)
    damaged.publish()
    damaged.close()
    last = leaf_pages(index, "chunks")[-1]
    assert lose_write(index, last, before)
    with closing(sqlite3.connect(index)) as database:
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    damaged = reopened(damaged)
    yield damaged
    damaged.close()


def read(damaged: DamagedVolume) -> dict[str, bytes | None]:
    """The contents of the files; None for one that gives an I/O error."""
    found: dict[str, bytes | None] = {}
    for name in {**OLD, **NEW}:
        try:
            found[name] = damaged.read(name)
        except BlockError:
            found[name] = None
    return found


@pytest.mark.promise("files-have-chunk-checksums")
def test_a_gc_stops_before_it_drops_a_block_and_mentions_fsck(lost_chunks: DamagedVolume) -> None:
    packs = lost_chunks.packs()
    blocks = lost_chunks.one("SELECT count(*) FROM blocks")
    for dry_run in (True, False):
        with pytest.raises(IndexCorrupt, match=r"lost parts of 40 files.*cas3fs fsck"):
            lost_chunks.collector.plan(GcSettings()) if dry_run else lost_chunks.gc()
    assert (lost_chunks.packs(), lost_chunks.one("SELECT count(*) FROM blocks")) == (packs, blocks)


@pytest.mark.promise("files-have-chunk-checksums", "a-damaged-index-page-is-noticed")
def test_a_check_lists_the_files_and_a_repair_takes_them_from_a_snapshot(lost_chunks: DamagedVolume) -> None:
    assert read(lost_chunks)["new3"] == bytes(3000)  # it reads as zeros before a check
    result = lost_chunks.check()
    assert (result.status, codes(result)) == (4, {"chunks-unlike-sums"})
    assert {path for one in result.findings for path in one.paths} == {f"/{name}" for name in NEW}
    assert (lost_chunks.fsck().status, lost_chunks.check(verify_data=True).status) == (1, 0)
    assert read(lost_chunks) == OLD | NEW
    lost_chunks.gc()
    assert read(lost_chunks) == OLD | NEW


@pytest.mark.promise("files-have-chunk-checksums")
def test_files_that_newer_snapshots_lost_are_taken_from_an_older_one(lost_chunks: DamagedVolume) -> None:
    with lost_chunks.fs.index_transaction() as index:
        index._database.execute("UPDATE inodes SET atime_ns = 5 WHERE id = 1")
    newest = lost_chunks.publish()
    with pytest.raises(IndexCorrupt, match="fsck"), referenced_packs(lost_chunks.archive, newest, lost_chunks.folder):
        pass
    assert lost_chunks.fsck().status == 1
    assert read(lost_chunks) == OLD | NEW


def test_a_changed_file_is_set_back_and_what_is_left_is_kept(damaged: DamagedVolume) -> None:
    handle = damaged.fs.open(damaged.inode("f0"), 2, OWNER)
    damaged.fs.write(handle, 0, noise(77, 4096))
    damaged.fs.release(handle)
    damaged.fs.store_all()
    damaged.sql(f"DELETE FROM chunks WHERE inode = {damaged.inode('f0')} AND offset = 8192")
    (finding, *_) = damaged.fsck().findings
    assert (finding.code, finding.repaired) == ("chunks-unlike-sums", True)
    (kept,) = [name for name in damaged.names_in_lost_and_found() if "from" in name]
    assert f"lost+found/{kept}" in finding.detail
    assert damaged.readable_contents()["f0"] == noise(0)
    assert damaged.check(verify_data=True).status == 0


@pytest.mark.promise("files-have-chunk-checksums")
def test_ranges_that_no_snapshot_has_give_errors_and_never_zeros(lost_chunks: DamagedVolume) -> None:
    for info in list(lost_chunks.inner.list("snapshots/")):
        lost_chunks.inner.delete_many([info.key])
    result = lost_chunks.fsck()
    assert (result.status, sum(one.lost for one in result.findings)) == (1, len(NEW))
    assert read(lost_chunks) == OLD | dict.fromkeys(NEW)
    assert lost_chunks.check().status == 0


def test_a_file_that_is_written_again_needs_no_repair(lost_chunks: DamagedVolume) -> None:
    for name, data in NEW.items():
        handle = lost_chunks.fs.open(lost_chunks.inode(name), 2, OWNER)
        lost_chunks.fs.setattr(lost_chunks.inode(name), OWNER, size=0)
        lost_chunks.fs.write(handle, 0, data)
        lost_chunks.fs.release(handle)
    lost_chunks.publish()
    assert lost_chunks.check().status == 0
    lost_chunks.gc()
    assert read(lost_chunks) == OLD | NEW
