# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that a lifecycle rule has moved to an archive: they are neither lost nor damaged, and hide nothing else."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from cas3fs.entries.shelf import Shelf
from cas3fs.errors import SnapshotError
from cas3fs.maintenance.gc.collector import GarbageCollector
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.testing.faults import FaultKind, Faults
from cas3fs.testing.faulty_store import STORE_FAULTS, FaultyStore
from tests.maintenance.damaged_volume import (
    DAMAGES,
    DamagedVolume,
    codes,
    flip_byte,
    held_pack,
    make_volume,
    pack_of_f0,
)
from tests.maintenance.memory_volume import NOW


@pytest.fixture
def faults() -> Faults:
    return Faults(STORE_FAULTS)


@pytest.fixture
def damaged(tmp_path: Path, faults: Faults) -> Iterator[DamagedVolume]:
    made = make_volume(tmp_path / "volume", wrap=lambda store: FaultyStore(store, faults))
    yield made
    made.close()


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize("kind", ["pack", "pack of a snapshot", "pages"])
def test_archived_objects_are_reported_and_all_others_are_read_back(
    damaged: DamagedVolume, faults: Faults, kind: str
) -> None:
    before = damaged.readable_contents()
    held = held_pack(damaged)
    key = {"pack": f"packs/{pack_of_f0(damaged)}", "pack of a snapshot": held, "pages": f"pages/{damaged.newest}"}[kind]
    named = f"snapshots/{damaged.newest}" if kind == "pages" else key
    flipped = held if kind == "pack" else f"packs/{pack_of_f0(damaged)}"
    flip_byte(damaged, flipped)
    with faults.on(FaultKind.ARCHIVED, keys=[key]):
        found = damaged.check(verify_data=True)
        assert [one.touches["object"] for one in found.findings if one.code == "object-archived"] == [named]
        assert "archive" in next(one.detail for one in found.findings if one.code == "object-archived")
        assert codes(found) - {"object-archived"} == {"snapshot-pack-damaged" if kind == "pack" else "block-damaged"}
        left = damaged.fsck(verify_data=True)
        assert (left.status, "object-archived" in codes(left)) == (4, True)
    assert codes(damaged.check(verify_data=True)) <= {"known-loss", "known-snapshot-loss"}
    if kind == "pack":
        assert damaged.readable_contents() == before  # nothing that is only archived was given up


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize("is_newest", [True, False])
def test_an_archived_manifest_is_a_finding_and_the_check_goes_on(
    damaged: DamagedVolume, faults: Faults, *, is_newest: bool
) -> None:
    before, first = damaged.readable_contents(), str(damaged.newest)
    damaged.write("more", b"more")
    damaged.publish()
    key = f"snapshots/{damaged.newest if is_newest else first}"
    flip_byte(damaged, f"packs/{pack_of_f0(damaged)}")
    with faults.on(FaultKind.ARCHIVED, keys=[key]):
        for verify_data in (False, True):
            found = damaged.check(verify_data=verify_data)
            assert [one.touches["object"] for one in found.findings if one.code == "object-archived"] == [key]
            assert codes(found) == {"object-archived"} | ({"block-damaged"} if verify_data else set())
        left = damaged.fsck()
        assert (left.status, codes(left)) == (4, {"object-archived"})
        assert damaged.inner.head(key)  # it was neither quarantined nor deleted
    assert codes(damaged.check()) == set()
    assert set(damaged.readable_contents()) == {*before, "more"}


@pytest.mark.promise("surroundings-may-change")
def test_a_gc_deletes_nothing_while_a_manifest_is_archived(damaged: DamagedVolume, faults: Faults) -> None:
    key = f"snapshots/{damaged.newest}"
    damaged.remove("f1")
    damaged.publish()
    objects = {info.key for info in damaged.inner.list()}
    afresh = attrs.evolve(damaged.context, archive=SnapshotArchive(Shelf(damaged.store)))
    with faults.on(FaultKind.ARCHIVED, keys=[key]), pytest.raises(SnapshotError, match="archive"):
        GarbageCollector(afresh).collect(NOW)
    assert {info.key for info in damaged.inner.list()} >= objects


@pytest.mark.promise("surroundings-may-change")
def test_files_that_only_an_archived_snapshot_may_have_are_not_given_up(damaged: DamagedVolume, faults: Faults) -> None:
    before = damaged.readable_contents()
    damaged.write("more", b"more")
    damaged.publish()
    damaged.sql(*DAMAGES["chunks-unlike-sums"])
    with faults.on(FaultKind.ARCHIVED, keys=[f"snapshots/{damaged.newest}"]):
        assert damaged.fsck().status == 4
    assert damaged.fsck().status == 1
    assert damaged.readable_contents() == before | {"more": b"more"}
