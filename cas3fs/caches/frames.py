# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of one block in the disk cache: any part of it can be read and checked without the rest.

::

    offset  size     field
    0       8        magic and version, b"c3cache" 0x01
    8       8        plain length L, unsigned, little-endian
    16      8 * N    checksums of the N = ceil(L / 32768) pieces
    16+8*N  L        the plain bytes

A *piece* is 32 KiB of the block, the last one may be shorter. Its checksum is the first 8 bytes of BLAKE3 in keyed
mode, the key being the block's hash, over the piece followed by its number and L (both 8 bytes, little-endian). So a
piece is believed only in its own place of its own block: files swapped, cut short, half written or rotten do not match.
A read of the whole block is checked against the block's hash itself.

Nothing here allocates for a length that was read from a file before the file is known to be that long, and no block is
longer than `LARGEST_BLOCK_BYTES`: a sparse file is as long as it likes.
"""

import os
import struct

from blake3 import blake3

from cas3fs.caches.base import part_of
from cas3fs.localdisk import LocalDisk
from cas3fs.values import BlockHash, Buffer

PIECE_BYTES = 32 * 1024
CHECKSUM_BYTES = 8
LARGEST_BLOCK_BYTES = 16 * 1024 * 1024
MAGIC = b"c3cache\x01"
_HEADER = struct.Struct("<8sQ")
_PLACE = struct.Struct("<QQ")
HEADER_BYTES = _HEADER.size


class RottenFrame(Exception):
    """The file is not the frame of that block."""


def piece_count(plain_length: int) -> int:
    """How many pieces a block of that length has."""
    return -(-plain_length // PIECE_BYTES)


def frame_length(plain_length: int) -> int:
    """How long the file of a block of that length is, in bytes."""
    return HEADER_BYTES + CHECKSUM_BYTES * piece_count(plain_length) + plain_length


def frame_head(block: BlockHash, plain: Buffer) -> bytes:
    """All that stands in the file before the plain bytes."""
    view, length = memoryview(plain), len(plain)
    checksums = [
        _checksum(block, view[number * PIECE_BYTES : (number + 1) * PIECE_BYTES], number, length)
        for number in range(piece_count(length))
    ]
    return b"".join([_HEADER.pack(MAGIC, length), *checksums])


def read_whole(disk: LocalDisk, file: int, block: BlockHash) -> bytes:
    """The plain bytes in the open file.

    Raises:
        RottenFrame: they are not those of `block`.
        OSError: reading failed.
    """
    length = _plain_length(disk.read(file, HEADER_BYTES, 0))
    if os.fstat(file).st_size != frame_length(length):
        raise RottenFrame
    plain = disk.read(file, length, frame_length(length) - length)
    if blake3(plain).digest() != block:
        raise RottenFrame
    return plain


def read_part(disk: LocalDisk, file: int, block: BlockHash, skip: int, length: int) -> Buffer:
    """`length` bytes (at least 1) from `skip` on, read with the pieces they lie in and nothing else.

    Raises:
        RottenFrame: the pieces are not those of `block`, or it has no such part.
        OSError: reading failed.
    """
    first, last = skip // PIECE_BYTES, (skip + length - 1) // PIECE_BYTES
    head = disk.read(file, HEADER_BYTES + CHECKSUM_BYTES * (last + 1), 0)
    plain_length = _plain_length(head)
    if skip + length > plain_length:
        raise RottenFrame
    start, stop = first * PIECE_BYTES, min((last + 1) * PIECE_BYTES, plain_length)
    pieces = disk.read(file, stop - start, frame_length(plain_length) - plain_length + start)
    if len(pieces) != stop - start:
        raise RottenFrame
    _check_pieces(block, head, pieces, first, plain_length)
    return part_of(pieces, skip - start, length)


def _check_pieces(block: BlockHash, head: bytes, pieces: bytes, first: int, plain_length: int) -> None:
    view = memoryview(pieces)
    for number in range(first, first + piece_count(len(pieces))):
        place = (number - first) * PIECE_BYTES
        start = HEADER_BYTES + CHECKSUM_BYTES * number
        expected = head[start : start + CHECKSUM_BYTES]
        if _checksum(block, view[place : place + PIECE_BYTES], number, plain_length) != expected:
            raise RottenFrame


def _plain_length(head: bytes) -> int:
    if len(head) < HEADER_BYTES:
        raise RottenFrame
    magic, length = _HEADER.unpack_from(head)
    if magic != MAGIC or length > LARGEST_BLOCK_BYTES:
        raise RottenFrame
    return int(length)


def _checksum(block: BlockHash, piece: Buffer, number: int, plain_length: int) -> bytes:
    return blake3(piece, key=block).update(_PLACE.pack(number, plain_length)).digest(CHECKSUM_BYTES)
