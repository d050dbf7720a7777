# SPDX-License-Identifier: GPL-3.0-or-later
"""What the index knows of packs in the store: those that were stored, and what has been found lost."""

import logging

from cas3fs.errors import IndexDatabaseError
from cas3fs.filesystem.state.filesystem_state import FileSystemState
from cas3fs.values import BlockLocation, StoredPack

_BLOCKS_AT_ONCE = 500

_log = logging.getLogger(__name__)


class PackRecords:
    """Enters packs and losses in the index; takes the lock itself."""

    def __init__(self, state: FileSystemState) -> None:
        self._state = state

    def add(self, pack: StoredPack) -> None:
        """Records a pack that is in the store: its blocks can be used from now on.

        Some at a time, so that operations wait for milliseconds only; a part of them is right, too.

        Raises:
            IndexDatabaseError: it, or a part of it, could not be recorded.
        """
        state = self._state
        for start in range(0, max(len(pack.blocks), 1), _BLOCKS_AT_ONCE):
            part = pack._replace(blocks=pack.blocks[start : start + _BLOCKS_AT_ONCE])
            with state.lock, state.operation():
                state.index.blocks.add_pack(part, state.next_ordinal)

    def mark_block_lost(self, block: BlockLocation) -> None:
        """Records that the store lacks a block, or has it damaged: the same bytes are stored again when they come."""
        state = self._state
        if state.access.read_only_reason:
            return
        try:
            with state.lock, state.operation():
                is_new = state.index.blocks.mark_lost(block.hash, block.pack)
        except IndexDatabaseError as error:
            _log.error("that block %s is lost could not be recorded: %s", block.hash.hex(), error)
            return
        if is_new:
            _log.error(
                "block %s of pack %s is lost or damaged: a copy written again heals it", block.hash.hex(), block.pack
            )

    def mark_pack_lost(self, pack: str) -> None:
        """As `mark_block_lost`, for every block of a pack.

        Raises:
            IndexDatabaseError: it could not be recorded.
        """
        state = self._state
        with state.lock, state.operation():
            count = state.index.blocks.mark_pack_lost(pack)
        if count:
            _log.error("pack %s is lost: copies of its %d blocks that are written again heal them", pack, count)
