# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system over a memory store, whose process can be killed as far as its files are concerned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blocks.codec import Compression
from cas3fs.blockstore import BlockReader, BlockWriter
from cas3fs.caches.memory import MemoryCache
from cas3fs.filesystem import FileSystem, FileSystemSettings, Owner, Staging
from cas3fs.index import Index, StagingIndex
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.testing.faulty_disk import FaultyDisk
from cas3fs.values import StoredPack
from tests.live_folders import copy_live_folder

ROOT = Owner(0, 0)
USER = Owner(1000, 1000)
MIB = 1 << 20


class Machine:
    """A place where file systems of one volume run, one after the other."""

    def __init__(self, folder: Path, chunker: str = "fastcdc", block_size: int = 4096) -> None:
        self.folder = folder
        self.store: ObjectStore = MemoryStore()
        self.chunker = make_chunker(chunker, block_size)
        self.running: list[FileSystem] = []
        self.number = 0
        self.disk = FaultyDisk()

    def mount(
        self,
        settings: FileSystemSettings | None = None,
        *,
        limit_bytes: int = 64 * MIB,
        memory_bytes: int = 16 * MIB,
        cache_bytes: int = 4 * MIB,
        most_open: int | None = None,
        lock: Any = None,
        wrap: Callable[[ObjectStore], ObjectStore] = lambda store: store,
    ) -> FileSystem:
        staging = self.folder / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        metrics = Metrics()
        store = wrap(self.store)

        def make_writer(on_stored: Callable[[StoredPack], None]) -> BlockWriter:
            return BlockWriter(
                store,
                epoch=1,
                pack_size_bytes=MIB,
                compression=Compression.parse("zstd:1"),
                on_stored=on_stored,
                metrics=metrics,
            )

        fs = FileSystem(
            Index.open(self.folder / "index.sqlite", create=True),
            Staging(
                staging,
                StagingIndex(self.folder / "staging.sqlite"),
                limit_bytes=limit_bytes,
                memory_bytes=memory_bytes,
                disk=self.disk,
                most_open=most_open,
                lock=lock,
            ),
            BlockReader(store, MemoryCache(cache_bytes), None, metrics=metrics),
            make_writer,
            self.chunker,
            settings or LAZY,
            metrics,
        )
        fs.start()
        self.running.append(fs)
        return fs

    def copy_of_the_disk(self) -> "Machine":
        """What another process finds if this one is killed now: the same store, and the local files as they are."""
        self.number += 1
        copy = Machine(self.folder.with_name(f"{self.folder.name}-{self.number}"))
        copy.store, copy.chunker = self.store, self.chunker
        copy_live_folder(self.folder, copy.folder)
        return copy

    def close(self) -> None:
        for fs in self.running:
            fs.close()


LAZY = FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600)
"""Nothing happens in the background unless it is asked for."""

EAGER = FileSystemSettings(commit_interval_s=0.5, settle_s=0.0, batch_wait_s=0.0)
