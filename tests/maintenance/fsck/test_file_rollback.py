# SPDX-License-Identifier: GPL-3.0-or-later
"""A write to the index that the disk has lost: a check tells of it, a gc frees nothing, and a repair takes the files
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


def opened_again(damaged: DamagedVolume) -> DamagedVolume:
    return DamagedVolume(damaged.folder, store=damaged.inner, snapshots=damaged.snapshots)


@pytest.fixture
def hurt(tmp_path: Path) -> Iterator[DamagedVolume]:
    """A volume of which the index has lost the write that entered the chunks of new files, after a snapshot of them."""
    damaged = DamagedVolume(tmp_path / "ward")
    for name, data in OLD.items():
        damaged.write(name, data)
    damaged.publish()
    damaged.close()
    index = damaged.folder / "index.sqlite"
    before = checkpointed_bytes(index)
    damaged = opened_again(damaged)
    for name, data in NEW.items():
        damaged.write(name, data)
    damaged.publish()
    damaged.close()
    last = leaf_pages(index, "chunks")[-1]
    assert lose_write(index, last, before)
    with closing(sqlite3.connect(index)) as database:
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    damaged = opened_again(damaged)
    yield damaged
    damaged.close()


def read(damaged: DamagedVolume) -> dict[str, bytes | None]:
    """The files that are not known to be lost; None where one gives an I/O error."""
    found: dict[str, bytes | None] = {}
    for name in {**OLD, **NEW}:
        try:
            found[name] = damaged.read(name)
        except BlockError:
            found[name] = None
    return found


@pytest.mark.promise("files-have-chunk-checksums")
def test_a_gc_ends_before_it_drops_a_block_and_names_fsck(hurt: DamagedVolume) -> None:
    packs = hurt.packs()
    blocks = hurt.one("SELECT count(*) FROM blocks")
    for dry_run in (True, False):
        with pytest.raises(IndexCorrupt, match=r"lost parts of 40 files.*cas3fs fsck"):
            hurt.collector.plan(GcSettings()) if dry_run else hurt.gc()
    assert (hurt.packs(), hurt.one("SELECT count(*) FROM blocks")) == (packs, blocks)


@pytest.mark.promise("files-have-chunk-checksums", "a-damaged-index-page-is-noticed")
def test_a_check_names_the_files_and_a_repair_takes_them_from_the_snapshot_that_has_them(hurt: DamagedVolume) -> None:
    assert read(hurt)["new3"] == bytes(3000)  # so it was before anybody has checked
    result = hurt.check()
    assert (result.status, codes(result)) == (4, {"chunks-unlike-sums"})
    assert {path for one in result.findings for path in one.paths} == {f"/{name}" for name in NEW}
    assert (hurt.fsck().status, hurt.check(verify_data=True).status) == (1, 0)
    assert read(hurt) == OLD | NEW
    hurt.gc()
    assert read(hurt) == OLD | NEW


@pytest.mark.promise("files-have-chunk-checksums")
def test_what_the_newest_snapshots_have_lost_too_is_taken_from_an_older_one(hurt: DamagedVolume) -> None:
    with hurt.fs.index_transaction() as index:
        index._database.execute("UPDATE inodes SET atime_ns = 5 WHERE id = 1")
    damaged = hurt.publish()
    with pytest.raises(IndexCorrupt, match="fsck"), referenced_packs(hurt.archive, damaged, hurt.folder):
        pass
    assert hurt.fsck().status == 1
    assert read(hurt) == OLD | NEW


def test_a_file_that_changed_since_goes_back_to_the_snapshot_and_what_is_left_is_kept(damaged: DamagedVolume) -> None:
    handle = damaged.fs.open(damaged.inode("f0"), 2, OWNER)
    damaged.fs.write(handle, 0, noise(77, 4096))
    damaged.fs.release(handle)
    damaged.fs.store_all()
    damaged.sql(f"DELETE FROM chunks WHERE inode = {damaged.inode('f0')} AND offset = 8192")
    (finding, *_) = damaged.fsck().findings
    assert (finding.code, finding.repaired) == ("chunks-unlike-sums", True)
    (kept,) = [name for name in damaged.lost() if "from" in name]
    assert f"lost+found/{kept}" in finding.detail
    assert damaged.found()["f0"] == noise(0)
    assert damaged.check(verify_data=True).status == 0


@pytest.mark.promise("files-have-chunk-checksums")
def test_what_no_snapshot_has_gives_errors_and_never_zeros(hurt: DamagedVolume) -> None:
    for info in list(hurt.inner.list("snapshots/")):
        hurt.inner.delete_many([info.key])
    result = hurt.fsck()
    assert (result.status, sum(one.lost for one in result.findings)) == (1, len(NEW))
    assert read(hurt) == OLD | dict.fromkeys(NEW)
    assert hurt.check().status == 0


def test_a_file_that_is_written_anew_needs_no_repair(hurt: DamagedVolume) -> None:
    for name, data in NEW.items():
        handle = hurt.fs.open(hurt.inode(name), 2, OWNER)
        hurt.fs.setattr(hurt.inode(name), OWNER, size=0)
        hurt.fs.write(handle, 0, data)
        hurt.fs.release(handle)
    hurt.publish()
    assert hurt.check().status == 0
    hurt.gc()
    assert read(hurt) == OLD | NEW
