# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the tree of a file that changed little since its parent snapshot.

The file is cut into *ranges*, the segments of one list, 4 MiB. A range that has the same hash as when the parent was
made is not looked at closer: its list is that of the parent. Of other ranges, a segment is stored in a pages entry,
unless the parent has it at the same place, or an interrupted attempt has stored it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
from blake3 import blake3

from cas3fs.blocks.codec import Compression, encode
from cas3fs.entries.kinds import PagesEntry, PagesUse
from cas3fs.entries.nodes import Part
from cas3fs.snapshots.pages import PagesWriter
from cas3fs.snapshots.tree import (
    EMPTY_TREE,
    ReferenceList,
    SegmentReference,
    SnapshotTree,
    encode_list,
    hash_segment,
)

_COMPRESSION: Final = Compression.parse("zstd:3")


@attrs.frozen
class PartialTree:
    """What an interrupted attempt has stored.

    `lists` also has references to pages entries that were not stored; `sizes` has those that were.
    """

    lists: Sequence[ReferenceList] = ()
    sizes: Mapping[str, int] = {}

    def references(self, number: int) -> Sequence[SegmentReference]:
        """Return the references of a list, or fewer, if anything of it may be stored."""
        return self.lists[number].references() if self.sizes and number < len(self.lists) else ()

    def without(self, lost: Iterable[str]) -> "PartialTree":
        """Return it without pages entries that the store has lost since."""
        lost = set(lost)
        return PartialTree(self.lists, {pages: size for pages, size in self.sizes.items() if pages not in lost})


class TreeBuilder:
    """Builds the tree from the ranges of a file, added in order; not thread-safe.

    Args:
        pages: stores what is new.
        parent: the tree of the parent snapshot, of the same shape.
        ranges: the hashes of the parent's ranges, as far as they are known.
        stale: ids of pages entries that must not be referred to any more.
        partial: what an interrupted attempt has stored.
        segment_size: in bytes.
    """

    def __init__(
        self,
        pages: PagesWriter,
        parent: SnapshotTree = EMPTY_TREE,
        *,
        ranges: Sequence[bytes] = (),
        stale: frozenset[str] = frozenset(),
        partial: PartialTree = PartialTree(),
        segment_size: int,
    ) -> None:
        self._pages = pages
        self._parent = parent
        self._old_ranges = ranges
        self._stale = stale
        self._partial = partial
        self._segment_size = segment_size
        self._lists: list[ReferenceList] = []
        self._open: list[SegmentReference] = []
        self.ranges: list[bytes] = []
        """The hashes of the ranges that were added."""

    def add(self, plain: memoryview) -> None:
        """Add the next range, of as many segments as a list has, or the last one; raises as `PagesWriter.write`."""
        number, digest = len(self._lists), blake3(plain).digest()
        self.ranges.append(digest)
        if self._is_unchanged(number, digest):
            self._lists.append(self._parent.lists[number])
            return
        old = self._parent.lists[number].references() if number < len(self._parent.lists) else ()
        partial = self._partial.references(number)
        for place, offset in enumerate(range(0, len(plain), self._segment_size)):
            segment = plain[offset : offset + self._segment_size]
            self._open.append(self._reference(segment, old[place : place + 1], partial[place : place + 1]))
        self._lists.append(ReferenceList(self._open))
        self._open = []

    def _is_unchanged(self, number: int, digest: bytes) -> bool:
        """Return whether the list of the parent is that of the range."""
        if number >= len(self._old_ranges) or self._old_ranges[number] != digest or number >= len(self._parent.lists):
            return False
        return self._stale.isdisjoint(self._parent.lists[number].uses)

    def _reference(
        self, plain: memoryview, old: Sequence[SegmentReference], partial: Sequence[SegmentReference]
    ) -> SegmentReference:
        """Return the reference to a segment, which is stored if it is not yet."""
        digest = hash_segment(plain)
        for one in old:
            if one.hash == digest and one.pages not in self._stale:
                return one
        for one in partial:
            if one.hash == digest and one.pages in self._partial.sizes:
                return one
        stored = encode(plain, _COMPRESSION)
        pages, offset = self._pages.write(stored)
        return SegmentReference(digest, pages, offset, len(stored))

    def finish(self) -> SnapshotTree:
        """Store the lists that the parent lacks, after all segments because they are read together; return the tree."""
        lists = tuple(self._lists)
        parts = tuple(self._store_list(number, one) for number, one in enumerate(lists))
        self._pages.finish()
        return SnapshotTree(parts, lists)

    def partial_tree(self) -> PartialTree:
        """Return what is stored so far, here and by interrupted attempts."""
        lists = [*self._lists, ReferenceList(self._open)]
        return PartialTree((*lists, *self._partial.lists[len(lists) :]), {**self._partial.sizes, **self._pages.sizes})

    def _store_list(self, number: int, references: ReferenceList) -> Part:
        if number < len(self._parent.lists) and self._parent.lists[number] == references:
            part = self._parent.parts[number]
            if part.key.removeprefix(PagesEntry.prefix()) not in self._stale:
                return part
        stored = encode_list(references, _COMPRESSION)
        pages, offset = self._pages.write(stored)
        return Part(PagesEntry.key_of(pages), offset, len(stored), blake3(stored).digest())


def pages_used_by(tree: SnapshotTree, totals: Mapping[str, int]) -> tuple[PagesUse, ...]:
    """Return how much a tree needs of each pages entry; `totals` has their sizes by id."""
    live: Counter[str] = Counter()
    for one in tree.lists:
        live.update(one.uses)
    for part in tree.parts:
        live[part.key.removeprefix(PagesEntry.prefix())] += part.length
    return tuple(PagesUse(pages, live[pages], totals[pages]) for pages in sorted(live))


def sizes_of_pages(uses: Iterable[PagesUse]) -> dict[str, int]:
    """Return the sizes of pages entries by id."""
    return {one.id: one.total_size for one in uses}
