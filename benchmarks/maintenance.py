# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m benchmarks.maintenance [--files N ...] [--mib N]``: gc's plan, fsck, du, verification of data, by size.

The index is made by bulk SQL, a million files in half a minute. Each size is measured in a process of its own, so that
its memory can be measured. Verification is compared with a plain loop over the same objects: read, unpack, hash.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cas3fs.blocks.codec import Compression, decode_verified, encode
from cas3fs.blocks.packs import PackBuilder, read_contents
from cas3fs.blockstore.pack_store import PackStore, pack_key
from cas3fs.entries.shelf import Shelf
from cas3fs.index import ROOT_INODE, Index
from cas3fs.index.checksums import RECOMPUTE_CHECKSUMS
from cas3fs.index.scans import PackUseScan
from cas3fs.index.usage import UsageReader
from cas3fs.maintenance.fsck.target import FsckTarget
from cas3fs.maintenance.fsck.verify import DataVerifier
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint
from cas3fs.maintenance.fsck.volume_check import FsckSettings, check_volume
from cas3fs.maintenance.gc.plan import PlanInputs, make_plan
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.objectstores.base import ListPage, ObjectInfo, hash_plainly
from cas3fs.objectstores.directory import DirectoryStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import BlockHash

MIB = 1 << 20
BLOCKS_PER_PACK = 4000
MIN_SHARE_OF_LOOP = 0.5
_SERIES = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
_STATEMENTS = (
    ("folders", "INSERT INTO inodes SELECT 1 + i, 16877, 0, 0, 2, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0 FROM n"),
    ("folders", "INSERT INTO dentries (parent, name, inode) SELECT 1, CAST('d' || i AS BLOB), 1 + i FROM n"),
    ("files", "INSERT INTO inodes SELECT 10000 + i, 33188, 0, 0, 1, 0, 0, 4096, 1, 1, 1, 1, 0, 0, 0, 0 FROM n"),
    (
        "files",
        "INSERT INTO dentries (parent, name, inode) SELECT 2 + i % 1000, CAST('file' || i AS BLOB), 10000 + i FROM n",
    ),
    ("packs", "INSERT INTO packs SELECT i, '00000001/' || printf('%064x', i), 8100000, 1, NULL FROM n"),
    ("blocks", "INSERT INTO blocks SELECT i, randomblob(32), 1 + i / 4001, 32 + (i % 4001) * 2000, 2000, 4096 FROM n"),
    ("files", "INSERT INTO chunks SELECT 10000 + i, 0, 4096, i, 0 FROM n"),
)


class ListedStore(MemoryStore):
    """Lists packs that it does not hold."""

    def __init__(self, packs: int) -> None:
        super().__init__()
        now = datetime.now(UTC)
        self._packs = [ObjectInfo(f"packs/00000001/{number:064x}", 8_100_000, now) for number in range(1, packs + 1)]

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        """All of them in one page."""
        return ListPage(self._packs if not start_after and "packs/".startswith(prefix) else [], None)


def make_index(path: Path, files: int) -> int:
    """Make an index of so many files of one block, and a fifth more blocks; returns the number of packs."""
    Index.open(path, create=True).close()
    blocks = files * 6 // 5
    counts = {"folders": 1000, "files": files, "blocks": blocks, "packs": blocks // (BLOCKS_PER_PACK + 1) + 1}
    database = sqlite3.connect(path)
    database.execute("PRAGMA synchronous = OFF")
    for what, statement in _STATEMENTS:
        insert, _, select = statement.partition(" SELECT ")
        database.execute(f"{insert} {_SERIES.format(counts[what])} SELECT {select}")
    database.execute("UPDATE inodes SET nlink = 1002 WHERE id = 1")
    database.execute(RECOMPUTE_CHECKSUMS.text)
    database.commit()
    database.close()
    return counts["packs"]


def measure_index(files: int) -> tuple[float, float, float, float]:
    """Seconds of gc's plan, of an fsck without data, and of du of the root, and the peak memory in MiB."""
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    try:
        path = folder / "index.sqlite"
        store = ListedStore(make_index(path, files))
        plan_s = _seconds(lambda: _plan(path))
        target = FsckTarget(path, store, SnapshotArchive(Shelf(store)), 1 << 50)
        fsck_s = _seconds(lambda: _assert_clean(target, folder))
        du_s = _seconds(lambda: _usage(path))
        return plan_s, fsck_s, du_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    finally:
        shutil.rmtree(folder)


def _plan(path: Path) -> None:
    with PackUseScan(path) as uses:
        make_plan(PlanInputs(uses, 1 << 50, (), None, (), 1), GcSettings())


def _usage(path: Path) -> None:
    with UsageReader(path) as reader:
        reader.measure([ROOT_INODE], 0, (), 1)


def _assert_clean(target: FsckTarget, folder: Path) -> None:
    result = check_volume(target, FsckSettings(), VerifyCheckpoint(folder / "checkpoint"))
    assert not result.status, result.as_json()


def measure_reading(mib: int) -> tuple[float, float]:
    """Seconds of a plain loop over `mib` MiB of packs, and of a verification of the same."""
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    try:
        (folder / "store").mkdir()
        store = DirectoryStore(folder / "store")
        names = _fill(store, folder / "index.sqlite", mib)
        loop_s = _seconds(lambda: _plain_loop(store, names))
        verifier = DataVerifier(store, VerifyCheckpoint(folder / "checkpoint"))
        verify_s = _seconds(lambda: verifier.run(folder / "index.sqlite"))
        return loop_s, verify_s
    finally:
        shutil.rmtree(folder)


def _fill(store: DirectoryStore, path: Path, mib: int) -> Sequence[str]:
    """Make packs of 32 blocks, half of whose bytes compress, and an index with them."""
    names = []
    with Index.open(path, create=True) as index:
        for number in range(mib // 16):
            builder = PackBuilder()
            for _ in range(32):
                plain = os.urandom(MIB // 2) + bytes(MIB // 2)
                builder.add(BlockHash(hash_plainly(plain)), encode(plain, Compression.parse("zstd:3")), len(plain))
            image = builder.finish()
            packs = PackStore(store)
            pack = packs.put(image, packs.new_name(image, 1))
            names.append(pack.name)
            with index.operation():
                index.blocks.add_pack(pack, 1)
                ids = index.blocks.find([one.hash for one in image.blocks])
                rows = [(place * MIB, MIB, ids[one.hash], 0) for place, one in enumerate(image.blocks)]
                index.chunks.replace(1000 + number, 0, len(rows) * MIB, rows)
        index.commit()
    return names


def _plain_loop(store: DirectoryStore, names: Sequence[str]) -> None:
    for name in names:
        body = store.get(pack_key(name))
        for one in read_contents(body, len(body)):
            decode_verified(
                memoryview(body)[one.offset : one.offset + one.stored_length], one.plain_length, one.hash, hash_plainly
            )


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> int:
    """Runs the measurements; the exit status is 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--mib", type=int, default=4096, help="how much is read back")
    options = parser.parse_args()
    missed = False
    context = multiprocessing.get_context("spawn")
    for files in options.files:
        with context.Pool(1) as pool:
            plan_s, fsck_s, du_s, memory_mib = pool.apply(measure_index, (files,))
        missed |= plan_s > 3 or fsck_s > 8 or memory_mib > 300
        figures = f"gc plan {plan_s:6.2f} s, fsck {fsck_s:6.2f} s, du {du_s:6.2f} s, memory {memory_mib:.0f} MiB"
        print(f"{files:>9,} files: {figures}")
    if options.mib:
        loop_s, verify_s = measure_reading(options.mib)
        missed |= loop_s / verify_s < MIN_SHARE_OF_LOOP
        summary = f"plain loop {loop_s:.1f} s, verification {verify_s:.1f} s, {loop_s / verify_s:.2f} of its speed"
        print(f"{options.mib:,} MiB verified: {summary}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
