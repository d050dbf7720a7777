# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists that are valid by themselves but do not belong to the snapshot."""

import random
from itertools import combinations
from pathlib import Path

import pytest

from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import SnapshotDamaged
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive

SEGMENT = 512
FIRST, SECOND = "00000001-0000000001", "00000001-0000000002"


def archive_of(store: MemoryStore) -> SnapshotArchive:
    return SnapshotArchive(Shelf(store), segment_size=SEGMENT, list_length=8)


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """A store with a snapshot of 92 segments: eleven full lists, and one of four."""
    made = MemoryStore()
    (tmp_path / "index").write_bytes(random.Random(3).randbytes(92 * SEGMENT))
    archive_of(made).create(tmp_path / "index", epoch=1, sequence=1)
    return made


def test_swapped_lists_are_damage(store: MemoryStore, tmp_path: Path) -> None:
    parts = Shelf(store).load(SnapshotEntry, FIRST).parts
    one, other = next(pair for pair in combinations(parts, 2) if pair[0].length == pair[1].length)
    body = bytearray(store.get("pages/" + FIRST))
    places = [slice(part.offset, part.offset + part.length) for part in (one, other)]
    body[places[0]], body[places[1]] = body[places[1]], body[places[0]]
    store.delete_many(["pages/" + FIRST])
    store.put_if_absent("pages/" + FIRST, body)
    with pytest.raises(SnapshotDamaged, match=FIRST):
        archive_of(store).restore(FIRST, tmp_path / "restored")


def test_a_manifest_with_more_segments_than_its_lists_is_damaged(store: MemoryStore, tmp_path: Path) -> None:
    entry = Shelf(store).load(SnapshotEntry, FIRST)
    Shelf(store).save(entry.changed(id=SECOND, index_size=entry.index_size + SEGMENT))
    with pytest.raises(SnapshotDamaged):
        archive_of(store).restore(SECOND, tmp_path / "restored")
