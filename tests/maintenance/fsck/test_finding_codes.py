# SPDX-License-Identifier: GPL-3.0-or-later
"""For every code of a finding: the damage is found and reported, repaired, and then gone.

An intact file does not change by a byte; a damaged one is as it was, or gives I/O errors where it is lost, and never
zeros.
"""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cas3fs.errors import ObjectMissing
from cas3fs.index.checks import QUERIES
from cas3fs.maintenance.fsck.findings import ERROR, KINDS, NOTE, Finding
from tests.commands import test_fsck as whole_volumes
from tests.maintenance import test_archived_objects as archived
from tests.maintenance.damaged_volume import (
    DAMAGES,
    NOTED,
    STORE_DAMAGES,
    DamagedVolume,
    codes,
    lose_staged_bytes,
    make_volume,
)
from tests.maintenance.fsck import test_key_check as key_check
from tests.volume import test_damaged_staging as damaged_staging
from tests.volume import test_listings as listings

pytestmark = pytest.mark.encryption("plain", "encrypted")

EIO = {"chunk-without-block"}
"""After this repair, parts of f0 cannot be read."""
RESTORED = {"chunks-unlike-sums", "chunk-impossible", "chunk-past-block", "chunks-overlap"}
"""After these repairs, f0 is as it was, since a snapshot has it."""
MOVED = {"inode-without-name", "name-in-no-folder"}
ELSEWHERE: dict[str, Callable[..., object]] = {
    "object-archived": archived.test_archived_objects_are_reported_and_all_others_are_read_back,
    "epoch-damaged": listings.test_a_damaged_claim_is_reported_and_replaced_by_a_repair,
    "base-damaged": listings.test_a_damaged_base_is_told_and_written_anew_by_a_repair,
    "release-damaged": listings.test_a_damaged_release_is_reported_and_written_again,
    "key-damaged": key_check.test_a_key_entry_that_did_not_open_the_volume_is_checked,
    "keyring-damaged": key_check.test_a_keyring_that_nobody_uses_is_checked,
    "policy-damaged": listings.test_a_damaged_policy_is_reported_until_another_is_set,
    "snapshot-missing": listings.test_a_lost_head_is_repaired_from_the_one_before,
    "staging-record-damaged": damaged_staging.test_a_check_names_the_file_of_a_damaged_record,
    "staging-damaged": damaged_staging.test_a_repair_uses_what_is_readable_of_a_damaged_database,
    "index-damaged": whole_volumes.test_a_damaged_index_is_set_aside_and_the_head_restored,
}
"""Codes that only a complete volume can have, or that cannot be repaired, and the test of each."""

INDEX_DAMAGES: dict[str, Callable[[DamagedVolume], object]] = {
    code: partial(lambda statements, damaged: damaged.sql(*statements), statements)
    for code, statements in DAMAGES.items()
}
ALL_DAMAGES = INDEX_DAMAGES | STORE_DAMAGES | {"staging-bytes-missing": lose_staged_bytes}


def test_every_code_has_a_test() -> None:
    assert set(ALL_DAMAGES) | set(NOTED) | set(ELSEWHERE) == set(KINDS)
    assert set(INDEX_DAMAGES) == set(QUERIES)
    assert {KINDS[code].severity for code in ALL_DAMAGES} == {ERROR}
    assert {KINDS[code].severity for code in NOTED} == {NOTE}


@pytest.mark.parametrize("code", ALL_DAMAGES)
def test_damage_is_found_and_repaired(damaged: DamagedVolume, code: str) -> None:
    before = damaged.readable_contents()
    assert damaged.check(verify_data=True).findings == ()
    ALL_DAMAGES[code](damaged)
    first = damaged.check(verify_data=True)
    assert (first.status, code in codes(first)) == (4, True), first.as_json()
    if code not in INDEX_DAMAGES:
        assert codes(first) == {code}
    sharing = damaged.sharing_with_f0()
    result = damaged.fsck(verify_data=True)
    assert (result.status, code in codes(result)) == (1, True), result.as_json()
    second = damaged.check(verify_data=True)
    assert second.status == 0, second.as_json()
    assert damaged.fsck(verify_data=True).status == 0
    after = damaged.readable_contents()
    check_contents(before, after, sharing if code in STORE_DAMAGES else {"f0"})
    if code in EIO:
        assert after["f0"] is None
    elif code in RESTORED:
        assert after["f0"] == before["f0"]
    elif code in MOVED:
        assert any(name.startswith("#") for name in damaged.names_in_lost_and_found())
    elif code in STORE_DAMAGES and (after["f0"] is None):
        assert sum(one.lost for one in result.findings) > 0
    damaged.publish()
    damaged.check_newest_can_be_restored()


def check_contents(before: dict[str, bytes | None], after: dict[str, bytes | None], damaged_names: set[str]) -> None:
    """Checks that intact files are unchanged, and that no byte of the damaged ones became zero."""
    whole = {name: data for name, data in before.items() if name not in damaged_names}
    assert {name: after.get(name) for name in whole} == whole
    for name in damaged_names:
        data = after.get(name)
        assert data is None or not data or any(data)
        if data is not None and len(data) == len(before[name] or b"") and name != "f0":
            assert data == before[name]


@pytest.mark.parametrize("code", NOTED)
def test_a_note_is_reported_and_changes_nothing(damaged: DamagedVolume, code: str) -> None:
    NOTED[code](damaged)
    before = damaged.readable_contents()
    first = damaged.check(verify_data=True)
    assert (first.status, codes(first)) == (0, {code}), first.as_json()
    second = damaged.fsck(verify_data=True)
    assert (second.status, codes(second)) == (0, {code}), second.as_json()
    assert damaged.readable_contents() == before
    damaged.gc()  # a gc still works
    assert damaged.check(verify_data=True).status == 0


EARLY = {"snapshot-pack-missing": 0, "snapshot-pack-damaged": 1, "staging-bytes-missing": 2}
"""Damages that start with a write, so that they have to come first."""


@pytest.mark.promise("repair-leaves-whole-files-alone")
@settings(max_examples=settings.default.max_examples // 5, deadline=None, suppress_health_check=list(HealthCheck))
@example(["wrong-type", "chunk-impossible"])
@given(damages=st.lists(st.sampled_from(sorted(ALL_DAMAGES)), min_size=2, max_size=6, unique=True))
def test_several_damages_at_once_change_no_byte_of_other_files(
    encryption: str, tmp_path_factory: Any, damages: list[str]
) -> None:
    damaged = make_volume(tmp_path_factory.mktemp("many") / "volume")
    before, sharing = damaged.readable_contents(), damaged.sharing_with_f0()
    for code in sorted(damages, key=lambda code: EARLY.get(code, 9)):
        try:
            ALL_DAMAGES[code](damaged)
        except (sqlite3.IntegrityError, TypeError, ObjectMissing):
            continue  # an earlier damage has removed what this one changes
    result = damaged.fsck(verify_data=True)
    assert result.status in (0, 1), result.as_json()
    second = damaged.check(verify_data=True)
    assert second.status == 0, second.as_json()
    check_contents(before, damaged.readable_contents(), sharing if set(damages) & set(STORE_DAMAGES) else {"f0"})
    damaged.close()


def test_every_finding_can_be_printed() -> None:
    for code in KINDS:
        printed = Finding(code, {"hash": b"\1\2", "inode": 3}, paths=("/a",), path_count=1).as_json()
        assert printed["code"] == code and printed["repair"] and printed["touches"]["hash"] == "0102"
