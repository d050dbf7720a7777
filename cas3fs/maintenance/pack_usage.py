# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a pack is used: how large it would be with some of its blocks alone."""

from typing import Final

from cas3fs.encryption.padding import padded_length
from cas3fs.index import PackUse

PACK_OVERHEAD_BYTES: Final = 96
"""Header and footer."""
CONTENTS_LINE_BYTES: Final = 48
"""A line of the table of contents; there is one for each block."""


def expected_pack_bytes(blocks: int, block_bytes: int) -> int:
    """The size of a pack of so many blocks, of so many encoded bytes."""
    return PACK_OVERHEAD_BYTES + blocks * CONTENTS_LINE_BYTES + block_bytes


def is_pack_size(size_bytes: int, blocks: int, block_bytes: int) -> bool:
    """Whether a pack of exactly these blocks has that size, padded or not."""
    expected = expected_pack_bytes(blocks, block_bytes)
    return size_bytes in (expected, padded_length(expected))


def live_share(use: PackUse) -> float:
    """The size of a pack of the live blocks alone, as a part of the pack's size: 1 where all of its blocks are live."""
    if not use.size or is_pack_size(use.size, use.live_blocks, use.live_bytes):
        return 1.0
    return expected_pack_bytes(use.live_blocks, use.live_bytes) / use.size
