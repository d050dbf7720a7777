# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``cas3fs snapshot`` does: in the process of a mount, asked through its control socket, or without a mount.

A listing is sent as one progress message for each snapshot, since a message has a greatest length. Requests:

    snapshots         {"snapshot": {...}} for each, ascending
    snapshot-show     {"id"}                        what is told of one
    snapshot-create   {"name"}                      publishes, even when nothing has changed
    snapshot-delete   {"ids"}                       deletes them
    snapshot-prune    {"policy", "dry_run"}         deletes what the policy, or the volume's own, does not keep
    snapshot-policy   {"policy"}                    tells the volume's policy, after setting it where one is given
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import attrs

from cas3fs.commands.stats import list_unstored
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Handler, Message, Progress
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import ControlError
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import NEW_PACK_BYTES, SnapshotInfo
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.removal import RemovalPlan
from cas3fs.snapshots.retention import current_policy, set_policy
from cas3fs.volume.loading import load_volume, open_volume_store
from cas3fs.volume.offline_writer import open_offline_writer
from cas3fs.volume.opening import OpenVolume, open_writer
from cas3fs.volume.pruner import SnapshotPruner
from cas3fs.volume.publisher import Publisher

# -- reports


def list_snapshots(archive: SnapshotArchive) -> Iterator[Message]:
    """What is told of each snapshot, ascending; of a damaged one its id and what is wrong.

    Raises:
        StoreError: the store failed.
    """
    damaged: dict[str, str] = {}
    head, diverged = archive.newest_id(), archive.diverged()
    told = {one.id: one for one in archive.list(lambda one, error: damaged.update({one: str(error)}))}
    for one in sorted([*told, *damaged]):
        if one in told:
            yield describe(told[one], head, diverged)
        else:
            yield {"id": one, "damaged": damaged[one], "newest": one == head, "off_line": one in diverged}


def show_snapshot(archive: SnapshotArchive, snapshot_id: str) -> Message:
    """All that is told of a snapshot.

    Raises:
        SnapshotMissing, SnapshotDamaged, StoreError: it cannot be read.
    """
    info = archive.load(snapshot_id)
    pages = [one._asdict() for one in info.pages]
    return describe(info, archive.newest_id(), archive.diverged()) | {"facts": dict(info.facts), "pages": pages}


def describe(info: SnapshotInfo, head: str | None, diverged: frozenset[str]) -> Message:
    """What a listing tells of a snapshot; sizes are in bytes."""
    return {
        "id": info.id,
        "name": info.name,
        "time": info.time.isoformat(),
        "epoch": info.number.epoch,
        "sequence": info.number.sequence,
        "parent": info.parent,
        "restored": info.restored,
        "files": info.facts.get("files", 0),
        "logical_bytes": info.facts.get("logical_bytes", 0),
        "new_bytes": info.new_size + info.facts.get(NEW_PACK_BYTES, 0),
        "new_index_bytes": info.new_size,
        "index_bytes": info.index_size,
        "newest": info.id == head,
        "off_line": info.id in diverged,
    }


def describe_policy(policy: RetentionPolicy) -> Message:
    """A policy as JSON has it."""
    return attrs.asdict(policy) | {"names": list(policy.names)}


def read_policy(told: object) -> RetentionPolicy | None:
    """What `describe_policy` made, or None of nothing.

    Raises:
        ControlError: it is no policy.
    """
    if told is None:
        return None
    names = {field.name for field in attrs.fields(RetentionPolicy)}
    if not isinstance(told, dict) or not set(told) <= names:
        raise ControlError("a retention policy is expected")
    return RetentionPolicy(**told | {"names": tuple(told.get("names", ()))})


# -- in the process of a mount


class SnapshotHandlers:
    """The control socket's handlers for one open volume."""

    def __init__(self, volume: OpenVolume) -> None:
        self._volume = volume

    def handlers(self) -> dict[str, Handler]:
        return {
            "snapshots": self._list,
            "snapshot-show": lambda args, progress: show_snapshot(self._volume.archive, _text(args, "id")),
            "snapshot-create": self._create,
            "snapshot-delete": self._delete,
            "snapshot-prune": self._prune,
            "snapshot-policy": self._policy,
        }

    def _publisher(self) -> Publisher:
        if self._volume.publisher is None:
            raise ControlError(f"{self._volume.url} is mounted read-only here, so its snapshots cannot be changed")
        return self._volume.publisher

    def _list(self, args: Message, progress: Progress) -> Message:
        count = 0
        for one in list_snapshots(self._volume.archive):
            progress({"snapshot": one})
            count += 1
        return {"count": count}

    def _create(self, args: Message, progress: Progress) -> Message:
        name = None if args.get("name") is None else _text(args, "name")
        made = self._publisher().publish(progress, name=name, even_unchanged=True, settled=True)
        unstored = list_unstored(self._volume.filesystem)
        return show_snapshot(self._volume.archive, made) | {"unstored": unstored}

    def _delete(self, args: Message, progress: Progress) -> Message:
        ids = args.get("ids")
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise ControlError("the ids of snapshots are expected")
        publisher = self._publisher()
        with publisher.exclusively():
            return removal_report(publisher.pruner.delete(ids))

    def _prune(self, args: Message, progress: Progress) -> Message:
        publisher = self._publisher()
        with publisher.exclusively():
            return prune(publisher.pruner, read_policy(args.get("policy")), dry_run=bool(args.get("dry_run")))

    def _policy(self, args: Message, progress: Progress) -> Message:
        policy = read_policy(args.get("policy"))
        if policy is not None:
            publisher = self._publisher()
            set_policy(self._volume.archive.shelf, policy, fenced=self._volume.entry.fenced)
            publisher.pruner.forget_policy()
        return describe_policy(current_policy(self._volume.archive.shelf))


def prune(pruner: SnapshotPruner, policy: RetentionPolicy | None, *, dry_run: bool) -> Message:
    """What is deleted, or would be."""
    pruning = pruner.plan(policy) if dry_run else pruner.prune(policy)
    return pruning.report() | {"dry_run": dry_run}


def removal_report(plan: RemovalPlan) -> Message:
    """What was deleted."""
    return {"removed": list(plan.snapshots), "pages_removed": len(plan.pages), "bytes_freed": plan.freed_bytes}


def _text(args: Message, name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str):
        raise ControlError(f"a text is expected as {name!r}")
    return value


# -- without a mount


@contextmanager
def open_archive(settings: StoreSettings) -> Iterator[SnapshotArchive]:
    """The snapshots of a volume, for reading.

    Raises:
        VolumeMissing, VolumeFormatError, StoreError, UsageError: there is no volume that can be read.
    """
    with closing(open_volume_store(settings, Metrics())) as store:
        load_volume(store)
        yield SnapshotArchive(Shelf(store))


def create_offline(settings: StoreSettings, folders: LocalFolders, name: str | None, progress: Progress) -> Message:
    """Publishes what there is, with what an earlier mount of this machine has left to store.

    Raises:
        Cas3fsError: as `open_writer` and `OpenVolume.finish`.
    """
    volume = open_writer(settings, WriterSettings(cache_size_bytes=0), folders)
    try:
        volume.start(0)
        assert volume.publisher is not None
        made = volume.publisher.publish(progress, name=name, even_unchanged=True)
        report = show_snapshot(volume.archive, made)
        volume.finish(progress)
        return report
    finally:
        volume.close()


def delete_offline(settings: StoreSettings, folders: LocalFolders, ids: list[str]) -> Message:
    """Deletes snapshots; raises as `open_offline_writer` and `SnapshotPruner.delete`."""
    with open_offline_writer(settings, folders) as turn:
        return removal_report(turn.pruner.delete(ids))


def prune_offline(
    settings: StoreSettings, folders: LocalFolders, policy: RetentionPolicy | None, *, dry_run: bool
) -> Message:
    """Prunes; raises as `open_offline_writer` and `SnapshotPruner.prune`."""
    with open_offline_writer(settings, folders) as turn:
        return prune(turn.pruner, policy, dry_run=dry_run)


def policy_offline(settings: StoreSettings, policy: RetentionPolicy | None) -> Message:
    """Tells the policy, after setting it where one is given; needs no turn, as no policy is ever changed."""
    with closing(open_volume_store(settings, Metrics())) as store:
        entry = load_volume(store)
        if policy is not None:
            set_policy(Shelf(store), policy, fenced=entry.fenced)
        return describe_policy(current_policy(Shelf(store)))
