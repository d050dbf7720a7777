# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the tree of a file that changed little since its parent snapshot.

A segment is stored in a pages entry, unless the parent has it at the same place, or an interrupted attempt has stored
it.
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
from cas3fs.snapshots.tree import EMPTY_TREE, SegmentReference, SnapshotTree, encode_list, hash_segment
from cas3fs.values import Buffer

_COMPRESSION: Final = Compression.parse("zstd:3")


@attrs.frozen
class PartialTree:
    """What an interrupted attempt has stored.

    `lists` also has references to pages entries that were not stored; `sizes` has those that were.
    """

    lists: Sequence[Sequence[SegmentReference]] = ()
    sizes: Mapping[str, int] = {}

    def segment_at(self, number: int, place: int) -> SegmentReference | None:
        """Return the reference at that place of a list, if its segment was stored."""
        if number >= len(self.lists) or place >= len(self.lists[number]):
            return None
        found = self.lists[number][place]
        return found if found.pages in self.sizes else None

    def without(self, lost: Iterable[str]) -> "PartialTree":
        """Return it without pages entries that the store has lost since."""
        lost = set(lost)
        return PartialTree(self.lists, {pages: size for pages, size in self.sizes.items() if pages not in lost})


class TreeBuilder:
    """Builds the tree from the segments of a file, added in order; not thread-safe.

    Args:
        pages: stores what is new.
        parent: the tree of the parent snapshot, of the same shape.
        stale: ids of pages entries that must not be referred to any more.
        partial: what an interrupted attempt has stored.
        list_length: segments in a list.
    """

    def __init__(
        self,
        pages: PagesWriter,
        parent: SnapshotTree = EMPTY_TREE,
        *,
        stale: frozenset[str] = frozenset(),
        partial: PartialTree = PartialTree(),
        list_length: int,
    ) -> None:
        self._pages = pages
        self._parent = parent
        self._stale = stale
        self._partial = partial
        self._list_length = list_length
        self._lists: list[Sequence[SegmentReference]] = []
        self._open: list[SegmentReference] = []
        self._old: tuple[SegmentReference, ...] = parent.lists[0] if parent.lists else ()

    def add(self, plain: Buffer) -> None:
        """Add the next segment; raises as `PagesWriter.write` does."""
        digest = hash_segment(plain)
        self._open.append(self._stored(digest) or self._store(digest, plain))
        if len(self._open) == self._list_length:
            self._close_list()

    def _stored(self, digest: bytes) -> SegmentReference | None:
        """Return the reference to the segment, if it is stored already."""
        place = len(self._open)
        old = self._old[place] if place < len(self._old) else None
        if old is not None and old.hash == digest and old.pages not in self._stale:
            return old
        partial = self._partial.segment_at(len(self._lists), place)
        return partial if partial is not None and partial.hash == digest else None

    def _store(self, digest: bytes, plain: Buffer) -> SegmentReference:
        stored = encode(plain, _COMPRESSION)
        pages, offset = self._pages.write(stored)
        return SegmentReference(digest, pages, offset, len(stored))

    def finish(self) -> SnapshotTree:
        """Store the lists that the parent lacks, after all segments because they are read together; return the tree."""
        if self._open:
            self._close_list()
        lists = tuple(tuple(one) for one in self._lists)
        parts = tuple(self._store_list(number, one) for number, one in enumerate(lists))
        self._pages.finish()
        return SnapshotTree(parts, lists)

    def partial_tree(self) -> PartialTree:
        """Return what is stored so far, here and by interrupted attempts."""
        lists: list[Sequence[SegmentReference]] = [*self._lists, self._open]
        done = len(lists)
        return PartialTree((*lists, *self._partial.lists[done:]), {**self._partial.sizes, **self._pages.sizes})

    def _close_list(self) -> None:
        self._lists.append(self._open)
        self._open = []
        number = len(self._lists)
        self._old = self._parent.lists[number] if number < len(self._parent.lists) else ()

    def _store_list(self, number: int, references: tuple[SegmentReference, ...]) -> Part:
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
    for reference in tree.references():
        live[reference.pages] += reference.length
    for part in tree.parts:
        live[part.key.removeprefix(PagesEntry.prefix())] += part.length
    return tuple(PagesUse(pages, live[pages], totals[pages]) for pages in sorted(live))


def sizes_of_pages(uses: Iterable[PagesUse]) -> dict[str, int]:
    """Return the sizes of pages entries by id."""
    return {one.id: one.total_size for one in uses}
