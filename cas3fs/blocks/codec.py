# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoding of one block: compressed where that helps, stored where it does not.

An encoded block::

    offset  size  content
    0       1     codec: 0 stored, 1 zstd
    1       rest  payload: the plain bytes; or one zstd frame, without checksum, that declares its content size

The plain length and the hash stand elsewhere (index, table of contents of the pack) and are always given to the
decoder. A zstd frame declares how much it will unpack to, and the library allocates that much: so the declaration is
compared with the plain length before anything is unpacked, and a hostile frame cannot claim more memory than the
block it stands for.

Compressors and decompressors must not be used by two threads at once, and making one costs as much as compressing 4
KiB: each thread keeps its own.
"""

import threading
from typing import NewType, Self

import attrs
import zstandard
from blake3 import blake3

from cas3fs.errors import BlockCorrupt, UsageError
from cas3fs.values import BlockHash, Buffer

Codec = NewType("Codec", int)

STORED = Codec(0)
ZSTD = Codec(1)
MAX_BLOCK_BYTES = 16 * 1024 * 1024
"""No block is longer than this, plain."""

_STORED_TAG = bytes([STORED])
_ZSTD_TAG = bytes([ZSTD])
_LEVELS = range(1, 23)
_SLOW_FROM_LEVEL = 4
"""Below this level zstd skips incompressible data by itself at several GB/s; from it on a probe comes first."""
_PROBE_SLICES = 8
_PROBE_SLICE_BYTES = 4096
_LEAST_GAIN = 64
"""A block is kept compressed when that saves more than the 64th part of it."""


@attrs.frozen
class Compression:
    """How blocks are compressed; `level` 0 stands for not at all."""

    level: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The compression that ``zstd:3``, ``zstd`` (which is level 3) or ``none`` names.

        Raises:
            UsageError: anything else, or a level outside 1 to 22.
        """
        name, _, level = text.strip().lower().partition(":")
        if name == "none" and not level:
            return cls(0)
        level = level if ":" in text else "3"
        if name == "zstd" and level.isascii() and level.isdigit() and int(level) in _LEVELS:
            return cls(int(level))
        raise UsageError(f"compression {text!r} is neither 'none' nor 'zstd:LEVEL' with a level from 1 to 22")

    def __str__(self) -> str:
        return f"zstd:{self.level}" if self.level else "none"


class _Machines(threading.local):
    """A thread's own compressors, by level, and decompressor."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's compressor of `level`."""
        found = self._compressors.get(level)
        if found is None:
            found = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
            self._compressors[level] = found
        return found


_machines = _Machines()
"""Holds no state that shows: what a thread finds here only saves it the making."""


def hash_block(plain: Buffer) -> BlockHash:
    """The name of a block: BLAKE3 of its plain bytes, 32 bytes."""
    return BlockHash(blake3(plain).digest())


def encode(plain: Buffer, compression: Compression) -> bytes:
    """Codec byte and payload of `plain`, in one piece; otherwise as `encode_parts`."""
    return b"".join(encode_parts(plain, compression))


def encode_parts(plain: Buffer, compression: Compression) -> tuple[bytes, Buffer]:
    """Codec byte and payload of `plain`; the payload is `plain` itself where compression gains next to nothing.

    Raises:
        ValueError: `plain` is longer than `MAX_BLOCK_BYTES`.
    """
    if len(plain) > MAX_BLOCK_BYTES:
        raise ValueError(f"a block of {len(plain)} bytes is longer than {MAX_BLOCK_BYTES}")
    if compression.level and not (compression.level >= _SLOW_FROM_LEVEL and _looks_incompressible(plain)):
        frame = _machines.compressor(compression.level).compress(plain)
        if _is_worth_it(len(frame), len(plain)):
            return _ZSTD_TAG, frame
    return _STORED_TAG, plain


def decode(encoded: Buffer, plain_length: int) -> bytes:
    """The plain bytes of an encoded block: exactly `plain_length` of them, unverified.

    Raises:
        BlockCorrupt: unknown codec, another length, or a payload that cannot be unpacked.
    """
    if not encoded:
        raise BlockCorrupt("an encoded block is empty: not even its codec is there")
    payload = memoryview(encoded)[1:]
    codec = encoded[0]
    if codec == STORED:
        return _unpack_stored(payload, plain_length)
    if codec == ZSTD:
        return _unpack_zstd(payload, plain_length)
    raise BlockCorrupt(f"codec {codec} of a block is unknown")


def decode_verified(encoded: Buffer, plain_length: int, expected: BlockHash) -> bytes:
    """As `decode`, and the bytes are those that `expected` names.

    Raises:
        BlockCorrupt: as `decode`, or the hash is another.
    """
    plain = decode(encoded, plain_length)
    if hash_block(plain) != expected:
        raise BlockCorrupt(f"a block's bytes do not match its hash {expected.hex()}")
    return plain


def _unpack_stored(payload: memoryview, plain_length: int) -> bytes:
    if len(payload) != plain_length:
        raise BlockCorrupt(f"a stored block has {len(payload)} bytes instead of {plain_length}")
    return bytes(payload)


def _unpack_zstd(payload: memoryview, plain_length: int) -> bytes:
    try:
        declared = zstandard.frame_content_size(payload)
        if declared != plain_length or plain_length > MAX_BLOCK_BYTES:
            raise BlockCorrupt(f"a compressed block declares {declared} bytes instead of {plain_length}")
        plain = _machines.decompressor.decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BlockCorrupt(f"a compressed block cannot be unpacked: {error}") from error
    if len(plain) != plain_length:
        raise BlockCorrupt(f"a compressed block unpacked to {len(plain)} bytes instead of {plain_length}")
    return plain


def _is_worth_it(packed_length: int, plain_length: int) -> bool:
    return packed_length < plain_length - plain_length // _LEAST_GAIN


def _looks_incompressible(plain: Buffer) -> bool:
    """Whether a sample, and then a quick pass over all, shrink by next to nothing: far cheaper than a high level."""
    quick = _machines.compressor(1)
    view = memoryview(plain)
    step = max(len(view) // _PROBE_SLICES, _PROBE_SLICE_BYTES)
    sample = b"".join(view[start : start + _PROBE_SLICE_BYTES] for start in range(0, len(view), step))
    if _is_worth_it(len(quick.compress(sample)), len(sample)):
        return False
    return not _is_worth_it(len(quick.compress(plain)), len(view))
