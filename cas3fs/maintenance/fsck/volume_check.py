# SPDX-License-Identifier: GPL-3.0-or-later
"""A check of a volume: its settings, its result, and how the findings of its parts are put together."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import ObjectMissing
from cas3fs.index import LOST_PACK
from cas3fs.index.checks import IndexChecker
from cas3fs.maintenance.context import ProgressCallback, ignore_progress
from cas3fs.maintenance.fsck.checker import (
    Checker,
    archived_finding,
    paths_of_users,
    printable_paths,
    snapshot_finding,
)
from cas3fs.maintenance.fsck.findings import ERROR, Finding, status_of
from cas3fs.maintenance.fsck.target import FsckTarget
from cas3fs.maintenance.fsck.verify import DataVerifier, VerifyResult
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint
from cas3fs.maintenance.lost_blocks import LostBlocks
from cas3fs.objectstores import ObjectStore
from cas3fs.values import BlockHash, BlockLocation

MAX_RANGES: Final = 50
_MISSING_PACK_CODES: Final = ("pack-missing", "snapshot-pack-missing", "known-loss", "known-snapshot-loss")
_LOST_PACK_CODES: Final = ("pack-missing", "pack-wrong-size", "known-loss")
_LOST_BLOCK_CODES: Final = ("block-damaged", "block-without-pack", "block-out-of-pack")


@attrs.frozen
class FsckSettings:
    """What is checked, and whether it is repaired.

    Attributes:
        verify_data: read all blocks and snapshots back.
        max_duration_s: of reading back; the next check continues from there. None for no limit.
    """

    repair: bool = False
    verify_data: bool = False
    max_duration_s: float | None = None


@attrs.frozen
class FsckResult:
    """What was found.

    Attributes:
        verified: what reading back has found; None if that was not asked for, or the index is damaged.
        checked: which index was checked, for people, and how many packs, snapshots and objects.
    """

    findings: tuple[Finding, ...]
    verified: VerifyResult | None
    checked: Mapping[str, Any] = {}

    @property
    def status(self) -> int:
        """The exit status as that of fsck(8): 0 for a clean volume, 1 if all errors were repaired, 4 if some are
        left."""
        return status_of(self.findings)

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "status": self.status,
            "findings": [one.as_json() for one in self.findings],
            "verified": None if self.verified is None else self.verified.as_json(),
            "checked": dict(self.checked),
        }


def check_volume(
    target: FsckTarget, settings: FsckSettings, checkpoint: VerifyCheckpoint, report: ProgressCallback = ignore_progress
) -> FsckResult:
    """Checks a volume, and changes nothing.

    Raises:
        StoreError, IndexDatabaseError, OSError: the check could not be done.
    """
    checker = Checker(target, report, thorough=settings.verify_data)
    findings = checker.run()
    if target.is_live and any(one.kind.severity == ERROR for one in findings):
        # what is changed during the check may look damaged, so only what is found twice counts
        again = {one.identity for one in Checker(target, report).run()}
        findings = [one for one in findings if one.identity in again]
    if any(one.code == "index-damaged" for one in findings):
        return FsckResult(tuple(findings), None, checker.checked)
    missing_packs = {str(one.touches["pack"]) for one in findings if one.code in _MISSING_PACK_CODES}
    reported_packs = missing_packs | {str(one.touches["pack"]) for one in findings if one.code == "pack-wrong-size"}
    reported_blocks = {one.touches["hash"] for one in findings if "hash" in one.touches}
    verifier = DataVerifier(target.store, checkpoint, report, archive=target.archive, skipped=missing_packs)
    verified = verifier.run(target.index, settings.max_duration_s) if settings.verify_data else None
    damaged = _damaged_blocks(target, verifier, verified, reported_packs)
    findings += [
        one
        for one in damaged
        if one.touches["pack"] not in reported_packs and one.touches["hash"] not in reported_blocks
    ]
    if verified is not None:
        findings += _verify_findings(target, verified, tuple(findings), reported_packs)
    return FsckResult(tuple(findings), verified, checker.checked)


def _damaged_blocks(
    target: FsckTarget, verifier: DataVerifier, verified: VerifyResult | None, reported_packs: Collection[str]
) -> list[Finding]:
    """Findings on the blocks of the volume that cannot be read: of those that were found damaged just now, or that the
    index has recorded as lost."""
    known = {*reported_packs, LOST_PACK}
    with IndexChecker(target.index) as index:
        suspects = {BlockLocation(*row).hash for row in index.lost_blocks() if row[1] not in known}
        suspects |= set(verified.hashes if verified else ())
        locations = {block: BlockLocation(*row) for block in suspects if (row := index.locate(block)) is not None}
    # the index is not open while the store is asked
    unreadable = {
        block: location for block, location in locations.items() if not verifier.is_readable_or_archived(location)
    }
    with IndexChecker(target.index) as index:
        return list(_block_findings(index, unreadable))


def _block_findings(index: IndexChecker, unreadable: Mapping[BlockHash, BlockLocation]) -> Iterator[Finding]:
    for block in sorted(unreadable):
        row = index.locate(block)
        users = index.users_of_block(block)
        if row is None or not users or BlockLocation(*row) != unreadable[block]:
            continue  # it was dropped or moved since
        paths, count = paths_of_users(index, users)
        ranges = tuple((offset, length) for _, offset, length in users[:MAX_RANGES])
        about = {"hash": block, "pack": row[1], "offset": row[2], "plain_length": row[4]}
        yield Finding("block-damaged", about, "", printable_paths(paths), count, ranges)


def _verify_findings(
    target: FsckTarget, verified: VerifyResult, findings: Collection[Finding], reported_packs: Collection[str]
) -> Iterator[Finding]:
    """Findings on packs, archived objects and snapshots that reading back has found, but for those that are reported
    already."""
    progress = verified.progress
    for pack, detail in sorted(progress.hurt_packs.items()):
        if pack not in reported_packs:
            code = "known-snapshot-loss" if pack in target.damaged_packs else "snapshot-pack-damaged"
            yield Finding(code, {"pack": pack}, detail)
    reported_objects = {one.touches.get("object") for one in findings if one.code == "object-archived"}
    for key, error in sorted(progress.archived.items()):
        if key not in reported_objects:
            yield archived_finding(key, error)
    reported_snapshots = {one.touches.get("snapshot") for one in findings}
    for snapshot, detail in sorted(progress.hurt_snapshots.items()):
        if snapshot not in reported_snapshots and _exists(target.store, SnapshotEntry.key_of(snapshot)):
            yield snapshot_finding("snapshot-unreadable", snapshot, detail)


def _exists(store: ObjectStore, key: str) -> bool:
    """Whether an object was neither deleted nor quarantined since."""
    try:
        store.head(key)
    except ObjectMissing:
        return False
    return True


def lost_blocks_in(findings: Iterable[Finding]) -> LostBlocks:
    """The packs and blocks that findings report as lost and that were not repaired."""
    open_findings = [one for one in findings if not one.repaired]
    return LostBlocks(
        frozenset(str(one.touches["pack"]) for one in open_findings if one.code in _LOST_PACK_CODES),
        frozenset(
            (BlockHash(one.touches["hash"]), str(one.touches.get("pack", "")))
            for one in open_findings
            if one.code in _LOST_BLOCK_CODES
        ),
    )
