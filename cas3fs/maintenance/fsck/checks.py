# SPDX-License-Identifier: GPL-3.0-or-later
"""Checking: the index against itself and the store's listing, snapshots, staging. Nothing is changed.

Packs are compared with the index while they are listed, both by name, so that neither is held whole. A running file
system does not look damaged by that: what the index knows of packs is read before, and a pack that is not listed is
asked for by name.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.blockstore.pack_store import PackStore
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.errors import IndexCorrupt, SnapshotArchived, SnapshotError, SnapshotMissing
from cas3fs.filesystem.state.quarantine import quarantined_items
from cas3fs.filesystem.state.recovery import damage_of, has_key
from cas3fs.index import LOST_PACK, IndexChecker, PackEntry, PackScan, StagingIndex, ordinal_of
from cas3fs.index.checks import QUERIES
from cas3fs.maintenance.context import ProgressCallback, ignore_progress
from cas3fs.maintenance.fsck.epoch_repair import check_epochs
from cas3fs.maintenance.fsck.findings import MAX_PATHS, Finding
from cas3fs.maintenance.inventory import (
    MAX_HELD,
    QUARANTINED_SNAPSHOTS,
    PackComparison,
    VolumeListing,
    list_volume,
    missing_snapshots,
)
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.pages import PAGES_MISSING

NEEDS_NEXT: Final = "pack-born-in-future"


@attrs.frozen
class FsckTarget:
    """What is checked.

    next_ordinal: of the next snapshot.
    losses: packs that are known to be lost. damages: those known to be damaged in what only snapshots need.
    staging: folder and rows of staging, where no process works with them. staging_folder: the folder in any case.
    is_live: a file system may be at work on index and store.
    which: what index it is, for people.
    """

    index: Path
    store: ObjectStore
    archive: SnapshotArchive
    next_ordinal: int
    losses: frozenset[str] = frozenset()
    damages: frozenset[str] = frozenset()
    staging: tuple[Path, StagingIndex] | None = None
    staging_folder: Path | None = None
    is_live: bool = False
    which: str = "the local index"


class _PackMismatches:
    """Packs that the listing lacks, or has with another size; the first `MOST_TOLD` of each."""

    def __init__(self) -> None:
        self.other_sizes: list[tuple[PackEntry, int]] = []
        self.not_listed: list[PackEntry] = []

    def listed(self, pack: PackEntry, info: ObjectInfo) -> None:
        """A pack of the index, as it is listed."""
        if info.size != pack.size and pack.used and len(self.other_sizes) < MAX_HELD:
            self.other_sizes.append((pack, info.size))

    def unlisted(self, pack: PackEntry) -> None:
        """One that is not."""
        if len(self.not_listed) < MAX_HELD:
            self.not_listed.append(pack)


class Checker:
    """One check of a volume."""

    def __init__(
        self, target: FsckTarget, report: ProgressCallback = ignore_progress, *, thorough: bool = False
    ) -> None:
        self._of = target
        self._report = report
        self._thorough = thorough
        self.checked: dict[str, Any] = {"index": target.which}
        """What was looked at, for people."""

    def run(self) -> list[Finding]:
        """Everything that is wrong, but for the bytes of blocks.

        Raises:
            StoreError: the store could not be listed.
            IndexDatabaseError: the index could not be read at all.
        """
        if findings := self.damage():
            return findings
        self._report({"what": "listing"})
        amiss = _PackMismatches()
        with PackScan(self._of.index) as scan:
            comparison = PackComparison(scan, listed=amiss.listed, unlisted=amiss.unlisted)
            listing = list_volume(self._of.store, comparison.add)
            comparison.finish()
        self.checked |= {"objects": listing.count, "packs": listing.pack_count, "snapshots": len(listing.snapshots)}
        with IndexChecker(self._of.index) as index_checker:
            findings = list(self.index_findings(index_checker))
        # nobody reads the index while the store is asked: its log would grow meanwhile
        snapshots: list[SnapshotInfo] = []
        self._report({"what": "checking snapshots"})
        findings += self._snapshots(listing, snapshots)
        self._of.archive.ids()  # what a listing lacks is asked for by name
        findings += [
            Finding("snapshot-missing", {"snapshot": one}) for one in missing_snapshots(self._of.archive, listing)
        ]
        findings += check_epochs(self._of.archive)
        self._report({"what": "checking packs"})
        numbers = [ordinal_of(one.number) for one in snapshots]
        known = {*self._of.losses, LOST_PACK}
        needed = [pack.name for pack in amiss.not_listed if _is_needed(pack, numbers) and pack.name not in known]
        gone = {name for name in needed if self._is_gone(name)}
        with IndexChecker(self._of.index) as index_checker:
            findings += self._packs(index_checker, amiss, numbers, gone)
            findings += self._staging(index_checker)
        findings += [_of_object(info.key) for info in listing.unrecognized]
        return findings

    def damage(self) -> list[Finding]:
        """What SQLite finds wrong."""
        with IndexChecker(self._of.index) as index_checker:
            return self._damage_in(index_checker)

    def _damage_in(self, index_checker: IndexChecker) -> list[Finding]:
        self._report({"what": "checking the index"})
        try:
            lines = index_checker.integrity(self._thorough)
        except IndexCorrupt as error:
            lines = [str(error)]
        return [Finding("index-damaged", {"index": str(self._of.index)}, detail="; ".join(lines))] if lines else []

    # -- the index

    def index_findings(self, index_checker: IndexChecker) -> Iterator[Finding]:
        """What is wrong in the index with itself."""
        for code in QUERIES:
            self._report({"what": f"checking for {code}"})
            values = [self._of.next_ordinal] if code == NEEDS_NEXT else []
            defects = index_checker.defects(code, *values)
            if code == "unreachable":
                defects = list(_cycles(defects))
            for defect in defects:
                if code == "inode-without-name" and defect["nlink"] == 0:
                    continue  # open when its last name went; the next mount removes it
                if code.startswith("pack-") and defect["pack"] == LOST_PACK:
                    continue
                if code == "block-out-of-pack" and defect["pack"] == LOST_PACK:
                    continue
                yield self._of_index(index_checker, code, defect)

    def checksum_mismatches(self, index_checker: IndexChecker) -> Iterator[Finding]:
        """Files of which the index has other chunks than were entered."""
        code = "chunks-unlike-sums"
        self._report({"what": f"checking for {code}"})
        return (self._of_index(index_checker, code, defect) for defect in index_checker.defects(code))

    def link_counts(self) -> list[Finding]:
        """Link counts that are wrong."""
        with IndexChecker(self._of.index) as index_checker:
            code = "wrong-link-count"
            return [self._of_index(index_checker, code, defect) for defect in index_checker.defects(code)]

    @staticmethod
    def _of_index(index_checker: IndexChecker, code: str, defect: dict[str, Any]) -> Finding:
        inode, block, pack = defect.get("inode"), defect.get("hash"), defect.get("pack")
        paths: list[bytes] = []
        count = 1
        ranges: tuple[tuple[int, int], ...] = ()
        if inode is not None and code not in ("name-without-inode", "name-in-no-folder"):
            paths = [index_checker.path_of(inode)]
            if "offset" in defect:
                ranges = ((defect["offset"], defect["length"]),)
        elif "name" in defect:
            paths = [index_checker.path_of(defect["parent"]) + b"/" + defect["name"]]
        elif block is not None:
            paths, count = paths_of_users(index_checker, index_checker.users_of_block(block))
        elif isinstance(pack, str):
            paths, count = paths_of_users(index_checker, index_checker.users_of_pack(pack))
        return Finding(code, defect, "", printable_paths(paths), count if paths else 0, ranges)

    # -- the store

    def _packs(
        self, index_checker: IndexChecker, amiss: "_PackMismatches", numbers: Sequence[int], gone: Collection[str]
    ) -> Iterator[Finding]:
        for pack, size in amiss.other_sizes:
            yield self._of_pack(index_checker, "pack-wrong-size", pack, f"{size} bytes, not {pack.size}")
        for pack in amiss.not_listed:
            if pack.name == LOST_PACK or not _is_needed(pack, numbers):
                if pack.used:
                    yield self._of_pack(index_checker, "known-loss", pack)
            elif pack.name in self._of.losses:
                yield self._of_pack(index_checker, "known-loss" if pack.used else "known-snapshot-loss", pack)
            elif pack.name in gone:
                yield self._of_pack(index_checker, "pack-missing" if pack.used else "snapshot-pack-missing", pack)

    def _is_gone(self, name: str) -> bool:
        return not PackStore(self._of.store).exists(name)

    @staticmethod
    def _of_pack(index_checker: IndexChecker, code: str, pack: PackEntry, detail: str = "") -> Finding:
        if pack.name == LOST_PACK:
            detail = "which stands for blocks that are nowhere"
        paths, count = paths_of_users(index_checker, index_checker.users_of_pack(pack.name))
        return Finding(code, {"pack": pack.name}, detail, printable_paths(paths), count)

    # -- snapshots

    def _snapshots(self, listing: VolumeListing, good: list[SnapshotInfo]) -> Iterator[Finding]:
        for snapshot in sorted(listing.snapshots):
            try:
                info = self._of.archive.load(snapshot)
            except SnapshotMissing:
                continue  # it was deleted since
            except SnapshotArchived as error:
                yield archived_finding(SnapshotEntry.key_of(snapshot), error)
                continue
            except SnapshotError as error:
                yield snapshot_finding("snapshot-damaged", snapshot, error)
                continue
            good.append(info)
            sizes = {use.id: listing.pages[use.id].size for use in info.pages if use.id in listing.pages}
            for pages, fault in self._of.archive.lost_pages(info, sizes).items():
                about = {"snapshot": snapshot, "pages": pages}
                if fault == PAGES_MISSING:
                    yield Finding("pages-missing", about)
                else:
                    yield Finding("pages-wrong-size", about, fault)

    # -- staging

    def _staging(self, index_checker: IndexChecker) -> Iterator[Finding]:
        if self._of.staging_folder is not None:
            for kept, reason in quarantined_items(self._of.staging_folder):
                yield Finding("staging-put-aside", {"file": str(kept)}, reason)
        if self._of.staging is None:
            return
        folder, rows = self._of.staging
        for row in rows.rows():
            if not has_key(row):
                yield Finding("staging-record-damaged", {"inode": str(row.inode), "seq": str(row.seq)}, damage_of(row))
                continue
            stored_seq = index_checker.stored_seq(row.inode)
            if stored_seq is None or row.seq <= stored_seq:
                continue  # what it stood for is stored, or gone: a crash came before the record went, too
            name = f"{row.inode:x}-{row.seq:x}"
            about = {"inode": row.inode, "seq": row.seq}
            if damage := damage_of(row):
                path = index_checker.path_of(row.inode)
                yield Finding("staging-record-damaged", about, damage, printable_paths([path]), 1)
            elif row.data is None and not (folder / name).is_file():
                path = index_checker.path_of(row.inode)
                yield Finding("staging-bytes-missing", about, f"{name} is not there", printable_paths([path]), 1)
            elif row.lost:
                path = index_checker.path_of(row.inode)
                yield Finding("staging-bytes-lost", about, f"of {name}", printable_paths([path]), 1)


def _is_needed(pack: PackEntry, numbers: Iterable[int]) -> bool:
    """Whether the volume, or one of the snapshots of these numbers, needs the pack."""
    return pack.used or any(pack.born <= number < (pack.died or number + 1) for number in numbers)


def _cycles(unreachable: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One folder of each cycle among folders that the root does not reach: what hangs on it is reached with it."""
    by_inode = {one["inode"]: one for one in unreachable}
    done: set[int] = set()
    for start in sorted(by_inode):
        trail: list[int] = []
        at: int | None = start
        while at is not None and at in by_inode and at not in done and at not in trail:
            trail.append(at)
            at = by_inode[at]["parent"]
        if at in trail:
            yield by_inode[min(trail[trail.index(at) :])]
        done.update(trail)


def snapshot_finding(code: str, snapshot: str, error: object, *, repaired: bool = False) -> Finding:
    """What is wrong with a snapshot, as an error tells it."""
    detail = str(error).removeprefix(f"snapshot {snapshot}: ")
    return Finding(code, {"snapshot": snapshot}, detail, repaired=repaired)


def archived_finding(key: str, error: object) -> Finding:
    """What is told of an object that cannot be read as it lies in an archive."""
    return Finding("object-archived", {"object": key}, str(error))


def _of_object(key: str) -> Finding:
    return Finding("snapshot-put-aside" if key.startswith(QUARANTINED_SNAPSHOTS) else "object-unknown", {"object": key})


def paths_of_users(index_checker: IndexChecker, users: Iterable[tuple[Any, ...]]) -> tuple[list[bytes], int]:
    """Paths of some of the files that use something, and how many they are."""
    inodes = list(dict.fromkeys(user[0] for user in users))
    return [index_checker.path_of(inode) for inode in inodes[:MAX_PATHS]], len(inodes)


def printable_paths(paths: Sequence[bytes]) -> tuple[str, ...]:
    """Paths as they are told."""
    return tuple(path.decode(errors="backslashreplace") for path in paths[:MAX_PATHS])
