# SPDX-License-Identifier: GPL-3.0-or-later
"""A page of the local index that the disk has lost between an unmount and the next mount, or while it was mounted."""

import logging
from pathlib import Path

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.errors import SnapshotDamaged
from cas3fs.index.files import check_fingerprint, fingerprinted
from cas3fs.testing.sqlite_pages import checkpointed_bytes, leaf_pages, lose_write
from cas3fs.testing.store_damage import corrupt_object
from tests.commands.test_fsck import fsck
from tests.commands.test_gc import read, silent
from tests.volume.conftest import Volume, read_all, stats_of, write

OLD = {f"old{number:03}": f"old text {number}" for number in range(150)}
NEW = {f"new{number:03}": f"new text {number}" for number in range(40)}


def index_of(volume: Volume) -> Path:
    return volume.state("here") / "index.sqlite"


@pytest.fixture
def hurt(volume: Volume) -> Volume:
    """A volume of which the local index has lost the write that entered new files, since it was unmounted here."""
    volume.use("here", **OLD)
    before = checkpointed_bytes(index_of(volume))
    volume.use("here", **NEW)
    assert lose_write(index_of(volume), leaf_pages(index_of(volume), "chunks")[-1], before)
    return volume


@pytest.mark.promise("a-closed-index-has-a-fingerprint", "a-damaged-index-page-is-noticed")
def test_an_index_that_changed_while_closed_is_restored(hurt: Volume, caplog: pytest.LogCaptureFixture) -> None:
    opened = hurt.open("here")
    assert read_all(opened) == OLD | NEW
    assert "its bytes are not those that were written" in caplog.text
    assert list((hurt.state("here") / "set-aside").iterdir()) == []
    opened.finish()
    opened.close()
    assert fsck(hurt, verify_data=True)[0].status == 0


def test_a_check_reports_the_damage_and_a_repair_restores_it(hurt: Volume) -> None:
    assert fsck(hurt)[0].codes == {"index-damaged": 1}
    told, found = fsck(hurt, repair=True)
    assert (told.status, found) == (1, ["index-damaged"])
    assert fsck(hurt)[0].status == 0
    opened = hurt.open("here")
    assert {name: read(opened, name) for name in OLD | NEW} == OLD | NEW


@pytest.mark.promise("a-closed-index-has-a-fingerprint")
def test_it_is_kept_where_the_snapshot_cannot_be_restored(hurt: Volume) -> None:
    corrupt_object(hurt.stored, f"pages/{hurt.archive.ids()[-1]}")
    with pytest.raises(SnapshotDamaged):
        hurt.open("here")
    assert [path.name for path in (hurt.state("here") / "set-aside").glob("*/index.sqlite")] == ["index.sqlite"]


@pytest.mark.promise("a-closed-index-has-a-fingerprint")
def test_what_only_looks_at_a_volume_leaves_its_index_as_it_was(volume: Volume) -> None:
    snapshot = volume.use("here", **OLD)
    assert fingerprinted(index_of(volume)) == snapshot
    check_unmounted(volume.store_settings, volume.folders("here"), FsckRequest(verify_data=True), silent)
    stats_of(volume, "here")
    check_fingerprint(index_of(volume))
    assert fingerprinted(index_of(volume)) == snapshot


@pytest.mark.promise("a-closed-index-has-a-fingerprint")
def test_an_index_that_is_open_or_was_killed_has_no_fingerprint(volume: Volume) -> None:
    volume.use("here", **OLD)
    killed = volume.open("here")
    write(killed, "more", "text")
    killed.filesystem.commit()
    assert fingerprinted(index_of(volume)) is None
    killed.close()
    assert fingerprinted(index_of(volume)) is None
    assert read_all(volume.open("here")) == OLD | {"more": "text"}


def test_a_restored_index_loses_its_fingerprint_by_a_check(volume: Volume) -> None:
    volume.use("here", **OLD)
    volume.use("there")
    check_unmounted(volume.store_settings, volume.folders("there"), FsckRequest(), silent)
    check_fingerprint(volume.state("there") / "index.sqlite")
    assert read_all(volume.open("there")) == OLD


@pytest.mark.promise("a-closed-index-has-a-fingerprint")
def test_a_loss_while_open_is_noticed_by_a_publication(hurt: Volume, caplog: pytest.LogCaptureFixture) -> None:
    Path(f"{index_of(hurt)}-fingerprint").unlink()
    opened = hurt.open("here")
    assert opened.publisher is not None
    with caplog.at_level(logging.ERROR):
        for number in range(2):  # the second begins with the first file, wherever the first one began
            write(opened, f"more{number}", "text")
            opened.publisher.publish()
    assert f"the index has lost parts of {len(NEW)} files" in caplog.text
