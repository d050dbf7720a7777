# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of blocks share."""

from cas3fs.objectstores.base import hash_plainly
from cas3fs.values import BlockHash, Buffer


def hash_block(plain: Buffer) -> BlockHash:
    """The hash of a block in a volume that is not encrypted."""
    return BlockHash(hash_plainly(plain))
