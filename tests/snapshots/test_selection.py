# SPDX-License-Identifier: GPL-3.0-or-later
"""People select snapshots by id, name, age and time, and nothing is guessed where several could be meant."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cas3fs.entries.kinds import EpochEntry, SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import SnapshotError, SnapshotMissing, UsageError
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.selection import check_name, find_snapshot

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
FIRST, SECOND, THIRD, FOURTH = (
    "00000001-0000000001",
    "00000001-0000000002",
    "00000002-0000000001",
    "00000012-0000000001",
)


class Clock:
    """A clock that is set."""

    time = NOON

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def archive(tmp_path: Path) -> SnapshotArchive:
    """Four snapshots: of noon, of an hour later, and so on."""
    clock = Clock()
    made = SnapshotArchive(Shelf(MemoryStore()), now=clock)
    (tmp_path / "index").write_bytes(b"x" * 4096)
    parent = None
    for hours, (text, name) in enumerate([(FIRST, "a"), (SECOND, None), (THIRD, "twice"), (FOURTH, "twice")]):
        clock.time = NOON + timedelta(hours=hours)
        epoch, sequence = map(int, text.split("-"))
        parent = made.create(tmp_path / "index", epoch=epoch, sequence=sequence, parent=parent, name=name).id
    return made


def find(archive: SnapshotArchive, selector: str) -> str:
    """What is found half an hour after the last snapshot."""
    return find_snapshot(archive, selector, lambda: NOON + timedelta(hours=3.5))


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        (SECOND, SECOND),
        ("latest", FOURTH),
        ("a", FIRST),
        ("@1m", FOURTH),
        ("@30m", FOURTH),
        ("@31m", THIRD),
        ("@2h", SECOND),
        ("@3.5h", FIRST),
        ("@2026-11-28T13:59Z", SECOND),
        ("@2026-11-28 15:00+01:00", THIRD),
        ("@2027-01-01", FOURTH),
        ("1-2", SECOND),
        ("12-1", FOURTH),
        ("00000002", THIRD),
        ("00000001-0000000002", SECOND),
    ],
)
def test_a_selector_means_one_snapshot(archive: SnapshotArchive, selector: str, found: str) -> None:
    assert find(archive, selector) == found


def test_a_whole_id_is_taken_as_it_is(archive: SnapshotArchive) -> None:
    assert find(archive, "00000099-0000000001") == "00000099-0000000001"


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("00000001", f"2 snapshots of .* begin with '00000001': {SECOND} of .*, {FIRST} 'a' of "),
        ("twice", f"2 snapshots of .* are named 'twice': {FOURTH} 'twice' of .*, {THIRD} 'twice' of "),
    ],
)
def test_what_several_match_is_refused_with_all_of_them(archive: SnapshotArchive, selector: str, words: str) -> None:
    with pytest.raises(SnapshotError, match=words):
        find(archive, selector)


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("twicee", "has no snapshot 'twicee'; the nearest is 'twice'; `cas3fs snapshot list` shows all"),
        ("lates", "has no snapshot 'lates'; the nearest is 'latest'"),
        ("nothing like it", "has no snapshot 'nothing like it'; `cas3fs snapshot list`"),
        ("", "has no snapshot ''"),
        ("@4h", f"no snapshot as old as '@4h' .*; the oldest is {FIRST} 'a' of 2026-11-28"),
        ("@2020-01-01", f"no snapshot as old as .* the oldest is {FIRST}"),
    ],
)
def test_what_none_matches_is_refused_with_the_nearest(archive: SnapshotArchive, selector: str, words: str) -> None:
    with pytest.raises(SnapshotMissing, match=words):
        find(archive, selector)


@pytest.mark.parametrize("selector", ["@", "@soon", "@2x", "@2020", "@99999999999999w"])
def test_what_is_neither_age_nor_time_is_refused(archive: SnapshotArchive, selector: str) -> None:
    with pytest.raises(UsageError, match="@2h"):
        find(archive, selector)


@pytest.mark.parametrize("selector", ["latest", "@1h", "a", "0"])
def test_a_volume_without_snapshots_says_so(selector: str) -> None:
    with pytest.raises(SnapshotMissing, match="has no snapshot"):
        find(SnapshotArchive(Shelf(MemoryStore())), selector)


def test_a_name_wins_over_the_beginning_of_an_id(archive: SnapshotArchive, tmp_path: Path) -> None:
    made = archive.create(tmp_path / "index", epoch=13, sequence=1, parent=FOURTH, name="00000012").id
    assert find(archive, "00000012") == made
    assert find(archive, "00000012-") == FOURTH


def test_a_damaged_snapshot_prevents_no_selection_and_is_found_by_its_beginning(archive: SnapshotArchive) -> None:
    store = archive.shelf.store
    store.delete_many([SnapshotEntry.key_of(THIRD)])
    store.put_if_absent(SnapshotEntry.key_of(THIRD), b"garbage")
    fresh = SnapshotArchive(Shelf(store))
    assert find(fresh, "@2h") == SECOND
    assert find(fresh, "00000002") == THIRD
    assert find(fresh, "twice") == FOURTH


def test_a_snapshot_of_a_replaced_writer_is_no_earlier_state(archive: SnapshotArchive, tmp_path: Path) -> None:
    clock = Clock()
    clock.time = NOON + timedelta(hours=3.2)
    late = SnapshotArchive(archive.shelf, now=clock)
    stray = late.create(tmp_path / "index", epoch=2, sequence=2, parent=THIRD, name="stray").id
    archive.bases.write(EpochEntry.key_of("00000012"), 12, THIRD)
    assert archive.diverged() == {stray}
    assert find(archive, "@1m") == FOURTH
    assert find(archive, "stray") == stray


@pytest.mark.parametrize("name", ["", "latest", "now", "@home", "00000001-0000000001"])
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        check_name(name)


@pytest.mark.parametrize("name", [None, "before-upgrade", "2026", "1-2", "latest-2", "a@b"])
def test_other_names_are_accepted(name: str | None) -> None:
    check_name(name)
