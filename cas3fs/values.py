# SPDX-License-Identifier: GPL-3.0-or-later
"""Small immutable values that the subpackages pass to each other."""

from collections.abc import Sequence
from typing import Final, NamedTuple, NewType

BlockHash = NewType("BlockHash", bytes)
"""BLAKE3 of a block's plain bytes, 32 bytes."""

Buffer = bytes | bytearray | memoryview


class BlockLocation(NamedTuple):
    """The place of an encoded block: `stored_length` bytes (tag and payload) from `offset` of a pack."""

    hash: BlockHash
    pack: str
    """The pack's name: epoch, eight digits, a slash, 64 hex digits; its key is ``packs/`` and that."""
    offset: int
    stored_length: int
    plain_length: int


class PackedBlock(NamedTuple):
    """An entry of a pack's table of contents."""

    hash: BlockHash
    offset: int
    stored_length: int
    plain_length: int


class StoredPack(NamedTuple):
    """A pack whose PUT was confirmed."""

    name: str
    size_bytes: int
    blocks: Sequence[PackedBlock]


class ChunkSpan(NamedTuple):
    """`length` bytes of a file from `offset` on are the bytes of a block from `skip` on."""

    offset: int
    length: int
    skip: int
    block: BlockLocation


class NewChunk(NamedTuple):
    """A new chunk for the index: all of a block, at `offset` of a file."""

    offset: int
    length: int
    hash: BlockHash


class StagedSize(NamedTuple):
    """A file with bytes that are not stored yet, as stat(2) shows it; sizes in bytes."""

    inode: int
    size: int
    allocated: int
    """Without holes."""
    unstored: int


LARGEST_EPOCH: Final = 2**23 - 1
LARGEST_SEQUENCE: Final = 2**40 - 1
"""Together they fit in 63 bits, as which the index stores them."""
LARGEST_PART: Final = 2**24 - 1
"""Together with a sequence number it fits in 64 bits."""


class SnapshotNumber(NamedTuple):
    """The number of a snapshot: the epoch, then the sequence within it; numbers sort in that order."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch:08d}-{self.sequence:010d}"

    @classmethod
    def parse(cls, text: str) -> "SnapshotNumber":
        """The number that ``str()`` wrote.

        Raises:
            ValueError: `text` is not two decimal numbers joined by a dash, or they are too large.
        """
        epoch, _, sequence = text.partition("-")
        if not (epoch.isascii() and epoch.isdigit() and sequence.isascii() and sequence.isdigit()):
            raise ValueError(f"{text!r} is not a snapshot number such as 00000007-0000000123")
        number = cls(int(epoch), int(sequence))
        if number.epoch > LARGEST_EPOCH or number.sequence > LARGEST_SEQUENCE:
            raise ValueError(f"{text!r} is too large for a snapshot number")
        return number


class PagesNumber(NamedTuple):
    """The number of a pages entry: that of the snapshot that it was stored for, and its part."""

    snapshot: SnapshotNumber
    part: int = 0

    def __str__(self) -> str:
        return f"{self.snapshot}-{self.part:06d}" if self.part else str(self.snapshot)

    @classmethod
    def parse(cls, text: str) -> "PagesNumber":
        """The number that ``str()`` wrote.

        Raises:
            ValueError: `text` is not such a number.
        """
        *snapshot, part = text.split("-") if text.count("-") == 2 else (text, "0")
        if not (part.isascii() and part.isdigit()) or int(part) > LARGEST_PART:
            raise ValueError(f"{text!r} is not the number of a pages entry such as 00000007-0000000123-000002")
        return cls(SnapshotNumber.parse("-".join(snapshot)), int(part))
