# SPDX-License-Identifier: GPL-3.0-or-later
"""The repair of a volume. Nothing is deleted.

These are its steps. Each is complete in itself, so a crash keeps what was repaired before:

1. Files of which the index has lost chunks are taken from snapshots (`file_rollback`). Then defects within the index
   are repaired (`index_repair`), until a check finds none that can be. Only where no file system uses the index.
2. Blocks that are not where the index has them are found elsewhere, or recorded as lost (`block_recovery`); then
   step 1 once more.
3. Manifests that cannot be read, or whose pages are missing or damaged, are moved to ``damaged/``. The next snapshot is
   stored whole, as pages that it would refer to may be damaged.
4. Damaged entries of epochs are moved to ``damaged/`` and replaced (`epoch_repair`).
5. Records of staging that are damaged, or whose data is missing, are kept in files.
6. Everything is checked once more: what is still wrong was not repaired.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from cas3fs.blockstore.pack_store import PackStore
from cas3fs.caches.base import BlockCache
from cas3fs.durable import sync_folder
from cas3fs.errors import BlockError, ObjectArchived, SnapshotArchived
from cas3fs.filesystem.state.quarantine import Quarantine
from cas3fs.filesystem.state.recovery import damage_of
from cas3fs.index import LOST_PACK
from cas3fs.index.checks import IndexChecker
from cas3fs.maintenance.context import ProgressCallback, VolumeContext, ignore_progress
from cas3fs.maintenance.damaged_objects import quarantine_object, quarantine_snapshot
from cas3fs.maintenance.fsck.block_recovery import BlockRecovery, RecoveryResult
from cas3fs.maintenance.fsck.checker import Checker
from cas3fs.maintenance.fsck.epoch_repair import (
    DAMAGED_BASE,
    DAMAGED_CLAIM,
    DAMAGED_RELEASE,
    replace_epoch_entry,
)
from cas3fs.maintenance.fsck.file_rollback import FileRollback
from cas3fs.maintenance.fsck.findings import Finding
from cas3fs.maintenance.fsck.index_repair import IndexRepairer
from cas3fs.maintenance.fsck.target import FsckTarget
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint
from cas3fs.maintenance.fsck.volume_check import FsckResult, FsckSettings, check_volume
from cas3fs.maintenance.lost_blocks import damaged_packs, lost_packs, set_damaged_packs, set_lost_packs
from cas3fs.values import BlockHash, BlockLocation

MAX_ROUNDS: Final = 8
_BLOCK_CODES: Final = (
    "pack-missing",
    "snapshot-pack-missing",
    "pack-wrong-size",
    "block-without-pack",
    "block-out-of-pack",
    "block-damaged",
    "snapshot-pack-damaged",
)
_SNAPSHOT_CODES: Final = ("snapshot-damaged", "pages-missing", "pages-wrong-size", "snapshot-unreadable")
_RECORD_CODES: Final = ("staging-bytes-missing", "staging-record-damaged")
_READ_BACK_CODES: Final = ("block-damaged", "snapshot-pack-damaged", "snapshot-unreadable", "object-archived")
"""Found by reading back alone, so a check without that does not show whether they were repaired."""


class VolumeRepairer:
    """Repairs one open volume.

    Args:
        target: makes the target of a check, as it is at that moment.
        repair_index: whether the index may be repaired: only if no file system uses it.
        cache: the disk cache, in which blocks may be found.
        forget_parent: called if the next snapshot has to be stored whole.
    """

    def __init__(
        self,
        context: VolumeContext,
        target: Callable[[], FsckTarget],
        checkpoint: VerifyCheckpoint,
        *,
        repair_index: bool,
        cache: BlockCache | None = None,
        forget_parent: Callable[[], None] = lambda: None,
        report: ProgressCallback = ignore_progress,
    ) -> None:
        self._context = context
        self._target = target
        self._checkpoint = checkpoint
        self._may_repair_index = repair_index
        self._cache = cache
        self._forget_parent = forget_parent
        self._report = report
        self._repaired: list[Finding] = []

    def repair(self, settings: FsckSettings) -> FsckResult:
        """Checks, repairs, and checks again.

        Raises:
            Fenced: another writer has taken over.
            StoreError, IndexDatabaseError, OSError: the store or the local disk failed; what was repaired stays so.
        """
        self._repaired = []
        if self._may_repair_index:
            self._roll_back_files()
            self._repair_index()
            if self._roll_back_files():  # an inode that got a type became a file, whose chunks are compared now
                self._repair_index()
        first = check_volume(self._target(), settings, self._checkpoint, self._report)
        if self._recover_blocks(first.findings) and self._may_repair_index:
            self._repair_index()  # a block that was found may be shorter than the index had it
        self._unmark_readable_blocks(first.findings)
        self._quarantine_snapshots(first.findings)
        self._forget_missing_snapshots(first.findings)
        self._replace_epoch_entries(first.findings)
        self._remove_staging_records(first.findings)
        self._context.filesystem.drop_caches()
        without_data = attrs.evolve(settings, verify_data=False)
        last = check_volume(self._target(), without_data, self._checkpoint, self._report)
        return self._result(first, last)

    def _result(self, first: FsckResult, last: FsckResult) -> FsckResult:
        """What was repaired, and what the last check still finds, or could not find as it reads no data."""
        left = list(last.findings)
        known = {one.identity for one in (*self._repaired, *left)}
        left += [one for one in first.findings if one.code in _READ_BACK_CODES and one.identity not in known]
        still_there = {one.identity for one in left}
        repaired = [attrs.evolve(one, repaired=True) for one in self._repaired if one.identity not in still_there]
        return FsckResult((*repaired, *left), first.verified, last.checked)

    # -- the index

    def _roll_back_files(self) -> bool:
        """Takes files of which the index has lost chunks from snapshots; whether there were any."""
        filesystem = self._context.filesystem
        filesystem.commit()
        target = self._target()
        checker = Checker(target, self._report)
        with IndexChecker(target.index) as index:
            files = {one.touches["inode"] for one in checker.checksum_mismatches(index)}
            if not files:
                return False
            findings = [one for one in checker.index_findings(index) if one.code.startswith("chunk")]
        rolled_back = FileRollback(self._context, self._report).roll_back(files)
        filesystem.commit()
        for one in findings:
            if one.touches["inode"] not in rolled_back:
                continue
            file = rolled_back[one.touches["inode"]]
            is_it = one.code == "chunks-unlike-sums"
            self._repaired.append(attrs.evolve(one, detail=file.outcome, lost=file.lost_ranges) if is_it else one)
        return True

    def _repair_index(self) -> None:
        """Repairs defects within the index, until a check finds none that can be repaired."""
        filesystem = self._context.filesystem
        for _ in range(MAX_ROUNDS):
            filesystem.commit()
            target = self._target()
            with IndexChecker(target.index) as index_checker:
                findings = list(Checker(target, self._report).index_findings(index_checker))
            with filesystem.index_transaction() as index:
                repaired = IndexRepairer(index, target.next_ordinal).repair(findings)
            if not repaired:
                return
            filesystem.commit()
            self._repaired += repaired

    # -- blocks

    def _recover_blocks(self, findings: Sequence[Finding]) -> bool:
        """Finds blocks elsewhere, or records them as lost; whether any finding was about blocks."""
        affected = [one for one in findings if one.code in _BLOCK_CODES]
        if not affected:
            return False
        with IndexChecker(self._context.filesystem.index_path) as index:
            wanted = [_blocks_of(index, one) for one in affected]
        target = self._target()
        staging_rows = None if target.staging is None else target.staging[1]
        recovery = BlockRecovery(self._context, self._cache, staging_rows, self._report)
        recovered = recovery.recover(_merge_locations(affected, wanted))
        self._record_packs(affected, recovered.damaged)
        self._repaired += [_with_outcome(one, blocks, recovered) for one, blocks in zip(affected, wanted, strict=True)]
        return True

    def _record_packs(self, affected: Sequence[Finding], damaged: Collection[str]) -> None:
        """Records which packs are lost or damaged, and their sizes: snapshots keep referencing what they lack."""

        def packs_of(*codes: str) -> set[str]:
            return {str(one.touches["pack"]) for one in affected if one.code in codes}

        pack_store = PackStore(self._context.store)
        sizes = {pack: pack_store.size_bytes(pack) for pack in packs_of("pack-wrong-size")}
        lost = packs_of("pack-missing", "snapshot-pack-missing")
        damaged = packs_of("pack-wrong-size", "block-damaged", "snapshot-pack-damaged") | set(damaged)
        with self._context.filesystem.index_transaction() as index:
            for pack, size in sizes.items():
                index.repairs().set_pack_size(pack, size)
            set_lost_packs(index, lost_packs(index) | lost)
            for pack in lost:
                index.blocks.mark_pack_lost(pack)
            set_damaged_packs(index, damaged_packs(index) | damaged)

    def _unmark_readable_blocks(self, findings: Sequence[Finding]) -> None:
        """Records that blocks are not lost which could not be read once, and can be read now."""
        reported = {one.touches.get("hash") for one in findings} | {one.touches.get("pack") for one in findings}
        pack_store, filesystem = PackStore(self._context.store), self._context.filesystem
        with filesystem.index_transaction() as index:
            lost = index.blocks.lost()
        for block in lost:
            if block.pack == LOST_PACK or block.hash in reported or block.pack in reported:
                continue
            with suppress(BlockError, ObjectArchived):
                pack_store.get_block(block)
                with filesystem.index_transaction() as index:
                    index.blocks.mark_found(block.hash, block.pack)

    # -- snapshots and epochs

    def _quarantine_snapshots(self, findings: Sequence[Finding]) -> None:
        """Moves the manifests of damaged snapshots to ``damaged/``."""
        damaged = [one for one in findings if one.code in _SNAPSHOT_CODES]
        if not damaged:
            return
        self._context.publisher.check_fence()
        for snapshot in sorted({str(one.touches["snapshot"]) for one in damaged}):
            quarantine_snapshot(self._context.archive, snapshot)
        self._forget_parent()
        self._repaired += damaged

    def _forget_missing_snapshots(self, findings: Sequence[Finding]) -> None:
        """Gives up what is kept for snapshots that are not in the store any more."""
        missing = [one for one in findings if one.code == "snapshot-missing"]
        if missing:
            self._context.publisher.check_fence()
            self._context.archive.tracker.mark_deleted(str(one.touches["snapshot"]) for one in missing)
            self._repaired += missing

    def _replace_epoch_entries(self, findings: Sequence[Finding]) -> None:
        """Moves damaged entries of epochs to ``damaged/``, and replaces them."""
        damaged = [one for one in findings if one.code in (DAMAGED_CLAIM, DAMAGED_BASE, DAMAGED_RELEASE)]
        if not damaged:
            return
        self._context.publisher.check_fence()
        archived: list[str] = []
        snapshots = self._context.archive.list(
            lambda one, error: archived.append(one) if isinstance(error, SnapshotArchived) else None
        )
        if archived:  # one of them may say which snapshot a take-over went on from
            damaged = [one for one in damaged if one.code != DAMAGED_BASE]
        for one in damaged:
            quarantine_object(self._context.store, str(one.touches["object"]))
            replace_epoch_entry(self._context.archive, one, snapshots)
        self._repaired += damaged

    # -- staging

    def _remove_staging_records(self, findings: Sequence[Finding]) -> None:
        """Removes records of staging that are damaged, or whose data is missing; they are kept in files."""
        target = self._target()
        affected = [one for one in findings if one.code in _RECORD_CODES]
        if not affected or target.staging is None:
            return
        folder, rows = target.staging
        missing = {
            (one.touches["inode"], one.touches["seq"]) for one in affected if one.code == "staging-bytes-missing"
        }
        damaged = []
        quarantine = Quarantine(folder)
        with open(Path(folder) / "records-put-aside.json", "a") as file:
            for row in rows.rows():
                if (row.inode, row.seq) in missing:
                    values = {key: one.hex() if isinstance(one, bytes) else one for key, one in row._asdict().items()}
                    file.write(json.dumps(values | {"data": None}) + "\n")
                elif damage := damage_of(row):
                    quarantine.keep(row, damage)
                    damaged.append((row.inode, row.seq))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(Path(folder))
        quarantine.sync()
        rows.delete([*missing, *damaged])
        rows.commit()
        self._repaired += affected


def _with_outcome(finding: Finding, wanted: Collection[BlockHash], recovered: RecoveryResult) -> Finding:
    """The finding, with what became of its blocks."""
    if not wanted:
        return finding
    found, stored = len(recovered.found & set(wanted)), len(recovered.stored & set(wanted))
    lost = len(wanted) - found - stored
    parts = [(found, "found in packs"), (stored, "stored again from this machine"), (lost, "lost")]
    outcome = ", ".join(f"{count:,} {what}" for count, what in parts if count)
    detail = f"{finding.detail}; blocks: {outcome}" if finding.detail else f"blocks: {outcome}"
    return attrs.evolve(finding, detail=detail, lost=lost)


def _blocks_of(index: IndexChecker, finding: Finding) -> dict[BlockHash, BlockLocation]:
    """The blocks that a finding is about, with their locations in the index."""
    if finding.code == "snapshot-pack-damaged":
        return {}
    if finding.code.startswith(("pack-", "snapshot-pack-")):
        locations = [BlockLocation(*row) for row in index.blocks_of(finding.touches["pack"])]
        return {location.hash: location for location in locations}
    block = BlockHash(finding.touches["hash"])
    pack = finding.touches["pack"] if finding.code == "block-damaged" else ""
    return {block: BlockLocation(block, pack, 0, 1, finding.touches["plain_length"])}


def _merge_locations(
    findings: Sequence[Finding], wanted: Sequence[Mapping[BlockHash, BlockLocation]]
) -> dict[BlockHash, BlockLocation]:
    """The blocks of all findings; a finding on the block itself counts more than one on its pack."""
    locations: dict[BlockHash, BlockLocation] = {}
    for is_of_block in (False, True):
        for one, blocks in zip(findings, wanted, strict=True):
            if ("hash" in one.touches) is is_of_block:
                locations.update(blocks)
    return locations
