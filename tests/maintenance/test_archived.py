# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that somebody's rules have moved to an archive: they are neither lost nor damaged, and hide nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.testing.faults import FaultKind, Faults
from cas3fs.testing.lying_store import STORE_FAULTS, LyingStore
from tests.maintenance.ward import Ward, codes, flip, held_pack, make, pack_of_f0


@pytest.fixture
def faults() -> Faults:
    return Faults(STORE_FAULTS)


@pytest.fixture
def ward(tmp_path: Path, faults: Faults) -> Iterator[Ward]:
    made = make(tmp_path / "ward", wrap=lambda store: LyingStore(store, faults))
    yield made
    made.close()


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
