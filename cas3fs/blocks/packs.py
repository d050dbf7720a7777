# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs: many encoded blocks in one immutable object that describes itself.

All numbers are big-endian and unsigned::

    header, 32 bytes
      0    8   magic ``CAS3PACK``
      8    2   format version, 1; 2 where zeros may follow the blocks
      10   6   zero
      16   16  nonce, random: two packs of the same blocks have different names
    encoded blocks, back to back, in the order of the table
    zeros, so many that the size of the pack is one of few (`cas3fs.encryption.padding`); only in format version 2
    table of contents, 48 bytes a block
      0    32  BLAKE3 of the block's plain bytes
      32   8   offset of the encoded block in the pack
      40   4   stored length: codec byte and payload
      44   4   plain length
    footer, 64 bytes
      0    8   size of the pack
      8    4   number of blocks
      12   2   format version, as in the header
      14   10  zero
      24   32  BLAKE3 of the table and of the footer's first 24 bytes
      56   8   magic ``CAS3PEND``

The codec of a block is in its own first byte and nowhere else, so that two places cannot disagree. The name of a pack
is a hash of all its bytes in hex, keyed where the volume is encrypted. Its last bytes give its contents: one
ranged GET of `GUESSED_TAIL_BYTES`, and a second one of `tail_length` where the table is longer than guessed.
"""

import secrets
import struct
from collections.abc import Callable, Sequence

import attrs
from blake3 import blake3

from cas3fs.blocks.codec import MAX_BLOCK_BYTES
from cas3fs.encryption.padding import padded_length
from cas3fs.errors import PackCorrupt
from cas3fs.values import BlockHash, Buffer, PackedBlock

GUESSED_TAIL_BYTES = 64 * 1024
FORMAT_VERSION = 1
PADDED_VERSION = 2
NONCE_BYTES = 16

_HEADER = struct.Struct(">8sH6x16s")
_TOC_ENTRY = struct.Struct(">32sQII")
_FOOTER_FIELDS = struct.Struct(">QIH10x")
_FOOTER = struct.Struct(">24s32s8s")
_MAGIC = b"CAS3PACK"
_END_MAGIC = b"CAS3PEND"
_HASH_BYTES = 32
_SIZE_LIMIT = 1 << 32
"""Packs stay below 4 GiB, so that a table of contents can be trusted to fit in memory."""

FOOTER_BYTES = _FOOTER.size


def hash_in_hex(body: Buffer) -> str:
    """The BLAKE3 of all bytes of a pack, 64 hex digits."""
    return blake3(body).hexdigest()


@attrs.frozen
class FinishedPack:
    """A finished pack, with the name that its bytes have."""

    name: str
    body: bytearray
    blocks: tuple[PackedBlock, ...]


class PackBuilder:
    """Joins encoded blocks into a pack, in one buffer, which is what is stored; not thread-safe.

    Args:
        name: gives the name of the finished bytes, 64 hex digits; BLAKE3 unless the volume is encrypted.
        pads: hide how long the blocks are together.
        nonce: for tests alone; a random one makes sure that no pack name ever recurs.
    """

    def __init__(
        self, name: Callable[[Buffer], str] = hash_in_hex, *, pads: bool = False, nonce: bytes | None = None
    ) -> None:
        self._name = name
        self._pads = pads
        self._version = PADDED_VERSION if pads else FORMAT_VERSION
        nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a pack's nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        self._body = bytearray(_HEADER.pack(_MAGIC, self._version, nonce))
        self._finished: FinishedPack | None = None
        self._blocks: list[PackedBlock] = []

    def __len__(self) -> int:
        """How many blocks were added."""
        return len(self._blocks)

    @property
    def size_bytes(self) -> int:
        """Size of the pack, as if it were finished now."""
        if self._finished is not None:
            return len(self._body)
        return len(self._body) + len(self._blocks) * _TOC_ENTRY.size + FOOTER_BYTES

    def add(self, block: BlockHash, encoded: Buffer, plain_length: int) -> PackedBlock:
        """Append an encoded block of `plain_length` plain bytes; returns its place in the pack.

        Raises:
            ValueError: lengths that no reader would accept, or a pack that is finished.
        """
        return self.add_parts(block, (encoded,), plain_length)

    def add_parts(self, block: BlockHash, parts: Sequence[Buffer], plain_length: int) -> PackedBlock:
        """As `add`, for an encoded block in several pieces."""
        length = sum(map(len, parts))
        if len(block) != _HASH_BYTES or not length or not 0 <= plain_length <= MAX_BLOCK_BYTES:
            raise ValueError(f"no block: {len(block)} bytes of hash, {length} stored, {plain_length} plain")
        if self._finished is not None:
            raise ValueError("the pack is finished")
        if self.size_bytes + length + _TOC_ENTRY.size > _SIZE_LIMIT:
            raise ValueError(f"a pack cannot grow over {_SIZE_LIMIT} bytes")
        packed = PackedBlock(block, len(self._body), length, plain_length)
        for part in parts:
            self._body += part
        self._blocks.append(packed)
        return packed

    def finish(self) -> FinishedPack:
        """The finished pack; nothing can be added after that."""
        if self._finished is not None:
            return self._finished
        if self._pads:
            self._body += bytes(padded_length(self.size_bytes) - self.size_bytes)
        table = b"".join(_TOC_ENTRY.pack(*line) for line in self._blocks)
        fields = _FOOTER_FIELDS.pack(self.size_bytes, len(self._blocks), self._version)
        footer = _FOOTER.pack(fields, blake3(table + fields).digest(), _END_MAGIC)
        self._body += table + footer
        self._finished = FinishedPack(self._name(self._body), self._body, tuple(self._blocks))
        return self._finished


def tail_length(tail: Buffer, pack_size: int) -> int:
    """How many bytes from the end of a pack `read_contents` needs.

    Args:
        tail: the end of the pack, at least `FOOTER_BYTES` of it.


    Raises:
        PackCorrupt: this is not the end of a pack of `pack_size` bytes.
    """
    count, *_ = _read_footer(tail, pack_size)
    return count * _TOC_ENTRY.size + FOOTER_BYTES


def read_contents(tail: Buffer, pack_size: int) -> tuple[PackedBlock, ...]:
    """The table of contents.

    Args:
        tail: the end of the pack, at least `tail_length` bytes of it.

    Raises:
        PackCorrupt: a length, offset, count or checksum is wrong.
    """
    count, version, fields, checksum = _read_footer(tail, pack_size)
    needed = count * _TOC_ENTRY.size + FOOTER_BYTES
    if len(tail) < needed:
        raise PackCorrupt(f"the table of contents of a pack needs {needed} bytes, and {len(tail)} are there")
    table = bytes(memoryview(tail)[len(tail) - needed : len(tail) - FOOTER_BYTES])
    if blake3(table + fields).digest() != checksum:
        raise PackCorrupt("the table of contents of a pack does not match its checksum")
    blocks = tuple(PackedBlock(BlockHash(line[0]), line[1], line[2], line[3]) for line in _TOC_ENTRY.iter_unpack(table))
    _check_layout(blocks, pack_size - needed, version)
    return blocks


def _read_footer(tail: Buffer, pack_size: int) -> tuple[int, int, bytes, bytes]:
    """Number of blocks, format version, the fields as bytes, and the checksum."""
    if len(tail) < FOOTER_BYTES or pack_size < len(tail):
        raise PackCorrupt(f"the last {len(tail)} bytes of a pack of {pack_size} hold no footer")
    fields, checksum, magic = _FOOTER.unpack_from(tail, len(tail) - FOOTER_BYTES)
    if magic != _END_MAGIC:
        raise PackCorrupt("a pack does not end with the magic bytes of a pack")
    size, count, version = _FOOTER_FIELDS.unpack(fields)
    if version not in (FORMAT_VERSION, PADDED_VERSION):
        raise PackCorrupt(f"pack format {version} is unknown: a newer cas3fs may have written it")
    if size != pack_size:
        raise PackCorrupt(f"the footer of a pack says {size} bytes, and the object has {pack_size}")
    if _HEADER.size + count * _TOC_ENTRY.size + FOOTER_BYTES > pack_size:
        raise PackCorrupt(f"a table of {count} blocks does not fit in a pack of {pack_size} bytes")
    return count, version, fields, checksum


def _check_layout(blocks: tuple[PackedBlock, ...], table_start: int, version: int) -> None:
    """Raise PackCorrupt unless the blocks lie back to back from the header to the table."""
    end = _HEADER.size
    for line in blocks:
        if line.offset != end or not line.stored_length or line.plain_length > MAX_BLOCK_BYTES:
            raise PackCorrupt(f"block {line.hash.hex()} of a pack claims an impossible place or length")
        end += line.stored_length
    if end > table_start or (end < table_start and version == FORMAT_VERSION):
        raise PackCorrupt(f"the blocks of a pack end at {end}, and its table starts at {table_start}")
