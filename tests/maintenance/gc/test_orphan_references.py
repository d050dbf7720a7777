# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs that the index does not know, but a snapshot references."""

import shutil
from pathlib import Path

import pytest

from cas3fs.maintenance.gc.orphans import DELETABLE
from tests.maintenance.memory_volume import NOW, MemoryVolume, write_files

KEY = "packs/00000001/" + "ab" * 32


@pytest.mark.promise("packs-named-by-their-own-epoch-stay")
def test_a_pack_that_a_snapshot_of_its_epoch_references_stays(volume: MemoryVolume, tmp_path: Path) -> None:
    """As if an older version of cas3fs had gone on from an old copy of the local index."""
    write_files(volume, 2)
    volume.publish()
    shutil.copytree(volume.folder, tmp_path / "copy")
    write_files(volume, 2, 10)
    ahead = volume.publish()
    volume.close()
    after = MemoryVolume(tmp_path / "copy", volume.inner, snapshots=volume.snapshots)
    volume.inner.put_if_absent(KEY, b"half a pack")
    planned = {one.key for one in after.collector.plan(NOW).orphans if one.status == DELETABLE}
    after.gc()
    assert planned == {KEY}
    assert KEY not in after.packs()
    after.check_snapshots()
    after.delete_snapshot(ahead)
    after.gc()
    assert len(after.packs()) == 1
    after.check_snapshots()
    after.close()


@pytest.mark.promise("packs-named-by-their-own-epoch-stay")
def test_a_pack_of_an_epoch_with_an_unreadable_snapshot_stays(volume: MemoryVolume, tmp_path: Path) -> None:
    write_files(volume, 2)
    published = volume.publish()
    after = volume.restarted_after_kill(tmp_path / "after")
    after.newest = None  # so that the next snapshot does not depend on that one
    write_files(after, 1, 10)
    after.publish()
    volume.inner.put_if_absent(KEY, b"perhaps of that snapshot")
    volume.inner.delete_many([f"pages/{published}"])
    result = after.gc()
    assert KEY in after.packs()
    assert result.strays_left == 1
    after.close()
