# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk cache stays within its limit, and returns only right bytes whatever happens to its files."""

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas3fs.caches import DiskCache
from cas3fs.caches.block_files import BlockFolder
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, Buffer
from tests.caches.conftest import make_block

Opener = Callable[..., DiskCache]


def file_of(root: Path, block: BlockHash) -> Path:
    return root / "cache" / block.hex()[:2] / block.hex()


def disk_bytes(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (root / "cache").rglob("*") if path.is_file())


def test_blocks_survive_a_restart(open_disk: Opener) -> None:
    blocks = [make_block(seed, 10_000) for seed in range(5)]
    first = open_disk()
    for block, plain in blocks:
        first.put(block, plain)
    second = open_disk()
    assert second.size_bytes == first.size_bytes > 50_000
    assert [second.get(block) for block, _ in blocks] == [plain for _, plain in blocks]


def test_a_restart_with_a_smaller_limit_deletes_files(open_disk: Opener, tmp_path: Path) -> None:
    first = open_disk()
    for seed in range(10):
        first.put(*make_block(seed, 60_000))
    open_disk(200_000)
    assert 100_000 < disk_bytes(tmp_path) <= 200_000


def test_the_scan_at_start_opens_no_file(open_disk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    open_disk().put(*make_block(1))
    opened: list[object] = []
    really = os.open
    monkeypatch.setattr(os, "open", lambda *args, **kw: opened.append(args) or really(*args, **kw))
    assert open_disk().contains(make_block(1)[0])
    assert not [args for args in opened if make_block(1)[0].hex() in str(args)]


def test_blocks_are_read_but_not_added_during_the_scan_at_start(
    open_disk: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_block(1), make_block(2)
    open_disk().put(*old)
    walking, go_on = threading.Event(), threading.Event()
    really = BlockFolder.walk

    def slow_walk(folder: BlockFolder, stopped: Callable[[], bool]) -> object:
        walking.set()
        go_on.wait(30)
        return really(folder, stopped)

    monkeypatch.setattr(BlockFolder, "walk", slow_walk)
    cache = DiskCache(tmp_path / "cache", 1 << 20, metrics=Metrics(), keep_free_bytes=0)
    assert walking.wait(30)
    assert cache.get(old[0]) == old[1]
    cache.put(*new)
    assert not cache.contains(new[0])
    go_on.set()
    assert cache.wait_ready(30)
    cache.put(*new)
    assert cache.get(new[0]) == new[1]
    cache.close()


@pytest.mark.parametrize("keep", [0, 5, 16, 100, 40_000, -1])
def test_a_half_written_file_is_a_miss_and_is_deleted(disk: DiskCache, tmp_path: Path, keep: int) -> None:
    block, plain = make_block(1, 70_000)
    disk.put(block, plain)
    path = file_of(tmp_path, block)
    os.truncate(path, path.stat().st_size + keep if keep < 0 else keep)
    assert disk.get(block) is None
    assert not path.exists()
    disk.put(block, plain)
    os.truncate(path, path.stat().st_size + keep if keep < 0 else keep)
    assert disk.get_part(block, 69_999, 1) is None
    assert not path.exists()
    assert disk.size_bytes == 0


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings.default.max_examples * 3 // 2
)
@given(st.integers(0, 100_000), st.integers(1, 255), st.tuples(st.integers(0, 69_999), st.integers(1, 70_000)))
def test_a_flipped_byte_is_never_returned(
    disk: DiskCache, tmp_path: Path, place: int, flip: int, part_range: tuple[int, int]
) -> None:
    block, plain = make_block(1, 70_000)
    skip, length = part_range
    length = min(length, len(plain) - skip)
    disk.evict(block)
    disk.put(block, plain)
    content = bytearray(file_of(tmp_path, block).read_bytes())
    content[place % len(content)] ^= flip
    file_of(tmp_path, block).write_bytes(content)
    part = disk.get_part(block, skip, length)
    assert part is None or bytes(part) == plain[skip : skip + length]
    assert disk.get(block) in (None, plain)


def test_the_file_of_another_block_is_a_miss(disk: DiskCache, tmp_path: Path) -> None:
    one, other = make_block(1, 70_000), make_block(2, 70_000)
    disk.put(*one)
    disk.put(*other)
    shutil.copy(file_of(tmp_path, other[0]), file_of(tmp_path, one[0]))
    assert disk.get_part(one[0], 40_000, 10) is None
    assert disk.get(one[0]) is None
    assert disk.get(other[0]) == other[1]


def test_swapped_pieces_are_a_miss(disk: DiskCache, tmp_path: Path) -> None:
    block, plain = make_block(1, 2 * 32768)
    disk.put(block, plain)
    content = file_of(tmp_path, block).read_bytes()
    head, table, data = content[:16], content[16:32], content[32:]
    file_of(tmp_path, block).write_bytes(head + table[8:] + table[:8] + data[32768:] + data[:32768])
    assert disk.get_part(block, 0, 100) is None


def test_a_part_beyond_the_block_is_a_miss(disk: DiskCache) -> None:
    block, plain = make_block(1, 1000)
    disk.put(block, plain)
    assert disk.get_part(block, 900, 101) is None


def test_a_corrupt_piece_leaves_the_parts_in_other_pieces_readable(disk: DiskCache, tmp_path: Path) -> None:
    block, plain = make_block(1, 100_000)
    disk.put(block, plain)
    content = bytearray(file_of(tmp_path, block).read_bytes())
    content[-1] ^= 1
    file_of(tmp_path, block).write_bytes(content)
    part = disk.get_part(block, 10, 32_000)
    assert part is not None
    assert bytes(part) == plain[10:32_010]


def test_files_deleted_by_others_are_misses_and_their_space_is_reused(disk: DiskCache, tmp_path: Path) -> None:
    blocks = [make_block(seed, 9000) for seed in range(3)]
    for block, plain in blocks:
        disk.put(block, plain)
    shutil.rmtree(tmp_path / "cache" / blocks[0][0].hex()[:2])
    file_of(tmp_path, blocks[1][0]).unlink()
    assert disk.get(blocks[0][0]) is None
    assert disk.get_part(blocks[1][0], 0, 5) is None
    assert disk.get(blocks[2][0]) == blocks[2][1]
    disk.put(*blocks[0])
    assert disk.get(blocks[0][0]) == blocks[0][1]
    assert disk.size_bytes == disk_bytes(tmp_path)


@pytest.mark.promise("surroundings-may-change")
def test_a_deleted_folder_is_created_again(disk: DiskCache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk.put(*make_block(1))
    for removed in (tmp_path / "cache", tmp_path / "cache" / "tmp"):
        caplog.clear()
        shutil.rmtree(removed)
        for seed in (2, 3):
            disk.evict(make_block(seed)[0])
            disk.put(*make_block(seed))
            assert disk.get(make_block(seed)[0]) == make_block(seed)[1]
        assert [record.message for record in caplog.records] == [
            f"the cache directory {tmp_path / 'cache'} was deleted and is created again"
        ]
    assert disk.get(make_block(1)[0]) is None
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert disk.size_bytes == disk_bytes(tmp_path)


@pytest.mark.promise("surroundings-may-change")
def test_a_folder_that_cannot_be_written_is_logged_once(
    disk: DiskCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: BlockFolder, block: BlockHash, content: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(BlockFolder, "write", refuse)
        for seed in range(3):
            disk.put(*make_block(seed))
    disk.put(*make_block(1))
    disk.put(*make_block(2))
    logged = [record.message for record in caplog.records]
    assert len(logged) == 2
    assert "cannot write to the cache directory" in logged[0]
    assert "can be written again" in logged[1]
    assert disk.get(make_block(2)[0]) == make_block(2)[1]


def test_a_file_that_another_process_added_is_used_and_counted(open_disk: Opener, tmp_path: Path) -> None:
    mine, other = open_disk(), open_disk()
    block, plain = make_block(1, 50_000)
    other.put(block, plain)
    assert mine.contains(block)
    assert mine.get(block) == plain
    assert mine.size_bytes == disk_bytes(tmp_path)


def test_a_full_disk_is_a_miss_and_leaves_no_partial_file(
    disk: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: Metrics
) -> None:
    kept, refused = make_block(1, 9000), make_block(2, 3000)
    disk.put(*kept)

    def fail_with_enospc(file: int, buffers: list[Buffer]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", fail_with_enospc)
        disk.put(*refused)
    assert disk.get(refused[0]) is None
    assert metrics.snapshot()["cache.disk.failed_writes"] == 1
    assert disk.size_bytes == disk_bytes(tmp_path)
    assert not list((tmp_path / "cache" / "tmp").iterdir())
    disk.put(*refused)
    assert disk.get(refused[0]) == refused[1]


def test_a_short_write_is_completed(disk: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    block, plain = make_block(1, 50_000)
    monkeypatch.setattr(os, "writev", lambda file, buffers: os.write(file, bytes(buffers[0])[:1001]))
    disk.put(block, plain)
    assert disk.get(block) == plain


def test_files_are_deleted_when_the_disk_is_nearly_full(
    disk: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(10):
        disk.put(*make_block(seed, 100_000))
    before = disk_bytes(tmp_path)
    monkeypatch.setattr(BlockFolder, "free_bytes", lambda folder: 0)
    disk.put(*make_block(99, 250_000))
    assert not disk.contains(make_block(99)[0])
    assert disk_bytes(tmp_path) <= before - 250_000


def test_sixteen_writers_stay_within_the_limit(
    open_disk: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, each = 20 * 12_288, 12_288
    cache = open_disk(limit)
    lock = threading.Lock()
    there: set[BlockHash] = set()
    most = 0
    really_write, really_remove = BlockFolder.write, BlockFolder.remove

    def write(folder: BlockFolder, block: BlockHash, content: list[Buffer]) -> int:
        nonlocal most
        with lock:
            there.add(block)
            most = max(most, len(there) * each)
        return really_write(folder, block, content)

    def remove(folder: BlockFolder, block: BlockHash) -> None:
        really_remove(folder, block)
        with lock:
            there.discard(block)

    monkeypatch.setattr(BlockFolder, "write", write)
    monkeypatch.setattr(BlockFolder, "remove", remove)

    def work(first: int) -> None:
        for seed in range(first, first + 25):
            cache.put(*make_block(seed, 10_000))
            cache.get(make_block(seed - 3, 10_000)[0])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(0, 16_000, 1000)))
    assert most == limit
    assert limit // 2 < disk_bytes(tmp_path) == cache.size_bytes <= limit


def test_the_number_of_files_is_limited_too(open_disk: Opener, tmp_path: Path) -> None:
    cache = open_disk(limit_files=5)
    for seed in range(20):
        cache.put(*make_block(seed, 100))
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 5
    assert cache.contains(make_block(19, 100)[0])


def test_old_temporary_files_are_deleted_at_start(open_disk: Opener, tmp_path: Path) -> None:
    open_disk()
    old, young = tmp_path / "cache" / "tmp" / "1-a-1", tmp_path / "cache" / "tmp" / "1-a-2"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (1, 1))
    open_disk()
    assert not old.exists()
    assert young.exists()


def test_a_symbolic_link_in_place_of_a_file_is_not_followed(disk: DiskCache, tmp_path: Path) -> None:
    block, plain = make_block(1)
    disk.put(block, plain)
    path = file_of(tmp_path, block)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert disk.get(block) is None


def test_a_directory_that_cannot_be_created_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cache directory .*file/below: Not a directory"):
        DiskCache(tmp_path / "file" / "below", 1000, metrics=Metrics())
