# SPDX-License-Identifier: GPL-3.0-or-later
"""Making an older snapshot the newest state of a volume again, while it is not mounted.

A new snapshot is published, under a new epoch, with the files of the older one. All existing snapshots stay, so the
replaced state can be restored in the same way. What the index of the replaced state knew of packs is merged into the
new index. The local index is removed before the new snapshot is published, or a mount here would take it to be ahead of
that.

Where the process may die: before the publication, the old head is still the head, and the next mount restores it; after
it, the new one is.
"""

import logging
import uuid

from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Progress
from cas3fs.errors import Fenced, SnapshotDamaged, StateConflict
from cas3fs.index import Index, IndexReader, migrations, ordinal_of
from cas3fs.index.pack_merge import merge_newest_packs
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo, SnapshotOrigin
from cas3fs.snapshots.selection import find_snapshot
from cas3fs.volume.comparison import CLEAN, LINEAGE, PUBLISHED
from cas3fs.volume.offline_writer import OfflineWriter, open_offline_writer
from cas3fs.volume.state_directory import StateDirectory, local_indexes

_log = logging.getLogger(__name__)


def restore_head(settings: StoreSettings, folders: LocalFolders, selector: str, progress: Progress) -> SnapshotInfo:
    """Make the state of a snapshot the newest; gives the snapshot that is the head now.

    Raises:
        EpochHeld, StateInUse: the volume is mounted.
        StateConflict: this machine holds changes that were never published.
        SnapshotMissing, SnapshotDamaged: the snapshot cannot be read.
        SnapshotError, UsageError: as `find_snapshot`.
        Cas3fsError: store or disk failed; restoring again is safe.
    """
    with open_offline_writer(settings, folders) as writer:
        head, snapshot_id = writer.archive.newest_id(), find_snapshot(writer.archive, selector)
        if head == snapshot_id:
            return writer.archive.load(snapshot_id)
        _check_nothing_unpublished(writer)
        writer.state.remove_scratch()
        try:
            return _restore(writer, snapshot_id, head, progress)
        finally:
            writer.state.remove_scratch()


def _check_nothing_unpublished(writer: OfflineWriter) -> None:
    if not writer.after_release:
        raise StateConflict(
            "the last mount on this machine did not end well, and may hold changes that are not stored yet: mount and "
            "unmount the volume here first"
        )


def _restore(writer: OfflineWriter, snapshot_id: str, head: str | None, progress: Progress) -> SnapshotInfo:
    state, archive = writer.state, writer.archive
    number = writer.next_number

    def report(done: int, total: int) -> None:
        progress({"what": "restoring", "done": done, "total": total})

    archive.restore(snapshot_id, state.restored, report, local=local_indexes(state.path))
    migrations.upgrade(state.restored)
    newest, around = _readable_head(archive, head, state)
    if newest is not None:
        migrations.upgrade(state.scratch)
        merge_newest_packs(state.restored, state.scratch, ordinal_of(number))
    lineage = uuid.uuid4()
    with Index.open(state.restored, scratch=True) as index:
        with index.operation():
            # packs that held nothing else may be gone: `cas3fs.maintenance.snapshot_index`
            index.garbage.delete_unreferenced_blocks()
            if around:  # what is dead here may be in use there
                dead = [row.name for row in index.blocks.packs() if row.died is not None]
                index.garbage.set_died(dead, ordinal_of(number))
            index.state.set(LINEAGE, str(lineage))
            index.state.remove(CLEAN)
            index.state.set(PUBLISHED, snapshot_id)
        index.commit()
    with IndexReader(state.restored) as reader:
        facts = reader.counts()._asdict()
    _clear_line(state)
    progress({"what": "publishing"})
    made = archive.create(
        state.restored,
        epoch=number.epoch,
        sequence=number.sequence,
        parent=head,
        facts=facts,
        restored=snapshot_id,
        origin=SnapshotOrigin(lineage, writer.claim.uuid),
        bypassed=around,
    )
    if not writer.epochs.is_newest(writer.claim):
        raise Fenced("another writer has taken over the volume meanwhile")
    return made


def _readable_head(archive: SnapshotArchive, head: str | None, state: StateDirectory) -> tuple[str | None, set[str]]:
    """Restores the newest state that can be read; gives which it is, and the newer ones that cannot: they stay, with
    all that they may need, as what only they knew is not known to the new index."""
    if head is None:
        return None, set()
    # manifests record which snapshots were skipped before
    archive.list(lambda one, error: _log.warning("snapshot %s cannot be read: %s", one, error))
    ids, diverged = archive.ids(), archive.diverged()
    around = set() if head in ids else {head}
    local = [state.restored, *local_indexes(state.path)]
    for one in reversed([each for each in ids if each not in diverged and each <= head]):
        try:
            archive.restore(one, state.scratch, local=local)
        except SnapshotDamaged as error:
            _log.warning("%s", error)
            around.add(one)
            continue
        return one, around
    return None, around


def _clear_line(state: StateDirectory) -> None:
    """Takes the local index away: for good if it is a published state, else aside."""
    if not state.index.exists():
        return
    with Index.open(state.index) as index:
        is_clean = index.state.get(CLEAN) is not None
    if is_clean and not any(state.staging.iterdir() if state.staging.is_dir() else ()):
        state.discard_index()
    else:
        _log.warning("changes that were never published are set aside in %s", state.set_aside())
