# SPDX-License-Identifier: GPL-3.0-or-later
"""Node entries: data that is spread over parts of other objects.

The data of a node is its parts' bytes in order. A part is a range of some object and the BLAKE3 of those bytes; as
the node has a checksum of its own, it vouches for all of its data. To replace a part means a new object for the part
and a new node that names it beside the old parts; the old node stays what it was.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from blake3 import blake3

from cas3fs.entries.attributes import attribute, stored_kind
from cas3fs.entries.coercers import natural, sequence_of, text
from cas3fs.entries.entry import Entry
from cas3fs.errors import EntryCorrupt
from cas3fs.values import Buffer

_HASH_BYTES = 32


class Part(NamedTuple):
    """`length` bytes from `offset` of object `key` on; `hash` is their BLAKE3."""

    key: str
    offset: int
    length: int
    hash: bytes

    def verify(self, data: Buffer) -> None:
        """Raise `EntryCorrupt` unless `data` is what this part names."""
        if len(data) != self.length or blake3(data).digest() != self.hash:
            raise EntryCorrupt(f"{self.key} is damaged: the {self.length} bytes from {self.offset} on are others")


class PartSlice(NamedTuple):
    """The bytes from `start` to `end` of part `number`."""

    number: int
    start: int
    end: int


def part(value: Any) -> Part:
    """Coerce a part from ``[key, offset, length, hash in hex]``."""
    if isinstance(value, Part):
        return value
    if not isinstance(value, list | tuple) or len(value) != len(Part._fields):
        raise TypeError("not a part of a node")
    key, offset, length, digest = value
    digest = bytes.fromhex(text(digest)) if not isinstance(digest, bytes) else digest
    if len(digest) != _HASH_BYTES:
        raise ValueError("the hash of a part is too short or long")
    return Part(text(key), natural(offset), natural(length), digest)


@stored_kind
class NodeEntry(Entry):
    """An entry whose data is the bytes of its parts, in order."""

    parts: tuple[Part, ...] = attribute(sequence_of(part))

    @property
    def data_size(self) -> int:
        """Bytes of all parts."""
        return sum(one.length for one in self.parts)

    def slices(self, start: int, length: int) -> Iterator[PartSlice]:
        """Which bytes of which parts are the range; what lies beyond the end is left out.

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
