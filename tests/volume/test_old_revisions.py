# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots that the first version published are mounted, read, looked into, and gone on from."""

import pytest

from cas3fs.filesystem import ROOT
from cas3fs.index.checks import IndexChecker
from cas3fs.maintenance.snapshot_index import referenced_packs
from cas3fs.volume.opening import OpenVolume
from tests.index.test_migrations import as_of_the_first_revision
from tests.volume.conftest import Volume, write

NAMES = {b"%d" % number for number in range(2, 7)}


def names(opened: OpenVolume) -> set[bytes]:
    listing = opened.filesystem.opendir(ROOT)
    found = {name for name, _, _ in opened.filesystem.readdir(listing, 0)}
    opened.filesystem.releasedir(listing)
    return found


@pytest.mark.promise("files-have-chunk-checksums")
def test_a_snapshot_of_the_first_revision_is_used(volume: Volume) -> None:
    parent = volume.use("there")
    path = volume.root / "old.sqlite"
    as_of_the_first_revision(path)
    old = volume.archive.create(path, epoch=1, sequence=9, parent=parent)
    assert names(volume.view()) == NAMES
    with referenced_packs(volume.archive, old.id, volume.root) as needed:
        assert ["a" in needed, "ab" in needed, "b" in needed] == [True, True, False]
    opened = volume.open("here")
    assert names(opened) == NAMES
    write(opened, "new", "text")
    opened.finish()
    opened.close()
    with IndexChecker(volume.state("here") / "index.sqlite") as checker:
        assert checker.defects("chunks-unlike-sums") == []
    assert names(volume.open("elsewhere")) == NAMES | {b"new"}
