# SPDX-License-Identifier: GPL-3.0-or-later
"""Node entries: their data consists of parts of other objects.

The data of a node is the bytes of its parts, in order. A part is a range of some object and the BLAKE3 of those bytes;
as the node itself has a checksum, it verifies all of its data. Replacing a part creates an object for the new part, and
a new node that refers to it and to the other parts; the old node does not change.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from blake3 import blake3

from cas3fs.entries.attributes import attribute, entry_kind
from cas3fs.entries.coercers import to_natural, to_string, tuple_of
from cas3fs.entries.entry import Entry
from cas3fs.errors import EntryCorrupt
from cas3fs.values import Buffer

_HASH_BYTES = 32


class Part(NamedTuple):
    """`length` bytes from `offset` of the object `key`; `hash` is their BLAKE3."""

    key: str
    offset: int
    length: int
    hash: bytes

    def verify(self, data: Buffer) -> None:
        """Raise `EntryCorrupt` unless `data` has the length and the hash of this part."""
        if len(data) != self.length or blake3(data).digest() != self.hash:
            raise EntryCorrupt(
                f"{self.key} is damaged: the {self.length} bytes from {self.offset} on do not match their hash"
            )


class PartSlice(NamedTuple):
    """The bytes of part `number` from `start` to `end`."""

    number: int
    start: int
    end: int


def to_part(value: Any) -> Part:
    """A part, from ``[key, offset, length, hash in hex]``."""
    if isinstance(value, Part):
        return value
    if not isinstance(value, list | tuple) or len(value) != len(Part._fields):
        raise TypeError("not a part of a node")
    key, offset, length, digest = value
    digest = bytes.fromhex(to_string(digest)) if not isinstance(digest, bytes) else digest
    if len(digest) != _HASH_BYTES:
        raise ValueError("the hash of a part has a wrong length")
    return Part(to_string(key), to_natural(offset), to_natural(length), digest)


@entry_kind
class NodeEntry(Entry):
    """An entry whose data is the bytes of its parts, in order."""

    parts: tuple[Part, ...] = attribute(tuple_of(to_part))

    @property
    def data_size(self) -> int:
        """The size of the data in bytes."""
        return sum(one.length for one in self.parts)

    def slices(self, start: int, length: int) -> Iterator[PartSlice]:
        """Which bytes of which parts make up a range; it is cut off at the end of the data.

        Raises:
            ValueError: a negative start or length.
        """
        if start < 0 or length < 0:
            raise ValueError(f"no such range: {length} bytes from {start}")
        ends = list(accumulate(one.length for one in self.parts))
        end = start + length
        for number in range(bisect_right(ends, start), len(self.parts)):
            part_start = ends[number] - self.parts[number].length
            if part_start >= end:
                return
            yield PartSlice(number, max(start - part_start, 0), min(end, ends[number]) - part_start)
