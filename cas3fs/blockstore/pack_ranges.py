# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks of a pack are fetched together; decided without I/O.

A request costs tens of milliseconds whatever it returns, so blocks that lie near each other in a pack are fetched by
one ranged GET, including the gaps between them.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from cas3fs.values import BlockLocation

GAP_BYTES = 128 * 1024
"""A gap up to this length is fetched along: that costs less than a request."""
RANGE_BYTES = 8 * 1024 * 1024
"""Longer ranges are split, so that several connections share the work."""


class PackRange(NamedTuple):
    """One ranged GET: `length` bytes of a pack from `start` on, and the blocks in them, ascending by offset."""

    pack: str
    start: int
    length: int
    blocks: tuple[BlockLocation, ...]

    def pieces(self) -> Iterator[tuple[int, BlockLocation | None]]:
        """The lengths of the pieces of the range, in order, each with its block, or None for bytes between blocks.

        The first byte of a block that is stored as it is, which says so, belongs to the piece before the block.
        """
        position = self.start
        for block in self.blocks:
            begin = block.offset + is_stored_plain(block)
            if begin > position:
                yield begin - position, None
            position = _end(block)
            yield position - begin, block


def is_stored_plain(block: BlockLocation) -> bool:
    """Whether the encoded block can only be one byte, which says so, and the plain bytes."""
    return block.plain_length > 0 and block.stored_length == block.plain_length + 1


def coalesce(
    blocks: Sequence[BlockLocation], *, gap_bytes: int = GAP_BYTES, range_bytes: int = RANGE_BYTES
) -> list[PackRange]:
    """Ranges that cover all of `blocks`; the range with the first block of `blocks` comes first.

    A range is longer than `range_bytes` only if a single block is.
    """
    wanted: dict[BlockLocation, int] = {}
    for place, block in enumerate(blocks):
        wanted.setdefault(block, place)
    by_place = sorted(wanted, key=lambda block: (block.pack, block.offset))
    ranges: list[PackRange] = []
    for _, group in groupby(by_place, key=lambda block: block.pack):
        ranges.extend(_ranges_of_pack(list(group), gap_bytes, range_bytes))
    return sorted(ranges, key=lambda each: min(wanted[block] for block in each.blocks))


def _ranges_of_pack(blocks: list[BlockLocation], gap_bytes: int, range_bytes: int) -> Iterator[PackRange]:
    """The ranges of one pack; `blocks` ascend by offset."""
    start, end = blocks[0].offset, _end(blocks[0])
    members = [blocks[0]]
    for block in blocks[1:]:
        if not 0 <= block.offset - end <= gap_bytes or _end(block) - start > range_bytes:
            yield PackRange(block.pack, start, end - start, tuple(members))
            start, end, members = block.offset, block.offset, []
        end = max(end, _end(block))
        members.append(block)
    yield PackRange(blocks[0].pack, start, end - start, tuple(members))


def _end(block: BlockLocation) -> int:
    return block.offset + block.stored_length
