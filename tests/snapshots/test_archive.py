# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot is restored completely, or not at all."""

import os
import random
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.entries.kinds import PagesEntry, SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import (
    ObjectExists,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    StoreUnreachable,
    VolumeFormatError,
)
from cas3fs.objectstores.base import Body
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.tree import LIST_LENGTH, PAGES_LIMIT, SEGMENT_BYTES
from tests.encrypted import sealed_if_chosen

pytestmark = pytest.mark.encryption("plain", "encrypted")

SEGMENT = 512
FIRST = "00000001-0000000001"


class Store(MemoryStore):
    """Counts requests; objects can be damaged, and requests can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []
        self.gets = 0
        self.failing = ""

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        if self.failing and key.startswith(self.failing):
            raise StoreUnreachable("no route")
        self.puts.append(key)
        super().put_if_absent(key, body, metadata)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.gets += 1
        if self.failing and key.startswith(self.failing):
            raise StoreUnreachable("no route")
        return super().get_range(key, start, length)

    def damage(self, key: str, offset: int) -> None:
        body = bytearray(self.get(key))
        body[offset] ^= 1
        self.delete_many([key])
        super().put_if_absent(key, body)


@pytest.fixture
def store(encryption: str) -> Store:
    return Store()


def archive_of(store: MemoryStore) -> SnapshotArchive:
    """An archive with tiny segments and lists, so that small files make deep trees."""
    return SnapshotArchive(Shelf(sealed_if_chosen(store)), segment_size=SEGMENT, list_length=8, workers=3)


@pytest.fixture
def archive(store: Store) -> SnapshotArchive:
    return archive_of(store)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index"
    path.write_bytes(random.Random(3).randbytes(50_000))
    return path


def change(path: Path, offset: int, data: bytes = b"changed") -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def restored(archive: SnapshotArchive, snapshot: str, path: Path) -> bytes:
    target = path.with_name("restored")
    archive.restore(snapshot, target)
    content = target.read_bytes()
    target.unlink()
    return content


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 512 * 8, 512 * 8 + 1, 50_000])
def test_a_restored_file_equals_the_original(store: Store, tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "index").write_bytes(content)
    info = archive_of(store).create(tmp_path / "index", epoch=1, sequence=1)
    assert (info.id, info.index_size) == (FIRST, size)
    assert restored(archive_of(store), FIRST, tmp_path / "index") == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "grow", "cut"]), st.integers(0, 20_000), st.binary(max_size=1500)),
        max_size=8,
    )
)
@settings(max_examples=settings.default.max_examples * 2 // 5)
def test_every_snapshot_of_a_changing_file_stays_restorable(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("changing") / "index"
    content = bytearray(random.Random(1).randbytes(12_000))
    archive = archive_of(MemoryStore())
    kept: dict[str, bytes] = {}
    parent = None
    for sequence, (what, offset, data) in enumerate([("write", 0, b""), *changes], 1):
        if what == "write":
            content[offset : offset + len(data)] = data
        elif what == "grow":
            content += data
        else:
            del content[offset:]
        path.write_bytes(content)
        parent = archive.create(path, epoch=1, sequence=sequence, parent=parent).id
        kept[parent] = bytes(content)
    assert {one: restored(archive, one, path) for one in archive.ids()} == kept


def test_a_manifest_keeps_all_facts(archive: SnapshotArchive, store: Store, index: Path) -> None:
    made = archive.create(index, epoch=7, sequence=123, name="before the move", facts={"files": 3, "logical_size": 5})
    assert made == archive_of(store).load("00000007-0000000123") == archive_of(store).newest()
    assert (made.name, dict(made.facts), made.number) == ("before the move", {"files": 3, "logical_size": 5}, (7, 123))
    assert made.new_size == len(sealed_if_chosen(store).get("pages/00000007-0000000123"))


def test_a_fact_that_is_too_large_is_recorded_as_the_largest(archive: SnapshotArchive, index: Path) -> None:
    made = archive.create(index, epoch=7, sequence=123, facts={"logical_bytes": 2**64})
    assert 2**62 < archive.load(made.id).facts["logical_bytes"] < 2**64


def test_a_snapshot_is_two_puts_with_the_manifest_last(archive: SnapshotArchive, store: Store, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    assert store.puts == ["pages/" + FIRST, "snapshots/" + FIRST]


def test_a_small_change_stores_little(tmp_path: Path) -> None:
    """The real sizes: a 16 MiB file of four lists, of which six segments change."""
    store = Store()
    archive = SnapshotArchive(Shelf(sealed_if_chosen(store)))
    index = tmp_path / "index"
    index.write_bytes(random.Random(3).randbytes(4 * LIST_LENGTH * SEGMENT_BYTES))
    first = archive.create(index, epoch=1, sequence=1)
    for offset in (0, 1_000_000, 5_000_000, 5_000_001, 9_000_000, 16_000_000):
        change(index, offset)
    store.puts.clear()
    second = archive.create(index, epoch=1, sequence=2, parent=first.id)
    assert len(store.puts) == 2
    assert second.new_size < 5 * SEGMENT_BYTES + 4 * 5_000 + 1000
    assert {use.id for use in second.pages} == {*(use.id for use in first.pages), second.id}
    assert restored(SnapshotArchive(Shelf(sealed_if_chosen(store))), second.id, index) == index.read_bytes()


def test_a_snapshot_of_an_unchanged_file_stores_only_a_manifest(
    archive: SnapshotArchive, store: Store, index: Path
) -> None:
    first = archive.create(index, epoch=1, sequence=1)
    second = archive.create(index, epoch=1, sequence=2, parent=first.id)
    assert second.new_size == 0 and store.puts[2:] == ["snapshots/" + second.id]
    assert [use.id for use in second.pages] == [first.id]


def test_a_new_archive_reads_the_lists_of_the_parent(archive: SnapshotArchive, store: Store, index: Path) -> None:
    first = archive.create(index, epoch=1, sequence=1)
    change(index, 700)
    second = archive_of(store).create(index, epoch=1, sequence=2, parent=first.id)
    assert 0 < second.new_size < first.new_size / 10


def test_a_parent_with_other_sizes_is_not_reused(store: Store, index: Path) -> None:
    first = archive_of(store).create(index, epoch=1, sequence=1)
    other = SnapshotArchive(Shelf(sealed_if_chosen(store)), segment_size=1024, list_length=8)
    second = other.create(index, epoch=1, sequence=2, parent=first.id)
    assert [use.id for use in second.pages] == [second.id]
    assert restored(archive_of(store), second.id, index) == index.read_bytes()


def test_a_manifest_states_how_much_of_each_object_is_needed(
    archive: SnapshotArchive, store: Store, index: Path
) -> None:
    first = archive.create(index, epoch=1, sequence=1)
    change(index, 0)
    second = archive.create(index, epoch=1, sequence=2, parent=first.id)
    uses = {use.id: use for use in second.pages}
    assert uses[first.id].total_size == len(sealed_if_chosen(store).get("pages/" + first.id))
    assert uses[second.id].total_size == len(sealed_if_chosen(store).get("pages/" + second.id))
    assert uses[first.id].live_size < first.pages[0].live_size <= first.pages[0].total_size


def test_chains_stay_short(archive: SnapshotArchive, store: Store, index: Path) -> None:
    made: list[SnapshotInfo] = []
    for sequence in range(1, 200):
        change(index, sequence * 251 % 50_000, sequence.to_bytes(4, "big"))
        parent = made[-1].id if made else None
        made.append(archive.create(index, epoch=1, sequence=sequence, parent=parent))
    assert max(len(one.pages) for one in made) <= PAGES_LIMIT
    content = index.read_bytes()
    needed = {use.id for use in made[-1].pages}
    store.delete_many(
        [one.key for one in Shelf(sealed_if_chosen(store)).list_entries(PagesEntry) if one.id not in needed]
    )
    assert restored(archive, made[-1].id, index) == content


def test_snapshots_are_listed_in_the_order_of_their_numbers(archive: SnapshotArchive, index: Path) -> None:
    for epoch, sequence in ((2, 1), (1, 9), (1, 10), (10, 1)):
        archive.create(index, epoch=epoch, sequence=sequence)
    assert [info.number for info in archive.list()] == [(1, 9), (1, 10), (2, 1), (10, 1)]
    newest = archive.newest()
    assert newest is not None and newest.number == (10, 1)


def test_a_volume_without_snapshots_has_no_newest(archive: SnapshotArchive) -> None:
    assert archive.newest() is None and archive.list() == []


@pytest.mark.promise("numbers-are-never-reused")
def test_a_number_is_used_once(archive: SnapshotArchive, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    with pytest.raises(ObjectExists):
        archive.create(index, epoch=1, sequence=1)


def test_a_snapshot_that_was_interrupted_before_the_manifest_does_not_exist(
    archive: SnapshotArchive, store: Store, index: Path
) -> None:
    store.failing = "snapshots/"
    with pytest.raises(StoreUnreachable):
        archive.create(index, epoch=1, sequence=1)
    store.failing = ""
    assert archive.ids() == []
    second = archive.create(index, epoch=1, sequence=2)
    assert archive.ids() == [second.id]


@pytest.mark.parametrize("snapshot", [FIRST, "nonsense", "1-1", "../x"])
def test_an_unknown_snapshot_is_missing(archive: SnapshotArchive, snapshot: str, tmp_path: Path) -> None:
    with pytest.raises(SnapshotMissing, match="snapshot"):
        archive.load(snapshot)
    with pytest.raises(SnapshotMissing):
        archive.restore(snapshot, tmp_path / "restored")


def test_an_error_names_a_foreign_object_among_the_snapshots(archive: SnapshotArchive, store: Store) -> None:
    store.put_if_absent("snapshots/readme", b"")
    with pytest.raises(VolumeFormatError, match="readme"):
        archive.newest()


def damages(store: Store) -> Iterator[int]:
    size = len(sealed_if_chosen(store).get("pages/" + FIRST))
    head = 200
    yield from range(head, size - 40, size // 40)


def test_any_damage_is_detected_and_no_file_is_left(archive: SnapshotArchive, store: Store, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    target = index.with_name("restored")
    for offset in damages(store):
        store.damage("pages/" + FIRST, offset)
        with pytest.raises(SnapshotDamaged, match=FIRST):
            archive_of(store).restore(FIRST, target)
        assert not target.exists()
        store.damage("pages/" + FIRST, offset)
    assert restored(archive, FIRST, index) == index.read_bytes()


def test_missing_pages_are_damage(archive: SnapshotArchive, store: Store, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    store.delete_many(["pages/" + FIRST])
    with pytest.raises(SnapshotDamaged, match=f"{FIRST} is incomplete"):
        archive_of(store).restore(FIRST, index.with_name("restored"))


def test_truncated_pages_are_damage(archive: SnapshotArchive, store: Store, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    body = store.get("pages/" + FIRST)
    store.delete_many(["pages/" + FIRST])
    store.put_if_absent("pages/" + FIRST, body[: len(body) // 2])
    with pytest.raises(SnapshotDamaged):
        archive_of(store).restore(FIRST, index.with_name("restored"))


def test_a_damaged_manifest_is_reported_and_the_others_are_still_listed(
    archive: SnapshotArchive, store: Store, index: Path
) -> None:
    archive.create(index, epoch=1, sequence=1)
    second = archive.create(index, epoch=1, sequence=2)
    store.damage("snapshots/" + second.id, 100)
    with pytest.raises(SnapshotDamaged, match=second.id):
        archive.newest()
    with pytest.raises(SnapshotDamaged):
        archive.list()
    reported: list[str] = []
    assert [info.id for info in archive.list(lambda one, error: reported.append(one))] == [FIRST]
    assert reported == [second.id]


@pytest.mark.parametrize(
    "wrong", [{"segment_size": 0}, {"segment_size": 2**40}, {"list_length": 0}, {"index_size": 2**60}, {"parts": ()}]
)
def test_a_manifest_whose_sizes_do_not_fit_is_damaged(
    archive: SnapshotArchive, store: Store, index: Path, wrong: dict[str, object]
) -> None:
    archive.create(index, epoch=1, sequence=1)
    entry = Shelf(sealed_if_chosen(store)).load(SnapshotEntry, FIRST)
    Shelf(sealed_if_chosen(store)).save(entry.changed(id="00000001-0000000002", **wrong))
    with pytest.raises(SnapshotDamaged):
        archive.load("00000001-0000000002")


def test_a_failing_store_is_not_damage_and_no_file_is_left(archive: SnapshotArchive, store: Store, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    store.failing = "pages/"
    with pytest.raises(StoreUnreachable):
        archive.restore(FIRST, index.with_name("restored"))
    assert not index.with_name("restored").exists()


def test_segments_that_a_local_index_has_are_not_read_from_the_store(store: Store, tmp_path: Path) -> None:
    first, second, local = (tmp_path / name for name in ("first", "second", "local"))
    content = random.Random(1).randbytes(40 * SEGMENT + 77)
    second.write_bytes(content)
    archive_of(store).create(second, epoch=1, sequence=1)
    before = store.gets
    archive_of(store).restore(FIRST, first)
    all_gets = store.gets - before
    local.write_bytes(content)
    before = store.gets
    archive_of(store).restore(FIRST, tmp_path / "restored", local=[tmp_path / "missing", local])
    assert (tmp_path / "restored").read_bytes() == content
    assert 0 < store.gets - before < all_gets, "the lists of the snapshot are read, and no segment"


@given(
    size=st.integers(1, 40 * SEGMENT),
    local_size=st.integers(0, 40 * SEGMENT),
    changed=st.sets(st.integers(0, 40 * SEGMENT - 1), max_size=6),
)
@settings(max_examples=settings.default.max_examples // 4)
def test_whatever_local_files_hold_a_restored_file_equals_the_original(
    tmp_path_factory: pytest.TempPathFactory, size: int, local_size: int, changed: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("restored")
    content = random.Random(1).randbytes(40 * SEGMENT)
    (folder / "index").write_bytes(content[:size])
    archive = archive_of(MemoryStore())
    archive.create(folder / "index", epoch=1, sequence=1)
    other = bytes(byte ^ (place in changed) for place, byte in enumerate(content[:local_size]))
    (folder / "other").write_bytes(other)
    (folder / "empty").write_bytes(b"")
    archive.restore(FIRST, folder / "restored", local=[folder / "empty", folder / "other", folder])
    assert (folder / "restored").read_bytes() == content[:size]


def test_a_database_that_this_process_has_open_is_no_source(store: Store, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(random.Random(1).randbytes(40 * SEGMENT))
    archive_of(store).create(local, epoch=1, sequence=1)
    closed: list[int] = []
    with local.open("rb"), pytest.MonkeyPatch.context() as patch:
        close = os.close
        patch.setattr(os, "close", lambda one: closed.append(os.fstat(one).st_ino) or close(one))
        archive_of(store).restore(FIRST, tmp_path / "restored", local=[local])
    assert local.stat().st_ino not in closed


def test_a_restore_does_not_overwrite_a_file(archive: SnapshotArchive, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    before = index.read_bytes()
    change(index, 0)
    with pytest.raises(SnapshotError):
        archive.restore(FIRST, index)
    assert index.read_bytes() != before


def test_a_failing_local_disk_is_a_snapshot_error(archive: SnapshotArchive, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="local disk"):
        archive.create(tmp_path / "absent" / "index", epoch=1, sequence=1)


def test_a_restore_needs_few_requests_and_reports_its_progress(store: Store, tmp_path: Path) -> None:
    archive = SnapshotArchive(Shelf(sealed_if_chosen(store)))
    index = tmp_path / "index"
    index.write_bytes(random.Random(5).randbytes(10_000_000))
    archive.create(index, epoch=1, sequence=1)
    reported: list[tuple[int, int]] = []
    SnapshotArchive(Shelf(sealed_if_chosen(store))).restore(
        FIRST, tmp_path / "restored", lambda done, total: reported.append((done, total))
    )
    assert store.gets <= 5
    assert reported[-1] == (10_000_000, 10_000_000) and [done for done, _ in reported] == sorted(
        done for done, _ in reported
    )


def test_no_thread_is_left_after_a_failure(archive: SnapshotArchive, store: Store, index: Path) -> None:
    archive.create(index, epoch=1, sequence=1)
    before = threading.active_count()
    store.failing = "pages/"
    with pytest.raises(StoreUnreachable):
        archive.restore(FIRST, index.with_name("restored"))
    assert threading.active_count() == before


@pytest.mark.promise("snapshots-are-ordered-by-number")
def test_the_order_of_snapshots_does_not_depend_on_the_clock(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for sequence, year in ((1, 2030), (2, 1999)):
        file.write_bytes(b"%d" % sequence * SEGMENT)
        archive = SnapshotArchive(
            Shelf(sealed_if_chosen(store)), segment_size=SEGMENT, now=lambda year=year: datetime(year, 1, 1, tzinfo=UTC)
        )
        archive.create(file, epoch=1, sequence=sequence, parent=archive.newest_id())
    newest = archive.newest_id()
    assert newest == "00000001-0000000002"
    archive.restore(newest, tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == b"2" * SEGMENT
