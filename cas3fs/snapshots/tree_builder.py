# SPDX-License-Identifier: GPL-3.0-or-later
"""Building the tree of a file that changed little since its parent.

Segments go into pages entries, unless the parent has them at the same place, or an attempt that broke off has stored
them.
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
    """What an attempt that broke off has stored: references by place, those to what is not in the store among them,
    and the sizes of the pages entries that are."""

    lists: Sequence[Sequence[SegmentReference]] = ()
    sizes: Mapping[str, int] = {}

    def at(self, number: int, place: int) -> SegmentReference | None:
        """The stored segment of that list and place, if there is one."""
        if number >= len(self.lists) or place >= len(self.lists[number]):
            return None
        found = self.lists[number][place]
        return found if found.pages in self.sizes else None

    def without(self, lost: Iterable[str]) -> "PartialTree":
        """It without pages entries that the store has lost since."""
        gone = set(lost)
        return PartialTree(self.lists, {pages: size for pages, size in self.sizes.items() if pages not in gone})


class TreeBuilder:
    """Takes the segments of a file in order; not thread-safe.

    Args:
        pages: takes what is new.
        parent: the tree of the parent snapshot, of the same shape.
        stale: ids of pages entries that must not be referred to any more.
        begun: what an attempt before this one has stored.
    """

    def __init__(
        self,
        pages: PagesWriter,
        parent: SnapshotTree = EMPTY_TREE,
        *,
        stale: frozenset[str] = frozenset(),
        begun: PartialTree = PartialTree(),
        list_length: int,
    ) -> None:
        self._pages = pages
        self._parent = parent
        self._stale = stale
        self._begun = begun
        self._list_length = list_length
        self._lists: list[Sequence[SegmentReference]] = []
        self._open: list[SegmentReference] = []
        self._old: tuple[SegmentReference, ...] = parent.lists[0] if parent.lists else ()

    def add(self, plain: Buffer) -> None:
        """The next segment; raises as `PagesWriter.write`."""
        digest = hash_segment(plain)
        self._open.append(self._stored(digest) or self._store(digest, plain))
        if len(self._open) == self._list_length:
            self._close_list()

    def _stored(self, digest: bytes) -> SegmentReference | None:
        """Where the segment is stored already."""
        place = len(self._open)
        old = self._old[place] if place < len(self._old) else None
        if old is not None and old.hash == digest and old.pages not in self._stale:
            return old
        begun = self._begun.at(len(self._lists), place)
        return begun if begun is not None and begun.hash == digest else None

    def _store(self, digest: bytes, plain: Buffer) -> SegmentReference:
        stored = encode(plain, _COMPRESSION)
        pages, offset = self._pages.write(stored)
        return SegmentReference(digest, pages, offset, len(stored))

    def finish(self) -> SnapshotTree:
        """The tree; lists that the parent lacks are written now, behind all segments: they are read together."""
        if self._open:
            self._close_list()
        lists = tuple(tuple(one) for one in self._lists)
        parts = tuple(self._store_list(number, one) for number, one in enumerate(lists))
        self._pages.finish()
        return SnapshotTree(parts, lists)

    def attempt(self) -> PartialTree:
        """What is stored so far, with what the attempts before had stored."""
        lists: list[Sequence[SegmentReference]] = [*self._lists, self._open]
        done = len(lists)
        return PartialTree((*lists, *self._begun.lists[done:]), {**self._begun.sizes, **self._pages.sizes})

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
    """What a tree needs of each pages entry, whose sizes are `totals`."""
    live: Counter[str] = Counter()
    for reference in tree.references():
        live[reference.pages] += reference.length
    for part in tree.parts:
        live[part.key.removeprefix(PagesEntry.prefix())] += part.length
    return tuple(PagesUse(pages, live[pages], totals[pages]) for pages in sorted(live))


def pages_sizes(uses: Iterable[PagesUse]) -> dict[str, int]:
    """Sizes of pages entries by id."""
    return {one.id: one.total_size for one in uses}
