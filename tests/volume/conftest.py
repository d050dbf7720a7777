# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that open one volume in turn, without a kernel between."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import attrs
import pytest

from cas3fs.commands.mkfs import create_volume
from cas3fs.commands.mount_service import EndState, MountService
from cas3fs.commands.requests import mount_handlers
from cas3fs.commands.snapshot import create_unmounted, delete_unmounted, policy_unmounted, prune_unmounted
from cas3fs.commands.stats import report_unmounted
from cas3fs.config import ExpectedState, LocalFolders, StoreSettings, WriterSettings
from cas3fs.control import Message, Progress
from cas3fs.control.messages.mount import StatsReply, StatsRequest
from cas3fs.control.messages.snapshots import (
    CreateSnapshotRequest,
    DeleteSnapshotsReply,
    DeleteSnapshotsRequest,
    PolicyRequest,
    PruneReply,
    PruneRequest,
    SnapshotReply,
)
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.filesystem import ROOT, Owner
from cas3fs.filesystem.operations.ranges import KEEP_SIZE, PUNCH_HOLE
from cas3fs.metrics import Metrics
from cas3fs.objectstores import open_store
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume, open_view, open_writer
from tests.encrypted import chosen, plain_store

SETTINGS = WriterSettings(cache_size_bytes=0)


class Volume:
    """A volume in a folder, and hosts by name."""

    def __init__(self, root: Path, store: Path | None = None) -> None:
        """Makes one, or goes on with the one in `store`; `stored` has its objects as they are stored."""
        self.root = root
        self.store_settings = StoreSettings((store or root / "v").as_uri())
        if store is None:
            (root / "v").mkdir()
            self.made = create_volume(self.store_settings, chosen())
        self.stored = open_store(self.store_settings, metrics=Metrics())
        self._open: list[OpenVolume] = []

    @cached_property
    def shelf(self) -> Shelf:
        """The entries, with the plain objects of an encrypted volume."""
        return Shelf(plain_store(self.store_settings))

    @cached_property
    def archive(self) -> SnapshotArchive:
        return SnapshotArchive(self.shelf)

    def at(self, store: Path) -> "Volume":
        """The volume in another folder, used by the same hosts; closed with this one."""
        other = Volume(self.root, store)
        other.made = self.made
        other._open = self._open
        return other

    @property
    def accepting_rollback(self) -> StoreSettings:
        """For a machine that is told that the store was put back to an older state."""
        return attrs.evolve(self.store_settings, expected=ExpectedState(accept_rollback=True))

    def folders(self, host: str) -> LocalFolders:
        return LocalFolders(self.root / host, self.root / "cache" / host)

    def state(self, host: str) -> Path:
        return self.folders(host).state_of(str(self.made["uuid"]))

    def open(self, host: str = "here", *, take_over: bool = False) -> OpenVolume:
        settings = WriterSettings(cache_size_bytes=0, take_over=take_over)
        volume = open_writer(self.store_settings, settings, self.folders(host))
        self._open.append(volume)
        volume.start(0)
        return volume

    def view(self) -> OpenVolume:
        settings = WriterSettings(cache_size_bytes=0, read_only=True)
        volume = open_view(self.store_settings, settings, self.folders("viewer"))
        self._open.append(volume)
        volume.start(0)
        return volume

    def closing(self, opened: OpenVolume) -> None:
        """Has it closed at the end."""
        self._open.append(opened)

    def use(self, host: str, **files: str) -> str:
        """Opens on `host`, writes `files`, finishes; gives the snapshot."""
        volume = self.open(host)
        for name, text in files.items():
            write(volume, name, text)
        snapshot = volume.finish()
        volume.close()
        assert snapshot is not None
        return snapshot

    def take_over(self, host: str) -> None:
        """Another host claims the volume although it is held, and goes away again."""
        folder = self.root / host
        folder.mkdir()
        epochs = Epochs(self.shelf)
        claim = epochs.claim(WriterIdentity.of_this_process(), folder / "claim.json", take_over=True)
        epochs.release(claim)

    def close(self) -> None:
        for volume in self._open:
            volume.close()


def write(volume: OpenVolume, name: str, text: str) -> None:
    fs = volume.filesystem
    inode, handle = fs.create(ROOT, name.encode(), 0o644, os.O_WRONLY, Owner())
    fs.write(handle, 0, text.encode())
    fs.release(handle)
    fs.forget([(inode.number, 1)])


def copy_punched(volume: OpenVolume, source: str, name: str, hole: int) -> None:
    """Copies a file, and makes the beginning of the copy a hole of that length."""
    fs = volume.filesystem
    reading = fs.open(fs.lookup(ROOT, source.encode()).number, os.O_RDONLY, Owner())
    inode, handle = fs.create(ROOT, name.encode(), 0o644, os.O_RDWR, Owner())
    try:
        if fs.copy_range_now(reading, 0, handle, 0, 1 << 30) is None:
            fs.copy_range(reading, 0, handle, 0, 1 << 30)
        if hole:
            fs.allocate(handle, 0, hole, PUNCH_HOLE | KEEP_SIZE)
    finally:
        fs.release(reading)
        fs.release(handle)
        fs.forget([(inode.number, 1)])


def publish(opened: OpenVolume) -> str:
    """Publishes; gives the snapshot."""
    assert opened.publisher is not None
    return opened.publisher.publish()


def view_of(volume: Volume, snapshot_id: str, host: str = "viewer") -> OpenVolume:
    """Opens a snapshot for reading."""
    settings = WriterSettings(cache_size_bytes=0, read_only=True, snapshot=snapshot_id)
    opened = open_view(volume.store_settings, settings, volume.folders(host))
    volume.closing(opened)
    opened.start(0)
    return opened


def packs(volume: Volume) -> set[str]:
    """The keys of the packs in the volume's store."""
    return {info.key for info in volume.shelf.store.list("packs/")}


def read_all(volume: OpenVolume) -> dict[str, str]:
    """Every file of the root, with its text."""
    fs = volume.filesystem
    listing = fs.opendir(ROOT)
    found = {}
    for name, inode, _ in list(fs.readdir(listing, 0)):
        handle = fs.open(inode.number, os.O_RDONLY, Owner())
        found[name.decode()] = bytes(fs.read(handle, 0, 1 << 20)).decode()
        fs.release(handle)
    fs.releasedir(listing)
    return found


def service_of(opened: OpenVolume) -> MountService:
    """What requests to a mount of the volume would work with."""
    return MountService(opened, Path("/mnt"), GcScheduler(opened), EndState())


def answer(opened: OpenVolume, verb: str, args: Message, progress: Progress = lambda _: None) -> Message:
    """What the process of a mount of the volume answers to a request."""
    return mount_handlers(service_of(opened))[verb](args, progress)


def delete_snapshots(volume: Volume, host: str, *ids: str) -> DeleteSnapshotsReply:
    """Deletes snapshots while nobody has the volume open."""
    return delete_unmounted(
        volume.store_settings, volume.folders(host), DeleteSnapshotsRequest(list(ids)), lambda _: None
    )


def create_snapshot(volume: Volume, host: str, name: str | None = None) -> SnapshotReply:
    """Publishes a snapshot while nobody has the volume open."""
    return create_unmounted(volume.store_settings, volume.folders(host), CreateSnapshotRequest(name), lambda _: None)


def prune_snapshots(volume: Volume, host: str, policy: RetentionPolicy, *, dry_run: bool = False) -> PruneReply:
    """Prunes while nobody has the volume open."""
    return prune_unmounted(volume.store_settings, volume.folders(host), PruneRequest(policy, dry_run), lambda _: None)


def volume_policy(volume: Volume, policy: RetentionPolicy | None = None) -> RetentionPolicy:
    """The volume's policy, after it was replaced by `policy` if there is one."""
    return policy_unmounted(volume.store_settings, volume.folders("here"), PolicyRequest(policy), lambda _: None)


def stats_of(volume: Volume, host: str) -> StatsReply:
    """The statistics of the volume while nobody has it open."""
    return report_unmounted(volume.store_settings, volume.folders(host), StatsRequest(), lambda _: None)


@pytest.fixture
def volume(encryption: str, tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.close()
