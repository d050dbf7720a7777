# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that somebody's rules have moved to an archive: they are neither lost nor damaged, and hide nothing else."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from cas3fs.entries.shelf import Shelf
from cas3fs.errors import SnapshotError
from cas3fs.maintenance.gc import Collector
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.testing.faults import FaultKind, Faults
from cas3fs.testing.faulty_store import STORE_FAULTS, FaultyStore
from tests.maintenance.rig import NOW
from tests.maintenance.ward import DAMAGES, Ward, codes, flip, held_pack, make, pack_of_f0


@pytest.fixture
def faults() -> Faults:
    return Faults(STORE_FAULTS)


@pytest.fixture
def ward(tmp_path: Path, faults: Faults) -> Iterator[Ward]:
    made = make(tmp_path / "ward", wrap=lambda store: FaultyStore(store, faults))
    yield made
    made.close()


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize("kind", ["pack", "pack of a snapshot", "pages"])
def test_what_lies_in_an_archive_is_named_and_all_else_is_read_back(ward: Ward, faults: Faults, kind: str) -> None:
    before = ward.found()
    held = held_pack(ward)
    key = {"pack": f"packs/{pack_of_f0(ward)}", "pack of a snapshot": held, "pages": f"pages/{ward.newest}"}[kind]
    named = f"snapshots/{ward.newest}" if kind == "pages" else key
    damaged = held if kind == "pack" else f"packs/{pack_of_f0(ward)}"
    flip(ward, damaged)
    with faults.on(FaultKind.ARCHIVED, keys=[key]):
        found = ward.check(verify_data=True)
        assert [one.touches["object"] for one in found.findings if one.code == "object-archived"] == [named]
        assert "archive" in next(one.detail for one in found.findings if one.code == "object-archived")
        assert codes(found) - {"object-archived"} == {"snapshot-pack-damaged" if kind == "pack" else "block-damaged"}
        left = ward.fsck(verify_data=True)
        assert (left.status, "object-archived" in codes(left)) == (4, True)
    assert codes(ward.check(verify_data=True)) <= {"known-loss", "known-snapshot-loss"}
    if kind == "pack":
        assert ward.found() == before  # nothing was given up that only lay in the archive


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize("is_newest", [True, False])
def test_a_manifest_in_an_archive_is_a_finding_and_the_check_goes_on(
    ward: Ward, faults: Faults, *, is_newest: bool
) -> None:
    before, first = ward.found(), str(ward.newest)
    ward.write("more", b"more")
    ward.publish()
    key = f"snapshots/{ward.newest if is_newest else first}"
    flip(ward, f"packs/{pack_of_f0(ward)}")
    with faults.on(FaultKind.ARCHIVED, keys=[key]):
        for verify_data in (False, True):
            found = ward.check(verify_data=verify_data)
            assert [one.touches["object"] for one in found.findings if one.code == "object-archived"] == [key]
            assert codes(found) == {"object-archived"} | ({"block-damaged"} if verify_data else set())
        left = ward.fsck()
        assert (left.status, codes(left)) == (4, {"object-archived"})
        assert ward.inner.head(key)  # it was neither put aside nor deleted
    assert codes(ward.check()) == set()
    assert set(ward.found()) == {*before, "more"}


@pytest.mark.promise("surroundings-may-change")
def test_a_gc_deletes_nothing_while_a_manifest_lies_in_an_archive(ward: Ward, faults: Faults) -> None:
    key = f"snapshots/{ward.newest}"
    ward.remove("f1")
    ward.publish()
    objects = {info.key for info in ward.inner.list()}
    afresh = attrs.evolve(ward.premises, archive=SnapshotArchive(Shelf(ward.store)))
    with faults.on(FaultKind.ARCHIVED, keys=[key]), pytest.raises(SnapshotError, match="archive"):
        Collector(afresh).collect(NOW)
    assert {info.key for info in ward.inner.list()} >= objects


@pytest.mark.promise("surroundings-may-change")
def test_files_that_only_an_archived_snapshot_may_have_are_not_given_up(ward: Ward, faults: Faults) -> None:
    before = ward.found()
    ward.write("more", b"more")
    ward.publish()
    ward.sql(*DAMAGES["chunks-unlike-sums"])
    with faults.on(FaultKind.ARCHIVED, keys=[f"snapshots/{ward.newest}"]):
        assert ward.fsck().status == 4
    assert ward.fsck().status == 1
    assert ward.found() == before | {"more": b"more"}
