# SPDX-License-Identifier: GPL-3.0-or-later
"""Removal deletes only pages entries that nothing else needs and no attempt still uses."""

from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import pytest

from cas3fs.entries.kinds import PagesEntry, SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import DeleteFailed, Fenced, SnapshotError, SnapshotMissing, StoreUnreachable
from cas3fs.objectstores.base import ListPage
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.divergence import write_takeover_base
from cas3fs.snapshots.removal import execute_removal, plan_removal
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStore
from cas3fs.values import SnapshotNumber
from tests.encrypted import sealed_if_chosen

SEGMENT = 512


@pytest.fixture
def store(encryption: str) -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def archive(store: MemoryStore) -> SnapshotArchive:
    return SnapshotArchive(Shelf(sealed_if_chosen(store)), segment_size=SEGMENT, list_length=4)


def fill(archive: SnapshotArchive, folder: Path, count: int) -> list[bytes]:
    """Create snapshots 1 to `count`, each of which changes one segment of ten; return their contents."""
    content = bytearray(b"".join(bytes([65 + number]) * SEGMENT for number in range(10)))
    contents, parent = [], None
    for sequence in range(1, count + 1):
        content[sequence * SEGMENT] = sequence
        (folder / "index").write_bytes(content)
        parent = archive.create(folder / "index", epoch=1, sequence=sequence, parent=parent).id
        contents.append(bytes(content))
    return contents


def name(sequence: int, epoch: int = 1) -> str:
    return str(SnapshotNumber(epoch, sequence))


def permit() -> None:
    """Permit the removal: nobody else has claimed the volume."""


def restored(archive: SnapshotArchive, snapshot_id: str, folder: Path) -> bytes:
    path = folder / f"restored-{snapshot_id}"
    archive.restore(snapshot_id, path)
    return path.read_bytes()


def test_pages_that_other_snapshots_need_stay(archive: SnapshotArchive, store: MemoryStore, tmp_path: Path) -> None:
    contents = fill(archive, tmp_path, 5)
    execute_removal(archive, plan_removal(archive, [name(1), name(3), name(4)], lambda _: True), permit)
    assert archive.ids() == [name(2), name(5)]
    assert restored(archive, name(2), tmp_path) == contents[1]
    assert restored(archive, name(5), tmp_path) == contents[4]
    needed = {use.id for info in archive.list() for use in info.pages}
    assert {info.key.removeprefix("pages/") for info in store.list("pages/")} == needed


def test_a_plan_changes_nothing_and_states_what_is_freed(
    archive: SnapshotArchive, store: MemoryStore, tmp_path: Path
) -> None:
    fill(archive, tmp_path, 3)
    before = [info.key for info in store.list()]
    plan = plan_removal(archive, archive.ids(), lambda _: True)
    assert plan.snapshots == tuple(archive.ids())
    assert len(plan.pages) == 3
    assert plan.freed_bytes == sum(info.size for info in sealed_if_chosen(store).list("pages/"))
    assert [info.key for info in store.list()] == before


def test_the_next_removal_completes_an_interrupted_one(
    archive: SnapshotArchive, store: MemoryStore, tmp_path: Path
) -> None:
    fill(archive, tmp_path, 3)
    archive.delete([name(1), name(2)])
    pages_before = len(list(store.list("pages/")))
    contents = restored(archive, name(3), tmp_path)
    execute_removal(archive, plan_removal(archive, [], lambda _: True), permit)
    (tmp_path / f"restored-{name(3)}").unlink()
    assert restored(archive, name(3), tmp_path) == contents
    assert len(list(store.list("pages/"))) <= pages_before


class Interrupting(MemoryStore):
    """Runs a hook just before its `at`-th request; counts only listings and deletions."""

    at = 0
    work: Callable[[], None]

    def _ask(self) -> None:
        self.at -= 1
        if self.at == 0:
            self.work()

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self._ask()
        return super().list_page(prefix, start_after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._ask()
        super().delete_many(keys)


@pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
@pytest.mark.parametrize("at", [1, 2])
def test_listed_snapshots_are_complete_wherever_a_removal_is_interrupted(tmp_path: Path, at: int) -> None:
    def fail() -> None:
        raise StoreUnreachable("no route")

    store = Interrupting()
    archive = SnapshotArchive(Shelf(sealed_if_chosen(store)), segment_size=SEGMENT, list_length=4)
    contents = [*fill(archive, tmp_path, 2), b"new" * SEGMENT]
    (tmp_path / "index").write_bytes(contents[2])
    archive.create(tmp_path / "index", epoch=1, sequence=3, parent=name(2))
    plan = plan_removal(archive, [name(1), name(2)], lambda _: True)
    assert plan.pages == (name(1), name(2))
    store.at, store.work = at, fail
    with pytest.raises(StoreUnreachable):
        execute_removal(archive, plan, permit)
    for one in archive.ids():
        assert restored(archive, one, tmp_path) == contents[int(one[-1]) - 1]


@pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
def test_a_snapshot_that_is_published_during_planning_keeps_its_pages(tmp_path: Path) -> None:
    for at in count(1):
        store = Interrupting()
        archive = SnapshotArchive(Shelf(sealed_if_chosen(store)), segment_size=SEGMENT, list_length=4)
        fill(archive, tmp_path, 2)
        (tmp_path / "index").write_bytes(b"new" * SEGMENT)
        store.work = lambda archive=archive: archive.create(tmp_path / "index", epoch=1, sequence=3)
        store.at = at
        plan = plan_removal(archive, [name(1)], lambda _: True)
        assert name(3) not in plan.pages
        if store.at > 0:
            break
    assert at > 2  # both listings


@pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
def test_pages_of_an_attempt_that_is_not_over_stay(
    archive: SnapshotArchive, store: MemoryStore, tmp_path: Path
) -> None:
    fill(archive, tmp_path, 2)
    archive.delete([name(2)])
    assert plan_removal(archive, [], lambda number: number.sequence < 2).is_empty
    assert plan_removal(archive, [], lambda number: True).pages == (name(2),)


def test_without_permission_nothing_is_deleted(archive: SnapshotArchive, store: MemoryStore, tmp_path: Path) -> None:
    fill(archive, tmp_path, 2)
    before = [info.key for info in store.list()]

    def refuse() -> None:
        raise Fenced("another writer")

    with pytest.raises(Fenced):
        execute_removal(archive, plan_removal(archive, [name(1)], lambda _: True), refuse)
    assert [info.key for info in store.list()] == before


def test_pages_with_only_lists_stay(archive: SnapshotArchive, store: MemoryStore, tmp_path: Path) -> None:
    (content,) = fill(archive, tmp_path, 1)
    (tmp_path / "index").write_bytes(content[:-SEGMENT])  # no segment is new, and the last list is shorter
    shorter = archive.create(tmp_path / "index", epoch=1, sequence=2, parent=name(1))
    assert shorter.new_size > 0
    assert plan_removal(archive, [], lambda _: True).is_empty
    execute_removal(archive, plan_removal(archive, [name(1)], lambda _: True), permit)
    assert restored(archive, shorter.id, tmp_path) == content[:-SEGMENT]


def test_an_unreadable_manifest_prevents_removals_except_its_own(
    archive: SnapshotArchive, store: MemoryStore, tmp_path: Path
) -> None:
    contents = fill(archive, tmp_path, 3)
    key = SnapshotEntry.key_of(name(2))
    store.delete_many([key])
    store.put_if_absent(key, b"rubbish")
    with pytest.raises(SnapshotError, match="nothing is deleted"):
        plan_removal(archive, [name(1)], lambda _: True)
    execute_removal(archive, plan_removal(archive, [name(2)], lambda _: True), permit)
    assert archive.ids() == [name(1), name(3)]
    assert restored(archive, name(3), tmp_path) == contents[2]


def test_an_unknown_snapshot_is_an_error(archive: SnapshotArchive, tmp_path: Path) -> None:
    fill(archive, tmp_path, 1)
    with pytest.raises(SnapshotMissing, match=name(7)):
        plan_removal(archive, [name(7)], lambda _: True)


@pytest.mark.promise("a-fenced-writer-acknowledges-nothing")
def test_a_diverged_snapshot_is_never_the_head(archive: SnapshotArchive, store: MemoryStore, tmp_path: Path) -> None:
    fill(archive, tmp_path, 2)
    write_takeover_base(Shelf(sealed_if_chosen(store)), "epochs/00000002", 2, name(2))
    write_takeover_base(Shelf(sealed_if_chosen(store)), "epochs/00000002", 2, name(1))
    late = archive.create(tmp_path / "index", epoch=1, sequence=3, parent=name(2))
    newest = archive.newest()
    assert newest is not None and newest.id == name(2)
    after = archive.create(tmp_path / "index", epoch=2, sequence=1, parent=name(2))
    newest = archive.newest()
    assert newest is not None and newest.id == after.id
    assert archive.diverged() == {late.id}


def test_remaining_pages_are_readable_after_a_restored_snapshot_became_the_head(
    archive: SnapshotArchive, store: MemoryStore, tmp_path: Path
) -> None:
    contents = fill(archive, tmp_path, 4)
    (tmp_path / "index").write_bytes(contents[0])
    made = archive.create(tmp_path / "index", epoch=2, sequence=1, parent=name(4), restored=name(1))
    assert (made.parent, made.restored, made.new_size) == (name(4), name(1), 0)
    assert not list(store.list(PagesEntry.key_of(made.id)))
    assert restored(archive, made.id, tmp_path) == contents[0]
    assert restored(archive, name(4), tmp_path) == contents[3]


class TestRefusedDeletions:
    """The store refuses to delete a manifest or pages, because of an object lock."""

    @pytest.fixture
    def lying(self) -> FaultyStore:
        return FaultyStore(MemoryStore())

    @pytest.fixture
    def archive(self, lying: FaultyStore) -> SnapshotArchive:
        return SnapshotArchive(Shelf(lying), segment_size=SEGMENT, list_length=4)

    @staticmethod
    def fill(archive: SnapshotArchive, folder: Path) -> list[bytes]:
        """Three snapshots that share pages, and a fourth that has its own; gives their contents."""
        contents = [*fill(archive, folder, 3), b"new" * SEGMENT]
        (folder / "index").write_bytes(contents[3])
        archive.create(folder / "index", epoch=1, sequence=4, parent=name(3))
        return contents

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_an_undeleted_manifest_keeps_its_pages(
        self, archive: SnapshotArchive, lying: FaultyStore, tmp_path: Path
    ) -> None:
        contents = self.fill(archive, tmp_path)
        plan = plan_removal(archive, [name(1), name(2), name(3)], lambda _: True)
        key = SnapshotEntry.key_of(name(2))
        with lying.faults.on(FaultKind.DELETION_REFUSED, keys=[key]), pytest.raises(DeleteFailed, match="denied"):
            execute_removal(archive, plan, permit)
        assert archive.ids() == [name(2), name(4)]
        assert restored(archive, name(2), tmp_path) == contents[1]
        assert restored(archive, name(4), tmp_path) == contents[3]
        assert [info.key for info in lying.list("pages/")] == [PagesEntry.key_of(name(one)) for one in (1, 2, 4)]

    def test_undeleted_pages_are_deleted_by_the_next_removal(
        self, archive: SnapshotArchive, lying: FaultyStore, tmp_path: Path
    ) -> None:
        self.fill(archive, tmp_path)
        plan = plan_removal(archive, [name(1), name(2), name(3)], lambda _: True)
        key = PagesEntry.key_of(name(1))
        with lying.faults.on(FaultKind.DELETION_REFUSED, keys=[key]), pytest.raises(DeleteFailed):
            execute_removal(archive, plan, permit)
        assert archive.ids() == [name(4)]
        assert plan_removal(archive, [], lambda _: True).pages == (name(1),)

    @pytest.mark.promise("one-failure-does-not-stop-gc")
    def test_an_undeleted_unreadable_manifest_keeps_all_pages(
        self, archive: SnapshotArchive, lying: FaultyStore, tmp_path: Path
    ) -> None:
        self.fill(archive, tmp_path)
        key = SnapshotEntry.key_of(name(2))
        lying.delete_many([key])
        lying.put_if_absent(key, b"corrupt")
        pages = {info.key for info in lying.list("pages/")}
        plan = plan_removal(archive, [name(1), name(2), name(3)], lambda _: True)
        with lying.faults.on(FaultKind.DELETION_REFUSED, keys=[key]), pytest.raises(DeleteFailed):
            execute_removal(archive, plan, permit)
        assert {info.key for info in lying.list("pages/")} == pages
        assert archive.ids() == [name(2), name(4)]
