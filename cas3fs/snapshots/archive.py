# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive: creates, lists and restores snapshots of a file.

A snapshot's number is (epoch, sequence), and the greatest is the newest. Every attempt to create one needs a sequence
of its own, so that it never meets what an earlier attempt left.

Thread-safe; one lock guards the tree that is remembered of the last snapshot, and no I/O is done under it. Memory: the
references of a tree (about 200 bytes per 16 KiB of the file) and the spans under way.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import attrs

from cas3fs.entries.bodies import BodyWriter
from cas3fs.entries.kinds import PagesEntry, PagesUse, SnapshotEntry
from cas3fs.entries.nodes import Part
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import (
    EntryError,
    ObjectMissing,
    ObjectTooShort,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    VolumeFormatError,
)
from cas3fs.snapshots.building import TreeBuilder, totals_of, uses_of
from cas3fs.snapshots.spans import Wanted, read_spans
from cas3fs.snapshots.tree import (
    EMPTY_TREE,
    LIST_LENGTH,
    SEGMENT_BYTES,
    Reference,
    Tree,
    decode_list,
    open_segment,
    stale_pages,
)
from cas3fs.values import SnapshotNumber

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are restored; called by several threads, one at a time."""

_LARGEST_SEGMENT_BYTES: Final = 1024 * 1024
_LONGEST_LIST: Final = 65535


@attrs.frozen
class SnapshotInfo:
    """What is told of a snapshot; sizes are in bytes."""

    id: str
    number: SnapshotNumber
    parent: str | None
    name: str | None
    time: datetime
    index_size: int
    new_size: int
    """What it added to the store, without the manifest."""
    facts: Mapping[str, int]
    pages: tuple[PagesUse, ...]
    """The pages entries that it needs."""


class SnapshotArchive:
    """Snapshots of one volume.

    Args:
        shelf: the volume's entries.
        workers: how many requests a restore makes side by side.
        segment_size, list_length: of new snapshots; bytes, and segments to a list.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        workers: int = 8,
        segment_size: int = SEGMENT_BYTES,
        list_length: int = LIST_LENGTH,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._shelf = shelf
        self._workers = workers
        self._segment_size = segment_size
        self._list_length = list_length
        self._now = now
        self._lock = threading.Lock()
        self._remembered: tuple[str, Tree] | None = None

    def create(
        self,
        index_file: Path,
        *,
        epoch: int,
        sequence: int,
        parent: str | None = None,
        name: str | None = None,
        facts: Mapping[str, int] | None = None,
    ) -> SnapshotInfo:
        """Store a snapshot of `index_file`, which must not change meanwhile; what is new goes through a temporary file
        beside it.

        Args:
            parent: id of the snapshot that the file has developed from; what that one has is not stored again.
            facts: numbers to be told with the snapshot.

        Raises:
            ObjectExists: an earlier attempt used this number.
            SnapshotMissing, SnapshotDamaged: the parent cannot be read.
            SnapshotError: the local disk failed.
            StoreError: the store failed; whether the snapshot exists, only the store knows.
        """
        old = self._load(parent) if parent is not None else None
        old_pages = old.pages if old is not None else ()
        number = str(SnapshotNumber(epoch, sequence))
        pages = PagesEntry(id=number, epoch=epoch, sequence=sequence, time=self._now())
        tree, size, new_size = self._store_pages(pages, index_file, self._parent_tree(old), stale_pages(old_pages))
        entry = SnapshotEntry(
            id=pages.id,
            epoch=epoch,
            sequence=sequence,
            parent=parent,
            name=name,
            time=pages.time,
            index_size=size,
            segment_size=self._segment_size,
            list_length=self._list_length,
            parts=tree.parts,
            pages=uses_of(tree, totals_of(old_pages) | {pages.id: new_size}),
            new_size=new_size,
            facts=facts or {},
        )
        self._shelf.save(entry)
        self._remember(entry.id, tree)
        return _info(entry)

    def ids(self) -> list[str]:
        """The ids of all snapshots, ascending.

        Raises:
            VolumeFormatError: an object among them is none.
        """
        found = [one.id for one in self._shelf.listed(SnapshotEntry)]
        for one in found:
            _check_id(one)
        return sorted(found, key=SnapshotNumber.parse)

    def newest(self) -> SnapshotInfo | None:
        """The newest snapshot, None where there is none; raises as `load`."""
        found = self.ids()
        return self.load(found[-1]) if found else None

    def list(self, on_damaged: Callable[[str, SnapshotError], None] | None = None) -> list[SnapshotInfo]:
        """All snapshots, ascending.

        Args:
            on_damaged: told of each whose manifest cannot be read, which is then left out; without it, that raises.
        """

        def load(one: str) -> SnapshotInfo | None:
            try:
                return self.load(one)
            except SnapshotError as error:
                if on_damaged is None:
                    raise
                on_damaged(one, error)
                return None

        with ThreadPoolExecutor(self._workers, thread_name_prefix="snapshots") as pool:
            return [info for info in pool.map(load, self.ids()) if info is not None]

    def load(self, snapshot_id: str) -> SnapshotInfo:
        """What is told of a snapshot.

        Raises:
            SnapshotMissing: there is none of that id.
            SnapshotDamaged: its manifest cannot be read.
            StoreError: the store failed.
        """
        return _info(self._load(snapshot_id))

    def restore(self, snapshot_id: str, destination: Path, progress: Progress | None = None) -> SnapshotInfo:
        """Write the file of a snapshot to `destination`, which must not exist, every segment verified, and sync it.
        On failure nothing is left.

        Raises:
            SnapshotMissing: there is none of that id.
            SnapshotDamaged: a byte of it is missing or wrong.
            SnapshotError: the local disk failed.
            StoreError: the store failed.
        """
        entry = self._load(snapshot_id)
        tree = self._read_tree(entry)
        with _local_errors("restored index"), open(destination, "xb", buffering=0) as file:
            try:
                self._write_segments(entry, tree, file, progress or (lambda done, total: None))
                os.fsync(file.fileno())
            except BaseException:
                destination.unlink()
                raise
        return _info(entry)

    def _store_pages(
        self, pages: PagesEntry, index_file: Path, parent: Tree, stale: frozenset[str]
    ) -> tuple[Tree, int, int]:
        """Store what is new; returns the tree, the size of the file and that of the pages object."""
        with _local_errors("snapshot"), tempfile.TemporaryFile(dir=index_file.parent) as file:
            body = BodyWriter(file, pages)
            builder = TreeBuilder(pages, body, parent, stale=stale, list_length=self._list_length)
            size = self._add_all(builder, index_file)
            tree = builder.finish()
            if builder.wrote:
                self._shelf.save_file(pages, body.finish())
        return tree, size, builder.new_size()

    def _add_all(self, builder: TreeBuilder, index_file: Path) -> int:
        """Feed all segments; returns the size of the file."""
        size = 0
        with open(index_file, "rb", buffering=1024 * 1024) as file:
            while segment := file.read(self._segment_size):
                builder.add(segment)
                size += len(segment)
        return size

    def _write_segments(self, entry: SnapshotEntry, tree: Tree, file: BinaryIO, progress: Progress) -> None:
        os.ftruncate(file.fileno(), entry.index_size)
        lock = threading.Lock()
        done = 0

        def write(one: Wanted[tuple[int, Reference]], stored: memoryview) -> None:
            nonlocal done
            number, reference = one.purpose
            start = number * entry.segment_size
            plain = open_segment(stored, reference, min(entry.segment_size, entry.index_size - start))
            _write_all(file.fileno(), plain, start)
            with lock:
                done += len(plain)
                progress(done, entry.index_size)

        wanted = (
            Wanted(PagesEntry.key_of(one.pages), one.offset, one.length, (number, one))
            for number, one in enumerate(tree.references())
        )
        with _damage(entry):
            read_spans(self._shelf.store, wanted, write, self._workers)

    def _load(self, snapshot_id: str) -> SnapshotEntry:
        try:
            entry = self._shelf.load(SnapshotEntry, _check_id(snapshot_id))
        except VolumeFormatError as error:
            raise SnapshotMissing(str(error)) from error
        except ObjectMissing as error:
            raise SnapshotMissing(f"{self._shelf.store.url} has no snapshot {snapshot_id}") from error
        except EntryError as error:
            raise SnapshotDamaged(f"the manifest of snapshot {snapshot_id} cannot be read: {error}") from error
        _check_shape(entry)
        return entry

    def _parent_tree(self, parent: SnapshotEntry | None) -> Tree:
        if parent is None or (parent.segment_size, parent.list_length) != (self._segment_size, self._list_length):
            return EMPTY_TREE
        with self._lock:
            remembered = self._remembered
        return remembered[1] if remembered and remembered[0] == parent.id else self._read_tree(parent)

    def _remember(self, snapshot_id: str, tree: Tree) -> None:
        with self._lock:
            self._remembered = (snapshot_id, tree)

    def _read_tree(self, entry: SnapshotEntry) -> Tree:
        lists: list[tuple[Reference, ...]] = [()] * len(entry.parts)

        def take(one: Wanted[tuple[int, Part]], stored: memoryview) -> None:
            number, part = one.purpose
            part.verify(stored)
            lists[number] = decode_list(stored, entry.list_length)
            if len(lists[number]) != _references_in(entry, number):
                raise SnapshotDamaged(f"list {number} has {len(lists[number])} references, which is not what is due")

        wanted = (Wanted(one.key, one.offset, one.length, (number, one)) for number, one in enumerate(entry.parts))
        with _damage(entry):
            read_spans(self._shelf.store, wanted, take, self._workers)
        return Tree(entry.parts, tuple(lists))


def _check_id(snapshot_id: str) -> str:
    try:
        if str(SnapshotNumber.parse(snapshot_id)) == snapshot_id:
            return snapshot_id
    except ValueError:
        pass
    raise VolumeFormatError(f"{snapshot_id!r} is not the id of a snapshot, such as 00000007-0000000123")


def _check_shape(entry: SnapshotEntry) -> None:
    """The sizes that a manifest names fit each other, so that nothing is allocated on a wrong one's word."""
    segment_ok = 512 <= entry.segment_size <= _LARGEST_SEGMENT_BYTES
    if not segment_ok or not 1 <= entry.list_length <= _LONGEST_LIST:
        raise SnapshotDamaged(f"snapshot {entry.id} has segments of {entry.segment_size} bytes")
    segments = -(-entry.index_size // entry.segment_size)
    if len(entry.parts) != -(-segments // entry.list_length):
        raise SnapshotDamaged(f"snapshot {entry.id} has {len(entry.parts)} lists for {segments} segments")


def _references_in(entry: SnapshotEntry, number: int) -> int:
    """How many references list `number` has to have."""
    segments = -(-entry.index_size // entry.segment_size)
    return min(entry.list_length, segments - number * entry.list_length)


def _info(entry: SnapshotEntry) -> SnapshotInfo:
    return SnapshotInfo(
        id=entry.id,
        number=SnapshotNumber(entry.epoch, entry.sequence),
        parent=entry.parent,
        name=entry.name,
        time=entry.time,
        index_size=entry.index_size,
        new_size=entry.new_size,
        facts=entry.facts,
        pages=entry.pages,
    )


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextlib.contextmanager
def _damage(entry: SnapshotEntry) -> Iterator[None]:
    """What is missing or wrong in the store is damage of this snapshot."""
    try:
        yield
    except (ObjectMissing, ObjectTooShort, EntryError) as error:
        raise SnapshotDamaged(f"snapshot {entry.id} is incomplete: {error}") from error
    except SnapshotDamaged as error:
        raise SnapshotDamaged(f"snapshot {entry.id}: {error}") from error


@contextlib.contextmanager
def _local_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SnapshotError(f"the {what} cannot be written on the local disk: {error}") from error
