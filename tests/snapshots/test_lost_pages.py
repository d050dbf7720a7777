# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages entries of a snapshot exist when it is published, are limited in size, and some are stored twice."""

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import StoreError, StoreUnreachable
from cas3fs.objectstores.base import Body, ListPage, ObjectInfo
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStore
from tests.encrypted import sealed_if_chosen

pytestmark = pytest.mark.encryption("plain", "encrypted")

SEGMENT = 512
DAY = timedelta(days=1)


class Store(MemoryStore):
    """Records what is put; objects can be hidden from listings, and puts can be refused."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[tuple[str, int]] = []
        self.hidden: set[str] = set()
        self.heads = 0
        self.puts_allowed: int | None = None

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        if self.puts_allowed is not None:
            if not self.puts_allowed:
                raise StoreUnreachable("no route")
            self.puts_allowed -= 1
        super().put_if_absent(key, body, metadata)
        self.puts.append((key, super().head(key).size))

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        page = super().list_page(prefix, start_after)
        return page._replace(objects=[info for info in page.objects if info.key not in self.hidden])

    def head(self, key: str) -> ObjectInfo:
        self.heads += key.startswith("pages/")
        return super().head(key)

    def lose(self, key: str) -> None:
        self.delete_many([key])

    def cut(self, key: str) -> None:
        body = self.get(key)
        self.delete_many([key])
        super().put_if_absent(key, body[: len(body) // 2])

    def stored(self, prefix: str) -> int:
        """Bytes that were put there."""
        return sum(size for key, size in self.puts if key.startswith(prefix))


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def archive_of(store: MemoryStore, clock: Clock | None = None, part_bytes: int = 16 << 20) -> SnapshotArchive:
    return SnapshotArchive(
        Shelf(sealed_if_chosen(store)),
        segment_size=SEGMENT,
        list_length=8,
        workers=3,
        now=clock or Clock(),
        part_bytes=part_bytes,
    )


@pytest.fixture
def store(encryption: str) -> Store:
    return Store()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index"
    path.write_bytes(random.Random(3).randbytes(50_000))
    return path


def change(path: Path, offset: int, data: bytes = b"changed") -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def restored(store: Store, snapshot: SnapshotInfo, path: Path) -> bytes:
    target = path.with_name("restored")
    archive_of(store).restore(snapshot.id, target)
    content = target.read_bytes()
    target.unlink()
    return content


@pytest.mark.promise("pages-are-verified-before-the-manifest")
@pytest.mark.parametrize("harm", [Store.lose, Store.cut])
@pytest.mark.parametrize("remembers", [True, False])
def test_missing_or_short_pages_are_stored_again(
    store: Store, index: Path, harm: Callable[[Store, str], None], remembers: bool
) -> None:
    archive = archive_of(store)
    first = archive.create(index, epoch=1, sequence=1)
    change(index, 700)
    second = archive.create(index, epoch=1, sequence=2, parent=first.id)
    harm(store, "pages/" + first.id)
    change(index, 9_000)
    if not remembers:
        archive = archive_of(store)
    third = archive.create(index, epoch=1, sequence=3, parent=second.id)
    assert restored(store, third, index) == index.read_bytes()
    assert first.id not in {use.id for use in third.pages}
    assert third.parent == second.id
    change(index, 20_000)
    fourth = archive.create(index, epoch=1, sequence=4, parent=third.id)
    assert fourth.new_size < third.new_size / 4, "what is there is not stored once more"
    assert restored(store, fourth, index) == index.read_bytes()


@pytest.mark.promise("pages-are-verified-before-the-manifest")
def test_pages_that_the_listing_lacks_are_looked_up_by_name(store: Store, index: Path) -> None:
    archive = archive_of(store)
    first = archive.create(index, epoch=1, sequence=1)
    store.hidden.add("pages/" + first.id)
    change(index, 700)
    second = archive.create(index, epoch=1, sequence=2, parent=first.id)
    assert [use.id for use in second.pages] == [first.id, second.id]
    assert second.new_size < first.new_size / 10
    assert store.heads == 1


def test_lost_pages_are_reported_for_every_snapshot_that_needs_them(store: Store, index: Path) -> None:
    archive = archive_of(store)
    first = archive.create(index, epoch=1, sequence=1)
    change(index, 700)
    second = archive.create(index, epoch=1, sequence=2, parent=first.id)
    assert archive.lost_pages(second) == {}
    store.cut("pages/" + first.id)
    assert list(archive.lost_pages(second)) == [first.id]
    store.lose("pages/" + second.id)
    assert sorted(archive.lost_pages(archive.load(second.id))) == [first.id, second.id]


@pytest.mark.promise("pages-exist-twice")
def test_a_large_snapshot_is_several_objects_of_limited_size(store: Store, index: Path) -> None:
    archive = archive_of(store, part_bytes=8_000)
    made = archive.create(index, epoch=1, sequence=1)
    pages = {key: size for key, size in store.puts if key.startswith("pages/")}
    assert len(pages) > 5 and max(pages.values()) <= 8_000
    sizes = {info.key[6:]: info.size for info in sealed_if_chosen(store).list("pages/")}
    assert {use.id: use.total_size for use in made.pages} == sizes
    assert made.new_size == sum(sizes.values())
    assert restored(store, made, index) == index.read_bytes()
    change(index, 700)
    second = archive.create(index, epoch=1, sequence=2, parent=made.id)
    assert len(store.puts) == len(pages) + 3
    assert restored(store, second, index) == index.read_bytes()


@pytest.mark.promise("pages-exist-twice")
def test_an_attempt_reuses_the_pages_of_an_interrupted_one(store: Store, index: Path) -> None:
    archive = archive_of(store, part_bytes=8_000)
    store.puts_allowed = 5
    with pytest.raises(StoreUnreachable):
        archive.create(index, epoch=1, sequence=1)
    before = store.stored("pages/")
    change(index, 700)
    store.puts_allowed = None
    made = archive.create(index, epoch=1, sequence=2)
    assert store.stored("pages/") < before + 50_000 - before * 0.7, "most of what was stored is not stored again"
    assert restored(store, made, index) == index.read_bytes()


def test_pages_are_stored_once_although_the_manifest_failed(store: Store, index: Path) -> None:
    archive = archive_of(store)
    store.puts_allowed = 1
    with pytest.raises(StoreUnreachable):
        archive.create(index, epoch=1, sequence=1)
    store.puts_allowed = None
    made = archive.create(index, epoch=1, sequence=2)
    assert made.new_size < 10_000
    assert restored(store, made, index) == index.read_bytes()


@pytest.mark.promise("pages-exist-twice")
def test_pages_of_an_interrupted_attempt_that_were_lost_are_stored_again(store: Store, index: Path) -> None:
    archive = archive_of(store, part_bytes=8_000)
    store.puts_allowed = 5
    with pytest.raises(StoreUnreachable):
        archive.create(index, epoch=1, sequence=1)
    store.lose(store.puts[2][0])
    store.puts_allowed = None
    made = archive.create(index, epoch=1, sequence=2)
    assert restored(store, made, index) == index.read_bytes()


@pytest.mark.promise("pages-exist-twice")
def test_a_snapshot_is_self_contained_after_thirty_days(store: Store, index: Path) -> None:
    clock = Clock()
    archive = archive_of(store, clock)
    made = [archive.create(index, epoch=1, sequence=1)]
    for sequence in range(2, 70):
        clock.now += DAY
        change(index, sequence * 700)
        made.append(archive.create(index, epoch=1, sequence=sequence, parent=made[-1].id))
    whole = [one for one in made if [use.id for use in one.pages] == [one.id]]
    assert [one.number.sequence for one in whole] == [1, 31, 61]
    for one in store.list("pages/"):
        if one.key[6:] >= whole[2].id:
            store.lose(one.key)
    assert len(restored(store, made[59], index)) == 50_000


@pytest.mark.promise("pages-exist-twice")
def test_a_snapshot_is_self_contained_when_the_changes_need_as_much_space(tmp_path: Path, store: Store) -> None:
    archive = SnapshotArchive(Shelf(sealed_if_chosen(store)))
    index = tmp_path / "index"
    content = random.Random(5)
    index.write_bytes(content.randbytes(6 << 20))
    made = [archive.create(index, epoch=1, sequence=1)]
    for sequence in range(2, 9):
        change(index, (sequence % 3) << 21, content.randbytes(2 << 20))
        made.append(archive.create(index, epoch=1, sequence=sequence, parent=made[-1].id))
    whole = [one.number.sequence for one in made if [use.id for use in one.pages] == [one.id]]
    assert whole[:2] == [1, 5]


def test_growth_alone_makes_no_snapshot_self_contained(tmp_path: Path, store: Store) -> None:
    archive = SnapshotArchive(Shelf(sealed_if_chosen(store)))
    index = tmp_path / "index"
    content = random.Random(5)
    index.write_bytes(content.randbytes(16 << 10))
    made = [archive.create(index, epoch=1, sequence=1)]
    index.write_bytes(content.randbytes(8 << 20))  # the first page of a database changes, too
    made.append(archive.create(index, epoch=1, sequence=2, parent=made[-1].id))
    change(index, 700)
    last = archive.create(index, epoch=1, sequence=3, parent=made[-1].id)
    assert last.new_size < 1 << 20


def test_a_snapshot_of_an_earlier_version_can_be_a_parent(store: Store, index: Path) -> None:
    clock = Clock()
    archive = archive_of(store, clock)
    first = archive.create(index, epoch=1, sequence=1)
    entry = Shelf(sealed_if_chosen(store)).load(SnapshotEntry, first.id)
    old = entry.changed(id="00000001-0000000002", sequence=2, whole_at=None, since_size=0)
    Shelf(sealed_if_chosen(store)).save(old)
    clock.now += DAY
    change(index, 700)
    second = archive.create(index, epoch=1, sequence=3, parent=old.id)
    assert [use.id for use in second.pages] == [first.id, second.id]
    clock.now += 31 * DAY
    change(index, 7_000)
    third = archive.create(index, epoch=1, sequence=4, parent=second.id)
    assert [use.id for use in third.pages] == [third.id]


@pytest.fixture
def lying(encryption: str) -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.mark.promise("pages-are-verified-before-the-manifest")
def test_pages_that_the_store_lost_at_once_are_stored_again_before_the_manifest(
    lying: FaultyStore, index: Path
) -> None:
    archive = archive_of(lying, part_bytes=8_000)
    with lying.faults.on(FaultKind.PUT_FORGOTTEN, key_prefix="pages/", times=1):
        made = archive.create(index, epoch=1, sequence=1)
    archive_of(lying).restore(made.id, index.with_name("restored"))
    assert index.with_name("restored").read_bytes() == index.read_bytes()
    in_store = {info.key[6:]: info.size for info in sealed_if_chosen(lying).list("pages/")}
    uses = {use.id: use.total_size for use in made.pages}
    assert uses.items() <= in_store.items()
    assert len(in_store) <= len(uses) + 1  # an object may have had lists alone, which were written anew
    assert sum(uses.values()) <= made.new_size <= sum(in_store.values())


@pytest.mark.promise("pages-are-verified-before-the-manifest")
@pytest.mark.parametrize("folder", ["pages/", "snapshots/"])
def test_no_snapshot_is_acknowledged_while_the_store_loses_objects(
    lying: FaultyStore, index: Path, folder: str
) -> None:
    archive = archive_of(lying)
    with (
        lying.faults.on(FaultKind.PUT_FORGOTTEN, key_prefix=folder),
        pytest.raises(StoreError, match="lost an object right after it was stored"),
    ):
        archive.create(index, epoch=1, sequence=1)
    assert archive.ids() == []
    made = archive.create(index, epoch=1, sequence=2)
    archive_of(lying).restore(made.id, index.with_name("restored"))
