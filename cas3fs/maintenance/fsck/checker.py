# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of an index against itself and against the store's listing, of snapshots, and of staging.

Nothing is changed. Packs are compared with the index while they are listed, both by name, so that neither is held whole
in memory. A file system that is running does not look damaged by that: the index is read before the listing, and a pack
that is not listed is asked for by name.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from cas3fs.blockstore.pack_store import PackStore
from cas3fs.entries.kinds import PolicyEntry, SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import EntryError, IndexCorrupt, SnapshotArchived, SnapshotError, SnapshotMissing
from cas3fs.filesystem.state.quarantine import quarantined_items
from cas3fs.filesystem.state.recovery import damage_of, has_key
from cas3fs.index import LOST_PACK, PackContents, ordinal_of
from cas3fs.index.checks import QUERIES, IndexChecker
from cas3fs.index.scans import PackScan
from cas3fs.maintenance.context import ProgressCallback, ignore_progress
from cas3fs.maintenance.damaged_objects import QUARANTINED_SNAPSHOTS
from cas3fs.maintenance.fsck.epoch_repair import check_epochs
from cas3fs.maintenance.fsck.findings import MAX_PATHS, Finding
from cas3fs.maintenance.fsck.key_check import check_keys
from cas3fs.maintenance.fsck.target import FsckTarget
from cas3fs.maintenance.inventory import MAX_HELD, PackComparison, VolumeListing, list_volume, missing_snapshots
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.snapshots.pages import PAGES_MISSING
from cas3fs.snapshots.retention import current_policy, newest_policy_id

_BORN_IN_FUTURE: Final = "pack-born-in-future"
"""The defect whose query needs the ordinal of the next snapshot."""


class _PackMismatches:
    """Packs that are not listed, or are listed with another size; the first `MAX_HELD` of each."""

    def __init__(self) -> None:
        self.other_sizes: list[tuple[PackContents, int]] = []
        self.not_listed: list[PackContents] = []

    def listed(self, pack: PackContents, info: ObjectInfo) -> None:
        """Takes a pack of the index that is listed."""
        if info.size != pack.size and pack.used and len(self.other_sizes) < MAX_HELD:
            self.other_sizes.append((pack, info.size))

    def unlisted(self, pack: PackContents) -> None:
        """Takes a pack of the index that is not listed."""
        if len(self.not_listed) < MAX_HELD:
            self.not_listed.append(pack)


class Checker:
    """One check of a volume.

    Args:
        thorough: whether SQLite's check of the index compares the contents of its indexes too.

    Attributes:
        checked: what was read, for people: which index, and how many objects, packs and snapshots.
    """

    def __init__(
        self, target: FsckTarget, report: ProgressCallback = ignore_progress, *, thorough: bool = False
    ) -> None:
        self._target = target
        self._report = report
        self._thorough = thorough
        self.checked: dict[str, Any] = {"index": target.index_name}

    def run(self) -> list[Finding]:
        """Finds everything that is wrong, except for damaged bytes of blocks.

        Raises:
            StoreError: the store could not be listed.
            IndexDatabaseError: the index could not be read at all.
        """
        target = self._target
        if findings := self.index_damage():
            return findings
        self._report({"what": "listing"})
        mismatches = _PackMismatches()
        with PackScan(target.index) as scan:
            comparison = PackComparison(scan, listed=mismatches.listed, unlisted=mismatches.unlisted)
            listing = list_volume(target.store, comparison.add, scan)
            comparison.finish()
        self.checked |= {"objects": listing.count, "packs": listing.pack_count, "snapshots": len(listing.snapshots)}
        with IndexChecker(target.index) as index:
            findings = list(self.index_findings(index))
        # nobody reads the index while the store is asked, as the index's log would grow meanwhile
        readable: list[SnapshotInfo] = []
        self._report({"what": "checking snapshots"})
        findings += self._check_snapshots(listing, readable)
        target.archive.ids()  # asks by name for snapshots that a listing leaves out
        findings += [
            Finding("snapshot-missing", {"snapshot": one}) for one in missing_snapshots(target.archive, listing)
        ]
        findings += check_epochs(target.archive)
        findings += _check_policy(target.archive.shelf)
        if target.store.stored is not target.store:
            findings += check_keys(Shelf(target.store.stored))
        self._report({"what": "checking packs"})
        ordinals = [ordinal_of(one.number) for one in readable]
        known = {*target.lost_packs, LOST_PACK}
        needed = [pack.name for pack in mismatches.not_listed if _is_needed(pack, ordinals) and pack.name not in known]
        pack_store = PackStore(target.store)
        missing = {name for name in needed if not pack_store.exists(name)}
        with IndexChecker(target.index) as index:
            findings += self._check_packs(index, mismatches, ordinals, missing)
            findings += self._check_staging(index)
        findings += [_object_finding(info.key) for info in listing.unrecognized]
        return findings

    def index_damage(self) -> list[Finding]:
        """Checks the index by SQLite's own check."""
        self._report({"what": "checking the index"})
        with IndexChecker(self._target.index) as index:
            try:
                lines = index.integrity(self._thorough)
            except IndexCorrupt as error:
                lines = [str(error)]
        about = {"index": str(self._target.index)}
        return [Finding("index-damaged", about, detail="; ".join(lines))] if lines else []

    # -- the index

    def index_findings(self, index: IndexChecker) -> Iterator[Finding]:
        """Finds defects within the index."""
        for code in QUERIES:
            self._report({"what": f"checking for {code}"})
            values = [self._target.next_ordinal] if code == _BORN_IN_FUTURE else []
            defects = index.defects(code, *values)
            if code == "unreachable":
                defects = list(_one_of_each_cycle(defects))
            for defect in defects:
                if code == "inode-without-name" and defect["nlink"] == 0:
                    continue  # it was open when its last name was removed; the next mount removes it
                if code.startswith("pack-") and defect["pack"] == LOST_PACK:
                    continue
                if code == "block-out-of-pack" and defect["pack"] == LOST_PACK:
                    continue
                yield _index_finding(index, code, defect)

    def checksum_mismatches(self, index: IndexChecker) -> Iterator[Finding]:
        """Finds files whose chunks do not match their checksums."""
        code = "chunks-unlike-sums"
        self._report({"what": f"checking for {code}"})
        return (_index_finding(index, code, defect) for defect in index.defects(code))

    def link_counts(self) -> list[Finding]:
        """Finds wrong link counts."""
        with IndexChecker(self._target.index) as index:
            code = "wrong-link-count"
            return [_index_finding(index, code, defect) for defect in index.defects(code)]

    # -- the store

    def _check_packs(
        self, index: IndexChecker, mismatches: _PackMismatches, ordinals: Sequence[int], missing: Collection[str]
    ) -> Iterator[Finding]:
        for pack, size in mismatches.other_sizes:
            yield _pack_finding(index, "pack-wrong-size", pack, f"{size} bytes, not {pack.size}")
        for pack in mismatches.not_listed:
            if pack.name == LOST_PACK or not _is_needed(pack, ordinals):
                if pack.used:
                    yield _pack_finding(index, "known-loss", pack)
            elif pack.name in self._target.lost_packs:
                yield _pack_finding(index, "known-loss" if pack.used else "known-snapshot-loss", pack)
            elif pack.name in missing:
                yield _pack_finding(index, "pack-missing" if pack.used else "snapshot-pack-missing", pack)

    def _check_snapshots(self, listing: VolumeListing, readable: list[SnapshotInfo]) -> Iterator[Finding]:
        """Checks manifests and pages; appends the snapshots whose manifest can be read to `readable`."""
        archive = self._target.archive
        for snapshot in sorted(listing.snapshots):
            try:
                info = archive.load(snapshot)
            except SnapshotMissing:
                continue  # it was deleted since
            except SnapshotArchived as error:
                yield archived_finding(SnapshotEntry.key_of(snapshot), error)
                continue
            except SnapshotError as error:
                yield snapshot_finding("snapshot-damaged", snapshot, error)
                continue
            readable.append(info)
            sizes = {use.id: listing.pages[use.id].size for use in info.pages if use.id in listing.pages}
            for pages, fault in archive.lost_pages(info, sizes).items():
                about = {"snapshot": snapshot, "pages": pages}
                if fault == PAGES_MISSING:
                    yield Finding("pages-missing", about)
                else:
                    yield Finding("pages-wrong-size", about, fault)

    # -- staging

    def _check_staging(self, index: IndexChecker) -> Iterator[Finding]:
        if self._target.staging_folder is not None:
            for kept, reason in quarantined_items(self._target.staging_folder):
                yield Finding("staging-put-aside", {"file": str(kept)}, reason)
        if self._target.staging is None:
            return
        folder, rows = self._target.staging
        for row in rows.rows():
            if not has_key(row):
                yield Finding("staging-record-damaged", {"inode": str(row.inode), "seq": str(row.seq)}, damage_of(row))
                continue
            stored_seq = index.stored_seq(row.inode)
            if stored_seq is None or row.seq <= stored_seq:
                continue  # its data is stored, or its file is gone, and a crash came before the record was removed
            name = f"{row.inode:x}-{row.seq:x}"
            if damage := damage_of(row):
                code, detail = "staging-record-damaged", damage
            elif row.data is None and not (folder / name).is_file():
                code, detail = "staging-bytes-missing", f"there is no file {name}"
            elif row.lost:
                code, detail = "staging-bytes-lost", f"of {name}"
            else:
                continue
            paths = printable_paths([index.path_of(row.inode)])
            yield Finding(code, {"inode": row.inode, "seq": row.seq}, detail, paths, 1)


def _check_policy(shelf: Shelf) -> Iterator[Finding]:
    """Checks that the retention policy can be read."""
    try:
        current_policy(shelf)
    except EntryError as error:
        newest = newest_policy_id(shelf)
        yield Finding("policy-damaged", {"object": PolicyEntry.key_of(str(newest))}, str(error))


def _index_finding(index: IndexChecker, code: str, defect: dict[str, Any]) -> Finding:
    inode, block, pack = defect.get("inode"), defect.get("hash"), defect.get("pack")
    paths: list[bytes] = []
    count = 1
    ranges: tuple[tuple[int, int], ...] = ()
    if inode is not None and code not in ("name-without-inode", "name-in-no-folder"):
        paths = [index.path_of(inode)]
        if "offset" in defect:
            ranges = ((defect["offset"], defect["length"]),)
    elif "name" in defect:
        paths = [index.path_of(defect["parent"]) + b"/" + defect["name"]]
    elif block is not None:
        paths, count = paths_of_users(index, index.users_of_block(block))
    elif isinstance(pack, str):
        paths, count = paths_of_users(index, index.users_of_pack(pack))
    return Finding(code, defect, "", printable_paths(paths), count if paths else 0, ranges)


def _pack_finding(index: IndexChecker, code: str, pack: PackContents, detail: str = "") -> Finding:
    if pack.name == LOST_PACK:
        detail = "it stands for blocks that are in no pack"
    paths, count = paths_of_users(index, index.users_of_pack(pack.name))
    return Finding(code, {"pack": pack.name}, detail, printable_paths(paths), count)


def _is_needed(pack: PackContents, ordinals: Iterable[int]) -> bool:
    """Whether the volume, or one of the snapshots with these ordinals, needs the pack."""
    return pack.used or any(pack.born <= ordinal < (pack.died or ordinal + 1) for ordinal in ordinals)


def _one_of_each_cycle(unreachable: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One directory of each cycle among those that the root does not reach: once it has another parent, the others are
    reached through it."""
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
    """A finding on a snapshot, with the text of an error as its detail."""
    detail = str(error).removeprefix(f"snapshot {snapshot}: ")
    return Finding(code, {"snapshot": snapshot}, detail, repaired=repaired)


def archived_finding(key: str, error: object) -> Finding:
    """A finding on an object that cannot be read, as it was moved to an archive."""
    return Finding("object-archived", {"object": key}, str(error))


def _object_finding(key: str) -> Finding:
    return Finding("snapshot-put-aside" if key.startswith(QUARANTINED_SNAPSHOTS) else "object-unknown", {"object": key})


def paths_of_users(index: IndexChecker, users: Iterable[tuple[Any, ...]]) -> tuple[list[bytes], int]:
    """Paths of some of the files that use a block or a pack, and how many files there are."""
    inodes = list(dict.fromkeys(user[0] for user in users))
    return [index.path_of(inode) for inode in inodes[:MAX_PATHS]], len(inodes)


def printable_paths(paths: Sequence[bytes]) -> tuple[str, ...]:
    """Paths as text."""
    return tuple(path.decode(errors="backslashreplace") for path in paths[:MAX_PATHS])
