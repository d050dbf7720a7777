# SPDX-License-Identifier: GPL-3.0-or-later
"""The snapshots of a volume: listed, shown, created, deleted, pruned, and the retention policy.

Each request has two functions: one for the process of a mount, and one for a volume that no process has open. A listing
is sent as one progress message ``{"snapshot": {...}}`` for each snapshot, since a message has a greatest length.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import attrs

from cas3fs.commands.mount_service import MountService
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Message, Progress
from cas3fs.control.conversion import encode_reply
from cas3fs.control.messages.snapshots import (
    CreateSnapshotRequest,
    DeleteSnapshotsReply,
    DeleteSnapshotsRequest,
    ListSnapshotsReply,
    ListSnapshotsRequest,
    PolicyRequest,
    PruneReply,
    PruneRequest,
    ShowSnapshotRequest,
    SnapshotReply,
)
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import IndexDatabaseError
from cas3fs.index import IndexReader
from cas3fs.maintenance.snapshot_sizes import SnapshotSizes, snapshot_sizes
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import NEW_PACK_BYTES, SnapshotInfo
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import current_policy, set_policy
from cas3fs.snapshots.selection import check_name, find_snapshot
from cas3fs.volume.comparison import PUBLISHED
from cas3fs.volume.loading import open_volume
from cas3fs.volume.location import find_state_directory
from cas3fs.volume.offline_writer import open_offline_writer
from cas3fs.volume.opening import open_writer
from cas3fs.volume.pruner import SnapshotPruner
from cas3fs.volume.state_directory import INDEX_NAME

_READ_ONLY = "its snapshots cannot be changed"

# -- list


def list_mounted(service: MountService, request: ListSnapshotsRequest, progress: Progress) -> ListSnapshotsReply:
    """Send every snapshot."""
    volume = service.volume
    # a view has the index of the snapshot that it shows
    newest = volume.publisher is not None or volume.shown == volume.archive.newest_id()
    return _send_snapshots(volume.archive, volume.filesystem.index_path if newest else None, progress)


def list_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: ListSnapshotsRequest, progress: Progress
) -> ListSnapshotsReply:
    """Send every snapshot; raises as `open_archive`."""
    with closing(open_volume(settings, Metrics())) as opened:
        archive = SnapshotArchive(Shelf(opened.store))
        index = find_state_directory(folders, str(opened.entry.uuid), settings) / INDEX_NAME
        return _send_snapshots(archive, index if _is_newest(index, archive.newest_id()) else None, progress)


def _is_newest(index: Path, head: str | None) -> bool:
    """Whether an index of this machine is that of the newest snapshot, or continues from it."""
    if not index.exists():
        return False
    try:
        with IndexReader(index) as reader:
            return head is not None and reader.state(PUBLISHED) == head
    except IndexDatabaseError:
        return False


def _send_snapshots(archive: SnapshotArchive, index: Path | None, progress: Progress) -> ListSnapshotsReply:
    count = 0
    for one in list_snapshots(archive, index):
        progress({"snapshot": one})
        count += 1
    return ListSnapshotsReply(count)


def list_snapshots(archive: SnapshotArchive, index: Path | None = None) -> Iterator[Message]:
    """Every snapshot, ascending, as JSON has it; of a damaged one its id and what is wrong.

    Args:
        archive: the snapshots.
        index: the index of the newest one; without it, it is not known what each takes.

    Raises:
        StoreError: the store failed.
        IndexDatabaseError: the index cannot be read.
    """
    damaged: dict[str, str] = {}
    head, diverged = archive.newest_id(), archive.diverged()
    readable = {one.id: one for one in archive.list(lambda one, error: damaged.update({one: str(error)}))}
    sizes: Mapping[str, SnapshotSizes] = {}
    if index is not None:
        with IndexReader(index) as reader:
            sizes = snapshot_sizes(list(readable.values()), damaged, reader.pack_lifetimes())
    for one in sorted([*readable, *damaged]):
        if one in readable:
            # what a snapshot of another line needs, this index does not know
            known = None if one in diverged else sizes.get(one)
            yield encode_reply(describe(readable[one], head, diverged)) | _describe_sizes(known, newest=one == head)
        else:
            yield {"id": one, "damaged": damaged[one], "newest": one == head, "off_line": one in diverged}


def _describe_sizes(sizes: SnapshotSizes | None, *, newest: bool) -> Message:
    frees_bytes = None if sizes is None or newest else sizes.frees_bytes  # the newest one cannot be deleted
    return {"added_bytes": None if sizes is None else sizes.added_bytes, "frees_bytes": frees_bytes}


def describe(info: SnapshotInfo, head: str | None, diverged: frozenset[str]) -> SnapshotReply:
    """A snapshot as a listing has it."""
    return SnapshotReply(
        id=info.id,
        name=info.name,
        time=info.time.isoformat(),
        epoch=info.number.epoch,
        sequence=info.number.sequence,
        parent=info.parent,
        restored=info.restored,
        files=info.facts.get("files", 0),
        logical_bytes=info.facts.get("logical_bytes", 0),
        new_bytes=info.new_size + info.facts.get(NEW_PACK_BYTES, 0),
        new_index_bytes=info.new_size,
        index_bytes=info.index_size,
        newest=info.id == head,
        off_line=info.id in diverged,
    )


# -- show


def show_mounted(service: MountService, request: ShowSnapshotRequest, progress: Progress) -> SnapshotReply:
    """One snapshot in detail."""
    return show_snapshot(service.volume.archive, request.id)


def show_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: ShowSnapshotRequest, progress: Progress
) -> SnapshotReply:
    """One snapshot in detail; raises as `open_archive` and `show_snapshot`."""
    with open_archive(settings) as archive:
        return show_snapshot(archive, request.id)


def show_snapshot(archive: SnapshotArchive, selector: str) -> SnapshotReply:
    """A snapshot with its facts and the pages objects that it needs.

    Raises:
        SnapshotMissing, SnapshotDamaged, StoreError: it cannot be read.
        SnapshotError, UsageError: as `find_snapshot`.
    """
    info = archive.load(find_snapshot(archive, selector))
    described = describe(info, archive.newest_id(), archive.diverged())
    return attrs.evolve(described, facts=dict(info.facts), pages=[one._asdict() for one in info.pages])


# -- create


def create_mounted(service: MountService, request: CreateSnapshotRequest, progress: Progress) -> SnapshotReply:
    """Publish a snapshot, even when nothing has changed; raises UsageError for a name that cannot be used."""
    check_name(request.name)
    publisher = service.publisher(_READ_ONLY)
    service.write_back()
    created = publisher.publish(progress, name=request.name, even_unchanged=True, settled=True)
    unstored = service.volume.unstored_files()
    return attrs.evolve(show_snapshot(service.volume.archive, created), unstored=unstored)


def create_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: CreateSnapshotRequest, progress: Progress
) -> SnapshotReply:
    """Publish a snapshot, with what an earlier mount of this machine has left to store.

    Raises:
        UsageError: the name cannot be used.
        Cas3fsError: as `open_writer` and `OpenVolume.finish`.
    """
    check_name(request.name)
    volume = open_writer(settings, WriterSettings(cache_size_bytes=0), folders)
    try:
        volume.start(0)
        assert volume.publisher is not None
        created = volume.publisher.publish(progress, name=request.name, even_unchanged=True)
        reply = show_snapshot(volume.archive, created)
        volume.finish(progress)
        return reply
    finally:
        volume.close()


# -- delete


def delete_mounted(service: MountService, request: DeleteSnapshotsRequest, progress: Progress) -> DeleteSnapshotsReply:
    """Delete snapshots."""
    publisher = service.publisher(_READ_ONLY)
    with publisher.exclusively():
        return _delete(publisher.pruner, service.volume.archive, request)


def delete_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: DeleteSnapshotsRequest, progress: Progress
) -> DeleteSnapshotsReply:
    """Delete snapshots; raises as `open_offline_writer` and `SnapshotPruner.delete`."""
    with open_offline_writer(settings, folders) as writer:
        return _delete(writer.pruner, writer.archive, request)


def _delete(pruner: SnapshotPruner, archive: SnapshotArchive, request: DeleteSnapshotsRequest) -> DeleteSnapshotsReply:
    # all are found before any is deleted: then `latest` and an age mean what they meant to the person who wrote them
    found = [find_snapshot(archive, one) for one in request.ids]
    plan = pruner.delete(list(dict.fromkeys(found)))
    return DeleteSnapshotsReply(list(plan.snapshots), len(plan.pages), plan.freed_bytes)


# -- prune


def prune_mounted(service: MountService, request: PruneRequest, progress: Progress) -> PruneReply:
    """Delete the snapshots that the policy does not keep."""
    publisher = service.publisher(_READ_ONLY)
    with publisher.exclusively():
        return _prune(publisher.pruner, request)


def prune_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: PruneRequest, progress: Progress
) -> PruneReply:
    """The same without a mount; raises as `open_offline_writer` and `SnapshotPruner.prune`."""
    with open_offline_writer(settings, folders) as writer:
        return _prune(writer.pruner, request)


def _prune(pruner: SnapshotPruner, request: PruneRequest) -> PruneReply:
    plan = pruner.plan(request.policy) if request.dry_run else pruner.prune(request.policy)
    return PruneReply(**plan.report(), dry_run=request.dry_run)


# -- policy


def policy_mounted(service: MountService, request: PolicyRequest, progress: Progress) -> RetentionPolicy:
    """The volume's policy, after it was replaced by that of the request, if that has one."""
    shelf = service.volume.archive.shelf
    if request.policy is not None:
        publisher = service.publisher(_READ_ONLY)
        set_policy(shelf, request.policy, conditional_writes=service.volume.entry.conditional_writes)
        publisher.pruner.forget_policy()
        if service.volume.seen is not None:
            service.volume.seen.look()
    return current_policy(shelf)


def policy_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: PolicyRequest, progress: Progress
) -> RetentionPolicy:
    """The same without a mount. It claims no epoch, as a policy is a new entry and changes none."""
    with closing(open_volume(settings, Metrics())) as opened:
        shelf = Shelf(opened.store)
        if request.policy is not None:
            set_policy(shelf, request.policy, conditional_writes=opened.entry.conditional_writes)
            opened.look()
        return current_policy(shelf)


@contextmanager
def open_archive(settings: StoreSettings) -> Iterator[SnapshotArchive]:
    """The snapshots of a volume, for reading.

    Raises:
        VolumeMissing, VolumeFormatError, StoreError, UsageError: there is no volume that can be read.
    """
    with closing(open_volume(settings, Metrics())) as opened:
        yield SnapshotArchive(Shelf(opened.store))
