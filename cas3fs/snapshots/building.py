# SPDX-License-Identifier: GPL-3.0-or-later
"""Building the tree of a file that changed little since its parent.

Segments go into the body of a pages entry, unless the parent has them at the same place.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from blake3 import blake3

from cas3fs.blocks.codec import Compression, encode
from cas3fs.entries.bodies import CHECKSUM_BYTES, BodyWriter
from cas3fs.entries.kinds import PagesEntry, PagesUse
from cas3fs.entries.nodes import Part
from cas3fs.snapshots.tree import Reference, Tree, encode_list, hash_segment
from cas3fs.values import Buffer

_COMPRESSION: Final = Compression(3)


class TreeBuilder:
    """Takes the segments of a file in order; not thread-safe.

    Args:
        pages: the pages entry that takes what is new.
        body: where its bytes are written.
        parent: the tree of the parent snapshot, of the same shape.
        stale: ids of pages entries that must not be referred to any more.
    """

    def __init__(
        self, pages: PagesEntry, body: BodyWriter, parent: Tree, *, stale: frozenset[str], list_length: int
    ) -> None:
        self._pages = pages
        self._body = body
        self._parent = parent
        self._stale = stale
        self._list_length = list_length
        self._lists: list[tuple[Reference, ...]] = []
        self._open: list[Reference] = []
        self._old: tuple[Reference, ...] = parent.lists[0] if parent.lists else ()

    @property
    def wrote(self) -> bool:
        """Whether anything is new."""
        return self._body.position > self._body.data_start

    def add(self, plain: Buffer) -> None:
        """The next segment."""
        digest = hash_segment(plain)
        place = len(self._open)
        old = self._old[place] if place < len(self._old) else None
        if old is not None and old.hash == digest and old.pages not in self._stale:
            self._open.append(old)
        else:
            stored = encode(plain, _COMPRESSION)
            offset = self._body.write(stored)
            self._open.append(Reference(digest, self._pages.id, offset, len(stored)))
        if len(self._open) == self._list_length:
            self._close_list()

    def finish(self) -> Tree:
        """The tree; lists that the parent lacks are written now, behind all segments: they are read together."""
        if self._open:
            self._close_list()
        parts = tuple(self._store_list(number, one) for number, one in enumerate(self._lists))
        return Tree(parts, tuple(self._lists))

    def _close_list(self) -> None:
        self._lists.append(tuple(self._open))
        self._open = []
        number = len(self._lists)
        self._old = self._parent.lists[number] if number < len(self._parent.lists) else ()

    def _store_list(self, number: int, references: tuple[Reference, ...]) -> Part:
        if number < len(self._parent.lists) and self._parent.lists[number] == references:
            part = self._parent.parts[number]
            if part.key.removeprefix(PagesEntry.prefix()) not in self._stale:
                return part
        stored = encode_list(references, _COMPRESSION)
        offset = self._body.write(stored)
        return Part(self._pages.key, offset, len(stored), blake3(stored).digest())

    def new_size(self) -> int:
        """Bytes of the pages object; 0 when nothing is new."""
        return self._body.position + CHECKSUM_BYTES if self.wrote else 0


def uses_of(tree: Tree, totals: Mapping[str, int]) -> tuple[PagesUse, ...]:
    """What a tree needs of each pages entry, whose sizes are `totals`."""
    live: Counter[str] = Counter()
    for reference in tree.references():
        live[reference.pages] += reference.length
    for part in tree.parts:
        live[part.key.removeprefix(PagesEntry.prefix())] += part.length
    return tuple(PagesUse(pages, live[pages], totals[pages]) for pages in sorted(live))


def totals_of(uses: Iterable[PagesUse]) -> dict[str, int]:
    """Sizes of pages entries by id."""
    return {one.id: one.total_size for one in uses}
