# SPDX-License-Identifier: GPL-3.0-or-later
"""How a block lies in its file in the disk cache: any part of it can be read and checked without the rest.

A format is a `BlockFormat`. This one is `PlainFormat`; `cas3fs.caches.sealed_format` has the other::

    offset  size     field
    0       8        magic and version, b"c3cache" 0x01
    8       8        plain length L, unsigned, little-endian
    16      8 * N    checksums of the N = ceil(L / 32768) pieces
    16+8*N  L        the plain bytes

A *piece* is 32 KiB of the block; the last one may be shorter. Its checksum is the first 8 bytes of BLAKE3 in keyed
mode, with the block's hash as the key, over the piece followed by its number and L (both 8 bytes, little-endian). So a
piece is valid only in its own place of its own block: a file that was swapped, truncated, half written or damaged does
not match. When a whole block is read, its bytes are checked against the block's hash instead.

Nothing is allocated for a length that was read from a file until the file is known to be that long, and no longer than
a block can be: a sparse file may claim any length.
"""

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence

from blake3 import blake3

from cas3fs.caches.base import LARGEST_BLOCK_BYTES, BlockCheck, part_of
from cas3fs.localdisk import LocalDisk
from cas3fs.values import BlockHash, Buffer

PIECE_BYTES = 32 * 1024
CHECKSUM_BYTES = 8
MAGIC = b"c3cache\x01"
_HEADER = struct.Struct("<8sQ")
_CHECKSUM_SUFFIX = struct.Struct("<QQ")
_HEADER_BYTES = _HEADER.size


class CorruptBlockFile(Exception):
    """The file does not hold the expected block."""


class BlockFormat(ABC):
    """How a block lies in its file; without state, for any thread."""

    @abstractmethod
    def file_length(self, plain_length: int) -> int:
        """Return how long the file of a block of `plain_length` bytes is."""

    @abstractmethod
    def content(self, block: BlockHash, plain: Buffer) -> Sequence[Buffer]:
        """Return the bytes of the block's file, in order."""

    @abstractmethod
    def read_whole(self, disk: LocalDisk, file: int, block: BlockHash) -> bytes:
        """Read the plain bytes of `block` from its open file.

        Raises:
            CorruptBlockFile: the bytes are not those of `block`.
            OSError: reading failed.
        """

    @abstractmethod
    def read_part(self, disk: LocalDisk, file: int, block: BlockHash, skip: int, length: int) -> Buffer:
        """Read `length` bytes (at least 1) from `skip` on; reads only the pieces that contain them.

        Raises:
            CorruptBlockFile: the pieces are not those of `block`, or the block is shorter.
            OSError: reading failed.
        """


class PlainFormat(BlockFormat):
    """Files of plain bytes with checksums; `check` says whether bytes are those of a block."""

    def __init__(self, check: BlockCheck) -> None:
        self._check = check

    def file_length(self, plain_length: int) -> int:
        return _HEADER_BYTES + CHECKSUM_BYTES * piece_count(plain_length) + plain_length

    def content(self, block: BlockHash, plain: Buffer) -> Sequence[Buffer]:
        view, length = memoryview(plain), len(plain)
        checksums = [
            _checksum(block, view[number * PIECE_BYTES : (number + 1) * PIECE_BYTES], number, length)
            for number in range(piece_count(length))
        ]
        return b"".join([_HEADER.pack(MAGIC, length), *checksums]), plain

    def read_whole(self, disk: LocalDisk, file: int, block: BlockHash) -> bytes:
        length = _plain_length(disk.read(file, _HEADER_BYTES, 0))
        if os.fstat(file).st_size != self.file_length(length):
            raise CorruptBlockFile
        plain = disk.read(file, length, self.file_length(length) - length)
        if not self._check(block, plain):
            raise CorruptBlockFile
        return plain

    def read_part(self, disk: LocalDisk, file: int, block: BlockHash, skip: int, length: int) -> Buffer:
        first, last = skip // PIECE_BYTES, (skip + length - 1) // PIECE_BYTES
        header = disk.read(file, _HEADER_BYTES + CHECKSUM_BYTES * (last + 1), 0)
        plain_length = _plain_length(header)
        if skip + length > plain_length:
            raise CorruptBlockFile
        start, stop = first * PIECE_BYTES, min((last + 1) * PIECE_BYTES, plain_length)
        pieces = disk.read(file, stop - start, self.file_length(plain_length) - plain_length + start)
        if len(pieces) != stop - start:
            raise CorruptBlockFile
        _check_pieces(block, header, pieces, first, plain_length)
        return part_of(pieces, skip - start, length)


def piece_count(length: int) -> int:
    """Return how many pieces a block of that many bytes has."""
    return -(-length // PIECE_BYTES)


def checked_length(is_ours: bool, length: int) -> int:
    """Return the length in a header, if it is one of ours and may be true.

    Raises:
        CorruptBlockFile: it is not.
    """
    if not is_ours or length > LARGEST_BLOCK_BYTES:
        raise CorruptBlockFile
    return length


def _plain_length(header: bytes) -> int:
    if len(header) < _HEADER_BYTES:
        raise CorruptBlockFile
    magic, length = _HEADER.unpack_from(header)
    return checked_length(magic == MAGIC, length)


def _check_pieces(block: BlockHash, header: bytes, pieces: bytes, first: int, plain_length: int) -> None:
    view = memoryview(pieces)
    for number in range(first, first + piece_count(len(pieces))):
        place = (number - first) * PIECE_BYTES
        start = _HEADER_BYTES + CHECKSUM_BYTES * number
        expected = header[start : start + CHECKSUM_BYTES]
        if _checksum(block, view[place : place + PIECE_BYTES], number, plain_length) != expected:
            raise CorruptBlockFile


def _checksum(block: BlockHash, piece: Buffer, number: int, plain_length: int) -> bytes:
    return blake3(piece, key=block).update(_CHECKSUM_SUFFIX.pack(number, plain_length)).digest(CHECKSUM_BYTES)
