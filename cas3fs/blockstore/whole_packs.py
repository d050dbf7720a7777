# SPDX-License-Identifier: GPL-3.0-or-later
"""When a whole pack is fetched: after a few misses of small blocks in it."""

from collections import OrderedDict

from cas3fs.values import BlockLocation

SMALL_BLOCK_BYTES = 128 * 1024
NEAR_BYTES = 1024 * 1024
SCATTERED_MISSES = 8
"""So many scattered misses in one pack cost as much as fetching all of it."""
_REMEMBERED_PACKS = 64


class WholePackPolicy:
    """Records misses and decides when a whole pack is worth fetching; not thread-safe.

    That is at the second miss near an earlier one, as reading a tree of small files causes them, and at the eighth
    miss wherever it is. Large blocks never count: each is worth a request of its own.
    """

    def __init__(self) -> None:
        self._packs: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By pack, the offset of its last miss, and how many there were."""

    def record_miss(self, block: BlockLocation) -> bool:
        """Record a miss of `block`; whether its whole pack should be fetched now."""
        if block.plain_length > SMALL_BLOCK_BYTES:
            return False
        offset, count = self._packs.pop(block.pack, (None, 0))
        is_near = offset is not None and abs(block.offset - offset) <= NEAR_BYTES
        if is_near or count + 1 >= SCATTERED_MISSES:
            return True
        self._packs[block.pack] = (block.offset, count + 1)
        if len(self._packs) > _REMEMBERED_PACKS:
            self._packs.popitem(last=False)
        return False
