# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume in a memory store, open for writing, that keeps the contents of its snapshots for comparison.

It can be killed: `killed` returns another one with the local files as they are at that moment.
"""

import hashlib
import os
import random
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blocks.codec import Compression, decode_verified
from cas3fs.blockstore import BlockReader, BlockWriter
from cas3fs.blockstore.pack_store import pack_key
from cas3fs.caches.memory import MemoryCache
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.errors import Cas3fsError, Fenced, FileSystemError
from cas3fs.filesystem import FileSystem, FileSystemSettings, Owner, Staging
from cas3fs.index import Index, StagingIndex, ordinal_of
from cas3fs.maintenance.context import VolumeContext, ignore_progress
from cas3fs.maintenance.gc.collector import GarbageCollector
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import SnapshotNumber, StoredPack
from tests.encrypted import sealed_if_chosen
from tests.filesystem.usage import take_checkpoint
from tests.live_folders import copy_live_folder

LAZY = FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600)
NOW = GcSettings(grace_s=0)
KIB = 1024
Tree = dict[str, bytes]


class SnapshotPublisher:
    """Publishes as a mount does, from a copy of the index."""

    def __init__(self, volume: "MemoryVolume") -> None:
        self._volume = volume
        self._mutex = threading.Lock()
        self._sequence = 0
        self._last = b""
        self._await_next()

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        with self._mutex:
            yield

    def publish_locked(
        self,
        progress: Callable[[Mapping[str, Any]], None] = ignore_progress,
        *,
        name: str | None = None,
        even_unchanged: bool = False,
    ) -> str:
        volume = self._volume
        volume.fs.store_all()
        copy = volume.folder / "publish.sqlite"
        take_checkpoint(volume.fs, copy)
        digest = hashlib.sha256(copy.read_bytes()).digest()
        if digest != self._last or volume.newest is None or name is not None or even_unchanged:
            self._sequence += 1
            number = SnapshotNumber(volume.epoch, self._sequence)
            self._await_next()
            progress({"what": "putting the snapshot"})
            of = {"epoch": number.epoch, "sequence": number.sequence}
            made = volume.archive.create(copy, **of, parent=volume.newest, name=name)
            progress({"what": "acknowledging the snapshot"})
            self.check_fence()
            volume.newest, self._last = made.id, digest
            volume.snapshots[made.id] = volume.tree_if_readable()
        return str(volume.newest)

    @property
    def next_number(self) -> SnapshotNumber:
        return SnapshotNumber(self._volume.epoch, self._sequence + 1)

    def check_fence(self) -> None:
        if not self._volume.epochs.is_newest(self._volume.claim):
            raise Fenced("another writer has taken over")

    def _await_next(self) -> None:
        self._volume.fs.next_ordinal = ordinal_of(self.next_number)


class MemoryVolume:
    """A volume in a memory store; its file system is used directly, without a mount."""

    def __init__(
        self,
        folder: Path,
        store: ObjectStore | None = None,
        *,
        snapshots: dict[str, Tree] | None = None,
        wrap: Callable[[ObjectStore], ObjectStore] = lambda store: store,
        take_over: bool = False,
        settings: FileSystemSettings = LAZY,
        block_bytes: int = 4096,
    ) -> None:
        self.block_bytes = block_bytes
        self.is_closed = False
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.inner = store or MemoryStore()
        self.wrapped = wrap(self.inner)
        self.store = sealed_if_chosen(self.wrapped)
        self.snapshots: dict[str, Tree] = {} if snapshots is None else snapshots
        self.archive = SnapshotArchive(Shelf(self.store))
        self.epochs = Epochs(Shelf(self.store))
        self.claim = self.epochs.claim(WriterIdentity("host", "user", 1), folder / "claim.json", take_over=take_over)
        self.epoch = self.claim.epoch
        self.newest = self.archive.newest_id()
        self.fs = self._file_system(settings)
        self.publisher = SnapshotPublisher(self)
        self.fs.start()
        self.context = VolumeContext(
            store=self.store,
            archive=self.archive,
            epochs=self.epochs,
            epoch=self.epoch,
            filesystem=self.fs,
            publisher=self.publisher,
            scratch=folder,
            pack_size_bytes=64 * KIB,
            compression=Compression.parse("none"),
        )
        self.collector = GarbageCollector(self.context)

    def _file_system(self, settings: FileSystemSettings) -> FileSystem:
        metrics = Metrics()
        staging = self.folder / "staging"
        staging.mkdir(exist_ok=True)

        def make_writer(on_stored: Callable[[StoredPack], None]) -> BlockWriter:
            return BlockWriter(
                self.store,
                epoch=self.epoch,
                pack_size_bytes=64 * KIB,
                compression=Compression.parse("none"),
                on_stored=on_stored,
                metrics=metrics,
            )

        return FileSystem(
            Index.open(self.folder / "index.sqlite", create=True),
            Staging(
                staging,
                StagingIndex(self.folder / "staging.sqlite"),
                limit_bytes=64 << 20,
                memory_bytes=16 << 20,
            ),
            BlockReader(self.store, MemoryCache(0), None, metrics=metrics),
            make_writer,
            make_chunker("fixed", self.block_bytes),
            settings,
            metrics,
        )

    @property
    def index(self) -> Index:
        """The index that the file system writes, to read or to damage it."""
        with self.fs.index_transaction() as index:
            return index

    # -- files

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces a file."""
        root = Owner(0, 0)
        with suppress(FileSystemError):
            self.fs.unlink(1, name.encode())
        inode, handle = self.fs.create(1, name.encode(), 0o600, os.O_RDWR, root)
        self.fs.write(handle, 0, data)
        self.fs.release(handle)
        self.fs.forget([(inode.number, 1)])

    def remove(self, name: str) -> None:
        self.fs.unlink(1, name.encode())

    def read(self, name: str) -> bytes:
        inode = self.fs.lookup(1, name.encode())
        handle = self.fs.open(inode.number, os.O_RDONLY, Owner(0, 0))
        try:
            return bytes(self.fs.read(handle, 0, inode.size))
        finally:
            self.fs.release(handle)
            self.fs.forget([(inode.number, 1)])

    def names(self) -> list[str]:
        self.fs.commit()
        with sqlite3.connect(self.folder / "index.sqlite") as database:
            found = [
                name.decode()
                for (name,) in database.execute(
                    "SELECT d.name FROM dentries d JOIN inodes i ON i.id = d.inode "
                    "WHERE d.parent = 1 AND (i.mode & 61440) = 32768 ORDER BY d.name"
                )
            ]
        database.close()
        return found

    def tree(self) -> Tree:
        return {name: self.read(name) for name in self.names()}

    def tree_if_readable(self) -> Tree:
        """The tree; empty if some of it cannot be read."""
        try:
            return self.tree()
        except Cas3fsError:
            return {}

    # -- maintenance

    def publish(self, name: str | None = None) -> str:
        with self.publisher.exclusively():
            return self.publisher.publish_locked(name=name)

    def gc(self, settings: GcSettings = NOW, report: Callable[[Mapping[str, Any]], None] = ignore_progress) -> Any:
        return self.collector.collect(settings, report)

    def delete_snapshot(self, snapshot: str) -> None:
        self.archive.delete([snapshot])
        del self.snapshots[snapshot]

    # -- the store

    def packs(self) -> dict[str, int]:
        return {info.key: info.size for info in self.inner.list("packs/")}

    def stored_bytes(self) -> int:
        return sum(info.size for info in self.inner.list())

    def check_snapshots(self) -> None:
        """Checks that every retained snapshot has the contents that it had when it was taken."""
        for snapshot, tree in self.snapshots.items():
            path = self.folder / f"check-{snapshot}.sqlite"
            self.archive.restore(snapshot, path)
            assert contents(path, self.store) == tree, snapshot
            path.unlink()

    def check_newest(self, tree: Tree) -> None:
        """Checks that the newest snapshot has these contents."""
        path = self.folder / "newest.sqlite"
        self.archive.restore(str(self.newest), path)
        assert contents(path, self.store) == tree
        path.unlink()

    def check_newest_can_be_restored(self) -> None:
        """Checks that the newest snapshot can be restored."""
        path = self.folder / "newest.sqlite"
        self.archive.restore(str(self.newest), path)
        path.unlink()

    # -- the end

    def restarted_after_kill(self, folder: Path, **options: Any) -> "MemoryVolume":
        """Another process, with the local files as they are at this moment; this one is closed."""
        copy_live_folder(self.folder, folder)
        self.close()
        return MemoryVolume(folder, self.inner, snapshots=self.snapshots, **options)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.fs.close()


def contents(index: Path, store: ObjectStore) -> Tree:
    """The files of an index, with their bytes from the store; the root is the only directory."""
    database = sqlite3.connect(index)
    found: Tree = {}
    rows = database.execute(
        "SELECT d.name, i.id, i.size, i.mode FROM dentries d JOIN inodes i ON i.id = d.inode WHERE d.parent = 1"
    )
    for name, inode, size, mode in rows.fetchall():
        if stat.S_ISREG(mode):
            found[name.decode()] = _content(database, store, inode, size)
    database.close()
    return found


def _content(database: sqlite3.Connection, store: ObjectStore, inode: int, size: int) -> bytes:
    data = bytearray(size)
    chunks = database.execute(
        "SELECT c.offset, c.length, c.skip, b.hash, p.name, b.offset, b.stored_length, b.plain_length FROM chunks c "
        "JOIN blocks b ON b.id = c.block JOIN packs p ON p.id = b.pack WHERE c.inode = ?",
        (inode,),
    )
    for offset, length, skip, block, pack, start, stored, plain in chunks:
        decoded = decode_verified(store.get_range(pack_key(pack), start, stored), plain, block, store.hash_content)
        data[offset : offset + length] = decoded[skip : skip + length]
    return bytes(data)


def noise(seed: int, size: int = 20 * KIB) -> bytes:
    """Bytes that can be neither compressed nor deduplicated."""
    return random.Random(seed).randbytes(size)


def write_files(volume: MemoryVolume, count: int = 8, start: int = 0) -> None:
    for number in range(start, start + count):
        volume.write(f"f{number}", noise(number))


def make_garbage(volume: MemoryVolume) -> None:
    """Makes dead packs, sparsely used packs, packs held by snapshots, and an orphan."""
    write_files(volume, 12)
    first = volume.publish()
    write_files(volume, 8, 20)
    second = volume.publish()
    for number in (0, 1, 2, 3, 5, 7, 9, 20, 21, 22, 23, 24, 25):
        volume.remove(f"f{number}")
    volume.publish()
    volume.delete_snapshot(first)
    volume.delete_snapshot(second)
    volume.inner.put_if_absent("packs/00000001/" + "cd" * 32, b"orphan")
