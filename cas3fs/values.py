# SPDX-License-Identifier: GPL-3.0-or-later
"""Small immutable values that the rooms hand to each other."""

from collections.abc import Sequence
from typing import Final, NamedTuple, NewType

BlockHash = NewType("BlockHash", bytes)
"""BLAKE3 of a block's plain bytes, 32 bytes."""

Buffer = bytes | bytearray | memoryview


class BlockLocation(NamedTuple):
    """Where an encoded block lies: `stored_length` bytes (codec byte and payload) from `offset` of a pack."""

    hash: BlockHash
    pack: str
    """The pack's name: epoch, eight digits, a slash, 64 hex digits; its key is ``packs/`` and that."""
    offset: int
    stored_length: int
    plain_length: int


class PackedBlock(NamedTuple):
    """A line of a pack's table of contents."""

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
    """A chunk to be entered in the index: all of a block, at `offset` of a file."""

    offset: int
    length: int
    hash: BlockHash


LARGEST_EPOCH: Final = 2**23 - 1
LARGEST_SEQUENCE: Final = 2**40 - 1
"""The two fit in 63 bits together, as which the index keeps them."""


class SnapshotNumber(NamedTuple):
    """Snapshots are numbered by epoch, then by sequence within it; they sort in that order."""

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
            raise ValueError(f"{text!r} is beyond all numbers of snapshots")
        return number
