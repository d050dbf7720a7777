# SPDX-License-Identifier: GPL-3.0-or-later
"""The repair of a volume. Nothing is deleted.

These are its steps. Each is complete in itself, so a crash keeps what was repaired before:

1. Files of which the index has lost chunks are taken from snapshots (`file_rollback`). Then defects within the index
   are repaired (`index_repair`), until a check finds none that can be. Only where no file system uses the index.
2. Blocks that are not where the index has them are found elsewhere, or recorded as lost (`recovery`); then step 1 once
   more.
3. Manifests that cannot be read, or whose pages are missing or damaged, are moved to ``damaged/``. The next snapshot is
   stored whole, as pages that it would refer to may be damaged.
4. Damaged entries of epochs are moved to ``damaged/`` and replaced (`epoch_repair`).
5. Records of staging without their bytes are moved to a file.
6. Everything is checked once more: what is still wrong was not repaired.
"""

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from cas3fs.blockstore.pack_store import PackStore
from cas3fs.caches.base import BlockCache
from cas3fs.durable import sync_folder
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import BlockError, ObjectArchived, ObjectExists, ObjectMissing, SnapshotArchived
from cas3fs.filesystem.state.quarantine import Quarantine
from cas3fs.filesystem.state.recovery import damage_of
from cas3fs.index import LOST_PACK, IndexChecker
from cas3fs.maintenance.context import ProgressCallback, VolumeContext, ignore_progress
from cas3fs.maintenance.fsck.check import FsckResult, FsckSettings, check_volume, identity_of
from cas3fs.maintenance.fsck.checks import (
    Checker,
    FsckTarget,
)
from cas3fs.maintenance.fsck.epoch_repair import DAMAGED_BASE, DAMAGED_CLAIM, replace_epoch_entry
from cas3fs.maintenance.fsck.file_rollback import FileRollback
from cas3fs.maintenance.fsck.findings import Finding
from cas3fs.maintenance.fsck.index_repair import IndexRepairer
from cas3fs.maintenance.fsck.recovery import BlockRecovery, RecoveryResult
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint
from cas3fs.maintenance.inventory import QUARANTINE_PREFIX
from cas3fs.maintenance.lost_blocks import DAMAGED, lost_packs, set_lost_packs
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import BlockHash, BlockLocation

MAX_ROUNDS: Final = 8
_SNAPSHOT_CODES: Final = ("snapshot-damaged", "pages-missing", "pages-wrong-size", "snapshot-unreadable")
_READ_BACK: Final = ("block-damaged", "snapshot-pack-damaged", "snapshot-unreadable", "object-archived")
"""Found by reading back alone, so another check without that may not tell whether they are mended."""
_log = logging.getLogger(__name__)


class VolumeRepairer:
    """Checks and mends one open volume.

    Args:
        mend_index: no file system is at work: the index may be mended.
        cache: the disk cache, where blocks may be found.
        forget_parent: called when the next snapshot must be stored whole.
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
        self._bookmark = checkpoint
        self._repair_index = repair_index
        self._cache = cache
        self._forget_parent = forget_parent
        self._report = report

    def repair(self, settings: FsckSettings) -> FsckResult:
        """Checks, mends, and checks again; raises as `check`, and what writing the store raises."""
        mended: list[Finding] = []
        if self._repair_index:
            self._revert(mended)
            self._mend(mended)
            if self._revert(mended):  # what had no type before is a file now, whose chunks are compared with its sums
                self._mend(mended)
        first = check_volume(self._target(), settings, self._bookmark, self._report)
        if self._recover(first.findings, mended) and self._repair_index:
            self._mend(mended)  # a block that was found may be shorter than it was thought to be
        self._believe_again(first.findings)
        self._put_aside(first.findings, mended)
        self._give_up(first.findings, mended)
        self._fill_places(first.findings, mended)
        self._drop_records(first.findings, mended)
        self._context.filesystem.drop_caches()
        last = check_volume(self._target(), attrs.evolve(settings, verify_data=False), self._bookmark, self._report)
        left = list(last.findings)
        fixed, seen = {identity_of(one) for one in mended}, {identity_of(one) for one in left}
        left += [one for one in first.findings if one.code in _READ_BACK and identity_of(one) not in fixed | seen]
        still = {identity_of(one) for one in left}
        repaired = [attrs.evolve(one, repaired=True) for one in mended if identity_of(one) not in still]
        return FsckResult((*repaired, *left), first.verified, last.checked)

    # -- the index

    def _revert(self, mended: list[Finding]) -> bool:
        """Takes files of which the index has lost chunks from snapshots; whether there were any."""
        filesystem = self._context.filesystem
        filesystem.commit()
        target = self._target()
        checker = Checker(target, self._report)
        with IndexChecker(target.index) as index_checker:
            files = {one.touches["inode"] for one in checker.checksum_mismatches(index_checker)}
            if not files:
                return False
            told = [one for one in checker.index_findings(index_checker) if one.code.startswith("chunk")]
        became = FileRollback(self._context, self._report).revert(files)
        filesystem.commit()
        for one in told:
            if one.touches["inode"] in became:
                what = became[one.touches["inode"]]
                is_it = one.code == "chunks-unlike-sums"
                mended.append(attrs.evolve(one, detail=what.told, lost=what.lost_ranges) if is_it else one)
        return True

    def _mend(self, mended: list[Finding]) -> None:
        filesystem = self._context.filesystem
        for _ in range(MAX_ROUNDS):
            filesystem.commit()
            target = self._target()
            with IndexChecker(target.index) as index_checker:
                found = list(Checker(target, self._report).index_findings(index_checker))
            with filesystem.index_transaction() as index:
                done = IndexRepairer(index, target.next_ordinal).repair(found)
            if not done:
                return
            filesystem.commit()
            mended += done

    # -- blocks

    def _recover(self, findings: Sequence[Finding], mended: list[Finding]) -> bool:
        """Looks for blocks; whether there was any need."""
        hurt = [one for one in findings if one.code in _BLOCK_CODES]
        if not hurt:
            return False
        with IndexChecker(self._context.filesystem.index_path) as index_checker:
            wanted = [_wanted(index_checker, one) for one in hurt]
        target = self._target()
        rows = None if target.staging is None else target.staging[1]
        recovery = BlockRecovery(self._context, self._cache, rows, self._report)
        recovered = recovery.recover(_places(hurt, wanted))
        resized = {str(one.touches["pack"]) for one in hurt if one.code == "pack-wrong-size"}
        pack_store = PackStore(self._context.store)
        sizes = {pack: pack_store.size_bytes(pack) for pack in resized}
        self._write_down(hurt, sizes, recovered.damaged)
        mended += [_told(one, blocks, recovered) for one, blocks in zip(hurt, wanted, strict=True)]
        return True

    def _believe_again(self, findings: Sequence[Finding]) -> None:
        """Blocks that could not be read once, and can be, are not lost."""
        told = {one.touches.get("hash") for one in findings} | {one.touches.get("pack") for one in findings}
        pack_store = PackStore(self._context.store)
        for block in self._lost_blocks():
            if block.pack == LOST_PACK or block.hash in told or block.pack in told:
                continue
            with suppress(BlockError, ObjectArchived):
                pack_store.get_block(block)
                with self._context.filesystem.index_transaction() as index:
                    index.blocks.mark_found(block.hash, block.pack)

    def _lost_blocks(self) -> list[BlockLocation]:
        with self._context.filesystem.index_transaction() as index:
            return index.blocks.lost()

    def _write_down(self, hurt: Sequence[Finding], sizes: Mapping[str, int], damaged: Collection[str]) -> None:
        """What packs really are: how large, lost, or damaged, as snapshots go on naming what is missing in them."""

        def packs_of(*codes: str) -> set[str]:
            return {str(one.touches["pack"]) for one in hurt if one.code in codes}

        lost = packs_of("pack-missing", "snapshot-pack-missing")
        damaged = packs_of("pack-wrong-size", "block-damaged", "snapshot-pack-damaged") | set(damaged)
        with self._context.filesystem.index_transaction() as index:
            for pack in packs_of("pack-wrong-size"):
                index.repairs().set_pack_size(pack, sizes[pack])
            set_lost_packs(index, lost_packs(index) | lost)
            for pack in lost:
                index.blocks.mark_pack_lost(pack)
            set_lost_packs(index, lost_packs(index, DAMAGED) | damaged, DAMAGED)

    # -- snapshots

    def _put_aside(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        hurt = [one for one in findings if one.code in _SNAPSHOT_CODES]
        if not hurt:
            return
        self._context.publisher.check_fence()
        for snapshot in sorted({str(one.touches["snapshot"]) for one in hurt}):
            quarantine_snapshot(self._context.archive, snapshot)
        self._forget_parent()
        mended += hurt

    def _give_up(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        """Nothing is kept any more for snapshots that the store denies."""
        denied = [one for one in findings if one.code == "snapshot-missing"]
        if denied:
            self._context.publisher.check_fence()
            self._context.archive.tracker.mark_deleted(str(one.touches["snapshot"]) for one in denied)
            mended += denied

    # -- epochs

    def _fill_places(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        """Puts other entries in the place of damaged ones of epochs."""
        hurt = [one for one in findings if one.code in (DAMAGED_CLAIM, DAMAGED_BASE)]
        if not hurt:
            return
        self._context.publisher.check_fence()
        archived: list[str] = []
        snapshots = self._context.archive.list(
            lambda one, error: archived.append(one) if isinstance(error, SnapshotArchived) else None
        )
        if archived:  # where a take-over went on from, they may tell
            hurt = [one for one in hurt if one.code != DAMAGED_BASE]
        for one in hurt:
            quarantine_object(self._context.store, str(one.touches["object"]))
            replace_epoch_entry(self._context.archive, one, snapshots)
        mended += hurt

    # -- staging

    def _drop_records(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        target = self._target()
        hurt = [one for one in findings if one.code in _RECORD_CODES]
        if not hurt or target.staging is None:
            return
        folder, rows = target.staging
        missing = {(one.touches["inode"], one.touches["seq"]) for one in hurt if one.code == "staging-bytes-missing"}
        damaged = []
        aside = Quarantine(folder)
        with open(Path(folder) / "records-put-aside.json", "a") as file:
            for row in rows.rows():
                if (row.inode, row.seq) in missing:
                    told = row._asdict() | {"ranges": row.ranges.hex(), "data": None}
                    file.write(json.dumps(told) + "\n")
                elif damage := damage_of(row):
                    aside.keep(row, damage)
                    damaged.append((row.inode, row.seq))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(Path(folder))
        aside.sync()
        rows.delete([*missing, *damaged])
        rows.commit()
        mended += hurt


_RECORD_CODES: Final = ("staging-bytes-missing", "staging-record-damaged")
_BLOCK_CODES: Final = (
    "pack-missing",
    "snapshot-pack-missing",
    "pack-wrong-size",
    "block-without-pack",
    "block-out-of-pack",
    "block-damaged",
    "snapshot-pack-damaged",
)


def quarantine_snapshot(archive: SnapshotArchive, snapshot: str) -> None:
    """Moves the manifest of a damaged snapshot to ``damaged/``; for who holds the claim. A second time is fine."""
    quarantine_object(archive.shelf.store, SnapshotEntry.key_of(snapshot))
    archive.tracker.mark_moved([snapshot])


def quarantine_object(store: ObjectStore, key: str) -> None:
    """The same for a damaged object of that key."""
    try:
        body = store.get(key)
    except ObjectMissing:
        return
    try:
        store.put_if_absent(QUARANTINE_PREFIX + key, body)
    except ObjectExists:
        if store.get(QUARANTINE_PREFIX + key) != body:
            raise
    store.delete_many([key])


def _told(finding: Finding, wanted: Collection[BlockHash], recovered: RecoveryResult) -> Finding:
    """The finding with what became of its blocks."""
    if not wanted:
        return finding
    found, stored = len(recovered.found & set(wanted)), len(recovered.stored & set(wanted))
    lost = len(wanted) - found - stored
    parts = [(found, "found in packs"), (stored, "stored again from this machine"), (lost, "lost")]
    told = ", ".join(f"{count:,} {what}" for count, what in parts if count)
    detail = f"{finding.detail}; blocks: {told}" if finding.detail else f"blocks: {told}"
    return attrs.evolve(finding, detail=detail, lost=lost)


def _wanted(index_checker: IndexChecker, finding: Finding) -> dict[BlockHash, BlockLocation]:
    """The blocks that a finding hurts, with where the index has them."""
    if finding.code == "snapshot-pack-damaged":
        return {}
    if finding.code.startswith(("pack-", "snapshot-pack-")):
        places = [BlockLocation(*row) for row in index_checker.blocks_of(finding.touches["pack"])]
        return {place.hash: place for place in places}
    block = BlockHash(finding.touches["hash"])
    pack = finding.touches["pack"] if finding.code == "block-damaged" else ""
    return {block: BlockLocation(block, pack, 0, 1, finding.touches["plain_length"])}


def _places(
    findings: Sequence[Finding], wanted: Sequence[Mapping[BlockHash, BlockLocation]]
) -> dict[BlockHash, BlockLocation]:
    """All that is wanted; what is said of a block itself counts more than what is said of its pack."""
    places: dict[BlockHash, BlockLocation] = {}
    for of_block in (False, True):
        for one, blocks in zip(findings, wanted, strict=True):
            if ("hash" in one.touches) is of_block:
                places.update(blocks)
    return places
