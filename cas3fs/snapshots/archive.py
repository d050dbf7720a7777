# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive: finds, lists, creates, restores and deletes the snapshots of a volume.

`snapshot_writer` creates snapshots, `snapshot_reader` restores them, and `manifest_reader` reads manifests. This module
finds snapshots: it combines a listing, the snapshots that are known from elsewhere (`tracker`), and the bases that show
which snapshots have diverged (`divergence`).

Thread-safe.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cas3fs.entries.kinds import PagesEntry, SnapshotEntry
from cas3fs.entries.shelf import ListedEntry, Shelf
from cas3fs.errors import DeleteFailed, SnapshotError
from cas3fs.snapshots.divergence import TakeoverBases, is_diverged, may_be_diverged, newest_undiverged
from cas3fs.snapshots.image import FileImage, Image
from cas3fs.snapshots.manifest_reader import ManifestReader, OnDamagedManifest
from cas3fs.snapshots.manifests import (
    UNKNOWN_ORIGIN,
    CopiedSnapshot,
    SnapshotInfo,
    SnapshotOrigin,
    check_snapshot_id,
    local_disk_errors,
    snapshots_named_by,
    snapshots_of_pages,
)
from cas3fs.snapshots.pages import PART_BYTES, find_lost_pages
from cas3fs.snapshots.snapshot_reader import RestoreProgress, SnapshotReader
from cas3fs.snapshots.snapshot_writer import SnapshotWriter
from cas3fs.snapshots.tracker import SnapshotTracker
from cas3fs.snapshots.tree import LIST_LENGTH, SEGMENT_BYTES, SegmentReference
from cas3fs.values import SnapshotNumber

LOOKUP_AHEAD: Final = 16
"""How many numbers after the last known one of an unreleased epoch are looked up: failed attempts use up numbers."""


class SnapshotArchive:
    """Snapshots of one volume.

    Args:
        shelf: the volume's entries.
        workers: how many requests run in parallel.
        segment_size: of new snapshots, in bytes.
        list_length: of new snapshots; segments in a list.
        part_bytes: the greatest length of a pages object.
        now: the clock.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        workers: int = 8,
        segment_size: int = SEGMENT_BYTES,
        list_length: int = LIST_LENGTH,
        part_bytes: int = PART_BYTES,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._shelf = shelf
        self._manifests = ManifestReader(shelf, workers)
        self._reader = SnapshotReader(shelf.store, self._manifests, workers)
        self._expected_head: str | None = None
        self.tracker = SnapshotTracker(shelf.store, workers)
        self.bases = TakeoverBases(shelf)
        self._writer = SnapshotWriter(
            shelf,
            self._manifests,
            self._reader,
            self.tracker,
            segment_size=segment_size,
            list_length=list_length,
            part_bytes=part_bytes,
            now=now,
        )

    @property
    def shelf(self) -> Shelf:
        """The entries of the volume."""
        return self._shelf

    def create(
        self,
        image: Path | Image,
        *,
        epoch: int,
        sequence: int,
        parent: str | None = None,
        name: str | None = None,
        facts: Mapping[str, int] | Callable[[], Mapping[str, int]] | None = None,
        restored: str | None = None,
        origin: SnapshotOrigin = UNKNOWN_ORIGIN,
        bypassed: Iterable[str] = (),
        copied: CopiedSnapshot | None = None,
    ) -> SnapshotInfo:
        """Store a snapshot of an image of the index. Uses temporary files beside it.

        Args:
            image: the image, or a file that does not change meanwhile.
            epoch, sequence: the snapshot's number, which must not have been used before.
            parent: id of the previous head; what it has, and the store still has, is not stored again.
            name: the name of the snapshot, if it has one.
            facts: numbers to be recorded with the snapshot, or what returns them when all else is stored; one that is
                too large is recorded as the largest possible.
            restored: id of an older snapshot from which the file comes, instead of the parent.
            origin: where the file comes from.
            bypassed: ids of damaged snapshots from which the file should have descended.
            copied: the snapshot of another volume that this one is a copy of; it has the same time.

        Raises:
            ObjectExists: an earlier attempt used this number.
            SnapshotMissing, SnapshotDamaged, SnapshotArchived: the parent's manifest cannot be read.
            SnapshotError: the local disk failed.
            PinLost: the image was lost.
            StoreError: the store failed. The snapshot may or may not exist; another attempt uses what this one stored.
        """
        with local_disk_errors("snapshot"):
            opened = FileImage(image) if isinstance(image, Path) else nullcontext(image)
        with opened as bytes_of_index:
            return self._writer.create(
                bytes_of_index,
                SnapshotNumber(epoch, sequence),
                parent=parent,
                name=name,
                facts=facts if callable(facts) else lambda: facts or {},
                restored=restored,
                origin=origin,
                bypassed=bypassed,
                copied=copied,
            )

    def ids(self) -> list[str]:
        """Return the ids of all snapshots, ascending: those listed, and others that are known to exist.

        Raises:
            VolumeFormatError: an object among the snapshots has no valid name.
            StoreError: the store failed.
        """
        return [one.id for one in self._list()]

    def _list(self) -> list[ListedEntry]:
        found = list(self._shelf.list_entries(SnapshotEntry))
        for one in found:
            check_snapshot_id(one.id)
        return sorted(self.tracker.complete_listing(found), key=lambda one: SnapshotNumber.parse(one.id))

    def newest(self) -> SnapshotInfo | None:
        """Return the head; None if there is no snapshot. Raises as `load` does."""
        found = self.newest_id()
        return self.load(found) if found is not None else None

    def newest_id(self) -> str | None:
        """Return the id of the head without reading its manifest; the expected head may be lost."""
        newest = (newest_undiverged(self.ids(), self.bases.all()), self._expected_head)
        return max((one for one in newest if one is not None), key=SnapshotNumber.parse, default=None)

    def set_expected_head(self, snapshot_id: str | None) -> None:
        """Set the snapshot that was the head when its writer released the volume; None if it is not known.

        No older snapshot is the head then, even if that one cannot be found.
        """
        self._expected_head = snapshot_id
        if snapshot_id is not None:
            self.tracker.add([check_snapshot_id(snapshot_id)])

    def expect_at_least(self, snapshot_id: str) -> None:
        """Expect that snapshot as the head, unless it has diverged, or a newer one is expected.

        Raises:
            StoreError: the store failed.
        """
        expected = [one for one in (snapshot_id, self._expected_head) if one is not None]
        if not self.diverged([snapshot_id]):
            self.set_expected_head(max(expected, key=SnapshotNumber.parse))

    def find_unlisted_of_epoch(self, epoch: int) -> bool:
        """Find all snapshots of an epoch that was not released, even if the listing lacks them.

        Looks up by name the numbers that follow the last known one, and the snapshots whose pages entries exist, which
        are stored before the manifest.

        Returns:
            Whether there is any snapshot of that epoch.

        Raises:
            StoreError: the store failed.
        """
        known = [one.sequence for one in map(SnapshotNumber.parse, self.ids()) if one.epoch == epoch]
        last = SnapshotNumber(epoch, max(known, default=0))
        named = snapshots_of_pages(one.id for one in self._shelf.list_entries(PagesEntry, start_after=str(last)))
        candidates = {one for one in map(SnapshotNumber.parse, named) if one.epoch == epoch and one > last}
        while True:
            candidates |= {SnapshotNumber(epoch, last.sequence + step) for step in range(1, LOOKUP_AHEAD + 1)}
            found = self.tracker.find_unlisted([str(one) for one in candidates])
            if not found:
                return last.sequence > 0
            last, candidates = max(SnapshotNumber.parse(one.id) for one in found), set()

    def diverged(self, ids: Sequence[str] | None = None) -> frozenset[str]:
        """Return the ids of snapshots, or of those among `ids`, that have diverged.

        They are never the head, and only a person deletes them.
        """
        bases = self.bases.all()
        among = self.ids() if ids is None else ids
        return frozenset(one for one in among if is_diverged(SnapshotNumber.parse(one), bases))

    def possibly_diverged(self, ids: Sequence[str]) -> frozenset[str]:
        """Return those among `ids` that have diverged, or that may have because a base cannot be read."""
        bases = self.bases.all()
        return frozenset(one for one in ids if may_be_diverged(SnapshotNumber.parse(one), bases))

    def newest_intact_before(self, snapshot_id: str) -> str | None:
        """Return the newest undiverged snapshot before that one whose manifest and pages entries are all there.

        Raises:
            StoreError: the store failed.
        """
        diverged = self.diverged()
        for one in reversed([each for each in self.ids() if each < snapshot_id and each not in diverged]):
            with suppress(SnapshotError):
                if not self.lost_pages(self.load(one)):
                    return one
        return None

    def list(
        self, on_damaged: OnDamagedManifest | None = None, *, pages: Iterable[str] | None = None
    ) -> list[SnapshotInfo]:
        """Return all snapshots, ascending; makes one LIST, and a GET for each manifest that was not read before.

        Args:
            on_damaged: called for each manifest that cannot be read, which is then left out; without it, that raises.
            pages: ids of the pages entries in the store. Given these, every snapshot that they or a manifest name is
                looked up once: for a caller that deletes what nothing refers to.
        """
        listed = self._list()
        if pages is not None:
            listed += self.tracker.find_unlisted(snapshots_of_pages(pages))
        infos = self._manifests.load_all(listed, on_damaged)
        naming = infos if pages is not None else []
        while found := self.tracker.find_unlisted(snapshots_named_by(naming)):
            naming = self._manifests.load_all(found, on_damaged)
            listed += found
            infos += naming
        self._manifests.keep(sorted(one.id for one in listed))
        return sorted(infos, key=lambda info: info.number)

    def load(self, snapshot_id: str) -> SnapshotInfo:
        """Read the manifest of a snapshot.

        Raises:
            SnapshotMissing: there is no such snapshot.
            SnapshotDamaged: its manifest cannot be read.
            SnapshotArchived: an object of it must first be restored from an archive tier of the store; every method
                that reads a snapshot may raise this.
            StoreError: the store failed.
        """
        return self._manifests.load(snapshot_id)

    def restore(
        self,
        snapshot_id: str,
        destination: Path,
        progress: RestoreProgress | None = None,
        *,
        local: Iterable[Path] = (),
    ) -> SnapshotInfo:
        """Write the file of a snapshot to `destination`, which must not exist; every segment is verified.

        On failure nothing is left. The file is not synced: the caller changes it and syncs it when it is in place.

        Args:
            snapshot_id: the snapshot.
            destination: the file to make.
            progress: called as segments are written.
            local: indexes of the volume on this machine, perhaps of another time, or missing: segments that they have
                are not read from the store.

        Raises:
            SnapshotMissing: there is no such snapshot.
            SnapshotDamaged: a byte of it is missing or wrong.
            SnapshotError: the local disk failed.
            StoreError: the store failed.
        """
        return self._reader.restore(snapshot_id, destination, progress, local)

    def verify(self, snapshot_id: str, seen: set[SegmentReference]) -> None:
        """Read back all objects of a snapshot, except segments in `seen`; add those that were read to it.

        Raises:
            SnapshotMissing: there is no such snapshot.
            SnapshotDamaged: a byte of it is missing or wrong.
            StoreError: the store failed.
        """
        self._reader.verify(snapshot_id, seen)

    def delete(self, snapshot_ids: Iterable[str]) -> None:
        """Delete the manifests of these snapshots, if they exist. Then the snapshots no longer exist.

        Pages entries stay: `removal` decides which of them are deleted, and whether that is allowed.

        Raises:
            VolumeFormatError: an id is not valid.
            DeleteFailed: some are left; deleting again is safe.
        """
        ids = [check_snapshot_id(one) for one in snapshot_ids]
        self.tracker.mark_deleted(ids)  # first: if the store fails, it is unknown which are left
        try:
            self._shelf.store.delete_many([SnapshotEntry.key_of(one) for one in ids])
        except DeleteFailed as error:
            left = {key.removeprefix(SnapshotEntry.prefix()) for key in error.keys} or set(ids)
            self.tracker.mark_undeleted(left)
            raise

    def lost_pages(self, snapshot: SnapshotInfo, listed: Mapping[str, int] | None = None) -> dict[str, str]:
        """Return the pages entries of a snapshot that are missing, or have a wrong size: the reason by id.

        Args and errors as in `find_lost_pages`.
        """
        return find_lost_pages(self._shelf.store, snapshot.pages, listed)

    def stored_bytes(self) -> int:
        """Return the size of all snapshots in the store, manifests and pages; makes at least two LISTs."""
        return sum(one.size for kind in (SnapshotEntry, PagesEntry) for one in self._shelf.list_entries(kind))

    def known_bytes(self, snapshots: Iterable[SnapshotInfo]) -> int:
        """Return the size of these snapshots in the store as far as this process knows; makes no request."""
        infos = list(snapshots)
        pages = {use.id: use.total_size for info in infos for use in info.pages}
        return sum(pages.values()) + self._manifests.size_bytes(info.id for info in infos)
