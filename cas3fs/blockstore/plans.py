# SPDX-License-Identifier: GPL-3.0-or-later
"""What to fetch together: decided here, without any I/O.

A request costs tens of milliseconds whatever it brings, so blocks near each other in a pack come in one ranged GET,
with the gap between them; and whoever reads small blocks of a pack one after the other gets all of it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from cas3fs.values import BlockLocation

GAP_BYTES = 128 * 1024
"""A gap up to this is fetched along: it costs less than a request."""
RUN_BYTES = 8 * 1024 * 1024
"""Longer runs are cut, so that several streams share the work."""
SMALL_BLOCK_BYTES = 128 * 1024
NEAR_BYTES = 1024 * 1024
PATIENCE = 8
"""So many scattered misses in one pack cost as much as fetching all of it."""
_REMEMBERED_PACKS = 64


class Run(NamedTuple):
    """One ranged GET: `length` bytes from `start` of a pack, in which `blocks` lie, ascending by offset."""

    pack: str
    start: int
    length: int
    blocks: tuple[BlockLocation, ...]

    def pieces(self) -> Iterator[tuple[int, BlockLocation | None]]:
        """Lengths to cut the run into, ascending, each with the block that it is; None for what lies between.

        Of a block that is stored as it is, the byte that says so belongs to what lies before it.
        """
        position = self.start
        for block in self.blocks:
            begin = block.offset + is_stored_plain(block)
            if begin > position:
                yield begin - position, None
            position = _end(block)
            yield position - begin, block


def is_stored_plain(block: BlockLocation) -> bool:
    """Whether the encoded block can only be a byte that says so, and then the plain bytes."""
    return block.plain_length > 0 and block.stored_length == block.plain_length + 1


def coalesce(blocks: Sequence[BlockLocation], *, gap_bytes: int = GAP_BYTES, run_bytes: int = RUN_BYTES) -> list[Run]:
    """Runs that cover all of `blocks`, the run with the block wanted first coming first.

    A run is longer than `run_bytes` only if one block alone is.
    """
    wanted: dict[BlockLocation, int] = {}
    for place, block in enumerate(blocks):
        wanted.setdefault(block, place)
    by_place = sorted(wanted, key=lambda block: (block.pack, block.offset))
    runs: list[Run] = []
    for _, group in groupby(by_place, key=lambda block: block.pack):
        runs.extend(_runs_of_pack(list(group), gap_bytes, run_bytes))
    return sorted(runs, key=lambda run: min(wanted[block] for block in run.blocks))


def _runs_of_pack(blocks: list[BlockLocation], gap_bytes: int, run_bytes: int) -> Iterator[Run]:
    """Cut the blocks of one pack, ascending by offset, into runs."""
    start, end = blocks[0].offset, _end(blocks[0])
    members = [blocks[0]]
    for block in blocks[1:]:
        if not 0 <= block.offset - end <= gap_bytes or _end(block) - start > run_bytes:
            yield Run(block.pack, start, end - start, tuple(members))
            start, end, members = block.offset, block.offset, []
        end = max(end, _end(block))
        members.append(block)
    yield Run(blocks[0].pack, start, end - start, tuple(members))


def _end(block: BlockLocation) -> int:
    return block.offset + block.stored_length


class Locality:
    """Remembers misses, and tells when a whole pack is worth fetching; not thread-safe.

    That is at the second miss near an earlier one, as a walk through a tree of small files makes them, and at the
    eighth wherever it is. Large blocks never count: they are worth a request each.
    """

    def __init__(self) -> None:
        self._packs: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By pack, where its last miss was, and how many there were."""

    def missed(self, block: BlockLocation) -> bool:
        """Note a miss of `block`; whether its whole pack should be fetched now."""
        if block.plain_length > SMALL_BLOCK_BYTES:
            return False
        offset, count = self._packs.pop(block.pack, (None, 0))
        near = offset is not None and abs(block.offset - offset) <= NEAR_BYTES
        if near or count + 1 >= PATIENCE:
            return True
        self._packs[block.pack] = (block.offset, count + 1)
        if len(self._packs) > _REMEMBERED_PACKS:
            self._packs.popitem(last=False)
        return False
