# SPDX-License-Identifier: GPL-3.0-or-later
"""Many files of layers, few descriptors."""

import errno
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError
from cas3fs.filesystem import FileSystem, FileSystemSettings
from cas3fs.filesystem.state.layer_files import FileBytes
from cas3fs.filesystem.writeback.rechunk import FrozenFile
from tests.filesystem.machine import MIB, ROOT, Machine
from tests.filesystem.usage import DEADLINE_S, content, index_of, make_file, open_below, refused

MOST_OPEN = 4


@pytest.fixture
def fs(machine: Machine) -> FileSystem:
    return machine.mount(most_open=MOST_OPEN)


def data_of(number: int) -> bytes:
    return random.Random(number).randbytes(300_000)


@pytest.mark.promise("few-descriptors-for-many-files")
def test_however_many_files_are_staged_few_are_open(machine: Machine, fs: FileSystem) -> None:
    for number in range(30):
        make_file(fs, 1, b"%d" % number, data_of(number))
    staging = machine.folder / "staging"
    assert len(open_below(staging)) <= MOST_OPEN + 1  # the folder
    fs.commit()
    assert [content(fs, b"%d" % number) for number in range(30)] == [data_of(number) for number in range(30)]
    assert len(open_below(staging)) <= MOST_OPEN + 1
    crashed = machine.copy_of_the_disk()
    after = crashed.mount(most_open=MOST_OPEN)
    assert content(after, b"7") == data_of(7)
    after.store_all()
    assert [content(after, b"%d" % number) for number in range(30)] == [data_of(number) for number in range(30)]
    crashed.close()


@pytest.mark.promise("few-descriptors-for-many-files")
def test_a_written_file_is_synced_before_it_is_closed_and_a_loss_is_reported(machine: Machine, fs: FileSystem) -> None:
    handle = fs.open(make_file(fs, 1, b"f", data_of(0)).number, os.O_RDWR, ROOT)
    with machine.disk.failing("sync", times=1):
        for number in range(MOST_OPEN):
            make_file(fs, 1, b"%d" % number, data_of(number))
    refused(errno.EIO, fs.fsync, handle)


@pytest.mark.promise("few-descriptors-for-many-files")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_where_the_process_has_no_descriptor_left_another_file_is_closed(
    machine: Machine, fs: FileSystem, number: int
) -> None:
    make_file(fs, 1, b"f", data_of(0))
    with machine.disk.failing("open", number, times=1) as fault:
        make_file(fs, 1, b"g", data_of(1))
    assert fault.times_triggered == 1
    assert content(fs, b"f") + content(fs, b"g") == data_of(0) + data_of(1)


def test_a_frozen_file_can_be_read_to_the_end_after_its_removal(machine: Machine, fs: FileSystem) -> None:
    inode = make_file(fs, 1, b"f", b"x" * MIB)
    fs.unlink(1, b"f")
    with fs.staging.lock:
        frozen = FrozenFile(inode, fs.staging.freeze(inode))
    fs.forget([(inode.number, 2**40)])
    for number in range(2 * MOST_OPEN):
        make_file(fs, 1, b"%d" % number, data_of(number))
    held = frozen.layers[0].bytes
    assert isinstance(held, FileBytes)
    assert held.descriptor < 0
    found = memoryview(bytearray(MIB))
    held.read_into(0, found)
    assert found == b"x" * MIB
    with fs.staging.lock:
        frozen.release(fs.staging)
    assert not list((machine.folder / "staging").glob("*.gone"))


def test_a_file_that_a_killed_process_left_for_its_reader_is_removed(machine: Machine, fs: FileSystem) -> None:
    inode = make_file(fs, 1, b"f", b"x" * MIB)
    fs.unlink(1, b"f")
    with fs.staging.lock:
        FrozenFile(inode, fs.staging.freeze(inode))
    fs.forget([(inode.number, 2**40)])
    crashed = machine.copy_of_the_disk()
    left: list[Path] = list((crashed.folder / "staging").glob("*.gone"))
    assert left
    crashed.mount()
    assert not any(path.exists() for path in left)
    crashed.close()


def test_statfs_gives_its_last_answer_when_the_index_cannot_be_opened(
    fs: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fs.statfs()

    def fail() -> None:
        raise IndexDatabaseError("unable to open database file, for the test")

    monkeypatch.setattr(index_of(fs), "reader", fail)
    monkeypatch.setattr("cas3fs.filesystem.operations.statistics._MAX_AGE_S", -1)
    assert fs.statfs() == before


@pytest.mark.promise("few-descriptors-for-many-files")
def test_opening_a_file_waits_for_no_sync_of_another(machine: Machine) -> None:
    """The other thread may need a descriptor too: each would wait for the other."""
    fs = machine.mount(most_open=1)
    layers = make_file(fs, 1, b"f", data_of(0)).layers
    held = layers[0].bytes
    assert isinstance(held, FileBytes)
    with held._sync_mutex:
        making = threading.Thread(target=make_file, args=(fs, 1, b"g", data_of(1)))
        making.start()
        making.join(DEADLINE_S)
        assert not making.is_alive()
    assert content(fs, b"f") + content(fs, b"g") == data_of(0) + data_of(1)


def test_a_file_is_not_closed_during_its_sync(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = machine.mount(most_open=1)
    held = make_file(fs, 1, b"f", data_of(0)).layers[0].bytes
    assert isinstance(held, FileBytes)
    descriptors: list[int] = []
    sync = machine.disk.sync

    def sync_beside_others(descriptor: int) -> None:
        monkeypatch.setattr(machine.disk, "sync", sync)
        make_file(fs, 1, b"g", data_of(1))
        descriptors.append(held.descriptor)
        sync(descriptor)

    monkeypatch.setattr(machine.disk, "sync", sync_beside_others)
    held.sync()
    assert descriptors[0] >= 0


def test_many_threads_share_few_descriptors(machine: Machine) -> None:
    fs = machine.mount(
        FileSystemSettings(commit_interval_s=0.1, settle_s=0.05, batch_wait_s=0.1), most_open=3, limit_bytes=16 * MIB
    )

    def work(thread: int) -> None:
        for number in range(8):
            name = b"%d-%d" % (thread, number)
            _, handle = fs.create(1, name, 0o644, os.O_RDWR, ROOT)
            for offset in range(3):
                fs.write(handle, offset * 300_000, data_of(thread + offset))
            if number % 3 == 0:
                fs.fsync(handle)
            assert fs.read(handle, 0, 900_000) == b"".join(data_of(thread + offset) for offset in range(3))
            fs.release(handle)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, thread) for thread in range(6)]:
            done.result(2 * DEADLINE_S)
    fs.store_all(timeout_s=DEADLINE_S)
    fs.commit()
    assert fs.staging.size_bytes == 0
    assert [path.name for path in (machine.folder / "staging").iterdir()] == ["reserve"]
