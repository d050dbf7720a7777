# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying blocks one by one, between volumes that are alike: in the order in which they lie in the packs of the source,
so that files that were stored together stay together, and packs are read from one end to the other."""

from collections.abc import Sequence
from pathlib import Path

from cas3fs.copying.progress import CopyProgress
from cas3fs.copying.source import CopySource, announced
from cas3fs.copying.target import CopyTarget
from cas3fs.errors import BlockError
from cas3fs.index.copying import SnapshotTables
from cas3fs.index.scans import UncopiedBlockScan
from cas3fs.values import BlockHash, BlockLocation


class BlockCopier:
    """Copies the blocks of one snapshot after the other."""

    def __init__(self, source: CopySource, target: CopyTarget, progress: CopyProgress) -> None:
        self._source, self._target, self._progress = source, target, progress
        self._same_hashes = not (source.is_encrypted or target.is_encrypted)
        self._lost: dict[BlockHash, int] = {}

    def store(self, index: Path, snapshot_id: str) -> int:
        """Has all blocks stored that a snapshot, with its index, needs; returns how many of them are lost.

        Raises:
            SnapshotGone: a block is missing, and so is the snapshot.
            StoreError: either store failed.
            IndexDatabaseError: the local disk failed.
        """
        self._lost = {}
        ledger = self._target.ledger
        ledger.commit()
        with UncopiedBlockScan(index, self._target.index.path, ledger.path) as scan:
            self._progress.begin("copying blocks", scan.size_bytes)
            for page in scan:
                known = self._target.known([one.hash for one in page]) if self._same_hashes else set()
                pairs = [(block, block) for block in known]
                missing = [one for one in page if one.hash not in known]
                pairs += zip((one.hash for one in missing), self._copy(missing, snapshot_id), strict=True)
                self._progress.skip(sum(one.plain_length for one in page if one.hash in known))
                ledger.add_blocks(pairs)
                ledger.commit()
        self._target.flush()
        return len(self._lost)

    def set_chunks(self, tables: SnapshotTables) -> None:
        """Makes the chunks in the copy those of the snapshot whose blocks were stored last."""
        for block, plain_length in self._lost.items():
            tables.add_lost_block(block, plain_length)
        tables.copy_chunks()

    def _copy(self, blocks: Sequence[BlockLocation], snapshot_id: str) -> list[BlockHash]:
        """Has blocks stored; returns their hashes in the destination."""
        hashes = []
        for block in announced(self._source.reader, blocks):
            try:
                plain = self._source.reader.read(block, 0, block.plain_length)
            except BlockError:
                self._source.check_snapshot(snapshot_id)
                hashes.append(self._target.lost_hash(block.hash, same_hashes=self._same_hashes))
                self._lost[hashes[-1]] = block.plain_length
                continue
            hashes.append(self._target.add(plain))
            self._progress.read(block.plain_length)
        return hashes
