# SPDX-License-Identifier: GPL-3.0-or-later
"""Creates snapshots.

Order of writes:

1. Store the segments and lists that are new, in pages entries. Then the image of the index must still be what it was.
2. List the pages entries that the snapshot refers to, also those that were just stored. If one is missing or has a
   wrong size, store what is needed of it again.
3. Store the manifest, and check that the store has it.

Any object may be lost from a store, so now and then a snapshot is *self-contained*: it refers to no earlier pages
entry. Then the store has everything that the volume needs twice, as long as an earlier snapshot is retained. That
happens when 30 days have passed since the last such snapshot, or when the changes since then need as much space.

Thread-safe. One lock guards the remembered tree of the last snapshot, and what an interrupted attempt has stored; no
I/O is done under it.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import attrs

from cas3fs.entries.bodies import encode_body
from cas3fs.entries.coercers import MAX_NUMBER
from cas3fs.entries.kinds import PagesEntry, PagesUse, SnapshotEntry
from cas3fs.entries.shelf import ListedEntry, Shelf, digest_of
from cas3fs.errors import ObjectMissing, SnapshotArchived, SnapshotDamaged, StoreError
from cas3fs.snapshots.image import Image
from cas3fs.snapshots.manifest_reader import ManifestReader
from cas3fs.snapshots.manifests import CopiedSnapshot, SnapshotInfo, SnapshotOrigin, local_disk_errors, snapshot_info
from cas3fs.snapshots.pages import PagesWriter, find_lost_pages, learn_seals, seals_of
from cas3fs.snapshots.snapshot_reader import SnapshotReader
from cas3fs.snapshots.tracker import SnapshotTracker
from cas3fs.snapshots.tree import EMPTY_TREE, LARGE_PAGES_BYTES, SnapshotTree, stale_pages
from cas3fs.snapshots.tree_builder import PartialTree, TreeBuilder, pages_used_by, sizes_of_pages
from cas3fs.values import SnapshotNumber

_ATTEMPTS: Final = 3
SELF_CONTAINED_AFTER: Final = timedelta(days=30)

_log = logging.getLogger(__name__)


class SnapshotWriter:
    """Creates the snapshots of one volume.

    Args:
        shelf: the volume's entries.
        manifests: reads the manifest of the parent, and learns each new one.
        reader: reads the tree of the parent.
        tracker: learns each new snapshot.
        segment_size, list_length, part_bytes, now: as of `SnapshotArchive`.
    """

    def __init__(
        self,
        shelf: Shelf,
        manifests: ManifestReader,
        reader: SnapshotReader,
        tracker: SnapshotTracker,
        *,
        segment_size: int,
        list_length: int,
        part_bytes: int,
        now: Callable[[], datetime],
    ) -> None:
        self._shelf = shelf
        self._manifests = manifests
        self._reader = reader
        self._tracker = tracker
        self._segment_size = segment_size
        self._list_length = list_length
        self._part_bytes = part_bytes
        self._now = now
        self._lock = threading.Lock()
        self._last_tree: tuple[str, SnapshotTree, Sequence[bytes]] | None = None
        self._partial = PartialTree()

    def create(
        self,
        image: Image,
        number: SnapshotNumber,
        *,
        parent: str | None,
        name: str | None,
        facts: Callable[[], Mapping[str, int]],
        restored: str | None,
        origin: SnapshotOrigin,
        bypassed: Iterable[str],
        copied: CopiedSnapshot | None,
    ) -> SnapshotInfo:
        """As `SnapshotArchive.create`."""
        predecessor = parent if restored is None else restored
        old = self._manifests.load_entry(predecessor)[0] if predecessor is not None else None
        time = self._now()
        reusable = self._find_reusable(old, time)
        pages = PagesWriter(self._shelf, number, time, image.folder, self._part_bytes)
        tree, ranges, uses = self._store_until_complete(pages, image, reusable)
        new_size = sum(pages.sizes.values())
        entry = SnapshotEntry(
            id=str(number),
            epoch=number.epoch,
            sequence=number.sequence,
            parent=parent,
            name=name,
            time=time if copied is None else copied.time,
            index_size=image.size,
            segment_size=self._segment_size,
            list_length=self._list_length,
            parts=tree.parts,
            pages=uses,
            seals=seals_of(self._shelf.store, uses),
            new_size=new_size,
            facts={fact: min(count, MAX_NUMBER) for fact, count in facts().items()},
            restored=restored,
            around=self._bypassed_with(bypassed),
            copied=None if copied is None else copied.id,
            lineage=origin.lineage,
            claim=origin.claim,
            whole_at=reusable.whole_at or time,
            since_size=0 if reusable.whole_at is None else reusable.since_size + _replaced(old, uses, new_size),
        )
        image.check()
        return self._save(entry, tree, ranges)

    def _find_reusable(self, old: SnapshotEntry | None, now: datetime) -> "_Reusable":
        """Return what a snapshot that follows `old` need not store again."""
        with self._lock:
            partial = self._partial
        partial = partial.without(self._outdated(partial.sizes))
        if old is not None:
            learn_seals(self._shelf.store, old)
        outdated = frozenset[str]() if old is None else self._outdated(one.id for one in old.pages)
        if old is None or _is_self_contained_due(old, now) or 0 < len(old.pages) == len(outdated):
            return _Reusable(EMPTY_TREE, partial, partial.sizes)
        sizes = {**sizes_of_pages(old.pages), **partial.sizes}
        stale = stale_pages(old.pages) | outdated
        tree, ranges = self._tree_of(old)
        return _Reusable(tree, partial, sizes, ranges, stale, old.whole_at or old.time, old.since_size)

    def _outdated(self, pages: Iterable[str]) -> frozenset[str]:
        """Return those of the pages entries that are sealed with an older generation of the keys: after a rotation, a
        snapshot stores everything again."""
        store = self._shelf.store
        if not store.generation:
            return frozenset()
        return frozenset(one for one in pages if store.generation_of(PagesEntry.key_of(one)) < store.generation)

    def _tree_of(self, parent: SnapshotEntry) -> tuple[SnapshotTree, Sequence[bytes]]:
        """Return the tree of a snapshot, and the hashes of its ranges if this process has made it."""
        if (parent.segment_size, parent.list_length) != (self._segment_size, self._list_length):
            return EMPTY_TREE, ()
        with self._lock:
            last = self._last_tree
        if last and last[0] == parent.id:
            return last[1:]
        try:
            return self._reader.read_tree(parent), ()
        except (SnapshotDamaged, SnapshotArchived) as error:
            _log.error("%s; the next snapshot stores everything again", error)
            return EMPTY_TREE, ()

    def _store_until_complete(
        self, pages: PagesWriter, image: Image, reusable: "_Reusable"
    ) -> tuple[SnapshotTree, Sequence[bytes], tuple[PagesUse, ...]]:
        """Store the tree until the store shows all pages entries that it needs; return them too, and the hashes of the
        ranges.

        Raises:
            StoreError: the store keeps losing objects that were just stored.
        """
        for _ in range(_ATTEMPTS):
            tree, ranges = self._store_tree(pages, image, reusable)
            uses = pages_used_by(tree, {**reusable.sizes, **pages.sizes})
            lost = find_lost_pages(self._shelf.store, uses)
            if not lost:
                return tree, ranges, uses
            for one, fault in lost.items():
                _log.error(
                    "pages %s, which a snapshot needs: %s; its content is stored again; `cas3fs fsck` shows which "
                    "other snapshots are damaged",
                    one,
                    fault,
                )
            with self._lock:
                partial = self._partial = self._partial.without(lost)
            pages.forget(lost)
            reusable = attrs.evolve(reusable, partial=partial, stale=reusable.stale | lost.keys())
        raise self._lost_at_once(f"pages {min(lost)}: {lost[min(lost)]}")

    def _store_tree(
        self, pages: PagesWriter, image: Image, reusable: "_Reusable"
    ) -> tuple[SnapshotTree, Sequence[bytes]]:
        """Store what is new; return the tree and the hashes of its ranges."""
        builder = TreeBuilder(
            pages,
            reusable.tree,
            ranges=reusable.ranges,
            stale=reusable.stale,
            partial=reusable.partial,
            segment_size=self._segment_size,
        )
        try:
            with local_disk_errors("snapshot"):
                self._add_ranges(builder, image)
                return builder.finish(), builder.ranges
        finally:  # also after success: storing the manifest may fail
            pages.close()
            with self._lock:
                self._partial = builder.partial_tree()

    def _add_ranges(self, builder: TreeBuilder, image: Image) -> None:
        """Add the whole image."""
        length = self._segment_size * self._list_length
        buffer = memoryview(bytearray(min(length, image.size)))
        for offset in range(0, image.size, length):
            plain = buffer[: image.size - offset]
            image.read_into(plain, offset)
            builder.add(plain)

    def _bypassed_with(self, more: Iterable[str]) -> tuple[str, ...]:
        """Return all bypassed snapshots, with `more`, that were not deleted."""
        bypassed = self._manifests.bypassed_with(more)
        return tuple(sorted(one for one in bypassed if not self._tracker.is_deleted(one)))

    def _save(self, entry: SnapshotEntry, tree: SnapshotTree, ranges: Sequence[bytes]) -> SnapshotInfo:
        """Store the manifest, check that the store has it, and remember its tree.

        Raises:
            StoreError: the store failed, or has lost the manifest.
        """
        self._shelf.save(entry)
        key, body = entry.key, encode_body(entry, b"", pads=self._shelf.store.pads)
        info, size = snapshot_info(entry, digest_of(body)), len(body)
        try:
            head = self._shelf.store.head(key)
        except ObjectMissing:
            head = None
        if head is None or head.size != size:
            raise self._lost_at_once(key)
        self._manifests.put(ListedEntry(info.id, key, size, head.modified), info)
        self._tracker.add([entry.id], expected=True)
        with self._lock:
            self._last_tree = (entry.id, tree, ranges)
            self._partial = PartialTree()
        return info

    def _lost_at_once(self, what: str) -> StoreError:
        return StoreError(
            f"{self._shelf.store.url} lost an object right after it was stored ({what}); the snapshot was not "
            "published, and the changes are only on this machine"
        )


@attrs.frozen
class _Reusable:
    """What a new snapshot may refer to."""

    tree: SnapshotTree
    """Of the snapshot that it follows."""
    partial: PartialTree
    """What an interrupted attempt stored."""
    sizes: Mapping[str, int]
    """Sizes of the pages entries of both, by id."""
    ranges: Sequence[bytes] = ()
    """The hashes of the ranges of the file of that tree, if they are known."""
    stale: frozenset[str] = frozenset()
    """Ids of pages entries that must not be referred to any more."""
    whole_at: datetime | None = None
    """When the last self-contained snapshot was made; None if this one is to be self-contained."""
    since_size: int = 0
    """Bytes that were stored since then."""


def _replaced(old: SnapshotEntry | None, uses: Iterable[PagesUse], new_size: int) -> int:
    """Return how many of the bytes that a snapshot added stand for older ones: not those by which it has grown."""
    before = 0 if old is None else _needed(old.pages)
    return max(new_size - max(_needed(uses) - before, 0), 0)


def _needed(uses: Iterable[PagesUse]) -> int:
    return sum(one.live_size for one in uses)


def _is_self_contained_due(old: SnapshotEntry, now: datetime) -> bool:
    """Return whether the snapshot after `old` must be self-contained."""
    since = old.whole_at or old.time
    return old.since_size >= max(_needed(old.pages), LARGE_PAGES_BYTES) or now - since >= SELF_CONTAINED_AFTER
