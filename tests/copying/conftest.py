# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixture `pair` of the tests of copying/: a volume with files of every kind, and destinations of any kind."""

import errno
import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from cas3fs.blockstore.pack_store import PackStore, pack_name_in
from cas3fs.commands.copy import CopyRequest, CopyResult, copy_volume
from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.mkfs import create_volume
from cas3fs.config import LocalFolders, SecretSettings, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import BlockError, FileSystemError
from cas3fs.filesystem import ROOT, FileSystem, Owner
from cas3fs.metrics import Metrics
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.values import BlockLocation
from cas3fs.volume.loading import open_volume
from cas3fs.volume.opening import OpenVolume, open_view, open_writer

OWNER = Owner()


def silent(message: Message) -> None:
    """Nobody watches."""


@attrs.frozen
class Place:
    """A volume, and this machine's folders for it."""

    root: Path
    settings: StoreSettings
    key_file: Path | None = None

    @property
    def store(self) -> Path:
        return Path(self.settings.url.removeprefix("file://"))

    @property
    def folders(self) -> LocalFolders:
        return LocalFolders(self.root / "state", self.root / "cache")

    def open(self) -> OpenVolume:
        """Open it for writing."""
        opened = open_writer(self.settings, WriterSettings(cache_size_bytes=0), self.folders)
        opened.start(0)
        return opened

    def view(self, snapshot: str | None = None) -> OpenVolume:
        """Open a snapshot for reading, on another machine."""
        settings = WriterSettings(read_only=True, cache_size_bytes=0, snapshot=snapshot)
        opened = open_view(self.settings, settings, LocalFolders(self.root / "viewer", self.root / "viewer-cache"))
        opened.start(0)
        return opened

    def tree(self, snapshot: str | None = None) -> dict[str, Any]:
        """What a snapshot holds: by path, everything that a program can see of each file."""
        with closing(self.view(snapshot)) as opened:
            return dict(walk(opened.filesystem, ROOT, ""))

    def snapshots(self) -> list[SnapshotInfo]:
        """All snapshots, oldest first."""
        with closing(open_volume(self.settings, Metrics())) as opened:
            return SnapshotArchive(Shelf(opened.store)).list()

    def check(self) -> tuple[int, Any]:
        """What ``fsck --verify-data`` finds: its exit status and the codes of its findings."""
        told = check_unmounted(self.settings, self.folders, FsckRequest(verify_data=True), silent)
        return told.status, told.codes

    def packed_blocks(self) -> list[BlockLocation]:
        """The blocks in all packs, as often as they are there."""
        with closing(open_volume(self.settings, Metrics())) as opened:
            packs = PackStore(opened.store)
            found = [(pack_name_in(info.key), info.size) for info in packs.list_objects()]
            return [block for name, size in found for block in packs.get_contents(name, size)]

    def objects(self) -> dict[str, int]:
        """Every object in the store, and when it was written."""
        paths = (path for path in self.store.rglob("*") if path.is_file())
        return {str(path.relative_to(self.store)): path.stat().st_mtime_ns for path in paths}


def walk(fs: FileSystem, number: int, path: str) -> Iterator[tuple[str, Any]]:
    """Everything below a directory."""
    yield path, described(fs, number)
    listing = fs.opendir(number)
    for name, inode, _ in list(fs.readdir(listing, 0)):
        below = f"{path}/{name.decode()}"
        if inode.is_directory:
            yield from walk(fs, inode.number, below)
        else:
            yield below, described(fs, inode.number)
    fs.releasedir(listing)


def described(fs: FileSystem, number: int) -> dict[str, Any]:
    """What a program can see of a file."""
    inode = fs.getattr(number)
    found: dict[str, Any] = {
        name: getattr(inode, name)
        for name in ("number", "mode", "uid", "gid", "nlink", "rdev", "size", "flags", "mtime_ns", "ctime_ns")
    }
    found["xattrs"] = {name: fs.getxattr(number, name) for name in fs.listxattr(number)}
    if inode.mode & 0o170000 == 0o120000:
        found["target"] = fs.readlink(number)
    if inode.mode & 0o170000 == 0o100000:
        found["content"] = content_of(fs, number, inode.size)
    return found


def content_of(fs: FileSystem, number: int, size: int) -> Any:
    """The bytes of a file; for a large one its data, without holes."""
    handle = fs.open(number, os.O_RDONLY, OWNER)
    try:
        if size <= 64 << 20:
            return [piece_of(fs, handle, start, min(1 << 20, size - start)) for start in range(0, size, 1 << 20)]
        return [piece_of(fs, handle, start, 4096) for start in range(0, size, size // 64)]
    finally:
        fs.release(handle)


def piece_of(fs: FileSystem, handle: int, start: int, length: int) -> bytes | int:
    """Bytes of a file, or the number of the error that a program gets."""
    try:
        return bytes(fs.read(handle, start, length))
    except BlockError:
        return errno.EIO


def write(fs: FileSystem, name: str, content: bytes, *, offset: int = 0, parent: int = ROOT) -> int:
    """Writes into a file, which is created if it is missing; returns its number."""
    try:
        number = fs.lookup(parent, name.encode()).number
        handle = fs.open(number, os.O_WRONLY, OWNER)
    except FileSystemError:
        inode, handle = fs.create(parent, name.encode(), 0o644, os.O_WRONLY, OWNER)
        number = inode.number
    for start in range(0, len(content), 1 << 17):
        fs.write(handle, offset + start, content[start : start + (1 << 17)])
    fs.release(handle)
    return number


def publish(opened: OpenVolume, name: str | None = None) -> str:
    """Publishes; returns the id of the snapshot."""
    assert opened.publisher is not None
    return opened.publisher.publish(name=name, even_unchanged=True)


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def fill(fs: FileSystem) -> None:
    """Files of every kind."""
    write(fs, "noise", noise(1, 5_000_000))
    write(fs, "text", b"the same line\n" * 60_000)
    write(fs, "text-again", b"the same line\n" * 60_000)
    write(fs, "empty", b"")
    folder = fs.mkdir(ROOT, b"folder", 0o750, OWNER)
    for number in range(40):
        write(fs, f"small-{number}", noise(100 + number, 10 + number * 97), parent=folder.number)
    sparse = write(fs, "sparse", noise(2, 5000), offset=3_000_000)
    write(fs, "sparse", noise(3, 300_000), offset=2_300_000_000)
    write(fs, "sparse", noise(4, 10), offset=3_100_000)
    fs.link(sparse, ROOT, b"hard-link")
    fs.symlink(ROOT, b"link", b"folder/small-1", OWNER)
    fs.setxattr(fs.lookup(ROOT, b"text").number, b"user.colour", b"blue\0", 0)
    fs.mknod(ROOT, b"pipe", 0o010644, 0, OWNER)


def change(fs: FileSystem) -> None:
    """Another state of them."""
    write(fs, "noise", noise(5, 100_000), offset=2_222_222)
    write(fs, "new", noise(6, 900_000))
    fs.unlink(ROOT, b"text")
    fs.rename(ROOT, b"text-again", ROOT, b"text")
    fs.unlink(ROOT, b"hard-link")


@attrs.define
class Pair:
    """A source, and destinations."""

    root: Path
    source: Place
    count: int = 0

    def make(self, **options: Any) -> Place:
        """A new volume; `encrypt` with a key file of its own."""
        self.count += 1
        root = self.root / f"volume-{self.count}"
        (root / "store").mkdir(parents=True)
        key_file = None
        if options.get("encrypt"):
            key_file = root / "key"
            key_file.write_bytes(noise(self.count, 32))
        settings = StoreSettings((root / "store").as_uri(), secrets=SecretSettings(key_file=key_file))
        create_volume(settings, VolumeSettings(**options))
        return Place(root, settings, key_file)

    @staticmethod
    def uuid_of(place: Place) -> str:
        """The uuid of a volume."""
        with closing(open_volume(place.settings, Metrics())) as opened:
            return str(opened.entry.uuid)

    def copy(self, destination: Place, source: Place | None = None, **request: Any) -> CopyResult:
        """Copies."""
        place = self.source if source is None else source
        return copy_volume(place.settings, destination.settings, destination.folders, CopyRequest(**request), silent)


@pytest.fixture
def volumes(tmp_path: Path) -> Pair:
    """Makes volumes; the source is not filled."""
    pair = Pair(tmp_path, None)  # type: ignore[arg-type]
    pair.source = pair.make(block_size_bytes=64 * 1024, pack_size_bytes=1 << 20)
    return pair


def two_files(place: Place) -> list[str]:
    """Fills a volume with two snapshots of one file, and of two; returns their ids."""
    with closing(place.open()) as opened:
        write(opened.filesystem, "whole", noise(1, 2_000_000))
        first = publish(opened)
        write(opened.filesystem, "hurt", noise(2, 3_000_000))
        second = publish(opened)
        opened.finish()
    return [first, second]


def filled(place: Place) -> list[str]:
    """Fills a volume with three snapshots; returns their ids."""
    with closing(place.open()) as opened:
        fill(opened.filesystem)
        first = publish(opened, "first")
        change(opened.filesystem)
        second = publish(opened)
        third = publish(opened, "third")
        opened.finish()
    return [first, second, third]
