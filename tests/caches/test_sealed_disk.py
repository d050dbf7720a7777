# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk cache of an encrypted volume, sealed: its files show nothing, and no byte of them is believed unchecked."""

import errno
import random
import shutil
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas3fs.caches import DiskCache
from cas3fs.encryption.ciphers import CIPHERS
from cas3fs.encryption.disk_cache import DiskCacheSeal
from cas3fs.metrics import Metrics
from cas3fs.testing.faulty_disk import FaultyDisk
from cas3fs.values import BlockHash
from tests.caches.conftest import disk_seal_of, make_block

Opener = Callable[..., DiskCache]
SEAL, OTHER_SEAL = disk_seal_of(uuid.UUID(int=1)), disk_seal_of(uuid.UUID(int=2))
PIECE, TAG, HEADER = 32768, 16, 32


def file_of(root: Path, block: BlockHash, seal: DiskCacheSeal = SEAL) -> Path:
    return root / "cache" / seal.folder / block.hex()[:2] / block.hex()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def disk(open_disk: Opener) -> DiskCache:
    return open_disk(seal=SEAL)


def test_a_file_shows_nothing_of_its_block(disk: DiskCache, tmp_path: Path) -> None:
    block, plain = make_block(1, 100_000)
    disk.put(block, plain)
    content = file_of(tmp_path, block).read_bytes()
    assert len(content) == HEADER + 100_000 + 4 * TAG
    assert not any(plain[start : start + 16] in content for start in range(0, 100_000, 16))


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_blocks_of_every_length_survive_a_restart(open_disk: Opener, cipher: str, length: int) -> None:
    block, plain = make_block(1, length)
    seal = disk_seal_of(uuid.UUID(int=3), cipher)
    open_disk(seal=seal).put(block, plain)
    assert open_disk(seal=seal).get(block) == plain


def test_the_size_counts_what_the_files_use(disk: DiskCache, open_disk: Opener, tmp_path: Path) -> None:
    for seed in range(10):
        disk.put(*make_block(seed, 50_000))
    used = sum(path.stat().st_blocks * 512 for path in files_in(tmp_path / "cache"))
    assert disk.size_bytes == open_disk(seal=SEAL).size_bytes == used


def test_another_key_finds_nothing(disk: DiskCache, open_disk: Opener) -> None:
    block, plain = make_block(1)
    disk.put(block, plain)
    assert open_disk(seal=OTHER_SEAL).get(block) is None
    assert open_disk().get(block) is None


def test_a_part_reads_only_its_pieces(disk: DiskCache, tmp_path: Path) -> None:
    block, plain = make_block(1, 3 * PIECE)
    disk.put(block, plain)
    content = bytearray(file_of(tmp_path, block).read_bytes())
    content[-1] ^= 1
    file_of(tmp_path, block).write_bytes(content)
    assert bytes(disk.get_part(block, PIECE, PIECE) or b"") == plain[PIECE : 2 * PIECE]
    assert disk.get_part(block, 2 * PIECE, 1) is None
    assert not file_of(tmp_path, block).exists()


def test_swapped_pieces_are_a_miss(disk: DiskCache, tmp_path: Path, metrics: Metrics) -> None:
    block, plain = make_block(1, 2 * PIECE)
    disk.put(block, plain)
    content = file_of(tmp_path, block).read_bytes()
    middle = HEADER + PIECE + TAG
    file_of(tmp_path, block).write_bytes(content[:HEADER] + content[middle:] + content[HEADER:middle])
    assert disk.get_part(block, 0, 100) is None
    assert metrics.snapshot()["cache.disk.rotten"] == 1


def test_the_file_of_another_block_is_a_miss(disk: DiskCache, tmp_path: Path) -> None:
    one, other = make_block(1, 70_000), make_block(2, 70_000)
    disk.put(*one)
    disk.put(*other)
    shutil.copy(file_of(tmp_path, other[0]), file_of(tmp_path, one[0]))
    assert disk.get_part(one[0], 40_000, 10) is None
    assert disk.get(one[0]) is None
    assert disk.get(other[0]) == other[1]


def test_files_of_one_block_differ_each_time(disk: DiskCache, tmp_path: Path) -> None:
    block, plain = make_block(1)
    seen = set()
    for _ in range(10):
        disk.put(block, plain)
        seen.add(file_of(tmp_path, block).read_bytes())
        disk.evict(block)
    assert len(seen) == 10


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    change=st.tuples(st.integers(0, 71_000), st.integers(1, 255), st.none() | st.integers(0, 71_000)),
    part_of=st.tuples(st.integers(0, 69_999), st.integers(1, 70_000)),
)
def test_changed_files_are_misses_or_right(
    disk: DiskCache, tmp_path: Path, change: tuple[int, int, int | None], part_of: tuple[int, int]
) -> None:
    (place, flip, cut), (skip, length) = change, part_of
    block, plain = make_block(1, 70_000)
    length = min(length, 70_000 - skip)
    disk.put(block, plain)
    content = bytearray(file_of(tmp_path, block).read_bytes())
    content[place % len(content)] ^= flip
    file_of(tmp_path, block).write_bytes(content[:cut])
    part = disk.get_part(block, skip, length)
    assert part is None or bytes(part) == plain[skip : skip + length]
    assert disk.get(block) is None


@given(content=st.binary(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_files_are_misses(disk: DiskCache, tmp_path: Path, content: bytes) -> None:
    block, plain = make_block(1, 70_000)
    disk.put(block, plain)
    file_of(tmp_path, block).write_bytes(content)
    assert disk.get_part(block, 0, 1) is None
    assert disk.get(block) is None


def test_random_disk_errors_are_misses_and_never_wrong_bytes(tmp_path: Path) -> None:
    faulty, dice = FaultyDisk(), random.Random(3)
    blocks = [make_block(seed, 1000 + 90_000 * (seed % 3)) for seed in range(8)]
    options = {"metrics": Metrics(), "keep_free_bytes": 0, "disk": faulty, "seal": SEAL}
    with closing(DiskCache(tmp_path / "cache", 1 << 20, **options)) as cache:
        assert cache.wait_ready(30)
        for _ in range(60):
            operation = dice.choice(["open", "read", "append", "free_bytes"])
            faulty.fail(operation, dice.choice([errno.EIO, errno.ENOSPC]), after=dice.randrange(4))
            for block, plain in dice.sample(blocks, 4):
                cache.put(block, plain)
                part = cache.get_part(block, 300, 500)
                assert part is None or bytes(part) == plain[300:800]
                assert cache.get(block) in (None, plain)
        faulty.clear_faults()
        for block, plain in blocks:
            cache.put(block, plain)
            assert cache.get(block) == plain


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, SEAL), (SEAL, None), (OTHER_SEAL, SEAL)],
    ids=["plain to sealed", "sealed to plain", "another key"],
)
def test_what_lies_there_in_another_form_is_deleted(
    open_disk: Opener, tmp_path: Path, before: DiskCacheSeal | None, after: DiskCacheSeal | None
) -> None:
    old = open_disk(seal=before)
    for seed in range(20):
        old.put(*make_block(seed))
    assert len(files_in(tmp_path / "cache")) == 20
    new = open_disk(seal=after, removes_others=True)
    assert files_in(tmp_path / "cache") == []
    new.put(*make_block(1))
    assert len(files_in(tmp_path / "cache")) == 1
    assert open_disk(seal=after, removes_others=True).get(make_block(1)[0]) == make_block(1)[1]


def test_folders_are_private_whatever_is_made_first(open_disk: Opener, tmp_path: Path) -> None:
    open_disk(seal=SEAL).put(*make_block(1))
    for folder in (tmp_path / "cache", tmp_path / "cache" / SEAL.folder):
        assert folder.stat().st_mode & 0o077 == 0
