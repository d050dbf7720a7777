# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign objects among the epochs are logged and ignored; names that a newer version may use are not."""

from pathlib import Path

import pytest

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import EpochHistory, Epochs, WriterIdentity
from cas3fs.errors import VolumeFormatError
from cas3fs.maintenance.inventory import list_volume
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.divergence import TakeoverBases

ALICE = WriterIdentity("alpha", "alice", 11, "boot-a")
FOREIGN = ("epochs/README", "epochs/00000001-old", "epochs/old/00000001/base", f"epochs/x{SUB_SEPARATOR}base")


@pytest.mark.promise("surroundings-may-change")
def test_a_foreign_object_does_not_block_the_volume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    shelf = Shelf(store)
    for key in FOREIGN:
        store.put_if_absent(key, b"anything")
    for number in (1, 2):
        epochs = Epochs(shelf)
        claim = epochs.claim(ALICE, tmp_path / "claim")
        assert claim.epoch == number
        assert epochs.is_newest(claim)
        epochs.release(claim)
    assert [one.entry.epoch for one in EpochHistory(shelf).recent(9)] == [1, 2]
    assert TakeoverBases(shelf).all() == ()
    assert any("epochs/README, which cas3fs did not create" in record.message for record in caplog.records)


def test_a_listing_of_the_volume_has_foreign_objects_and_epochs() -> None:
    store = MemoryStore()
    for key in (*FOREIGN, "epochs/00000007", f"epochs/00000007{SUB_SEPARATOR}released"):
        store.put_if_absent(key, b"anything")
    listing = list_volume(store)
    assert listing.epochs == {7}
    assert sorted(info.key for info in listing.unrecognized) == sorted(FOREIGN)


@pytest.mark.parametrize("key", ["epochs/123456789012", "epochs/7", "epochs/00000007-abc"])
def test_a_name_that_a_newer_version_may_use_is_not_ignored(tmp_path: Path, key: str) -> None:
    store = MemoryStore()
    store.put_if_absent(key, b"anything")
    with pytest.raises(VolumeFormatError, match="newer"):
        Epochs(Shelf(store)).claim(ALICE, tmp_path / "claim")
