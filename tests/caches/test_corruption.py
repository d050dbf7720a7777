# SPDX-License-Identifier: GPL-3.0-or-later
"""All tiers together: corrupt bytes in each of them, and the disk's limit under many readers."""

import errno
import random
import stat
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from cas3fs.caches import DiskCache, MemoryCache, TieredCache
from cas3fs.caches.memcached import MemcachedCache
from cas3fs.caches.web import WebCache
from cas3fs.metrics import Metrics
from cas3fs.testing.fake_memcached import FakeMemcached
from cas3fs.testing.faulty_disk import FaultyDisk
from tests.caches.conftest import make_block
from tests.caches.web_server import WebServer

DEADLINE_S = 30
VOLUME = str(uuid.UUID(int=1))


def flipped(content: bytes, dice: random.Random) -> bytes:
    """`content` with a few bits changed."""
    changed = bytearray(content)
    for _ in range(3):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def test_corrupt_bytes_in_every_tier_are_never_returned(
    open_disk: Callable[..., DiskCache], tmp_path: Path, web: WebServer
) -> None:
    fake, dice = FakeMemcached(), random.Random(1)
    blocks = [make_block(seed, 1000 + 90_000 * (seed % 3)) for seed in range(12)]
    options = {"timeout_s": 5.0, "slow_s": 5.0}
    memcached = MemcachedCache([("127.0.0.1", 1)], VOLUME, metrics=Metrics(), client_factory=fake.twin, **options)
    far = WebCache(web.url, VOLUME, metrics=Metrics(), **options)
    tiers = TieredCache([open_disk(), memcached, far], metrics=Metrics())
    with closing(tiers):
        for _ in range(10):
            tiers.put_many(dict(blocks))
            for path in (tmp_path / "cache").rglob("*"):
                if path.is_file() and dice.random() < 0.7:
                    path.write_bytes(flipped(path.read_bytes(), dice))
            for key, value in fake.fake_server.items.items():
                if dice.random() < 0.7:
                    fake.fake_server.corrupt(key, flipped(value, dice))
            for name, body in list(web.files.items()):
                if dice.random() < 0.7:
                    web.files[name] = flipped(body, dice)
            for block, plain in blocks:
                part = tiers.get_part(block, 300, 500)
                assert part is None or bytes(part) == plain[300:800]
                assert tiers.get(block) in (None, plain)


def test_random_disk_errors_are_misses_and_never_wrong_bytes(tmp_path: Path) -> None:
    disk, dice = FaultyDisk(), random.Random(3)
    blocks = [make_block(seed, 1000 + 90_000 * (seed % 3)) for seed in range(8)]
    with closing(DiskCache(tmp_path / "cache", 1 << 20, metrics=Metrics(), keep_free_bytes=0, disk=disk)) as cache:
        assert cache.wait_ready(DEADLINE_S)
        for _ in range(60):
            operation = dice.choice(["open", "read", "append", "free_bytes"])
            disk.fail(operation, dice.choice([errno.EIO, errno.ENOSPC, errno.EMFILE]), after=dice.randrange(4))
            for block, plain in dice.sample(blocks, 4):
                cache.put(block, plain)
                part = cache.get_part(block, 300, 500)
                assert part is None or bytes(part) == plain[300:800]
                assert cache.get(block) in (None, plain)
            cache.free_disk_space()
        assert disk.times_triggered > 30
        disk.clear_faults()
        for block, plain in blocks:
            cache.put(block, plain)
            assert cache.get(block) == plain
            assert cache.size_bytes <= 1 << 20


def disk_bytes_by_file(folder: Path) -> dict[tuple[Path, int, int], int]:
    """Disk space in bytes by name, inode and time of each file; files come and go meanwhile."""
    sizes = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                sizes[path, found.st_ino, found.st_mtime_ns] = found.st_blocks * 512
    return sizes


def disk_bytes_at_one_instant(folder: Path) -> int:
    """Disk space of the files that existed at one instant: those seen both before and after it."""
    before = disk_bytes_by_file(folder)
    after = disk_bytes_by_file(folder)
    return sum(min(before[file], after[file]) for file in before.keys() & after.keys())


def test_the_disk_stays_within_its_limit_under_sixteen_readers(
    open_disk: Callable[..., DiskCache], tmp_path: Path
) -> None:
    limit_bytes, length = 1_000_000, 40_000
    blocks = [make_block(seed, length) for seed in range(100)]
    behind = MemoryCache(1 << 24)
    behind.remote = True
    behind.put_many(dict(blocks))
    tiers = TieredCache([open_disk(limit_bytes), behind], metrics=Metrics())
    most, ends = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ends.is_set():
            most = max(most, disk_bytes_at_one_instant(tmp_path / "cache"))

    def read(seed: int) -> bool:
        dice = random.Random(seed)
        return all(tiers.get(block) == plain for block, plain in dice.choices(blocks, k=60))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(16) as pool:
        right = list(pool.map(read, range(16)))
    ends.set()
    watcher.join()
    assert all(right)
    assert limit_bytes // 2 < most <= limit_bytes + length
