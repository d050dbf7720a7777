# SPDX-License-Identifier: GPL-3.0-or-later
"""Space for what waits for the store: the limit of staging, and what the local disk has."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.blockstore import BlockReader
from cas3fs.caches.disk import DiskCache
from cas3fs.errors import FileSystemError
from cas3fs.filesystem import FileSystem, FileSystemSettings
from cas3fs.filesystem.state import staging
from cas3fs.metrics import Metrics
from cas3fs.testing.faulty_disk import FaultyDisk
from tests.contracts.blocks import hash_block
from tests.filesystem.gated import Gated
from tests.filesystem.machine import MIB, ROOT, Machine
from tests.filesystem.usage import DEADLINE_S, content, refused, remove, until

SETTINGS = FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600)
RESERVE_BYTES = 2 * 32 * MIB


@pytest.fixture
def gated(machine: Machine) -> Iterator[Gated]:
    made = Gated(machine, SETTINGS, limit_bytes=64 * MIB)
    yield made
    made.store.gate.set()
    made.store.failing = False


def opened(fs: FileSystem, name: bytes = b"f") -> int:
    return fs.create(1, name, 0o644, os.O_RDWR, ROOT)[1]


def let_the_disk_have(machine: Machine, fs: FileSystem, room_bytes: int) -> None:
    """Gives staging so much space; returns when the file system knows of it."""
    machine.disk.free_space_bytes = RESERVE_BYTES + room_bytes
    fs.commits.check_disk()


def writing(fs: FileSystem, handle: int, size: int) -> threading.Thread:
    thread = threading.Thread(target=fs.write, args=(handle, 0, b"x" * size))
    thread.start()
    return thread


@pytest.mark.promise("free-space-is-shared")
def test_a_writer_short_of_disk_space_waits_while_storing_frees_some(machine: Machine, gated: Gated) -> None:
    fs, handle = gated.fs, opened(gated.fs)
    fs.write(handle, 0, b"a" * MIB)
    let_the_disk_have(machine, fs, 0)
    gated.close_gate()
    other = opened(fs, b"g")
    let_the_disk_have(machine, fs, 0)
    thread = writing(fs, other, MIB)
    assert gated.store.waiting.acquire(timeout=DEADLINE_S)  # the writer has requested storing
    assert thread.is_alive()
    let_the_disk_have(machine, fs, 0)
    machine.disk.free_space_bytes = None
    gated.store.gate.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert content(fs, b"g") == b"x" * MIB


def test_a_writer_gets_enospc_when_the_disk_is_full_and_nothing_is_staged(machine: Machine, fs: FileSystem) -> None:
    handle = opened(fs)
    let_the_disk_have(machine, fs, 0)
    refused(errno.ENOSPC, fs.write, handle, 0, b"x" * MIB)
    machine.disk.free_space_bytes = None
    fs.commits.check_disk()
    fs.write(handle, 0, b"x" * MIB)


@pytest.mark.promise("free-space-is-shared", "work-goes-on-without-the-store")
def test_a_writer_gets_enospc_when_the_disk_is_full_and_the_store_unreachable(machine: Machine, gated: Gated) -> None:
    fs, handle = gated.fs, opened(gated.fs)
    fs.write(handle, 0, b"a" * MIB)
    gated.store.failing = True
    let_the_disk_have(machine, fs, 0)
    refused(errno.ENOSPC, fs.write, handle, MIB, b"x" * MIB)
    gated.store.failing = False
    machine.disk.free_space_bytes = None
    fs.store_all()
    fs.commits.check_disk()
    fs.write(handle, MIB, b"x" * MIB)


@pytest.mark.promise("free-space-is-shared")
def test_a_writer_gets_enospc_when_the_disk_is_full_and_the_store_does_not_respond(
    machine: Machine, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_SILENCE_S", 0.3)
    fs, handle = gated.fs, opened(gated.fs)
    fs.write(handle, 0, b"a" * MIB)
    fs.staging.last_response_at = lambda: 0.0
    gated.close_gate()
    let_the_disk_have(machine, fs, 0)
    refused(errno.ENOSPC, fs.write, handle, MIB, b"x" * MIB)


@pytest.mark.promise("free-space-is-shared")
def test_staging_takes_no_more_than_the_local_disk_has(machine: Machine, gated: Gated) -> None:
    fs, handle = gated.fs, opened(gated.fs)
    gated.store.failing = True
    let_the_disk_have(machine, fs, 3 * MIB)
    written = 0
    with pytest.raises(FileSystemError, match="no space") as caught:
        for written in range(0, 20 * MIB, MIB // 2):
            fs.write(handle, written, b"x" * (MIB // 2))
    assert caught.value.errno == errno.ENOSPC
    assert written <= 4 * MIB


@pytest.mark.promise("free-space-is-shared", "work-goes-on-without-the-store")
def test_writers_that_cannot_wait_exceed_the_limit_up_to_a_point(machine: Machine) -> None:
    gated = Gated(machine, SETTINGS, limit_bytes=MIB)
    fs = gated.fs
    gated.store.failing = True
    handle = opened(fs)
    written = 0
    with pytest.raises(FileSystemError, match="staging is full") as caught:
        for written in range(0, 40 * MIB, MIB):
            fs.write(handle, written, b"x" * MIB, wait=False)
    assert caught.value.errno == errno.ENOSPC
    assert MIB < written <= 10 * MIB
    gated.store.failing = False


@pytest.mark.promise("free-space-is-shared")
def test_a_writer_gets_enospc_when_only_files_that_cannot_be_stored_fill_staging(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    fs = machine.mount(SETTINGS, limit_bytes=MIB)
    handle = opened(fs)
    fs.write(handle, 0, b"a" * MIB)
    machine.disk.lose_writes()
    with pytest.raises(OSError, match="lost"):
        fs.store_all()
    refused(errno.ENOSPC, fs.write, opened(fs, b"g"), 0, b"x" * MIB)
    refused(errno.ENOSPC, fs.write, opened(fs, b"i"), 0, b"x" * MIB)
    assert "cannot be stored" in fs.metrics.last_errors()["writing"].error
    assert len([one for one in caplog.records if "writers get ENOSPC" in one.message]) == 1
    fs.release(handle)
    remove(fs, b"f")
    fs.write(opened(fs, b"h"), 0, b"x" * MIB)


@pytest.mark.promise("free-space-is-shared", "work-goes-on-without-the-store")
def test_a_disk_cache_shrinks_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    disk = FaultyDisk()
    cache = DiskCache(tmp_path / "cache", 64 * MIB, metrics=Metrics(), keep_free_bytes=16 * MIB, disk=disk)
    blocks = [bytes([number]) * MIB for number in range(8)]
    for block in blocks:
        cache.put(hash_block(block), block)
    held = cache.size_bytes
    assert held >= 8 * MIB
    cache.free_disk_space()
    assert cache.size_bytes == held
    disk.free_space_bytes = 12 * MIB
    cache.free_disk_space()
    assert held - 6 * MIB < cache.size_bytes <= held - 4 * MIB
    disk.free_space_bytes = 0
    cache.free_disk_space()
    assert cache.size_bytes == 0
    cache.close()


def test_periodic_commits_ask_the_caches_to_shrink(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(BlockReader, "free_disk_space", lambda reader: asked.set())
    machine.mount(SETTINGS)
    assert asked.wait(DEADLINE_S)
    until(asked.is_set)
