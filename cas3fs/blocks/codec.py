# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoding of one block: compressed where that helps, stored where it does not.

An encoded block::

    offset  size  content
    0       1     tag of the codec: 0 stored, 1 zstd
    1       rest  payload: the plain bytes; or one zstd frame, without checksum, that declares its content size

The plain length and the hash are kept elsewhere (index, table of contents of the pack) and are always passed to the
decoder.

To add a codec, write a subclass of `Codec` and add it to `CODECS`: ``mkfs --compression NAME:LEVEL``, the volume's
entry and the decoder find it there. A tag is never used again for another codec.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, NewType, Self

import attrs
import zstandard

from cas3fs.errors import BlockCorrupt, UsageError
from cas3fs.values import BlockHash, Buffer

CodecTag = NewType("CodecTag", int)

MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""No block is longer than this, plain."""

_PROBE_FROM_LEVEL: Final = 4
"""Below this level zstd skips incompressible data by itself at several GB/s; from it on a probe comes first."""
_PROBE_SLICES: Final = 8
_PROBE_SLICE_BYTES: Final = 4096
_MIN_GAIN: Final = 64
"""A block is kept compressed when that saves more than the 64th part of it."""


class Codec(ABC):
    """A way to encode blocks; one instance serves all threads."""

    name: ClassVar[str]
    """As in ``--compression NAME``."""
    tag: ClassVar[CodecTag]
    """The first byte of every block that this codec encoded."""
    levels: ClassVar[range] = range(0)
    """The levels of ``--compression NAME:LEVEL``; empty for a codec without levels."""
    default_level: ClassVar[int] = 0

    @abstractmethod
    def compress(self, plain: Buffer, level: int) -> Buffer | None:
        """The payload of a block, or None where trying is not worth the time."""

    @abstractmethod
    def decompress(self, payload: memoryview, plain_length: int) -> bytes:
        """The plain bytes of a payload: exactly `plain_length` of them.

        The payload may be hostile: no more memory is used than a block of `plain_length` bytes needs.

        Raises:
            BlockCorrupt: another length, or a payload that cannot be decompressed.
        """


class StoredCodec(Codec):
    """The plain bytes, as they are."""

    name = "none"
    tag = CodecTag(0)

    def compress(self, plain: Buffer, level: int) -> Buffer | None:
        return None

    def decompress(self, payload: memoryview, plain_length: int) -> bytes:
        if len(payload) != plain_length:
            raise BlockCorrupt(f"a stored block has {len(payload)} bytes instead of {plain_length}")
        return bytes(payload)


class ZstdCodec(Codec):
    """One zstd frame.

    A frame declares how much it decompresses to, and the library allocates that much: the declaration is compared with
    the plain length first. Compressors and decompressors must not be used by two threads at once, and making one costs
    as much as compressing 4 KiB: each thread keeps its own.
    """

    name = "zstd"
    tag = CodecTag(1)
    levels = range(1, 23)
    default_level = 3

    def __init__(self) -> None:
        self._contexts = _ZstdContexts()

    def compress(self, plain: Buffer, level: int) -> Buffer | None:
        if level >= _PROBE_FROM_LEVEL and self._looks_incompressible(plain):
            return None
        return self._contexts.compressor(level).compress(plain)

    def decompress(self, payload: memoryview, plain_length: int) -> bytes:
        try:
            declared = zstandard.frame_content_size(payload)
            if declared != plain_length or plain_length > MAX_BLOCK_BYTES:
                raise BlockCorrupt(f"a compressed block declares {declared} bytes instead of {plain_length}")
            plain = self._contexts.decompressor.decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise BlockCorrupt(f"a compressed block cannot be decompressed: {error}") from error
        if len(plain) != plain_length:
            raise BlockCorrupt(f"a compressed block decompressed to {len(plain)} bytes instead of {plain_length}")
        return plain

    def _looks_incompressible(self, plain: Buffer) -> bool:
        """Whether neither a sample nor a quick pass over all shrinks: far cheaper than a high level."""
        quick = self._contexts.compressor(1)
        view = memoryview(plain)
        step = max(len(view) // _PROBE_SLICES, _PROBE_SLICE_BYTES)
        sample = b"".join(view[start : start + _PROBE_SLICE_BYTES] for start in range(0, len(view), step))
        if _is_worth_it(len(quick.compress(sample)), len(sample)):
            return False
        return not _is_worth_it(len(quick.compress(plain)), len(view))


class _ZstdContexts(threading.local):
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


STORED: Final = StoredCodec()
CODECS: Final[tuple[Codec, ...]] = (STORED, ZstdCodec())
"""Every codec that blocks may be encoded with."""


@attrs.frozen
class Compression:
    """How new blocks are compressed: a codec and its level."""

    codec: Codec
    level: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The compression that ``zstd:3``, ``zstd`` (with its default level) or ``none`` names.

        Raises:
            UsageError: no such codec, or it has no such level.
        """
        name, separator, level = text.strip().lower().partition(":")
        codec = next((one for one in CODECS if one.name == name), None)
        if codec is not None and not level and not (separator and codec.levels):
            return cls(codec, codec.default_level)
        if codec is not None and level.isascii() and level.isdigit() and int(level) in codec.levels:
            return cls(codec, int(level))
        raise UsageError(f"compression {text!r} is none of {', '.join(_spelling(one) for one in CODECS)}")

    def __str__(self) -> str:
        return f"{self.codec.name}:{self.level}" if self.codec.levels else self.codec.name


def _spelling(codec: Codec) -> str:
    if not codec.levels:
        return codec.name
    return f"{codec.name}:LEVEL with a level from {codec.levels[0]} to {codec.levels[-1]}"


def encode(plain: Buffer, compression: Compression) -> bytes:
    """Tag and payload of `plain`, in one piece; otherwise as `encode_parts`."""
    return b"".join(encode_parts(plain, compression))


def encode_parts(plain: Buffer, compression: Compression) -> tuple[bytes, Buffer]:
    """Tag and payload of `plain`; the payload is `plain` itself where compression gains next to nothing.

    Raises:
        ValueError: `plain` is longer than `MAX_BLOCK_BYTES`.
    """
    if len(plain) > MAX_BLOCK_BYTES:
        raise ValueError(f"a block of {len(plain)} bytes is longer than {MAX_BLOCK_BYTES}")
    payload = compression.codec.compress(plain, compression.level)
    if payload is None or not _is_worth_it(len(payload), len(plain)):
        return bytes((STORED.tag,)), plain
    return bytes((compression.codec.tag,)), payload


def decode(encoded: Buffer, plain_length: int) -> bytes:
    """The plain bytes of an encoded block: exactly `plain_length` of them, not compared with a hash.

    Raises:
        BlockCorrupt: unknown codec, another length, or a payload that cannot be decompressed.
    """
    if not encoded:
        raise BlockCorrupt("an encoded block is empty: it lacks even the tag of its codec")
    tag = encoded[0]
    for codec in CODECS:
        if codec.tag == tag:
            return codec.decompress(memoryview(encoded)[1:], plain_length)
    raise BlockCorrupt(f"codec {tag} of a block is unknown: a newer cas3fs may have written it")


def decode_verified(
    encoded: Buffer, plain_length: int, expected: BlockHash, hash_content: Callable[[Buffer], bytes]
) -> bytes:
    """As `decode`, and the bytes have the hash `expected`, which `hash_content` makes in this volume.

    Raises:
        BlockCorrupt: as `decode`, or another hash.
    """
    plain = decode(encoded, plain_length)
    if hash_content(plain) != expected:
        raise BlockCorrupt(f"a block's bytes do not match its hash {expected.hex()}")
    return plain


def _is_worth_it(payload_length: int, plain_length: int) -> bool:
    return payload_length < plain_length - plain_length // _MIN_GAIN
