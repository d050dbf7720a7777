# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck of a volume: of a mounted one by its process, of another one without a claim, and its repair.

Findings are sent one by one, as ``{"finding": {...}}``, since there may be more than fit in a message.

A volume that no process has open is checked without a claim and without changing anything: by the local index, if the
newest epoch is of its lineage, else by the newest snapshot that can be restored. A repair opens the volume as its
writer, and repairs it before anything of staging is replayed or any other process can use it. Where there is no usable
local index, and the newest snapshot is damaged, it begins from the newest complete one; the manifests of those after it
are quarantined (`cas3fs.maintenance.fsck.volume_repair`).
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import attrs

from cas3fs.caches.base import check_by
from cas3fs.caches.disk import DiskCache
from cas3fs.commands.mount_service import MountService
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Progress
from cas3fs.control.messages.maintenance import FsckReply, FsckRequest
from cas3fs.encryption.disk_cache import DiskCacheSeal
from cas3fs.entries.kinds import SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, EpochState
from cas3fs.errors import ControlError, IndexCorrupt, SnapshotArchived, SnapshotDamaged, SnapshotError, SnapshotMissing
from cas3fs.index import Index, StagingIndex, migrations, ordinal_of
from cas3fs.index.salvage import find_damage
from cas3fs.maintenance.damaged_objects import quarantine_snapshot
from cas3fs.maintenance.fsck.checker import Checker, archived_finding, snapshot_finding
from cas3fs.maintenance.fsck.findings import Finding
from cas3fs.maintenance.fsck.lost_and_found import leave_report, make_lost_folder
from cas3fs.maintenance.fsck.target import FsckTarget, fsck_target_of
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint
from cas3fs.maintenance.fsck.volume_check import FsckResult, FsckSettings, check_volume, lost_blocks_in
from cas3fs.maintenance.fsck.volume_repair import VolumeRepairer
from cas3fs.maintenance.last_results import save_last_result
from cas3fs.maintenance.lost_blocks import damaged_packs, lost_packs, record_lost_blocks, save_lost_block_note
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import SnapshotNumber
from cas3fs.volume.comparison import IndexStatus, LineageRecord, StoreComparison
from cas3fs.volume.handover import expect_released_head
from cas3fs.volume.lineage import damage_since_closed
from cas3fs.volume.loading import open_volume
from cas3fs.volume.location import find_state_directory
from cas3fs.volume.opening import OpenVolume, open_writer
from cas3fs.volume.state_directory import StateDirectory

_CHECKPOINT = "verify.json"
_WHATEVER_SIZE_BYTES = 1 << 60


def check_mounted(service: MountService, request: FsckRequest, progress: Progress) -> FsckReply:
    """Check a mounted volume; raises as `check_open_volume`."""
    return check_open_volume(service.volume, request, progress)


def check_open_volume(volume: OpenVolume, request: FsckRequest, progress: Progress) -> FsckReply:
    """Check a volume that this process has open for writing.

    Raises:
        ControlError: it is to be repaired, or is a view.
        Cas3fsError, OSError: the check could not be done.
    """
    context = volume.context
    if context is None:
        raise ControlError(f"{volume.url} is mounted read-only; check it where it is written, or unmounted")
    if request.repair:
        raise ControlError(f"{volume.url} is mounted: unmount it to repair it")
    # snapshots are published meanwhile, so packs may be born with any of this epoch
    target = fsck_target_of(context, ordinal_of(SnapshotNumber(context.epoch + 1, 1)), is_live=True)
    checkpoint = VerifyCheckpoint(volume.state.path / _CHECKPOINT)
    result = check_volume(target, settings_of(request), checkpoint, lambda report: progress(dict(report)))
    record_lost_blocks(volume.filesystem, lost_blocks_in(result.findings))
    return _report(result, volume.state.path, progress)


def check_unmounted(store: StoreSettings, folders: LocalFolders, request: FsckRequest, progress: Progress) -> FsckReply:
    """Check a volume that no process has open, and repair it where that is requested; raises as `check_open_volume`."""
    if request.repair:
        return _repair(store, folders, settings_of(request), progress)
    metrics = Metrics()
    with closing(open_volume(store, metrics)) as opened, ExitStack() as resources:
        path = find_state_directory(folders, str(opened.entry.uuid), store)
        state = StateDirectory(path) if path.is_dir() else None
        if state is not None:
            resources.callback(state.close)
        early: list[Finding] = []
        target = resources.enter_context(_target(opened.store, state, early))
        folder = path if state is not None else target.index.parent
        result = check_volume(
            target, settings_of(request), VerifyCheckpoint(folder / _CHECKPOINT), lambda report: progress(dict(report))
        )
        if state is not None:
            save_lost_block_note(path, lost_blocks_in(result.findings))
        result = attrs.evolve(result, findings=(*_not_reported_later(early, result.findings), *result.findings))
        return _report(result, path if state is not None else None, progress)


def settings_of(request: FsckRequest) -> FsckSettings:
    """The settings in a request."""
    return FsckSettings(request.repair, request.verify_data, request.max_duration_s)


def _report(result: FsckResult, state: Path | None, progress: Progress) -> FsckReply:
    """Send the findings, and save what was found for ``stats``."""
    for finding in result.findings:
        progress({"finding": finding.as_json()})
    verified = None if result.verified is None else result.verified.as_json()
    reply = FsckReply(
        status=result.status,
        codes=dict(Counter(finding.code for finding in result.findings)),
        verified=verified,
        checked=dict(result.checked),
        lost=sum(finding.lost for finding in result.findings),
    )
    if state is not None:
        save_last_result(state, "fsck", {"status": reply.status, "codes": reply.codes, "verified": verified})
        if verified is not None:
            save_last_result(state, "verify", verified)
    return reply


def _not_reported_later(early: list[Finding], later: Sequence[Finding]) -> list[Finding]:
    """Those findings whose snapshot or object no later finding describes more exactly."""
    named = {one.touches[what] for one in later for what in ("snapshot", "object") if what in one.touches}
    return [one for one in early if named.isdisjoint(one.touches.values())]


# -- without a claim


@contextmanager
def _target(store: ObjectStore, state: StateDirectory | None, early: list[Finding]) -> Iterator[FsckTarget]:
    """The index to check: the local one, or one restored; `early` takes what is found on the way."""
    archive = SnapshotArchive(Shelf(store))
    epoch = Epochs(Shelf(store)).newest()
    head = _lost_head(archive, epoch)
    if head is not None:
        early.append(Finding("snapshot-missing", {"snapshot": head}, "its writer named it when it ended"))
    following = ordinal_of(SnapshotNumber(1 if epoch is None else epoch.entry.epoch + 1, 1))
    claim = None if epoch is None else str(epoch.entry.claim)
    with ExitStack() as resources:
        if state is not None and _is_current(state.index, archive, claim, early):
            staging, staging_folder = None, state.staging
            if damage := find_damage(state.staging_rows):
                early.append(Finding("staging-damaged", {"file": str(state.staging_rows)}, damage))
            elif state.staging_rows.exists():
                staging = (state.staging, resources.enter_context(closing(StagingIndex(state.staging_rows))))
            index, which = state.index, "the local index"
        else:
            folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="cas3fs-")))
            index, staging, staging_folder = folder / "index.sqlite", None, None
            which = _restore(archive, index, early)
        with Index.open(index, read_only=True) as opened:
            lost, damaged = lost_packs(opened), damaged_packs(opened)
        is_live = epoch is not None and not epoch.released
        yield FsckTarget(
            index, store, archive, following, lost, damaged, staging, staging_folder, is_live=is_live, index_name=which
        )


def _lost_head(archive: SnapshotArchive, epoch: EpochState | None) -> str | None:
    """The snapshot that the last writer named as the newest when it ended, if the store has it no more."""
    expect_released_head(archive, epoch)
    head = archive.newest_id()
    return None if head in archive.ids() else head


def _is_current(index: Path, archive: SnapshotArchive, claim: str | None, early: list[Finding]) -> bool:
    """Whether the local index is there, can be read, and is what the store has, or ahead of it."""
    if not index.exists():
        return False
    try:
        if detail := damage_since_closed(index):
            raise IndexCorrupt(detail)
        migrations.upgrade(index)
        with Index.open(index, read_only=True) as opened:
            record = LineageRecord.read(opened)
        if claim is None or record.claim != claim:
            return False
        return StoreComparison(archive, record, archive.newest_id(), (claim,)).compare().status is IndexStatus.CURRENT
    except IndexCorrupt as error:
        early.append(Finding("index-damaged", {"index": str(index)}, str(error)))
        return False


def _restore(archive: SnapshotArchive, path: Path, early: list[Finding]) -> str:
    """Restore the index of the newest complete snapshot, or an empty one without any; return its description."""
    which = "an empty index, as there is no snapshot that is whole"
    diverged = archive.diverged()
    for snapshot in reversed([one for one in archive.ids() if one not in diverged]):
        try:
            archive.restore(snapshot, path)
            which = f"the index of snapshot {snapshot}, as the one here is missing, damaged, or not the newest state"
            break
        except SnapshotDamaged as error:
            early.append(snapshot_finding("snapshot-unreadable", snapshot, error))
        except SnapshotArchived as error:
            early.append(archived_finding(SnapshotEntry.key_of(snapshot), error))
    migrations.upgrade(path)
    return which


# -- with a claim


def _repair(store: StoreSettings, folders: LocalFolders, settings: FsckSettings, progress: Progress) -> FsckReply:
    early: list[Finding] = []
    with closing(open_volume(store, Metrics())) as opened:
        shelf = Shelf(opened.store)
        lost = _lost_head(SnapshotArchive(shelf), Epochs(shelf).newest())
    volume = _opened(store, folders, early)
    if lost is not None and lost not in (one.touches.get("snapshot") for one in early):
        early.append(Finding("snapshot-missing", {"snapshot": lost}, "this machine has its state", repaired=True))
    try:
        result = _repaired(volume, folders, settings, progress)
        missing = {one.touches["snapshot"] for one in early if one.code == "snapshot-missing"}
        later = [
            one for one in result.findings if one.code != "snapshot-missing" or one.touches["snapshot"] not in missing
        ]
        result = attrs.evolve(result, findings=(*early, *later))
        if result.status:
            make_lost_folder(volume.filesystem, lambda: _target_of(volume))
        volume.start(0)
        if result.status:
            leave_report(volume.filesystem, result.findings)
        volume.finish(progress)
        return _report(result, volume.state.path, progress)
    finally:
        volume.close()


def _opened(store: StoreSettings, folders: LocalFolders, early: list[Finding]) -> OpenVolume:
    """The volume, open for writing and not started; a damaged local index is set aside, and a snapshot restored."""
    opened = partial(_open_mending, store, folders, early)
    _set_aside_unlike(store, folders, early)
    try:
        volume = opened()
    except IndexCorrupt:
        _set_aside(store, folders, "it cannot be opened as an index", early)
        return opened()
    damage = Checker(_target_of(volume)).index_damage()
    if damage:
        volume.close()
        _set_aside(store, folders, damage[0].detail, early)
        volume = opened()
    if salvaged := volume.filesystem.staging.rows.records.salvaged:
        touched = {"file": str(volume.state.staging_rows)}
        early.append(Finding("staging-damaged", touched, salvaged, repaired=True))
    return volume


def _set_aside_unlike(store: StoreSettings, folders: LocalFolders, early: list[Finding]) -> None:
    """Sets a local index aside of which the bytes are not those that were written."""
    with closing(open_volume(store, Metrics())) as opened:
        path = find_state_directory(folders, str(opened.entry.uuid), store) / "index.sqlite"
    if detail := damage_since_closed(path):
        _set_aside(store, folders, detail, early)


def _open_mending(store: StoreSettings, folders: LocalFolders, early: list[Finding]) -> OpenVolume:
    """The volume as its writer; damaged snapshots that it would have begun from are quarantined."""
    found: list[Finding] = []

    def take(archive: SnapshotArchive, snapshot: str, error: SnapshotDamaged) -> None:
        try:
            archive.load(snapshot)
            code = "snapshot-unreadable"
        except SnapshotMissing:
            code = "snapshot-missing"
        except SnapshotError:
            code = "snapshot-damaged"
        quarantine_snapshot(archive, snapshot)
        found.append(snapshot_finding(code, snapshot, error, repaired=True))

    settings = WriterSettings(cache_size_bytes=0, snapshot_interval_s=0)
    volume = open_writer(store, settings, folders, on_damaged=take)
    early += found
    return volume


def _set_aside(store: StoreSettings, folders: LocalFolders, detail: str, early: list[Finding]) -> None:
    with closing(open_volume(store, Metrics())) as opened:
        path = find_state_directory(folders, str(opened.entry.uuid), store)
    with closing(StateDirectory(path)) as state:
        aside = state.set_aside()
    text = f"{detail}; it is set aside in {aside}, and `cas3fs rescue {aside} FOLDER` saves what only it has"
    early.append(Finding("index-damaged", {"index": str(path / "index.sqlite")}, text, repaired=True))


def _target_of(volume: OpenVolume) -> FsckTarget:
    context = volume.context
    assert context is not None
    staging = volume.filesystem.staging
    return fsck_target_of(
        context,
        ordinal_of(context.publisher.next_number),
        is_live=False,
        staging=(staging.folder, staging.rows.records),
    )


def _cache_seal(volume: OpenVolume, folders: LocalFolders) -> DiskCacheSeal | None:
    """The seal with which the last mount sealed the disk cache, if it did; its key may be older than the newest."""
    if volume.keys is None:
        return None
    folder = folders.cache_of(str(volume.entry.uuid))
    seals = (DiskCacheSeal(key, volume.keys.cipher) for key in volume.keys.disk_cache_keys())
    return next((seal for seal in seals if (folder / seal.folder).is_dir()), None)


def _repaired(volume: OpenVolume, folders: LocalFolders, settings: FsckSettings, progress: Progress) -> FsckResult:
    context, publisher = volume.context, volume.publisher
    assert context is not None and publisher is not None

    def forget_parent() -> None:
        publisher.newest = None

    cache = DiskCache(
        folders.cache_of(str(volume.entry.uuid)),
        _WHATEVER_SIZE_BYTES,
        metrics=Metrics(),
        check=check_by(context.store.hash_content),
        seal=_cache_seal(volume, folders),
    )
    try:
        fsck = VolumeRepairer(
            context,
            lambda: _target_of(volume),
            VerifyCheckpoint(volume.state.path / _CHECKPOINT),
            repair_index=True,
            cache=cache,
            forget_parent=forget_parent,
            report=lambda report: progress(dict(report)),
        )
        return fsck.repair(settings)
    finally:
        cache.close()
