# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck: checks a volume, and mends it on demand. Nothing is deleted.

With a repair, in this order, each step complete in itself, so that a process that dies leaves what was mended before:

1. files of which the index has lost chunks are taken from snapshots (`reverting`); then the index is mended with
   itself, again and again until a check finds nothing that could be mended (`mending`); not while a file system is at
   work on it;
2. blocks that are not where they should be are found elsewhere, or written down as lost (`recovering`), and then the
   first step once more;
3. manifests that cannot be read, or whose pages are gone or damaged, are copied to ``damaged/`` and then taken away
   from where they stand; the next snapshot is stored whole, as what it would refer to may be damaged;
4. records of staging without their bytes are put aside in a file;
5. everything is checked once more: what is still wrong was not mended.
"""

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.blockstore.retrieval import Retrieval
from cas3fs.caches.base import BlockCache
from cas3fs.durable import sync_folder
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import BlockError, ObjectArchived, ObjectExists, ObjectMissing, SnapshotArchived
from cas3fs.filesystem.state.quarantine import Quarantine
from cas3fs.filesystem.state.recovery import damage_of
from cas3fs.index import LOST_PACK, IndexChecker
from cas3fs.maintenance.base import Premises, Report, silent
from cas3fs.maintenance.bookmarks import Bookmark
from cas3fs.maintenance.checking import Checkup, Patient, of_archived, of_snapshot, path_texts, paths_of_users
from cas3fs.maintenance.findings import ERROR, Finding, status_of
from cas3fs.maintenance.losses import DAMAGED, known_losses, set_losses
from cas3fs.maintenance.mending import Mender
from cas3fs.maintenance.recovering import Recovered, Recoverer
from cas3fs.maintenance.reverting import Reverter
from cas3fs.maintenance.succession import LOST_BASE, LOST_CLAIM, fill_place
from cas3fs.maintenance.survey import DAMAGED_PREFIX, key_of_pack
from cas3fs.maintenance.verifying import Verified, Verifier
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import BlockHash, BlockLocation

MOST_ROUNDS: Final = 8
MOST_RANGES: Final = 50
_SNAPSHOT_CODES: Final = ("snapshot-damaged", "pages-missing", "pages-wrong-size", "snapshot-unreadable")
_GONE: Final = ("pack-missing", "snapshot-pack-missing", "known-loss", "known-snapshot-loss")
_READ_BACK: Final = ("block-damaged", "snapshot-pack-damaged", "snapshot-unreadable", "object-archived")
"""Found by reading back alone, so another check without that may not tell whether they are mended."""
_log = logging.getLogger(__name__)


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
    verified: Verified | None
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


def check(patient: Patient, settings: FsckSettings, bookmark: Bookmark, report: Report = silent) -> FsckResult:
    """Checks, and changes nothing.

    Raises:
        StoreError, IndexDatabaseError, OSError: the check could not be done.
    """
    checkup = Checkup(patient, report, thorough=settings.verify_data)
    findings = checkup.run()
    if patient.is_live and any(one.kind.severity == ERROR for one in findings):
        # what is being changed may look damaged for an instant
        still = {_key(one) for one in Checkup(patient, report).run()}
        findings = [one for one in findings if _key(one) in still]
    if any(one.code == "index-damaged" for one in findings):
        return FsckResult(tuple(findings), None, checkup.checked)
    gone = {str(one.touches["pack"]) for one in findings if one.code in _GONE}
    told = gone | {str(one.touches["pack"]) for one in findings if one.code == "pack-wrong-size"}
    misplaced = {one.touches["hash"] for one in findings if "hash" in one.touches}
    verifier = Verifier(patient.store, bookmark, report, archive=patient.archive, skipped=gone)
    verified = verifier.run(patient.index, settings.max_duration_s) if settings.verify_data else None
    with IndexChecker(patient.index) as checker:
        doubtful = {BlockLocation(*row).hash for row in checker.lost_blocks() if row[1] not in told | {LOST_PACK}}
        doubtful |= set(verified.hashes if verified else ())
        places = {block: BlockLocation(*row) for block in doubtful if (row := checker.locate(block)) is not None}
    bad = {block: place for block, place in places.items() if not verifier.is_good(place)}
    with IndexChecker(patient.index) as checker:
        blocks = list(_damaged(checker, bad))
    findings += [one for one in blocks if one.touches["pack"] not in told and one.touches["hash"] not in misplaced]
    if verified is None:
        return FsckResult(tuple(findings), None, checkup.checked)
    findings += _hurt_packs(verified, told, patient.damages)
    archived = {one.touches.get("object") for one in findings if one.code == "object-archived"}
    findings += [of_archived(key, why) for key, why in sorted(verified.place.archived.items()) if key not in archived]
    named = {one.touches.get("snapshot") for one in findings}
    findings += [one for one in _hurt_snapshots(patient.store, verified) if one.touches["snapshot"] not in named]
    return FsckResult(tuple(findings), verified, checkup.checked)


def _damaged(checker: IndexChecker, bad: Mapping[BlockHash, BlockLocation]) -> Iterable[Finding]:
    for block in sorted(bad):
        row = checker.locate(block)
        users = checker.users_of_block(block)
        if row is None or not users or BlockLocation(*row) != bad[block]:
            continue  # it went since, or lies elsewhere by now
        paths, count = paths_of_users(checker, users)
        ranges = tuple((offset, length) for _, offset, length in users[:MOST_RANGES])
        about = {"hash": block, "pack": row[1], "offset": row[2], "plain_length": row[4]}
        yield Finding("block-damaged", about, "", path_texts(paths), count, ranges)


def _hurt_packs(verified: Verified, told: Collection[str], known: Collection[str]) -> Iterable[Finding]:
    for pack, detail in sorted(verified.place.hurt_packs.items()):
        if pack not in told:
            yield Finding("known-snapshot-loss" if pack in known else "snapshot-pack-damaged", {"pack": pack}, detail)


def _hurt_snapshots(store: ObjectStore, verified: Verified) -> Iterable[Finding]:
    for snapshot, detail in sorted(verified.place.hurt_snapshots.items()):
        try:
            store.head(SnapshotEntry.key_of(snapshot))
        except ObjectMissing:
            continue  # it was deleted, or put aside, since
        yield of_snapshot("snapshot-unreadable", snapshot, detail)


class Fsck:
    """Checks and mends one open volume.

    Args:
        mend_index: no file system is at work: the index may be mended.
        cache: the disk cache, where blocks may be found.
        forget_parent: called when the next snapshot must be stored whole.
    """

    def __init__(
        self,
        premises: Premises,
        patient: Callable[[], Patient],
        bookmark: Bookmark,
        *,
        mend_index: bool,
        cache: BlockCache | None = None,
        forget_parent: Callable[[], None] = lambda: None,
        report: Report = silent,
    ) -> None:
        self._at = premises
        self._patient = patient
        self._bookmark = bookmark
        self._mend_index = mend_index
        self._cache = cache
        self._forget_parent = forget_parent
        self._report = report

    def repair(self, settings: FsckSettings) -> FsckResult:
        """Checks, mends, and checks again; raises as `check`, and what writing the store raises."""
        mended: list[Finding] = []
        if self._mend_index:
            self._revert(mended)
            self._mend(mended)
            if self._revert(mended):  # what had no type before is a file now, whose chunks are compared with its sums
                self._mend(mended)
        first = check(self._patient(), settings, self._bookmark, self._report)
        if self._recover(first.findings, mended) and self._mend_index:
            self._mend(mended)  # a block that was found may be shorter than it was thought to be
        self._believe_again(first.findings)
        self._put_aside(first.findings, mended)
        self._give_up(first.findings, mended)
        self._fill_places(first.findings, mended)
        self._drop_records(first.findings, mended)
        self._at.filesystem.commit()
        last = check(self._patient(), attrs.evolve(settings, verify_data=False), self._bookmark, self._report)
        left = list(last.findings)
        fixed, seen = {_key(one) for one in mended}, {_key(one) for one in left}
        left += [one for one in first.findings if one.code in _READ_BACK and _key(one) not in fixed | seen]
        still = {_key(one) for one in left}
        repaired = [attrs.evolve(one, repaired=True) for one in mended if _key(one) not in still]
        return FsckResult((*repaired, *left), first.verified, last.checked)

    # -- the index

    def _revert(self, mended: list[Finding]) -> bool:
        """Takes files of which the index has lost chunks from snapshots; whether there were any."""
        filesystem = self._at.filesystem
        filesystem.commit()
        patient = self._patient()
        checkup = Checkup(patient, self._report)
        with IndexChecker(patient.index) as checker:
            files = {one.touches["inode"] for one in checkup.checksum_mismatches(checker)}
            if not files:
                return False
            told = [one for one in checkup.index_findings(checker) if one.code.startswith("chunk")]
        became = Reverter(self._at, self._report).revert(files)
        filesystem.commit()
        for one in told:
            if one.touches["inode"] in became:
                what = became[one.touches["inode"]]
                is_it = one.code == "chunks-unlike-sums"
                mended.append(attrs.evolve(one, detail=what.told, lost=what.lost_ranges) if is_it else one)
        return True

    def _mend(self, mended: list[Finding]) -> None:
        filesystem = self._at.filesystem
        for _ in range(MOST_ROUNDS):
            filesystem.commit()
            patient = self._patient()
            with IndexChecker(patient.index) as checker:
                found = list(Checkup(patient, self._report).index_findings(checker))
            with filesystem.lock:
                done = Mender(filesystem.index, patient.next_ordinal).mend(found)
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
        with IndexChecker(self._at.filesystem.index.path) as checker:
            wanted = [_wanted(checker, one) for one in hurt]
        patient = self._patient()
        rows = None if patient.staging is None else patient.staging[1]
        recoverer = Recoverer(self._at, self._cache, rows, self._report)
        recovered = recoverer.recover(_places(hurt, wanted))
        resized = {str(one.touches["pack"]) for one in hurt if one.code == "pack-wrong-size"}
        sizes = {pack: self._at.store.head(key_of_pack(pack)).size for pack in resized}
        self._write_down(hurt, sizes, recovered.damaged)
        mended += [_told(one, blocks, recovered) for one, blocks in zip(hurt, wanted, strict=True)]
        return True

    def _believe_again(self, findings: Sequence[Finding]) -> None:
        """Blocks that could not be read once, and can be, are not lost."""
        told = {one.touches.get("hash") for one in findings} | {one.touches.get("pack") for one in findings}
        retrieval = Retrieval(self._at.store, Metrics())
        for block in self._lost_blocks():
            if block.pack == LOST_PACK or block.hash in told or block.pack in told:
                continue
            with suppress(BlockError, ObjectArchived):
                retrieval.block(block)
                with self._at.filesystem.lock, self._at.filesystem.operation():
                    self._at.filesystem.index.blocks.mark_found(block.hash, block.pack)

    def _lost_blocks(self) -> list[BlockLocation]:
        with self._at.filesystem.lock:
            return self._at.filesystem.index.blocks.lost()

    def _write_down(self, hurt: Sequence[Finding], sizes: Mapping[str, int], damaged: Collection[str]) -> None:
        """What packs really are: how large, lost, or damaged, as snapshots go on naming what is missing in them."""

        def packs_of(*codes: str) -> set[str]:
            return {str(one.touches["pack"]) for one in hurt if one.code in codes}

        index = self._at.filesystem.index
        lost = packs_of("pack-missing", "snapshot-pack-missing")
        damaged = packs_of("pack-wrong-size", "block-damaged", "snapshot-pack-damaged") | set(damaged)
        with self._at.filesystem.lock, self._at.filesystem.operation():
            for pack in packs_of("pack-wrong-size"):
                index.repairs().set_pack_size(pack, sizes[pack])
            set_losses(index, known_losses(index) | lost)
            for pack in lost:
                index.blocks.mark_pack_lost(pack)
            set_losses(index, known_losses(index, DAMAGED) | damaged, DAMAGED)

    # -- snapshots

    def _put_aside(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        hurt = [one for one in findings if one.code in _SNAPSHOT_CODES]
        if not hurt:
            return
        self._at.publishing.check_fence()
        for snapshot in sorted({str(one.touches["snapshot"]) for one in hurt}):
            put_aside(self._at.archive, snapshot)
        self._forget_parent()
        mended += hurt

    def _give_up(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        """Nothing is kept any more for snapshots that the store denies."""
        denied = [one for one in findings if one.code == "snapshot-missing"]
        if denied:
            self._at.publishing.check_fence()
            self._at.archive.tracker.mark_deleted(str(one.touches["snapshot"]) for one in denied)
            mended += denied

    # -- epochs

    def _fill_places(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        """Puts other entries in the place of damaged ones of epochs."""
        hurt = [one for one in findings if one.code in (LOST_CLAIM, LOST_BASE)]
        if not hurt:
            return
        self._at.publishing.check_fence()
        archived: list[str] = []
        snapshots = self._at.archive.list(
            lambda one, error: archived.append(one) if isinstance(error, SnapshotArchived) else None
        )
        if archived:  # where a take-over went on from, they may tell
            hurt = [one for one in hurt if one.code != LOST_BASE]
        for one in hurt:
            put_key_aside(self._at.store, str(one.touches["object"]))
            fill_place(self._at.archive, one, snapshots)
        mended += hurt

    # -- staging

    def _drop_records(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        patient = self._patient()
        hurt = [one for one in findings if one.code in _RECORD_CODES]
        if not hurt or patient.staging is None:
            return
        folder, rows = patient.staging
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


def put_aside(archive: SnapshotArchive, snapshot: str) -> None:
    """Moves the manifest of a damaged snapshot to ``damaged/``; for who holds the claim. A second time is fine."""
    put_key_aside(archive.shelf.store, SnapshotEntry.key_of(snapshot))
    archive.tracker.mark_moved([snapshot])


def put_key_aside(store: ObjectStore, key: str) -> None:
    """The same for a damaged object of that key."""
    try:
        body = store.get(key)
    except ObjectMissing:
        return
    try:
        store.put_if_absent(DAMAGED_PREFIX + key, body)
    except ObjectExists:
        if store.get(DAMAGED_PREFIX + key) != body:
            raise
    store.delete_many([key])


def _told(finding: Finding, wanted: Collection[BlockHash], recovered: Recovered) -> Finding:
    """The finding with what became of its blocks."""
    if not wanted:
        return finding
    found, stored = len(recovered.found & set(wanted)), len(recovered.stored & set(wanted))
    lost = len(wanted) - found - stored
    parts = [(found, "found in packs"), (stored, "stored again from this machine"), (lost, "lost")]
    told = ", ".join(f"{count:,} {what}" for count, what in parts if count)
    detail = f"{finding.detail}; blocks: {told}" if finding.detail else f"blocks: {told}"
    return attrs.evolve(finding, detail=detail, lost=lost)


def _wanted(checker: IndexChecker, finding: Finding) -> dict[BlockHash, BlockLocation]:
    """The blocks that a finding hurts, with where the index has them."""
    if finding.code == "snapshot-pack-damaged":
        return {}
    if finding.code.startswith(("pack-", "snapshot-pack-")):
        places = [BlockLocation(*row) for row in checker.blocks_of(finding.touches["pack"])]
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


def _key(finding: Finding) -> tuple[str, str]:
    return finding.code, repr(sorted(finding.touches.items(), key=lambda item: item[0]))


def patient_of(premises: Premises, next_ordinal: int, *, is_live: bool, staging: Any = None) -> Patient:
    """The patient that an open volume is."""
    filesystem = premises.filesystem
    filesystem.complete_index()
    with filesystem.lock:
        losses = known_losses(filesystem.index)
        damages = known_losses(filesystem.index, DAMAGED)
    return Patient(
        index=filesystem.index.path,
        store=premises.store,
        archive=premises.archive,
        next_ordinal=next_ordinal,
        losses=losses,
        damages=damages,
        staging=staging,
        staging_folder=filesystem.staging.folder,
        is_live=is_live,
    )
