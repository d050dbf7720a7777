# SPDX-License-Identifier: GPL-3.0-or-later
"""A check of a volume: its settings, its result, and how the findings of its parts come together."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import ObjectMissing
from cas3fs.index import LOST_PACK, IndexChecker
from cas3fs.maintenance.context import ProgressCallback, VolumeContext, ignore_progress
from cas3fs.maintenance.fsck.checks import (
    Checker,
    FsckTarget,
    archived_finding,
    paths_of_users,
    printable_paths,
    snapshot_finding,
)
from cas3fs.maintenance.fsck.findings import ERROR, Finding, status_of
from cas3fs.maintenance.fsck.verify import DataVerifier, VerifyResult
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint
from cas3fs.maintenance.lost_blocks import DAMAGED, LostBlocks, lost_packs
from cas3fs.objectstores import ObjectStore
from cas3fs.values import BlockHash, BlockLocation

MAX_RANGES: Final = 50
_GONE: Final = ("pack-missing", "snapshot-pack-missing", "known-loss", "known-snapshot-loss")
_LOST_PACK_CODES: Final = ("pack-missing", "pack-wrong-size", "known-loss")
_LOST_BLOCK_CODES: Final = ("block-damaged", "block-without-pack", "block-out-of-pack")


@attrs.frozen
class FsckSettings:
    """What is checked, and whether it is mended."""

    repair: bool = False
    verify_data: bool = False
    max_duration_s: float | None = None


@attrs.frozen
class FsckResult:
    """What was found; `status` is that of fsck(8).

    checked: which index (a text), and how many packs, snapshots and objects.
    """

    findings: tuple[Finding, ...]
    verified: VerifyResult | None
    checked: Mapping[str, Any] = {}

    @property
    def status(self) -> int:
        """0 clean, 1 all repaired, 4 something left."""
        return status_of(self.findings)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "status": self.status,
            "findings": [one.as_json() for one in self.findings],
            "verified": None if self.verified is None else self.verified.as_json(),
            "checked": dict(self.checked),
        }


def check_volume(
    target: FsckTarget, settings: FsckSettings, checkpoint: VerifyCheckpoint, report: ProgressCallback = ignore_progress
) -> FsckResult:
    """Checks, and changes nothing.

    Raises:
        StoreError, IndexDatabaseError, OSError: the check could not be done.
    """
    checker = Checker(target, report, thorough=settings.verify_data)
    findings = checker.run()
    if target.is_live and any(one.kind.severity == ERROR for one in findings):
        # what is being changed may look damaged for an instant
        still = {identity_of(one) for one in Checker(target, report).run()}
        findings = [one for one in findings if identity_of(one) in still]
    if any(one.code == "index-damaged" for one in findings):
        return FsckResult(tuple(findings), None, checker.checked)
    gone = {str(one.touches["pack"]) for one in findings if one.code in _GONE}
    told = gone | {str(one.touches["pack"]) for one in findings if one.code == "pack-wrong-size"}
    misplaced = {one.touches["hash"] for one in findings if "hash" in one.touches}
    verifier = DataVerifier(target.store, checkpoint, report, archive=target.archive, skipped=gone)
    verified = verifier.run(target.index, settings.max_duration_s) if settings.verify_data else None
    with IndexChecker(target.index) as index_checker:
        doubtful = {BlockLocation(*row).hash for row in index_checker.lost_blocks() if row[1] not in told | {LOST_PACK}}
        doubtful |= set(verified.hashes if verified else ())
        places = {block: BlockLocation(*row) for block in doubtful if (row := index_checker.locate(block)) is not None}
    bad = {block: place for block, place in places.items() if not verifier.is_good(place)}
    with IndexChecker(target.index) as index_checker:
        blocks = list(_damaged(index_checker, bad))
    findings += [one for one in blocks if one.touches["pack"] not in told and one.touches["hash"] not in misplaced]
    if verified is None:
        return FsckResult(tuple(findings), None, checker.checked)
    findings += _hurt_packs(verified, told, target.damages)
    archived = {one.touches.get("object") for one in findings if one.code == "object-archived"}
    findings += [
        archived_finding(key, why) for key, why in sorted(verified.place.archived.items()) if key not in archived
    ]
    named = {one.touches.get("snapshot") for one in findings}
    findings += [one for one in _hurt_snapshots(target.store, verified) if one.touches["snapshot"] not in named]
    return FsckResult(tuple(findings), verified, checker.checked)


def _damaged(index_checker: IndexChecker, bad: Mapping[BlockHash, BlockLocation]) -> Iterable[Finding]:
    for block in sorted(bad):
        row = index_checker.locate(block)
        users = index_checker.users_of_block(block)
        if row is None or not users or BlockLocation(*row) != bad[block]:
            continue  # it went since, or lies elsewhere by now
        paths, count = paths_of_users(index_checker, users)
        ranges = tuple((offset, length) for _, offset, length in users[:MAX_RANGES])
        about = {"hash": block, "pack": row[1], "offset": row[2], "plain_length": row[4]}
        yield Finding("block-damaged", about, "", printable_paths(paths), count, ranges)


def _hurt_packs(verified: VerifyResult, told: Collection[str], known: Collection[str]) -> Iterable[Finding]:
    for pack, detail in sorted(verified.place.hurt_packs.items()):
        if pack not in told:
            yield Finding("known-snapshot-loss" if pack in known else "snapshot-pack-damaged", {"pack": pack}, detail)


def _hurt_snapshots(store: ObjectStore, verified: VerifyResult) -> Iterable[Finding]:
    for snapshot, detail in sorted(verified.place.hurt_snapshots.items()):
        try:
            store.head(SnapshotEntry.key_of(snapshot))
        except ObjectMissing:
            continue  # it was deleted, or put aside, since
        yield snapshot_finding("snapshot-unreadable", snapshot, detail)


def fsck_target_of(context: VolumeContext, next_ordinal: int, *, is_live: bool, staging: Any = None) -> FsckTarget:
    """The target that an open volume is."""
    filesystem = context.filesystem
    filesystem.complete_index()
    with filesystem.index_transaction() as index:
        losses = lost_packs(index)
        damages = lost_packs(index, DAMAGED)
    return FsckTarget(
        index=filesystem.index_path,
        store=context.store,
        archive=context.archive,
        next_ordinal=next_ordinal,
        losses=losses,
        damages=damages,
        staging=staging,
        staging_folder=filesystem.staging.folder,
        is_live=is_live,
    )


def lost_blocks_in(findings: Iterable[Finding]) -> LostBlocks:
    """What findings tell to be lost, but for what was mended."""
    found = [one for one in findings if not one.repaired]
    return LostBlocks(
        frozenset(str(one.touches["pack"]) for one in found if one.code in _LOST_PACK_CODES),
        frozenset(_block_of(one) for one in found if one.code in _LOST_BLOCK_CODES),
    )


def _block_of(finding: Finding) -> tuple[BlockHash, str]:
    return BlockHash(finding.touches["hash"]), str(finding.touches.get("pack", ""))


def identity_of(finding: Finding) -> tuple[str, str]:
    """What makes two findings the same one: the code, and what it touches."""
    return finding.code, repr(sorted(finding.touches.items(), key=lambda item: item[0]))
