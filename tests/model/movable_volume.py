# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume in a folder that one machine after another opens.

Nothing happens in the background: data is committed, stored and published only on request.
"""

import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from cas3fs.commands.mkfs import create_volume
from cas3fs.commands.restore import restore_head
from cas3fs.config import LocalFolders, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.control import Message
from cas3fs.filesystem import FileSystem, FileSystemSettings
from cas3fs.maintenance.gc.collector import GarbageCollector
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.units import MIB
from cas3fs.volume.opening import OpenVolume, open_view, open_writer
from tests.encrypted import chosen

LAZY = FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600)
SETTINGS = {"cache_size_bytes": 16 * MIB, "memory_cache_bytes": 0}  # so every block is read from the disk cache
MEMORY = Path("/dev/shm")  # no test here loses power, and thousands of syncs cost nothing
SMALL = VolumeSettings(chunker="fixed", block_size_bytes=4096)


class MovableVolume:
    """A volume, open on the current machine."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="cas3fs-model-", dir=MEMORY if MEMORY.is_dir() else None))
        self.machines = 0
        (self.root / "v").mkdir()
        self.store = StoreSettings((self.root / "v").as_uri())
        self.uuid = str(create_volume(self.store, chosen(SMALL))["uuid"])
        self.volume = self._open()

    @property
    def fs(self) -> FileSystem:
        return self.volume.filesystem

    @property
    def _places(self) -> LocalFolders:
        return LocalFolders(self.root / f"state{self.machines}", self.root / "cache")

    def _open(self) -> OpenVolume:
        with patch("cas3fs.volume.wiring.FileSystemSettings", return_value=LAZY):
            volume = open_writer(self.store, WriterSettings(**SETTINGS), self._places)
        (volume.state.staging / "reserve").touch()  # creating it would take most of the time of a step
        volume.start(0)
        return volume

    # -- operations

    def publish(self) -> str:
        assert self.volume.publisher is not None
        return self.volume.publisher.publish()

    def collect_garbage(self) -> None:
        assert self.volume.context is not None
        GarbageCollector(self.volume.context).collect(GcSettings(grace_s=0), _ignore_progress)

    def delete_snapshot(self, snapshot: str) -> None:
        self.volume.archive.delete([snapshot])

    def remount(self) -> str:
        """Unmount and mount again; returns the snapshot of the unmount."""
        newest = self._finish()
        self.volume = self._open()
        return newest

    def move_to_another_machine(self) -> str:
        """As `remount`, on a machine that has only the store."""
        newest = self._finish()
        shutil.rmtree(self._places.state_dir)
        self.lose_the_cache()
        self.volume = self._open()
        return newest

    def restore(self, snapshot: str) -> str:
        """Unmount, make `snapshot` the head, and mount; returns the snapshot of the unmount."""
        newest = self._finish()
        restore_head(self.store, self._places, snapshot, _ignore_progress)
        self.volume = self._open()
        return newest

    def kill(self) -> None:
        """Kill the process; another one continues with the files as they are at this moment."""
        before, state = self.volume, self._places.state_dir
        self.machines += 1
        shutil.copytree(state, self._places.state_dir)
        before.close()
        shutil.rmtree(state)
        self.volume = self._open()

    def lose_the_cache(self) -> None:
        shutil.rmtree(self.root / "cache", ignore_errors=True)

    def view(self, snapshot: str) -> OpenVolume:
        """Open a snapshot for reading on another machine."""
        settings = WriterSettings(**SETTINGS, read_only=True, snapshot=snapshot)
        volume = open_view(self.store, settings, LocalFolders(self.root / "viewer", self.root / "viewer-cache"))
        volume.start(0)
        return volume

    def _finish(self) -> str:
        newest = self.volume.finish()
        assert newest is not None
        self.volume.close()
        return newest

    def close(self) -> None:
        self.volume.close()
        shutil.rmtree(self.root)


def _ignore_progress(message: Message) -> None:
    """Ignore the progress of a command."""
