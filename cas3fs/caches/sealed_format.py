# SPDX-License-Identifier: GPL-3.0-or-later
"""How a block lies in its file in the disk cache of an encrypted volume, with ``cas3fs mount --encrypt-local``.

::

    offset  size     field
    0       8        magic and version, b"c3cache" 0x02
    8       8        plain length L, unsigned, little-endian
    16      16       salt, random
    32      L+16*N   the N = ceil(L / 32768) pieces, each sealed: 16 bytes longer

The pieces are those of the plain format; `cas3fs.encryption.disk_cache` seals them. A piece that opens is the one that
was put: header, block, place and content are bound to its key. When a whole block is read, its hash is checked too.

What that costs: hits per second of processor time, on one core with AES instructions, with the files in the page cache,
plain and sealed in turns in one run; the best of twelve turns.

=====================  ======  ===========  =================
read                   plain   AES-256-GCM  ChaCha20-Poly1305
=====================  ======  ===========  =================
4 KiB of 1 MiB         39,900  31,700       25,800
128 KiB of 1 MiB       15,500  11,600       8,800
a block of 10,000      59,100  32,500       30,700
a block of 1 MiB       2,800   1,150        900
=====================  ======  ===========  =================
"""

import io
import os
import secrets
import struct
from collections.abc import Sequence

from cas3fs.caches.base import BlockCheck, part_of
from cas3fs.caches.block_formats import PIECE_BYTES, BlockFormat, CorruptBlockFile, checked_length, piece_count
from cas3fs.encryption.ciphers import TAG_BYTES, SealBroken
from cas3fs.encryption.disk_cache import SALT_BYTES, DiskCacheSeal
from cas3fs.localdisk import LocalDisk
from cas3fs.values import BlockHash, Buffer

MAGIC = b"c3cache\x02"
_HEADER = struct.Struct(f"<8sQ{SALT_BYTES}s")
_SEALED_PIECE_BYTES = PIECE_BYTES + TAG_BYTES


class SealedFormat(BlockFormat):
    """Files of sealed pieces.

    Args:
        seal: seals them.
        check: whether bytes are those of a block.
    """

    def __init__(self, seal: DiskCacheSeal, check: BlockCheck) -> None:
        self._seal = seal
        self._check = check

    def file_length(self, plain_length: int) -> int:
        return _HEADER.size + plain_length + TAG_BYTES * piece_count(plain_length)

    def content(self, block: BlockHash, plain: Buffer) -> Sequence[Buffer]:
        view, length = memoryview(plain), len(plain)
        header = _HEADER.pack(MAGIC, length, secrets.token_bytes(SALT_BYTES))
        seal = self._seal.of_file(block, header)
        starts = range(0, length, PIECE_BYTES)
        return [header, *(seal.seal(number, view[at : at + PIECE_BYTES]) for number, at in enumerate(starts))]

    def read_whole(self, disk: LocalDisk, file: int, block: BlockHash) -> bytes:
        header, length = self._read_header(disk, file)
        if os.fstat(file).st_size != self.file_length(length):
            raise CorruptBlockFile
        plain = self._read_pieces(disk, file, block, header, range(piece_count(length)))
        if len(plain) != length or not self._check(block, plain):
            raise CorruptBlockFile
        return plain

    def read_part(self, disk: LocalDisk, file: int, block: BlockHash, skip: int, length: int) -> Buffer:
        header, plain_length = self._read_header(disk, file)
        if skip + length > plain_length:
            raise CorruptBlockFile
        first, last = skip // PIECE_BYTES, (skip + length - 1) // PIECE_BYTES
        pieces = self._read_pieces(disk, file, block, header, range(first, last + 1))
        start = skip - first * PIECE_BYTES
        if len(pieces) < start + length:
            raise CorruptBlockFile
        return part_of(pieces, start, length)

    def _read_header(self, disk: LocalDisk, file: int) -> tuple[bytes, int]:
        """The header, and the block's length."""
        header = disk.read(file, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            raise CorruptBlockFile
        magic, length, _ = _HEADER.unpack(header)
        return header, checked_length(magic == MAGIC, length)

    def _read_pieces(self, disk: LocalDisk, file: int, block: BlockHash, header: bytes, numbers: range) -> bytes:
        """The plain bytes of these pieces, which are read one by one: the same memory serves all."""
        seal = self._seal.of_file(block, header)
        opened = io.BytesIO()
        try:
            for number in numbers:
                sealed = disk.read(file, _SEALED_PIECE_BYTES, _HEADER.size + number * _SEALED_PIECE_BYTES)
                opened.write(seal.open(number, sealed))
        except SealBroken:
            raise CorruptBlockFile from None
        return opened.getvalue()
