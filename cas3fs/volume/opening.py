# SPDX-License-Identifier: GPL-3.0-or-later
"""An open volume: everything that a front-end needs, from the claim to the release.

`open_writer` locks the state directory, claims an epoch, puts the right index in place (module `lineage`) and wires the
file system. `finish` stores and publishes everything and releases the epoch; `close` frees all resources. When `finish`
fails or is never reached, the epoch stays unreleased, and the next mount with this state directory continues where this
one ended (case 1 of `lineage`).

Where a process may die while finishing: before the manifest is put: nothing is lost, as the index and staging are on
the disk; between manifest and release: the next mount claims the next epoch, as this one is its own; after the
release, before the index is marked clean: the same.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.blocks.codec import Compression
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Progress
from cas3fs.encryption.keyring import ObjectKeys
from cas3fs.entries.kinds import EpochEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Claim, Epochs, WriterIdentity
from cas3fs.errors import Cas3fsError, FilesNotStored, SnapshotDamaged, UsageError
from cas3fs.filesystem import FileSystem
from cas3fs.index import Index, StagingIndex, migrations
from cas3fs.maintenance.context import VolumeContext
from cas3fs.maintenance.lost_blocks import apply_lost_block_note, record_missing_packs
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.selection import find_snapshot, is_id
from cas3fs.snapshots.snapshot_reader import RestoreProgress
from cas3fs.volume.handover import apply_handover, expect_released_head, expect_seen_head, release, save_known_snapshots
from cas3fs.volume.lineage import LocalIndex, close_clean, restore_with_advice, select_index
from cas3fs.volume.loading import StoredVolume, open_volume, warn_if_readable_by_others
from cas3fs.volume.location import find_state_directory, lock_state_directory
from cas3fs.volume.publisher import Publisher
from cas3fs.volume.seen import SeenState
from cas3fs.volume.state_directory import StateDirectory, ViewDirectory, local_indexes
from cas3fs.volume.wiring import wire

_TAKEN_OVER: Final = (
    "the writer of epoch %d had not released the volume, and is taken over from; `cas3fs epochs %s` shows it"
)

_log = logging.getLogger(__name__)


@attrs.frozen
class WriterSession:
    """A writer's claim, and what works under it."""

    claim: Claim
    epochs: Epochs
    publisher: Publisher
    after_release: bool
    """Whether the previous epoch was released: if this one is never used, it can be released without loss."""
    clean: str | None
    """What `LocalIndex.clean` was."""
    context: VolumeContext
    """What maintenance works on."""


@attrs.define
class OpenVolume:
    """A volume with its file system; made by `open_writer` or `open_view`."""

    entry: VolumeEntry
    url: str
    state: StateDirectory
    filesystem: FileSystem
    metrics: Metrics
    archive: SnapshotArchive
    _resources: ExitStack
    _session: WriterSession | None = None
    keys: ObjectKeys | None = None
    """Of an encrypted volume."""
    _clean: str | None = None
    _is_closed: bool = False
    shown: str | None = None
    """The snapshot that a view shows."""
    seen: SeenState | None = None
    """What this machine has seen of it."""

    @property
    def publisher(self) -> Publisher | None:
        """The publisher; None if the volume is open for reading only."""
        return None if self._session is None else self._session.publisher

    @property
    def context(self) -> VolumeContext | None:
        """What maintenance works on; None if the volume is open for reading only."""
        return None if self._session is None else self._session.context

    def unstored_files(self) -> list[dict[str, Any]]:
        """Returns the files that could not be stored although others could, in the form of JSON.

        Raises:
            IndexDatabaseError: their paths cannot be read.
        """
        return [attrs.asdict(one) for one in self.filesystem.unstorable_files()]

    def shown_snapshot_deleted(self) -> bool:
        """Whether a writer elsewhere has deleted the snapshot that a view shows; costs one LIST.

        Raises:
            StoreError: the store failed, so it is not known.
        """
        return self.shown is not None and self.shown not in self.archive.ids()

    def start(self, snapshot_interval_s: float) -> None:
        """Replays what an earlier process left in staging, and starts the background work.

        Raises:
            IndexDatabaseError, OSError: the local state is damaged, or cannot be written.
        """
        if self._session is not None:
            apply_lost_block_note(self.state.path, self.filesystem)
        recovered = self.filesystem.start()
        if recovered:
            _log.info("%d files of an earlier mount are not stored yet; they will be now", recovered)
        if self._session is not None:
            if self._session.claim.base_due:
                # whatever the old writer still publishes sorts before this one
                self._session.publisher.publish()
            self._session.publisher.start(snapshot_interval_s)

    def finish(self, progress: Progress = lambda _: None) -> str | None:
        """Stores and publishes everything, and releases the epoch; returns the id of the newest snapshot.

        Raises:
            FilesNotStored: files cannot be stored although others can. Everything else is published; the epoch stays
                held, as those files exist only here.
            StoreError: the store failed; what it lacks is safe in the state directory.
            Fenced: another writer has taken over.
            Cas3fsError, OSError: the local disk failed.
        """
        if self._session is None:
            return None
        self._session.publisher.stop()
        newest = self._session.publisher.publish(progress)
        with self._session.publisher.exclusively():
            self._session.publisher.pruner.prune_expired()
        if left := self.filesystem.unstorable_files():
            raise FilesNotStored.of(
                [attrs.asdict(one) for one in left],
                f"snapshot {newest} has everything else, and the volume stays held for this machine: mount {self.url} "
                "here again to continue",
            )
        progress({"what": "releasing"})
        release(self._session.epochs, self._session.claim, self.archive, newest)
        save_known_snapshots(self.archive, self._session.claim, self.state.known_snapshots)
        if self.seen is not None:
            self.seen.note_keys()
        self._clean = newest
        return newest

    def release_unserved(self) -> None:
        """Releases the epoch of a volume that was never used, unless an earlier mount has left something to store."""
        session = self._session
        if session is not None and session.after_release:
            _release_quietly(session.epochs, session.claim)
            self._clean = session.clean

    def close(self) -> None:
        """Frees all resources; what is not stored stays staged. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._session is not None:
            self._session.publisher.stop()
        try:
            self.filesystem.close()
            if self._clean is not None:
                close_clean(self.state.index, self._clean)
        finally:
            self._resources.close()


def _release_quietly(epochs: Epochs, claim: Claim) -> None:
    """Releases a claim after a failure; a second failure is only logged."""
    try:
        epochs.release(claim)
    except Cas3fsError as error:
        _log.warning("epoch %d could not be released: %s", claim.epoch, error)


OnState = Callable[[StateDirectory], None]
"""Called with the state directory as soon as it is locked, so that the log can go there."""


OnDamagedSnapshot = Callable[[SnapshotArchive, str, SnapshotDamaged], None]
"""Quarantines a damaged snapshot, given by its id; called under the claim."""


def open_writer(
    store_settings: StoreSettings,
    settings: WriterSettings,
    folders: LocalFolders,
    on_state: OnState = lambda _: None,
    on_restore: RestoreProgress = lambda done, total: None,
    *,
    on_damaged: OnDamagedSnapshot | None = None,
) -> OpenVolume:
    """Opens a volume as its only writer.

    With `on_damaged`, which is called with a damaged snapshot, it starts from the newest snapshot that is intact.

    Raises:
        VolumeMissing, VolumeFormatError, StateInUse, EpochHeld, StateConflict: the volume cannot be claimed.
        KeysError, StoreRolledBack: as `open_volume`.
        StoreError, SnapshotError, IndexDatabaseError, UsageError: store, snapshot, local index or folders cannot be
            used.
    """
    metrics = Metrics()
    with ExitStack() as resources:
        opened = _open_store(store_settings.recorded_in(folders), settings, metrics, resources, claims=True)
        store, entry = opened.store, opened.entry
        state = lock_state_directory(folders, str(entry.uuid), store_settings)
        resources.callback(state.close)
        on_state(state)
        epochs = Epochs(Shelf(store), conditional_writes=entry.conditional_writes)
        claim = epochs.claim(WriterIdentity.of_this_process(), state.claim, take_over=settings.take_over)
        after_release = claim.after_release
        try:
            store.renew_keys()  # nobody seals with an older generation after a claim
            archive = SnapshotArchive(Shelf(store))
            if opened.seen is not None:
                opened.seen.note_epoch(claim.key.removeprefix(EpochEntry.prefix()))
            local = _select_index(state, archive, claim, on_restore, on_damaged, seen=opened.seen, resources=resources)
            if claim.took_over is not None:
                _log.warning(_TAKEN_OVER, claim.before, store.url)
            filesystem = _wire(
                opened,
                local.index,
                local.rows,
                staging_dir=state.staging,
                cache_dir=folders.cache_of(str(entry.uuid)),
                epoch=claim.epoch,
                settings=settings,
                metrics=metrics,
                resources=resources,
            )
        except BaseException:
            if after_release:
                _release_quietly(epochs, claim)
            raise
        changed = local.clean is None or claim.base_due
        publisher = Publisher(filesystem, archive, epochs, claim, state, local=local, changed=changed, seen=opened.seen)
        context = _context(opened, archive, epochs, claim, publisher)
        session = WriterSession(claim, epochs, publisher, after_release, local.clean, context)
        rest, keys = resources.pop_all(), opened.object_keys
        return OpenVolume(
            entry, store.url, state, filesystem, metrics, archive, rest, session, keys=keys, seen=opened.seen
        )


def _select_index(
    state: StateDirectory,
    archive: SnapshotArchive,
    claim: Claim,
    on_restore: RestoreProgress,
    on_damaged: OnDamagedSnapshot | None,
    *,
    seen: SeenState | None,
    resources: ExitStack,
) -> LocalIndex:
    """The index to begin with, after what is known of the snapshots was taken over from the writer before; `resources`
    closes it."""
    apply_handover(archive, claim, state.known_snapshots)
    expect_seen_head(archive, seen)
    local = select_index(state, archive, claim, on_restore, on_damaged and partial(on_damaged, archive))
    resources.callback(local.index.close)
    resources.callback(local.rows.close)
    save_known_snapshots(archive, claim, state.known_snapshots)
    if local.clean is None:
        record_missing_packs(local.index, archive.shelf.store, local.newest)
    return local


def _context(
    opened: StoredVolume, archive: SnapshotArchive, epochs: Epochs, claim: Claim, publisher: Publisher
) -> VolumeContext:
    """What maintenance works on."""
    entry = opened.entry
    return VolumeContext(
        store=archive.shelf.store,
        archive=archive,
        epochs=epochs,
        epoch=claim.epoch,
        filesystem=publisher.filesystem,
        publisher=publisher,
        scratch=publisher.folder,
        pack_size_bytes=entry.pack_size,
        compression=Compression.parse(entry.compression),
        keys=opened.keys,
    )


def open_view(
    store_settings: StoreSettings,
    settings: WriterSettings,
    folders: LocalFolders,
    on_state: OnState = lambda _: None,
    on_restore: RestoreProgress = lambda done, total: None,
) -> OpenVolume:
    """Opens a snapshot of a volume, the newest unless `settings` select another, for reading, beside any writer.

    Raises:
        As `open_writer`, except for errors of claims.
    """
    metrics = Metrics()
    with ExitStack() as resources:
        opened = _open_store(store_settings.recorded_in(folders), settings, metrics, resources)
        store, entry = opened.store, opened.entry
        of_volume = find_state_directory(folders, str(entry.uuid), store_settings)
        state = ViewDirectory.make(of_volume)
        resources.callback(state.close)
        on_state(state)
        archive = SnapshotArchive(Shelf(store))
        if settings.snapshot is None or not is_id(settings.snapshot):
            expect_released_head(archive, Epochs(Shelf(store), conditional_writes=entry.conditional_writes).newest())
            expect_seen_head(archive, opened.seen)
        shown = archive.newest_id() if settings.snapshot is None else find_snapshot(archive, settings.snapshot)
        if shown is not None:
            state.shows(shown)
            restore_with_advice(archive, shown, state.index, on_restore, local_indexes(of_volume))
        migrations.upgrade(state.index)
        index = Index.open(state.index)
        resources.callback(index.close)
        rows = StagingIndex(state.staging_rows)
        resources.callback(rows.close)
        filesystem = _wire(
            opened,
            index,
            rows,
            staging_dir=state.staging,
            cache_dir=folders.cache_of(str(entry.uuid)),
            epoch=0,
            settings=settings,
            metrics=metrics,
            resources=resources,
        )
        return OpenVolume(
            entry, store.url, state, filesystem, metrics, archive, resources.pop_all(), shown=shown, seen=opened.seen
        )


def _open_store(
    store: StoreSettings, settings: WriterSettings, metrics: Metrics, resources: ExitStack, *, claims: bool = False
) -> StoredVolume:
    opened = open_volume(store, metrics, claims=claims)
    resources.callback(opened.close)
    if settings.encrypt_local and opened.keys is None:
        raise UsageError(
            f"--encrypt-local needs a key, and the volume at {store.url} is not encrypted: mount it without that option"
        )
    warn_if_readable_by_others(opened.store)
    return opened


def _wire(
    volume: StoredVolume,
    index: Index,
    rows: StagingIndex,
    *,
    staging_dir: Path,
    cache_dir: Path,
    epoch: int,
    settings: WriterSettings,
    metrics: Metrics,
    resources: ExitStack,
) -> FileSystem:
    """Returns the file system; the cache, which it does not close, is closed by `resources`."""
    wired = wire(
        volume.entry,
        volume.store,
        index,
        rows,
        staging_dir=staging_dir,
        cache_dir=cache_dir,
        epoch=epoch,
        settings=settings,
        metrics=metrics,
        keys=volume.object_keys,
    )
    if wired.cache is not None:
        resources.callback(wired.cache.close)
    return wired.filesystem
