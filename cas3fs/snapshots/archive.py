# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive: creates, lists and restores snapshots of a file.

A snapshot's number is (epoch, sequence), and the greatest is the newest. Every attempt to create one needs a sequence
of its own, so that it never meets what an earlier attempt left.

Before the manifest of a snapshot is put, the pages entries that it refers to are listed, those that were put just now
among them: what it needs of one that is missing or has another size is stored again. The manifest is asked for when it
was put. Whatever is in the store can be lost, so now and then a snapshot refers to nothing
earlier, and what the volume needs is there twice, as long as the retention keeps an earlier snapshot: when 30 days have
passed since the last one of that kind, or when the changes since then took as much room.

Thread-safe; one lock guards the tree that is remembered of the last snapshot, and what an attempt that broke off has
stored; no I/O is done under it. Memory: the references of a tree (about 200 bytes per 16 KiB of the file) and the spans
under way.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

import attrs

from cas3fs.entries.bodies import encode_body
from cas3fs.entries.coercers import LARGEST_NUMBER
from cas3fs.entries.kinds import PagesEntry, PagesUse, SnapshotEntry
from cas3fs.entries.nodes import Part
from cas3fs.entries.shelf import Listed, Shelf, digest_of
from cas3fs.errors import (
    DeleteFailed,
    EntryError,
    ObjectArchived,
    ObjectMissing,
    SnapshotArchived,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    StoreError,
    VolumeFormatError,
)
from cas3fs.snapshots.divergence import TakeoverBases, is_diverged, may_be_diverged, newest_undiverged
from cas3fs.snapshots.manifest_cache import ManifestCache
from cas3fs.snapshots.manifests import (
    UNKNOWN_ORIGIN,
    SnapshotInfo,
    SnapshotOrigin,
    as_snapshot_damage,
    check_sizes,
    check_snapshot_id,
    info_of,
    local_disk_errors,
    references_in,
    snapshots_named_by,
    snapshots_of_pages,
)
from cas3fs.snapshots.pages import PART_BYTES, PagesWriter, find_lost_pages
from cas3fs.snapshots.ranged_reads import WantedRange, read_ranges
from cas3fs.snapshots.tracker import SnapshotTracker
from cas3fs.snapshots.tree import (
    EMPTY_TREE,
    LARGE_PAGES_BYTES,
    LIST_LENGTH,
    SEGMENT_BYTES,
    SegmentReference,
    SnapshotTree,
    check_references,
    decode_list,
    open_segment,
    stale_pages,
)
from cas3fs.snapshots.tree_builder import PartialTree, TreeBuilder, pages_sizes, pages_used_by
from cas3fs.values import SnapshotNumber

_ATTEMPTS: Final = 3
WHOLE_AFTER: Final = timedelta(days=30)
LOOK_BEYOND: Final = 16
"""Numbers after the last one that is known of a writer who released nothing: it may have used up some in vain."""

RestoreProgress = Callable[[int, int], None]
"""Told how many bytes of how many are restored; called by several threads, one at a time."""

_log = logging.getLogger(__name__)


class SnapshotArchive:
    """Snapshots of one volume.

    Args:
        shelf: the volume's entries.
        workers: how many requests a restore makes side by side.
        segment_size, list_length: of new snapshots; bytes, and segments to a list.
        part_bytes: the longest that a pages object becomes.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        workers: int = 8,
        segment_size: int = SEGMENT_BYTES,
        list_length: int = LIST_LENGTH,
        part_bytes: int = PART_BYTES,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._shelf = shelf
        self._workers = workers
        self._segment_size = segment_size
        self._list_length = list_length
        self._part_bytes = part_bytes
        self._now = now
        self._lock = threading.Lock()
        self._remembered: tuple[str, SnapshotTree] | None = None
        self._begun = PartialTree()
        self._known = ManifestCache()
        self._expected: str | None = None
        self._bypassed: set[str] = set()
        self.tracker = SnapshotTracker(shelf.store, workers)
        self.bases = TakeoverBases(shelf)

    def create(
        self,
        index_file: Path,
        *,
        epoch: int,
        sequence: int,
        parent: str | None = None,
        name: str | None = None,
        facts: Mapping[str, int] | None = None,
        restored: str | None = None,
        origin: SnapshotOrigin = UNKNOWN_ORIGIN,
        bypassed: Iterable[str] = (),
    ) -> SnapshotInfo:
        """Store a snapshot of `index_file`, which must not change; what is new goes through temporary files beside it.

        Args:
            parent: id of the snapshot that was the newest before; what that one has, and the store still has, is not
                stored again.
            facts: numbers to be told with the snapshot; one that is too large is told as the largest there is.
            restored: id of an older snapshot that the file comes from, in place of the parent.
            bypassed: ids of damaged snapshots that the file does not descend from though it should.

        Raises:
            ObjectExists: an earlier attempt used this number.
            SnapshotMissing, SnapshotDamaged, SnapshotArchived: the parent's manifest cannot be read.
            SnapshotError: the local disk failed.
            StoreError: the store failed; whether the snapshot exists, only the store knows. Another attempt goes on
                with what this one has stored.
        """
        base = parent if restored is None else restored
        old = self._load(base) if base is not None else None
        time = self._now()
        number = SnapshotNumber(epoch, sequence)
        source = self._source(old, time)
        pages = PagesWriter(self._shelf, number, time, index_file.parent, self._part_bytes)
        tree, size, uses = self._store_proven(pages, index_file, source)
        new_size = sum(pages.sizes.values())
        entry = SnapshotEntry(
            id=str(number),
            epoch=epoch,
            sequence=sequence,
            parent=parent,
            name=name,
            time=time,
            index_size=size,
            segment_size=self._segment_size,
            list_length=self._list_length,
            parts=tree.parts,
            pages=uses,
            new_size=new_size,
            facts={fact: min(count, LARGEST_NUMBER) for fact, count in (facts or {}).items()},
            restored=restored,
            around=self._bypassed_with(bypassed),
            lineage=origin.lineage,
            claim=origin.claim,
            whole_at=source.whole_at or time,
            since_size=0 if source.whole_at is None else source.since_size + new_size,
        )
        return self._save_proven(entry, tree)

    def ids(self) -> list[str]:
        """The ids of all snapshots, ascending: those listed, and those known to be there all the same (`memory`).

        Raises:
            VolumeFormatError: an object among them is none.
            StoreError: the store failed.
        """
        return [one.id for one in self._listed()]

    def _listed(self) -> list[Listed]:
        found = list(self._shelf.listed(SnapshotEntry))
        for one in found:
            check_snapshot_id(one.id)
        return sorted(self.tracker.complete_listing(found), key=lambda one: SnapshotNumber.parse(one.id))

    def newest(self) -> SnapshotInfo | None:
        """The newest snapshot on the line of writers (`lines`), None where there is none; raises as `load`."""
        found = self.newest_id()
        return self.load(found) if found is not None else None

    def newest_id(self) -> str | None:
        """The id of what `newest` gives; its manifest is not read. What `expect` was told of may be lost."""
        found = [one for one in (newest_undiverged(self.ids(), self.bases.all()), self._expected) if one is not None]
        return max(found, key=SnapshotNumber.parse, default=None)

    def set_expected_head(self, snapshot_id: str | None) -> None:
        """That one was the head when its writer released the volume, so nothing older is, even if it cannot be found;
        None: no such thing is known."""
        self._expected = snapshot_id
        if snapshot_id is not None:
            self.tracker.add([check_snapshot_id(snapshot_id)])

    def find_unlisted_of_epoch(self, epoch: int) -> bool:
        """Find what a writer of `epoch` who released nothing may have published, whatever a listing shows: the numbers
        that follow its last one are asked for by name, and those of pages, which are put before their manifest. Whether
        there is any snapshot of that epoch.

        Raises:
            StoreError: the store failed.
        """
        mine = [one.sequence for one in map(SnapshotNumber.parse, self.ids()) if one.epoch == epoch]
        last = SnapshotNumber(epoch, max(mine, default=0))
        pages = snapshots_of_pages(one.id for one in self._shelf.listed(PagesEntry, start_after=str(last)))
        wanted = {one for one in map(SnapshotNumber.parse, pages) if one.epoch == epoch and one > last}
        while True:
            wanted |= {SnapshotNumber(epoch, last.sequence + step) for step in range(1, LOOK_BEYOND + 1)}
            found = self.tracker.find_unlisted([str(one) for one in wanted])
            if not found:
                return last.sequence > 0
            last, wanted = max(SnapshotNumber.parse(one.id) for one in found), set()

    def diverged(self, ids: Sequence[str] | None = None) -> frozenset[str]:
        """The ids of snapshots, perhaps of those `ids` alone, that are off the line of writers: never the head, and
        only a person deletes them."""
        bases = self.bases.all()
        among = self.ids() if ids is None else ids
        return frozenset(one for one in among if is_diverged(SnapshotNumber.parse(one), bases))

    def possibly_diverged(self, ids: Sequence[str]) -> frozenset[str]:
        """Those of the snapshots `ids` that only a person deletes: those off the line, or that may be, as a base cannot
        be read."""
        bases = self.bases.all()
        return frozenset(one for one in ids if may_be_diverged(SnapshotNumber.parse(one), bases))

    def newest_intact_before(self, snapshot_id: str) -> str | None:
        """The newest snapshot on the line before that one whose manifest can be read and whose pages are all there, as
        far as their sizes tell; None where there is none.

        Raises:
            StoreError: the store failed.
        """
        strays = self.diverged()
        for one in reversed([each for each in self.ids() if each < snapshot_id and each not in strays]):
            with suppress(SnapshotError):
                if not self.lost_pages(self.load(one)):
                    return one
        return None

    def _read(
        self, listed: Iterable[Listed], on_damaged: Callable[[str, SnapshotError], None] | None
    ) -> list[SnapshotInfo]:
        def load(one: Listed) -> SnapshotInfo | None:
            try:
                self._known.put(one, attrs.evolve(self.load(one.id), stored_at=one.modified))
            except SnapshotError as error:
                if on_damaged is None:
                    raise
                on_damaged(one.id, error)
            return self._known.get(one)

        found = {one: self._known.get(one) for one in listed}
        unknown = [one for one, info in found.items() if info is None]
        read: Iterable[SnapshotInfo | None] = ()
        if unknown:
            with ThreadPoolExecutor(self._workers, thread_name_prefix="snapshots") as pool:
                read = list(pool.map(load, unknown))
        return [info for info in (*found.values(), *read) if info is not None]

    def list(
        self, on_damaged: Callable[[str, SnapshotError], None] | None = None, *, pages: Iterable[str] | None = None
    ) -> list[SnapshotInfo]:
        """All snapshots, ascending; one LIST, and a GET for each manifest that was not read before.

        Args:
            on_damaged: told of each whose manifest cannot be read, which is then left out; without it, that raises.
            pages: ids of pages entries that are there. With them, every snapshot that these or a manifest name is asked
                for, once: for who deletes what nothing names.
        """
        listed = self._listed()
        if pages is not None:
            listed += self.tracker.find_unlisted(snapshots_of_pages(pages))
        infos = self._read(listed, on_damaged)
        named = infos if pages is not None else []
        while found := self.tracker.find_unlisted(snapshots_named_by(named)):
            named = self._read(found, on_damaged)
            listed += found
            infos += named
        self._known.keep(sorted(one.id for one in listed))
        return sorted(infos, key=lambda info: info.number)

    def load(self, snapshot_id: str) -> SnapshotInfo:
        """What is told of a snapshot.

        Raises:
            SnapshotMissing: there is none of that id.
            SnapshotDamaged: its manifest cannot be read.
            SnapshotArchived: it, or another part of a snapshot, lies in an archive; so from every method that reads.
            StoreError: the store failed.
        """
        return info_of(*self._load_with_digest(snapshot_id))

    def restore(self, snapshot_id: str, destination: Path, progress: RestoreProgress | None = None) -> SnapshotInfo:
        """Write the file of a snapshot to `destination`, which must not exist, every segment verified. On failure
        nothing is left. It is not synced: what is to stay is changed first, and synced when it is put in its place.

        Raises:
            SnapshotMissing: there is none of that id.
            SnapshotDamaged: a byte of it is missing or wrong.
            SnapshotError: the local disk failed.
            StoreError: the store failed.
        """
        entry, digest = self._load_with_digest(snapshot_id)
        tree = self._read_tree(entry)
        with local_disk_errors("restored index"), open(destination, "xb", buffering=0) as file:
            try:
                self._write_segments(entry, tree, file, progress or (lambda done, total: None))
            except BaseException:
                destination.unlink()
                raise
        return info_of(entry, digest)

    def verify(self, snapshot_id: str, seen: set[SegmentReference]) -> None:
        """Read back what a snapshot consists of, but for segments that were `seen` before; those read now are added.

        Raises:
            SnapshotMissing: there is none of that id.
            SnapshotDamaged: a byte of it is missing or wrong.
            StoreError: the store failed.
        """
        entry = self._load(snapshot_id)
        unseen = [(number, one) for number, one in enumerate(self._read_tree(entry).references()) if one not in seen]
        self._read_segments(entry, unseen, lambda number, plain: None)
        seen.update(one for _, one in unseen)

    def delete(self, snapshot_ids: Iterable[str]) -> None:
        """Delete the manifests of those snapshots, which are gone with them; missing ones are fine. What only they
        needed stays: `removal` decides what else goes, and whether any of it may.

        Raises:
            VolumeFormatError: one is not the id of a snapshot.
            DeleteFailed: some are left; deleting again is safe.
        """
        ids = [check_snapshot_id(one) for one in snapshot_ids]
        self.tracker.mark_deleted(ids)  # first: where the store fails, nobody knows which are left
        try:
            self._shelf.store.delete_many([SnapshotEntry.key_of(one) for one in ids])
        except DeleteFailed as error:
            left = {key.removeprefix(SnapshotEntry.prefix()) for key in error.keys} or set(ids)
            self.tracker.mark_undeleted(left)
            raise

    def stored_bytes(self) -> int:
        """How much room all snapshots take in the store, manifests and pages; two LISTs or a few."""
        return sum(one.size for kind in (SnapshotEntry, PagesEntry) for one in self._shelf.listed(kind))

    def known_bytes(self, snapshots: Iterable[SnapshotInfo]) -> int:
        """The same of those snapshots, as far as this process knows; asks nobody."""
        infos = list(snapshots)
        pages = {use.id: use.total_size for info in infos for use in info.pages}
        return sum(pages.values()) + self._known.size_bytes(info.id for info in infos)

    @property
    def shelf(self) -> Shelf:
        """The entries of the volume."""
        return self._shelf

    def lost_pages(self, snapshot: SnapshotInfo, listed: Mapping[str, int] | None = None) -> dict[str, str]:
        """The pages entries that a snapshot needs and that the store lacks, or has in another size: why, by id; raises
        as `find_lost_pages`."""
        return find_lost_pages(self._shelf.store, snapshot.pages, listed)

    def _source(self, old: SnapshotEntry | None, now: datetime) -> "_Source":
        """What a snapshot that goes on from `old` need not store, as far as the store has it still."""
        with self._lock:
            begun = self._begun
        if old is None or _is_whole_due(old, now):
            return _Source(EMPTY_TREE, begun, begun.sizes)
        sizes = {**pages_sizes(old.pages), **begun.sizes}
        return _Source(
            self._parent_tree(old), begun, sizes, stale_pages(old.pages), old.whole_at or old.time, old.since_size
        )

    def _store_proven(
        self, pages: PagesWriter, index_file: Path, source: "_Source"
    ) -> tuple[SnapshotTree, int, tuple[PagesUse, ...]]:
        """As `_store_pages`, until the store shows all pages entries that are needed; gives these, too.

        Raises:
            StoreError: it loses what it has just taken.
        """
        for _ in range(_ATTEMPTS):
            tree, size = self._store_pages(pages, index_file, source)
            uses = pages_used_by(tree, {**source.sizes, **pages.sizes})
            lost = find_lost_pages(self._shelf.store, uses)
            if not lost:
                return tree, size, uses
            for one, fault in lost.items():
                _log.error(
                    "pages %s, which a snapshot needs: %s; what it needs of them is stored again, and `cas3fs fsck` "
                    "tells which other snapshots are hurt",
                    one,
                    fault,
                )
            with self._lock:
                begun = self._begun = self._begun.without(lost)
            pages.forget(lost)
            source = attrs.evolve(source, begun=begun, stale=source.stale | lost.keys())
        raise StoreError(
            f"{self._shelf.store.url} does not have what it has just taken, pages {min(lost)}: {lost[min(lost)]}; no "
            "snapshot was published, and what was written is on this machine"
        )

    def _save_proven(self, entry: SnapshotEntry, tree: SnapshotTree) -> SnapshotInfo:
        """Put the manifest; what it says is known from now on, and its tree remembered.

        Raises:
            StoreError: the store failed, or does not have what it has just taken.
        """
        self._shelf.save(entry)
        key, body = entry.key, encode_body(entry, b"")
        info, size = info_of(entry, digest_of(body)), len(body)
        try:
            head = self._shelf.store.head(key)
        except ObjectMissing:
            head = None
        if head is None or head.size != size:
            raise StoreError(
                f"{self._shelf.store.url} does not have what it has just taken, {key}: the snapshot is not published, "
                "and what was written is on this machine"
            )
        self._known.put(Listed(info.id, key, size, head.modified), attrs.evolve(info, stored_at=head.modified))
        self._remember(entry.id, tree)
        return info

    def _store_pages(self, pages: PagesWriter, index_file: Path, source: "_Source") -> tuple[SnapshotTree, int]:
        """Store what is new; returns the tree and the size of the file."""
        builder = TreeBuilder(pages, source.tree, stale=source.stale, begun=source.begun, list_length=self._list_length)
        try:
            with local_disk_errors("snapshot"):
                size = self._add_all(builder, index_file)
                return builder.finish(), size
        finally:  # the manifest may fail yet
            pages.close()
            with self._lock:
                self._begun = builder.attempt()

    def _add_all(self, builder: TreeBuilder, index_file: Path) -> int:
        """Feed all segments; returns the size of the file."""
        size = 0
        with open(index_file, "rb", buffering=1024 * 1024) as file:
            while segment := file.read(self._segment_size):
                builder.add(segment)
                size += len(segment)
        return size

    def _write_segments(
        self, entry: SnapshotEntry, tree: SnapshotTree, file: BinaryIO, progress: RestoreProgress
    ) -> None:
        os.ftruncate(file.fileno(), entry.index_size)
        lock = threading.Lock()
        done = 0

        def write(number: int, plain: bytes) -> None:
            nonlocal done
            _write_all(file.fileno(), plain, number * entry.segment_size)
            with lock:
                done += len(plain)
                progress(done, entry.index_size)

        self._read_segments(entry, enumerate(tree.references()), write)

    def _read_segments(
        self, entry: SnapshotEntry, segments: Iterable[tuple[int, SegmentReference]], use: Callable[[int, bytes], None]
    ) -> None:
        """Hands segments of a snapshot, by number and verified, to `use`, which must be thread-safe."""

        def take(one: WantedRange[tuple[int, SegmentReference]], stored: memoryview) -> None:
            number, reference = one.purpose
            length = min(entry.segment_size, entry.index_size - number * entry.segment_size)
            use(number, open_segment(stored, reference, length))

        wanted = (
            WantedRange(PagesEntry.key_of(one.pages), one.offset, one.length, (number, one)) for number, one in segments
        )
        with as_snapshot_damage(entry):
            read_ranges(self._shelf.store, wanted, take, self._workers)

    def _bypassed_with(self, more: Iterable[str]) -> tuple[str, ...]:
        """The damaged snapshots that any manifest read up to now went around, and `more`; not those that are gone."""
        with self._lock:
            self._bypassed.update(more)
            return tuple(sorted(one for one in self._bypassed if not self.tracker.is_deleted(one)))

    def _load(self, snapshot_id: str) -> SnapshotEntry:
        return self._load_with_digest(snapshot_id)[0]

    def _load_with_digest(self, snapshot_id: str) -> tuple[SnapshotEntry, str]:
        try:
            entry, digest = self._shelf.load_with_digest(SnapshotEntry, check_snapshot_id(snapshot_id))
        except VolumeFormatError as error:
            raise SnapshotMissing(str(error)) from error
        except ObjectMissing as error:
            raise SnapshotMissing(f"{self._shelf.store.url} has no snapshot {snapshot_id}") from error
        except EntryError as error:
            raise SnapshotDamaged(f"the manifest of snapshot {snapshot_id} cannot be read: {error}") from error
        except ObjectArchived as error:
            raise SnapshotArchived(f"the manifest of snapshot {snapshot_id} cannot be read: {error}") from error
        check_sizes(entry)
        with self._lock:
            self._bypassed.update(entry.around)
        return entry, digest

    def _parent_tree(self, parent: SnapshotEntry) -> SnapshotTree:
        if (parent.segment_size, parent.list_length) != (self._segment_size, self._list_length):
            return EMPTY_TREE
        with self._lock:
            remembered = self._remembered
        if remembered and remembered[0] == parent.id:
            return remembered[1]
        try:
            return self._read_tree(parent)
        except (SnapshotDamaged, SnapshotArchived) as error:
            _log.error("%s; everything is stored again", error)
            return EMPTY_TREE

    def _remember(self, snapshot_id: str, tree: SnapshotTree) -> None:
        self.tracker.add([snapshot_id], expected=True)
        with self._lock:
            self._remembered = (snapshot_id, tree)
            self._begun = PartialTree()

    def _read_tree(self, entry: SnapshotEntry) -> SnapshotTree:
        lists: list[tuple[SegmentReference, ...]] = [()] * len(entry.parts)

        def take(one: WantedRange[tuple[int, Part]], stored: memoryview) -> None:
            number, part = one.purpose
            part.verify(stored)
            lists[number] = decode_list(stored, entry.list_length)
            check_references(lists[number], entry.segment_size)
            if len(lists[number]) != references_in(entry, number):
                raise SnapshotDamaged(f"list {number} has {len(lists[number])} references, which is not what is due")

        wanted = (WantedRange(one.key, one.offset, one.length, (number, one)) for number, one in enumerate(entry.parts))
        with as_snapshot_damage(entry):
            read_ranges(self._shelf.store, wanted, take, self._workers)
        return SnapshotTree(entry.parts, tuple(lists))


@attrs.frozen
class _Source:
    """What a new snapshot may refer to: the tree of the one that it goes on from, but for `stale` pages, and what an
    attempt has stored that broke off, with the sizes of these pages; and since when the snapshots build on one another
    (None: not any more)."""

    tree: SnapshotTree
    begun: PartialTree
    sizes: Mapping[str, int]
    stale: frozenset[str] = frozenset()
    whole_at: datetime | None = None
    since_size: int = 0


def _is_whole_due(old: SnapshotEntry, now: datetime) -> bool:
    """Whether the snapshot after `old` is to refer to nothing earlier."""
    needed = sum(one.live_size for one in old.pages)
    return old.since_size >= max(needed, LARGE_PAGES_BYTES) or now - (old.whole_at or old.time) >= WHOLE_AFTER


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
