# SPDX-License-Identifier: GPL-3.0-or-later
"""The cost of a volume with very many objects: packs, epochs, files that wait for the store.

The packs are files of a few bytes in a directory, and the index is filled by bulk SQL: half of the packs are used by
files, the other half is unused. Each measurement runs in a process of its own, so that its memory can be measured. A
stall is the longest wait of an operation of the file system while gc runs.
"""

import os
import resource
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import Measurement
from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blocks.codec import Compression
from cas3fs.blockstore import BlockReader, BlockWriter
from cas3fs.caches.memory import MemoryCache
from cas3fs.commands.fsck import check_open_volume
from cas3fs.commands.mkfs import create_volume
from cas3fs.config import LocalFolders, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.entries.kinds import EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.filesystem import ROOT, FileSystem, FileSystemSettings, Owner, Staging
from cas3fs.index import Index, StagingIndex, ordinal_of
from cas3fs.index.checksums import RECOMPUTE_CHECKSUMS
from cas3fs.maintenance.gc.request import GcResult, GcSettings
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ListPage, ObjectInfo
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.values import SnapshotNumber
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume, open_writer

KIB, MIB = 1 << 10, 1 << 20
BLOCKS_IN_PACK = 4
PACK_BYTES = 200
SAMPLE = 500
_SETTINGS = WriterSettings(cache_size_bytes=0, snapshot_interval_s=0)
_GC = GcSettings(min_live=0, grace_s=0)
_FIRST = 1000


# -- packs


def fill_packs(folder: Path, packs: int) -> None:
    """Make a volume with so many packs, half of which are used."""
    (folder / "v").mkdir(mode=0o700)
    store, places = _settings(folder)
    create_volume(store, VolumeSettings())
    volume = open_writer(store, _SETTINGS, places)
    volume.start(0)
    volume.finish()
    state = volume.state.path
    volume.close()
    names = [f"00000001/{number:064x}" for number in range(packs)]
    (folder / "v" / "packs" / "00000001").mkdir(parents=True)
    for name in names:
        (folder / "v" / "packs" / name).write_bytes(bytes(PACK_BYTES))
    with closing(sqlite3.connect(state / "index.sqlite")) as index, index:
        _fill_index(index, names)
        index.execute("DELETE FROM volume_state WHERE key = 'clean'")


def _settings(folder: Path) -> tuple[StoreSettings, LocalFolders]:
    return StoreSettings((folder / "v").as_uri()), LocalFolders(folder / "s", folder / "c")


def _fill_index(index: sqlite3.Connection, names: list[str]) -> None:
    born = ordinal_of(SnapshotNumber(1, 1 << 20))  # after the one snapshot of that epoch
    size = PACK_BYTES // BLOCKS_IN_PACK
    used = len(names) // 2
    index.executemany(
        "INSERT INTO packs (id, name, size, born) VALUES (?, ?, ?, ?)",
        ((_FIRST + number, name, PACK_BYTES, born) for number, name in enumerate(names)),
    )
    blocks = range(len(names) * BLOCKS_IN_PACK)
    index.executemany(
        "INSERT INTO blocks (id, hash, pack, offset, stored_length, plain_length) VALUES (?, ?, ?, ?, ?, 4096)",
        (
            (_FIRST + one, os.urandom(32), _FIRST + one // BLOCKS_IN_PACK, one % BLOCKS_IN_PACK * size, size)
            for one in blocks
        ),
    )
    index.executemany(
        "INSERT INTO inodes VALUES (?, 33188, 0, 0, 1, 0, 0, ?, 1, 1, 1, 1, 1, 0, 0, 0)",
        ((_FIRST + number, BLOCKS_IN_PACK * 4096) for number in range(used)),
    )
    index.executemany(
        "INSERT INTO dentries (parent, name, inode) VALUES (1, ?, ?)",
        ((b"file%07d" % number, _FIRST + number) for number in range(used)),
    )
    index.executemany(
        "INSERT INTO chunks VALUES (?, ?, 4096, ?, 0)",
        (
            (_FIRST + one // BLOCKS_IN_PACK, one % BLOCKS_IN_PACK * 4096, _FIRST + one)
            for one in blocks[: used * BLOCKS_IN_PACK]
        ),
    )
    index.execute(RECOMPUTE_CHECKSUMS.text)


def measure_packs(folder: Path) -> list[Measurement]:
    """Measure gc and fsck of that volume, as its mount runs them."""
    store, places = _settings(folder)
    volume = open_writer(store, _SETTINGS, places)
    volume.start(0)
    try:
        return list(_maintenance(volume))
    finally:
        volume.close()


def _maintenance(volume: OpenVolume) -> Iterator[Measurement]:
    scheduler, publisher = GcScheduler(volume), volume.publisher
    assert publisher is not None
    publisher.publish()
    idle_mib = _peak_mib()
    yield Measurement("gc plan", _seconds(lambda: scheduler.plan(_GC, _ignore_progress)), "s")
    lists = volume.metrics.snapshot().get("store.list.count", 0)
    with _watched(volume.filesystem) as stall_ms:
        results: list[GcResult] = []
        yield Measurement(
            "gc that drops unreferenced blocks",
            _seconds(lambda: results.append(scheduler.collect(_GC, _ignore_progress))),
            "s",
        )
        yield Measurement("LIST requests of that gc", volume.metrics.snapshot().get("store.list.count", 0) - lists, "")
        with publisher.exclusively():
            publisher.pruner.prune(RetentionPolicy(last=1))
        yield Measurement(
            "gc that deletes dead packs",
            _seconds(lambda: results.append(scheduler.collect(_GC, _ignore_progress))),
            "s",
        )
        assert any(result.deleted_packs for result in results), results  # the first gc does it if the index is small
        yield Measurement("longest stall during gc", stall_ms(), "ms")
    yield Measurement("fsck", _seconds(lambda: _assert_clean(volume)), "s")
    yield Measurement("memory over the idle volume", _peak_mib() - idle_mib, "MiB")


def _assert_clean(volume: OpenVolume) -> None:
    result = check_open_volume(volume, FsckRequest(), _ignore_progress)
    assert result.status == 0, result


@contextmanager
def _watched(filesystem: FileSystem) -> Iterator[Callable[[], float]]:
    """Repeat a small operation; yields a function for the longest duration in ms."""
    stopping, longest_s = threading.Event(), [0.0]

    def watch() -> None:
        while not stopping.wait(0.001):
            started_s = time.perf_counter()
            inode = filesystem.lookup(ROOT, b"file0000001")
            filesystem.forget([(inode.number, 1)])
            longest_s[0] = max(longest_s[0], time.perf_counter() - started_s)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: longest_s[0] * 1000
    finally:
        stopping.set()
        thread.join()


# -- epochs


class _SortedCountingStore(MemoryStore):
    """Counts requests; its listings are sorted only once."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self._sorted: list[ObjectInfo] | None = None

    def put_if_absent(self, key: str, body: Any, metadata: Mapping[str, str] = {}) -> None:
        self._sorted = None
        super().put_if_absent(key, body, metadata)

    def get(self, key: str) -> bytes:
        self.requests["get"] += 1
        return super().get(key)

    def head(self, key: str) -> ObjectInfo:
        self.requests["head"] += 1
        return super().head(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self.requests["list"] += 1
        if self._sorted is None:
            self._sorted = sorted((info for info, _ in self._objects.values()), key=lambda info: info.key)
        found = [info for info in self._sorted if info.key.startswith(prefix) and info.key > start_after]
        page = found[:1000]
        return ListPage(page, page[-1].key if len(found) > 1000 else None)


def measure_epochs(folder: Path, epochs: int) -> list[Measurement]:
    """Measure a claim after so many epochs, 1% of them unreleased, and finding the overruled ones."""
    store = _SortedCountingStore()
    shelf, identity, now = Shelf(store), WriterIdentity.of_this_process(), datetime.now(UTC)
    mine = uuid.uuid4()
    for number in range(1, epochs + 1):
        entry = EpochEntry(id=f"{number:08d}", epoch=number, claim=mine, time=now, **_identity_attributes(identity))
        shelf.save(entry)
        if number % 100 or number == epochs:
            shelf.save(ReleaseEntry(owner=entry.key, claim=mine, time=now))
    found = Epochs(shelf)
    store.requests.clear()
    claim_s = _seconds(lambda: found.claim(identity, folder / "claim.json"))
    claim_requests = sum(store.requests.values())
    store.requests.clear()
    overruled_s = _seconds(found.overruled)
    return [
        Measurement("claim", claim_s, "s"),
        Measurement("requests of a claim", claim_requests, ""),
        Measurement("find overruled epochs", overruled_s, "s"),
        Measurement("requests to find them", sum(store.requests.values()), ""),
        Measurement("memory", _peak_mib(), "MiB"),
    ]


def _identity_attributes(identity: WriterIdentity) -> dict[str, Any]:
    known = identity._asdict()
    return {name: known[name] for name in ("host", "user", "pid")}


# -- files that wait for the store


def measure_staged(folder: Path, files: int) -> list[Measurement]:
    """Measure the first and last of so many files of 1 KiB that wait for the store, and an fsync."""
    with closing(_file_system(folder)) as filesystem:
        filesystem.start()
        first_s = _seconds(lambda: _create(filesystem, 0, SAMPLE)) / SAMPLE
        _create(filesystem, SAMPLE, files - SAMPLE)
        filesystem.commit()
        last_s = _seconds(lambda: _create(filesystem, files - SAMPLE, files)) / SAMPLE
        filesystem.commit()
        inode, handle = filesystem.create(ROOT, b"synced", 0o600, os.O_RDWR, Owner())
        filesystem.write(handle, 0, b"x" * KIB)
        synced_s = _seconds(lambda: filesystem.fsync(handle))
        filesystem.release(handle)
        filesystem.forget([(inode.number, 1)])
        return [
            Measurement("create, first 500 files", first_s * 1e6, "us"),
            Measurement("create, last 500 files", last_s * 1e6, "us"),
            Measurement("fsync of one more file", synced_s * 1000, "ms"),
            Measurement("memory", _peak_mib(), "MiB"),
        ]


def _create(filesystem: FileSystem, start: int, end: int) -> None:
    data = bytes(KIB)
    for number in range(start, end):
        inode, handle = filesystem.create(ROOT, b"file%07d" % number, 0o600, os.O_RDWR, Owner())
        filesystem.write(handle, 0, data)
        filesystem.release(handle)
        filesystem.forget([(inode.number, 1)])


def _file_system(folder: Path) -> FileSystem:
    metrics, store = Metrics(), MemoryStore()
    (folder / "staging").mkdir()
    rows = StagingIndex(folder / "staging.sqlite")
    return FileSystem(
        Index.open(folder / "index.sqlite", create=True),
        Staging(folder / "staging", rows, limit_bytes=1 << 30, memory_bytes=16 * MIB),
        BlockReader(store, MemoryCache(0), None, metrics=metrics),
        lambda on_stored: BlockWriter(
            store,
            epoch=1,
            pack_size_bytes=16 * MIB,
            compression=Compression.parse("none"),
            on_stored=on_stored,
            metrics=metrics,
        ),
        make_chunker("fixed", MIB),
        FileSystemSettings(settle_s=3600, batch_wait_s=3600),
        metrics,
    )


# -- helpers


def _seconds(work: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ignore_progress(message: object) -> None:
    """Ignore the progress of a command."""
