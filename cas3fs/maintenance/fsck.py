# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck: checks a volume, and mends it on demand. Nothing is deleted.

With a repair, in this order, each step complete in itself, so that a process that dies leaves what was mended before:

1. the index with itself, again and again until a check finds nothing that could be mended (`mending`); not while a
   file system is at work on it;
2. blocks that are not where they should be are found elsewhere, or written down as lost (`recovering`);
3. manifests that cannot be read, or whose pages are gone, are copied to ``damaged/`` and then taken away from where
   they stand; the next snapshot is stored whole, as what it would refer to may be damaged;
4. records of staging without their bytes are put aside in a file;
5. everything is checked once more: what is still wrong was not mended.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.caches.base import BlockCache
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import ObjectExists
from cas3fs.index import Checker
from cas3fs.maintenance.base import Premises, Report, silent
from cas3fs.maintenance.checking import Checkup, Patient, path_texts, paths_of_users
from cas3fs.maintenance.findings import Finding, status_of
from cas3fs.maintenance.losses import known_losses, set_losses
from cas3fs.maintenance.mending import Mender
from cas3fs.maintenance.recovering import Recoverer
from cas3fs.maintenance.survey import DAMAGED_PREFIX, take_listing
from cas3fs.maintenance.verifying import Bookmark, Verified, Verifier, hashes
from cas3fs.values import BlockHash, BlockLocation

MOST_ROUNDS: Final = 8
_SNAPSHOT_CODES: Final = ("snapshot-damaged", "pages-missing", "pages-wrong-size", "snapshot-unreadable")
_log = logging.getLogger(__name__)


@attrs.frozen
class FsckSettings:
    """What is checked, and whether it is mended."""

    repair: bool = False
    verify_data: bool = False
    max_duration_s: float | None = None


@attrs.frozen
class FsckResult:
    """What was found; `status` is that of fsck(8)."""

    findings: tuple[Finding, ...]
    verified: Verified | None

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
        }


def check(patient: Patient, settings: FsckSettings, bookmark: Bookmark, report: Report = silent) -> FsckResult:
    """Checks, and changes nothing.

    Raises:
        StoreError, IndexDatabaseError, OSError: the check could not be done.
    """
    findings = Checkup(patient, report, thorough=settings.verify_data).run()
    if not settings.verify_data or any(one.code == "index-damaged" for one in findings):
        return FsckResult(tuple(findings), None)
    verified = Verifier(patient.store, bookmark, report).run(patient.index, settings.max_duration_s)
    with Checker(patient.index) as checker:
        known = {one.touches.get("pack") for one in findings}
        findings += [one for one in _damaged(checker, verified) if one.touches["pack"] not in known | patient.losses]
    return FsckResult(tuple(findings), verified)


def _damaged(checker: Checker, verified: Verified) -> Iterable[Finding]:
    for block in hashes(verified):
        row = checker.locate(block)
        users = checker.users_of_block(block)
        if row is None or not users:
            continue  # it went since
        paths, count = paths_of_users(checker, users)
        ranges = tuple((offset, length) for _, offset, length in users[:50])
        about = {"hash": block, "pack": row[1], "offset": row[2], "plain_length": row[4]}
        yield Finding("block-damaged", about, "", path_texts(paths), count, ranges)


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
            self._mend(mended)
        first = check(self._patient(), settings, self._bookmark, self._report)
        self._recover(first.findings, mended)
        self._put_aside(first.findings, mended)
        self._drop_records(first.findings, mended)
        self._at.filesystem.commit()
        last = check(self._patient(), attrs.evolve(settings, verify_data=False), self._bookmark, self._report)
        left = list(last.findings)
        if first.verified is not None:
            fixed = {_key(one) for one in mended}
            left += [one for one in first.findings if one.code == "block-damaged" and _key(one) not in fixed]
        still = {_key(one) for one in left}
        repaired = [attrs.evolve(one, repaired=True) for one in mended if _key(one) not in still]
        return FsckResult((*repaired, *left), first.verified)

    # -- the index

    def _mend(self, mended: list[Finding]) -> None:
        filesystem = self._at.filesystem
        for _ in range(MOST_ROUNDS):
            filesystem.commit()
            patient = self._patient()
            with Checker(patient.index) as checker:
                found = list(Checkup(patient, self._report).index_findings(checker))
            with filesystem.lock:
                done = Mender(filesystem.index, patient.next_ordinal).mend(found)
            if not done:
                return
            filesystem.commit()
            mended += done

    # -- blocks

    def _recover(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        hurt = [one for one in findings if one.code in _BLOCK_CODES]
        if not hurt:
            return
        wanted: dict[BlockHash, BlockLocation] = {}
        with Checker(self._at.filesystem.index.path) as checker:
            for one in hurt:
                wanted.update(_wanted(checker, one))
        patient = self._patient()
        rows = None if patient.staging is None else patient.staging[1]
        listing = take_listing(self._at.store)
        recovered = Recoverer(self._at, listing, self._cache, rows, self._report).recover(wanted)
        _log.info("blocks looked for: %s", recovered)
        self._write_down(hurt, {name: info.size for name, info in listing.packs.items()})
        mended += hurt

    def _write_down(self, hurt: Sequence[Finding], sizes: Mapping[str, int]) -> None:
        """What packs really are: how large, or lost, as snapshots may need one of which nothing else is missing."""
        index = self._at.filesystem.index
        with self._at.filesystem.lock, self._at.filesystem.operation():
            for one in hurt:
                pack = str(one.touches.get("pack") or "")
                if one.code == "pack-wrong-size":
                    index.repairs().set_pack_size(pack, sizes[pack])
                elif one.code in ("pack-missing", "snapshot-pack-missing"):
                    set_losses(index, known_losses(index) | {pack})

    # -- snapshots

    def _put_aside(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        hurt = [one for one in findings if one.code in _SNAPSHOT_CODES]
        if not hurt:
            return
        self._at.publishing.check_fence()
        for snapshot in sorted({str(one.touches["snapshot"]) for one in hurt}):
            key = SnapshotEntry.key_of(snapshot)
            body = self._at.store.get(key)
            try:
                self._at.store.put_if_absent(DAMAGED_PREFIX + key, body)
            except ObjectExists:
                if self._at.store.get(DAMAGED_PREFIX + key) != body:
                    raise
            self._at.store.delete_many([key])
        self._forget_parent()
        mended += hurt

    # -- staging

    def _drop_records(self, findings: Sequence[Finding], mended: list[Finding]) -> None:
        patient = self._patient()
        hurt = [one for one in findings if one.code == "staging-bytes-missing"]
        if not hurt or patient.staging is None:
            return
        folder, rows = patient.staging
        keys = {(one.touches["inode"], one.touches["seq"]) for one in hurt}
        with open(Path(folder) / "records-put-aside.json", "a") as file:
            for row in rows.rows():
                if (row.inode, row.seq) in keys:
                    told = row._asdict() | {"ranges": row.ranges.hex(), "data": None}
                    file.write(json.dumps(told) + "\n")
        rows.delete(keys)
        rows.commit()
        mended += hurt


_BLOCK_CODES: Final = (
    "pack-missing",
    "snapshot-pack-missing",
    "pack-wrong-size",
    "block-without-pack",
    "block-out-of-pack",
    "block-damaged",
)


def _wanted(checker: Checker, finding: Finding) -> dict[BlockHash, BlockLocation]:
    """The blocks that a finding hurts, with where the index has them."""
    if finding.code.startswith(("pack-", "snapshot-pack-")):
        places = [BlockLocation(*row) for row in checker.blocks_of(finding.touches["pack"])]
        return {place.hash: place for place in places}
    block = BlockHash(finding.touches["hash"])
    pack = finding.touches.get("pack") or ""
    return {block: BlockLocation(block, pack, 0, 1, finding.touches["plain_length"])}


def _key(finding: Finding) -> tuple[str, str]:
    return finding.code, repr(sorted(finding.touches.items(), key=lambda item: item[0]))


def patient_of(premises: Premises, next_ordinal: int, *, is_live: bool, staging: Any = None) -> Patient:
    """The patient that an open volume is."""
    filesystem = premises.filesystem
    filesystem.commit()
    with filesystem.lock:
        losses = known_losses(filesystem.index)
    return Patient(
        index=filesystem.index.path,
        store=premises.store,
        archive=premises.archive,
        next_ordinal=next_ordinal,
        losses=losses,
        staging=staging,
        is_live=is_live,
    )
