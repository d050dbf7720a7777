# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of hashes over a file: the format of segments, references and lists.

A stored segment is an encoded block of `cas3fs.blocks.codec`. Its hash is the first 16 bytes of the BLAKE3 of its
plain bytes: enough to detect damage, and it halves the length of a list, which is most of what a small change stores.

A stored list, all numbers big-endian::

    0   4   length of what follows, plain
    4       an encoded block of `cas3fs.blocks.codec`, of which the plain bytes are:

            0   8      magic ``CAS3LIST``
            8   2      format version, 1
            10  2      number of references, n
            12  2      number of pages entries, m
            14  2      zero
            m times    epoch (4 bytes), part (3) and sequence (5) of a pages entry
            n times    2 bytes: which of those the segment lies in
            n times    4 bytes: its stored length
            n times    8 bytes, signed: its offset in that object, less the end of the reference before (0 before the
                       first)
            n times    16 bytes: its hash

The columns are stored one after the other because similar numbers compress well; of segments that were stored in
sequence, little but the hashes remains. The manifest refers to a list by the BLAKE3 of its stored bytes.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from blake3 import blake3

from cas3fs.blocks.codec import Compression, decode, encode
from cas3fs.entries.kinds import PagesUse
from cas3fs.entries.nodes import Part
from cas3fs.errors import BlockError, SnapshotDamaged
from cas3fs.values import Buffer, PagesNumber, SnapshotNumber

SEGMENT_BYTES: Final = 16 * 1024
LIST_LENGTH: Final = 256
SEGMENT_HASH_BYTES: Final = 16
FORMAT_VERSION: Final = 1
PAGES_LIMIT: Final = 64
"""A snapshot that would refer to more small pages entries stores again what it needs of the least used ones."""
PAGES_AFTER_REWRITE: Final = 32
LARGE_PAGES_BYTES: Final = 4 * 1024 * 1024
"""A pages entry of at least this size is replaced when less than half of it is needed; smaller ones only count."""

_MAGIC: Final = b"CAS3LIST"
_LENGTH: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">8sHHH2x")
_SOURCE: Final = struct.Struct(">IQ")
_SEQUENCE_BITS: Final = 40
_CODEC_BYTES: Final = 1
"""Precedes bytes that are stored uncompressed; no encoded block is longer than those."""
_REFERENCE_BYTES: Final = 2 + 4 + 8 + SEGMENT_HASH_BYTES


class SegmentReference(NamedTuple):
    """A segment: its hash, the id of its pages entry, and the range of its stored bytes there."""

    hash: bytes
    pages: str
    offset: int
    length: int


class ReferenceList:
    """The references of a list, kept as the plain bytes of the stored list: 30 bytes a segment, and no objects.

    Attributes:
        plain: those bytes.
        uses: how many stored bytes of each pages entry the references need, by its id.
    """

    __slots__ = ("_count", "plain", "uses")

    def __init__(self, references: Sequence[SegmentReference], plain: bytes | None = None) -> None:
        self.plain: Final = _pack_list(references) if plain is None else plain
        self._count = len(references)
        live: Counter[str] = Counter()
        for one in references:
            live[one.pages] += one.length
        self.uses: Final[Mapping[str, int]] = live

    def references(self) -> tuple[SegmentReference, ...]:
        """Return the references, which are made anew."""
        return _parse_list(self.plain)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceList) and other.plain == self.plain

    def __hash__(self) -> int:
        return hash(self.plain)


class SnapshotTree(NamedTuple):
    """All references of a snapshot, list by list, and where the lists are stored."""

    parts: tuple[Part, ...]
    lists: tuple[ReferenceList, ...]

    def references(self) -> Iterable[SegmentReference]:
        """Return all references, in the order of the file."""
        return chain.from_iterable(one.references() for one in self.lists)


EMPTY_TREE: Final = SnapshotTree((), ())


def hash_segment(plain: Buffer) -> bytes:
    """Return the hash by which a reference identifies a segment."""
    return blake3(plain).digest(length=SEGMENT_HASH_BYTES)


def open_segment(stored: Buffer, reference: SegmentReference, plain_length: int) -> bytes:
    """Return the plain bytes of a segment, verified.

    Raises:
        SnapshotDamaged: they do not match `reference`.
    """
    try:
        plain = decode(stored, plain_length)
    except BlockError as error:
        raise SnapshotDamaged(f"a segment in pages {reference.pages} at {reference.offset}: {error}") from error
    if hash_segment(plain) != reference.hash:
        raise SnapshotDamaged(f"a segment in pages {reference.pages} at {reference.offset} does not match its hash")
    return plain


def encode_list(references: ReferenceList, compression: Compression) -> bytes:
    """Return the bytes of a stored list."""
    return _LENGTH.pack(len(references.plain)) + encode(references.plain, compression)


def _pack_list(references: Sequence[SegmentReference]) -> bytes:
    """Return the plain bytes of a stored list."""
    sources = sorted({one.pages for one in references})
    numbers = {pages: number for number, pages in enumerate(sources)}
    count = len(references)
    ends = [0, *(one.offset + one.length for one in references)]
    return b"".join(
        (
            _HEAD.pack(_MAGIC, FORMAT_VERSION, count, len(sources)),
            *(_pack_source(pages) for pages in sources),
            struct.pack(f">{count}H", *(numbers[one.pages] for one in references)),
            struct.pack(f">{count}I", *(one.length for one in references)),
            struct.pack(f">{count}q", *(one.offset - end for one, end in zip(references, ends, strict=False))),
            *(one.hash for one in references),
        )
    )


def decode_list(stored: Buffer, limit: int) -> ReferenceList:
    """Return the references of a stored list.

    Args:
        stored: the bytes of the list.
        limit: how many references it may have at most.

    Raises:
        SnapshotDamaged: the list is invalid.
    """
    try:
        (length,) = _LENGTH.unpack_from(stored)
        if length > longest_list_bytes(limit):
            raise SnapshotDamaged(f"a list of a snapshot claims {length} bytes for at most {limit} references")
        plain = decode(memoryview(stored)[_LENGTH.size :], length)
        return ReferenceList(_parse_list(plain), plain)
    except (struct.error, BlockError, IndexError) as error:
        raise SnapshotDamaged(f"a list of a snapshot cannot be read: {error}") from error


def longest_list_bytes(list_length: int) -> int:
    """Return how long a stored list of at most so many references can be."""
    return _LENGTH.size + _CODEC_BYTES + _HEAD.size + list_length * (_SOURCE.size + _REFERENCE_BYTES)


def check_references(references: Iterable[SegmentReference], segment_size: int) -> None:
    """Check the lengths of references.

    Raises:
        SnapshotDamaged: one is longer than a stored segment can be.
    """
    for one in references:
        if one.length > segment_size + _CODEC_BYTES:
            raise SnapshotDamaged(f"a segment of {segment_size} bytes cannot be {one.length} bytes long when stored")


def stale_pages(uses: Iterable[PagesUse]) -> frozenset[str]:
    """Return the pages entries that the next snapshot should not refer to any more.

    These are large ones of which less than half is needed; and, if there are too many of which little is needed, those
    of which the least is needed. An entry of which much is needed is not worth storing again.
    """
    wasteful = {one.id for one in uses if one.total_size >= LARGE_PAGES_BYTES and one.live_size * 2 < one.total_size}
    others = sorted(
        (one for one in uses if one.id not in wasteful and one.live_size < LARGE_PAGES_BYTES),
        key=lambda one: (one.live_size, one.id),
    )
    # The next snapshot adds one.
    surplus = len(others) - PAGES_AFTER_REWRITE if len(others) >= PAGES_LIMIT else 0
    return frozenset(wasteful | {one.id for one in others[:surplus]})


def _pack_source(pages: str) -> bytes:
    (epoch, sequence), part = PagesNumber.parse(pages)
    return _SOURCE.pack(epoch, part << _SEQUENCE_BITS | sequence)


def _unpack_source(epoch: int, number: int) -> str:
    return str(PagesNumber(SnapshotNumber(epoch, number & (1 << _SEQUENCE_BITS) - 1), number >> _SEQUENCE_BITS))


def _parse_list(plain: bytes) -> tuple[SegmentReference, ...]:
    magic, version, count, source_count = _HEAD.unpack_from(plain)
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise SnapshotDamaged(f"a list of a snapshot begins with {magic!r}, format {version}")
    table = _HEAD.size + source_count * _SOURCE.size
    if len(plain) != table + count * _REFERENCE_BYTES:
        raise SnapshotDamaged(f"a list of {count} references to {source_count} pages entries has {len(plain)} bytes")
    sources = [_unpack_source(*line) for line in _SOURCE.iter_unpack(plain[_HEAD.size : table])]
    numbers = struct.unpack_from(f">{count}H", plain, table)
    lengths = struct.unpack_from(f">{count}I", plain, table + count * 2)
    steps = struct.unpack_from(f">{count}q", plain, table + count * 6)
    hashes = table + count * 14
    references, end = [], 0
    for place, (number, length, step) in enumerate(zip(numbers, lengths, steps, strict=True)):
        start = hashes + place * SEGMENT_HASH_BYTES
        reference = SegmentReference(plain[start : start + SEGMENT_HASH_BYTES], sources[number], end + step, length)
        if reference.offset < 0 or not length:
            raise SnapshotDamaged("a list of a snapshot has a reference with an invalid offset or length")
        references.append(reference)
        end = reference.offset + length
    return tuple(references)
