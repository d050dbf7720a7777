# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying a volume into another one.

How each kind of object is copied is described in `cas3fs.copying`. Here both volumes are opened, the destination is
claimed as by any writer, and what belongs to a volume beside its snapshots is copied: its retention policy. Epochs,
keys, the label and the parameters of ``mkfs`` are not.

A destination is a volume without snapshots and packs, or one that an earlier run has begun to fill from the same
source: it has ``copies/00000001``, which names the source, and only snapshots that are copies. Anything else is refused
before it is claimed. Copies are published in the order of their originals; so a snapshot that is older than the newest
one that was copied cannot be added.

On this machine the snapshot that is being copied is marked as in use, as by a mount that shows it: a mount of the
source does not prune it.

If the previous epoch of the destination was not released, it is released at the end all the same unless an index or
staged data lies in the state directory: an interrupted copy leaves nothing that the store would miss.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from cas3fs.blockstore.pack_store import PACKS_PREFIX
from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Progress
from cas3fs.copying.progress import CopyProgress
from cas3fs.copying.snapshots import SnapshotCopier
from cas3fs.copying.source import CopySource, SnapshotGone
from cas3fs.copying.target import CopyTarget, Destination
from cas3fs.copying.verify import CopyVerifier, Verified
from cas3fs.entries.kinds import CopyEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs
from cas3fs.errors import (
    Fenced,
    ObjectMissing,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    StateConflict,
    UsageError,
    VolumeExists,
)
from cas3fs.index.ledger import CopyLedger
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo, SnapshotOrigin
from cas3fs.snapshots.retention import current_policy, newest_policy_id, set_policy
from cas3fs.snapshots.selection import find_snapshot
from cas3fs.values import SnapshotNumber
from cas3fs.volume.comparison import LINEAGE
from cas3fs.volume.handover import expect_released_head, release
from cas3fs.volume.loading import StoredVolume, open_volume
from cas3fs.volume.location import find_state_directory
from cas3fs.volume.offline_writer import OfflineWriter, open_offline_writer
from cas3fs.volume.state_directory import ViewDirectory

DEFAULT_REQUESTS: Final = 8
_ENTRY_ID: Final = "00000001"
_GONE: Final = "its writer deleted it while it was copied"

_log = logging.getLogger(__name__)


@attrs.frozen
class CopyRequest:
    """What is to be copied.

    Attributes:
        snapshots: selectors (`cas3fs.snapshots.selection`); if there are none, all.
        newest: only the newest one.
        verify: read everything back, and compare.
        take_over: claim the destination although another writer has not released it.
        requests: how many requests may run in parallel, to each store.
    """

    snapshots: tuple[str, ...] = ()
    newest: bool = False
    verify: bool = False
    take_over: bool = False
    requests: int = DEFAULT_REQUESTS


@attrs.define
class CopyResult:
    """What a copy has done; `problems` has a sentence about each thing that failed."""

    source: str
    destination: str
    snapshots: list[dict[str, Any]] = attrs.field(factory=list)
    already_copied: int = 0
    skipped: list[dict[str, str]] = attrs.field(factory=list)
    policy_copied: bool = False
    read_bytes: int = 0
    stored_bytes: int = 0
    lost_blocks: int = 0
    """In the snapshot that has the most."""
    seconds: float = 0.0
    verified: Verified | None = None
    problems: list[str] = attrs.field(factory=list)

    def skip(self, snapshot_id: str, why: str) -> None:
        """A snapshot is not copied."""
        self.skipped.append({"id": snapshot_id, "why": why})


def copy_volume(
    source: StoreSettings, destination: StoreSettings, folders: LocalFolders, request: CopyRequest, progress: Progress
) -> CopyResult:
    """Copies snapshots of a volume into another one.

    Raises:
        UsageError: both are one volume, or a snapshot cannot be added any more.
        VolumeMissing, VolumeFormatError, KeysError: one of them cannot be opened.
        VolumeExists: the destination holds something else.
        SnapshotMissing: there is no such snapshot, or it was deleted meanwhile.
        EpochHeld, StateInUse, StateConflict: the destination cannot be claimed.
        Fenced: another writer has taken over the destination.
        StoreError, IndexDatabaseError, OSError: a store or the local disk failed; copying again continues.
    """
    began_s = time.monotonic()
    source, destination = (_with_requests(one.recorded_in(folders), request.requests) for one in (source, destination))
    with ExitStack() as resources:
        opened = resources.enter_context(closing(open_volume(source, Metrics())))
        _check_place(opened, destination)
        copied = CopySource(opened.store, opened.entry, request.requests)
        resources.enter_context(closing(copied))
        result = CopyResult(opened.store.url, destination.url)
        chosen = _choose(copied, request, result)
        writer = resources.enter_context(_claimed(destination, folders, opened, request))
        view = ViewDirectory.make(find_state_directory(folders, str(opened.entry.uuid), source))
        resources.enter_context(closing(view))
        run = _Run(copied, writer, view, request=request, result=result, progress=CopyProgress(progress))
        run.copy(chosen)
        if request.verify:
            run.verify(chosen)
    result.seconds = time.monotonic() - began_s
    return result


def _with_requests(settings: StoreSettings, requests: int) -> StoreSettings:
    return attrs.evolve(settings, max_concurrency=max(settings.max_concurrency, 2 * requests))


def _check_place(source: StoredVolume, destination: StoreSettings) -> None:
    """Refuses a destination that is the source, or holds something else; nothing is written."""
    with closing(open_volume(destination, Metrics())) as opened:
        if opened.entry.uuid == source.entry.uuid:
            raise UsageError(
                f"{opened.store.url} is the volume that is to be copied, or has its identity: `cas3fs mkfs` makes a "
                "destination"
            )
        _check_content(opened.store.url, SnapshotArchive(Shelf(opened.store)), source)


def _check_content(url: str, archive: SnapshotArchive, source: StoredVolume) -> bool:
    """Refuses a destination that holds anything but a copy of the source; returns whether it was begun.

    Raises:
        VolumeExists: it holds something else.
        SnapshotDamaged, EntryError, StoreError: it cannot be read.
    """
    begun = _begun(archive.shelf)
    if begun is not None and begun.source != source.entry.uuid:
        raise VolumeExists(f"{url} holds a copy of another volume, {begun.source}: give a new volume")
    foreign = next((one.id for one in archive.list() if begun is None or one.copied is None), None)
    if foreign is None and begun is None:
        foreign = next((one.key for one in archive.shelf.store.list(PACKS_PREFIX)), None)
    if foreign is not None:
        raise VolumeExists(
            f"{url} is in use, and no copy of {source.store.url}: it has {foreign}; give a volume that `cas3fs mkfs` "
            "has just made"
        )
    return begun is not None


def _begun(shelf: Shelf) -> CopyEntry | None:
    """The entry that marks a volume as a copy, or None; it is read by its name, as a listing may lack it."""
    try:
        return shelf.load(CopyEntry, _ENTRY_ID)
    except ObjectMissing:
        return None


def _copies(archive: SnapshotArchive) -> dict[str, SnapshotInfo]:
    """The copies in a destination, by the ids of their originals; those of a writer that was taken over count for
    nothing."""
    found = archive.list()
    diverged = archive.diverged([one.id for one in found])
    return {one.copied: one for one in found if one.copied is not None and one.id not in diverged}


def _choose(source: CopySource, request: CopyRequest, result: CopyResult) -> list[SnapshotInfo]:
    """The snapshots that are to be copied, oldest first.

    Raises:
        SnapshotMissing, SnapshotDamaged: one that was asked for is not there, or cannot be read.
        StoreError: the store failed.
    """
    archive, entry = source.archive, source.entry
    newest = Epochs(archive.shelf, conditional_writes=entry.conditional_writes).newest()
    expect_released_head(archive, newest)
    if request.snapshots:
        wanted = {find_snapshot(archive, one) for one in request.snapshots}
        return [archive.load(one) for one in sorted(wanted, key=SnapshotNumber.parse)]
    if request.newest:
        head = archive.newest()
        return [] if head is None else [head]

    def skip(snapshot_id: str, error: SnapshotError) -> None:
        _skip_damaged(result, snapshot_id, error)

    found = archive.list(skip)
    diverged = archive.diverged([one.id for one in found])
    for one in sorted(diverged):
        result.skip(one, "a writer published it after another had taken over, so it is not part of the volume")
    return [one for one in found if one.id not in diverged]


def _skip_damaged(result: CopyResult, snapshot_id: str, error: Exception) -> None:
    result.skip(snapshot_id, str(error))
    result.problems.append(f"snapshot {snapshot_id} was not copied: {error}")


@contextmanager
def _claimed(
    settings: StoreSettings, folders: LocalFolders, source: StoredVolume, request: CopyRequest
) -> Iterator[OfflineWriter]:
    """The destination, claimed and marked as a copy of the source."""
    with open_offline_writer(settings, folders, take_over=request.take_over) as writer:
        state, archive = writer.state, writer.archive
        holds_changes = state.index.exists() or state.has_staged()
        if not writer.after_release and holds_changes:
            raise StateConflict(
                f"the last mount of {settings.url} on this machine did not end well, and may hold changes that are not "
                "stored yet: mount and unmount it here first"
            )
        try:
            if not _check_content(settings.url, archive, source):
                archive.shelf.save(CopyEntry(id=_ENTRY_ID, source=source.entry.uuid, started=datetime.now(UTC)))
            state.copy_work.mkdir(exist_ok=True, mode=0o700)
            yield writer
        finally:
            if not writer.after_release and writer.epochs.is_newest(writer.claim):
                release(writer.epochs, writer.claim, archive, archive.newest_id())


class _Run:
    """One run of the command."""

    def __init__(
        self,
        source: CopySource,
        writer: OfflineWriter,
        view: ViewDirectory,
        *,
        request: CopyRequest,
        result: CopyResult,
        progress: CopyProgress,
    ) -> None:
        self._source, self._writer, self._view = source, writer, view
        self._request, self._result, self._progress = request, result, progress
        self._lineage = uuid.uuid4()
        self._destination = Destination(
            writer.archive.shelf.store,
            writer.volume,
            writer.archive,
            writer.claim.epoch,
            SnapshotOrigin(self._lineage, writer.claim.uuid),
            request.requests,
        )
        self._copies = _copies(writer.archive)

    def copy(self, chosen: Sequence[SnapshotInfo]) -> None:
        """Copies the policy, and then the snapshots that are not copied yet."""
        self._copy_policy()
        missing = self._missing(chosen)
        self._result.already_copied = sum(one.id in self._copies for one in chosen)
        if not missing:
            return
        with closing(CopyTarget(self._destination, self._writer.state.copy_work, self._pair)) as target:
            target.set_texts({LINEAGE: str(self._lineage)})
            copier = SnapshotCopier(self._source, target, self._view.index, self._progress, self._check_fence)
            try:
                for number, info in enumerate(missing, 1):
                    self._progress.of_snapshot(number, len(missing))
                    self._copy_snapshot(copier, info, is_last=number == len(missing))
            finally:
                self._result.read_bytes = self._progress.read_bytes
                self._result.stored_bytes = target.stored_bytes

    @property
    def _pair(self) -> str:
        return f"{self._source.entry.uuid} {self._destination.entry.uuid}"

    def _missing(self, chosen: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
        """Those that are not copied, and can be."""
        newest = max(map(SnapshotNumber.parse, self._copies), default=None)
        missing = [one for one in chosen if one.id not in self._copies]
        late = [one for one in missing if newest is not None and one.number < newest]
        for one in late:
            why = f"{newest}, which is later, was copied before: a new volume can take both"
            if self._request.snapshots:
                raise UsageError(f"snapshot {one.id} cannot be copied any more: {why}")
            _skip_damaged(self._result, one.id, UsageError(why))
        return [one for one in missing if one not in late]

    def _copy_snapshot(self, copier: SnapshotCopier, info: SnapshotInfo, *, is_last: bool) -> None:
        self._view.shows(info.id)
        try:
            made = copier.copy(info, is_last=is_last)
        except SnapshotGone as error:
            if self._request.snapshots:
                raise SnapshotMissing(str(error)) from error
            self._result.skip(info.id, _GONE)
            return
        except SnapshotDamaged as error:
            if self._request.snapshots or self._request.newest:
                raise
            _skip_damaged(self._result, info.id, error)
            return
        self._copies[info.id] = made
        self._result.snapshots.append(
            {
                "source": info.id,
                "id": made.id,
                "name": made.name,
                "time": made.time.isoformat(),
                "lost_blocks": copier.lost_blocks,
            }
        )
        if copier.lost_blocks:
            self._result.lost_blocks = max(self._result.lost_blocks, copier.lost_blocks)
            self._result.problems.append(
                f"snapshot {info.id} needs {copier.lost_blocks:,} blocks that the source has lost: what needs them "
                f"gives I/O errors in its copy {made.id}, too; `cas3fs fsck` lists the files"
            )

    def _copy_policy(self) -> None:
        """Copies the retention policy, if one was ever set."""
        ours, theirs = self._writer.archive.shelf, self._source.archive.shelf
        if newest_policy_id(theirs) is None or current_policy(theirs) == current_policy(ours):
            return
        set_policy(ours, current_policy(theirs), conditional_writes=self._writer.volume.conditional_writes)
        self._result.policy_copied = True

    def _check_fence(self) -> None:
        if not self._writer.epochs.is_newest(self._writer.claim):
            raise Fenced(f"another writer has taken over {self._result.destination}: it is no copy any more")

    def verify(self, chosen: Sequence[SnapshotInfo]) -> None:
        """Reads back the copies of all chosen snapshots that were copied."""
        folder = self._writer.state.copy_work
        copied = [one for one in chosen if one.id in self._copies]
        with closing(CopyLedger(folder / "copied.sqlite", self._pair)) as ledger:
            verifier = CopyVerifier(self._source, self._destination, ledger, folder, self._progress)
            with closing(verifier):
                for number, info in enumerate(copied, 1):
                    self._progress.of_snapshot(number, len(copied))
                    self._view.shows(info.id)
                    try:
                        verifier.verify(info, self._copies[info.id])
                    except SnapshotGone:
                        self._result.problems.append(f"the copy of snapshot {info.id} was not verified: {_GONE}")
        self._result.verified = verifier.result
        self._result.problems += verifier.result.problems


def describe(result: CopyResult) -> Mapping[str, Any]:
    """What ``--json`` prints."""
    return attrs.asdict(result)
