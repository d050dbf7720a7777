# SPDX-License-Identifier: GPL-3.0-or-later
"""An encrypted volume in a folder, and machines by name that remember what they have seen of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import attrs

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import ExpectedState, LocalFolders, SecretSettings, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.entries.shelf import Shelf
from cas3fs.metrics import Metrics
from cas3fs.objectstores import open_store
from cas3fs.objectstores.directory import DirectoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.volume.keys import Unlocked, UnlockedVolume
from cas3fs.volume.loading import load_volume, open_volume
from cas3fs.volume.opening import OpenVolume, open_writer
from tests.volume.conftest import write

KEY = bytes(range(32))


class SealedVolume:
    """An encrypted volume; `store` is its folder."""

    def __init__(self, root: Path, name: str = "v") -> None:
        self.root, self.store = root, root / name
        self.key_file: Path | None = root / "key"
        self.key_file.write_bytes(KEY)
        self.store.mkdir()
        self.made = create_volume(self.settings(), VolumeSettings(encrypt=True))
        self.fingerprint = str(self.made["fingerprint"])
        self._opened: list[OpenVolume] = []

    def settings(self, host: str | None = None, **expected: object) -> StoreSettings:
        """How a verb on that machine opens the volume."""
        state_dir = None if host is None else self.folders(host).state_dir
        return StoreSettings(
            self.store.as_uri(),
            secrets=SecretSettings(key_file=self.key_file),
            expected=attrs.evolve(ExpectedState(state_dir), **expected),  # type: ignore[arg-type]
        )

    def folders(self, host: str) -> LocalFolders:
        return LocalFolders(self.root / host, self.root / "cache" / host)

    def open(self, host: str = "here", *, take_over: bool = False, **expected: object) -> OpenVolume:
        """Opens it for writing."""
        writer = WriterSettings(cache_size_bytes=0, take_over=take_over)
        opened = open_writer(self.settings(host, **expected), writer, self.folders(host))
        self._opened.append(opened)
        opened.start(0)
        return opened

    def use(self, host: str = "here", **files: str) -> str:
        """Opens it, writes `files`, finishes; gives the snapshot."""
        opened = self.open(host)
        for name, text in files.items():
            write(opened, name, text)
        newest = opened.finish()
        opened.close()
        assert newest is not None
        return newest

    def look(self, host: str | None = "here", **expected: object) -> None:
        """What every verb does first."""
        open_volume(self.settings(host, **expected), Metrics()).close()

    def archive(self) -> SnapshotArchive:
        """The snapshots, as one sees them who has the key."""
        return SnapshotArchive(Shelf(self.plain().store))

    def plain(self) -> "UnlockedStore":
        """The volume, without any check of what was seen."""
        opened = load_volume(self.stored(), self.settings().secrets)
        assert opened.keys is not None
        return UnlockedStore(opened.store, opened.keys)

    def stored(self) -> DirectoryStore:
        """The store as an attacker sees it."""
        return open_store(self.settings(), metrics=Metrics())  # type: ignore[return-value]

    def rotate(self, change: Callable[[UnlockedVolume], Unlocked] | None = None) -> Unlocked:
        """Adds a generation of the keys, or changes them as `change` does; the machines are told nothing."""
        keys = self.plain().keys
        return keys.keys.rotate(keys.unlocked) if change is None else change(keys)

    def keep(self) -> Path:
        """A copy of the store."""
        copy = self.root / "copy"
        shutil.copytree(self.store, copy)
        return copy

    def put_back(self, copy: Path) -> None:
        """The copy takes the place of the store."""
        for path in self.store.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(copy, self.store, dirs_exist_ok=True)

    def record(self, host: str = "here") -> Path:
        """The record of what that machine has seen."""
        (found,) = (self.root / host / "seen").glob("*.json")
        return found

    def close(self) -> None:
        for opened in self._opened:
            opened.close()


@attrs.frozen
class UnlockedStore:
    """The plain objects of a volume, and its keys."""

    store: object
    keys: UnlockedVolume
