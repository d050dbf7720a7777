# SPDX-License-Identifier: GPL-3.0-or-later
"""copy_file_range: chunks are shared, whatever is staged, stored, collected or killed meanwhile."""

import errno
import os
import random
import time
from pathlib import Path

import pytest

from cas3fs.errors import BlockError, FileSystemError
from cas3fs.filesystem import FileSystem, copies
from cas3fs.filesystem.operations.ranges import KEEP_SIZE, PUNCH_HOLE
from cas3fs.filesystem.state.inode_flags import APPEND
from cas3fs.index import Index
from cas3fs.values import Buffer
from tests.filesystem.gated import Gated
from tests.filesystem.machine import MIB, ROOT, USER, Machine
from tests.filesystem.usage import (
    after_a_crash,
    before_the_instant,
    chunk_bytes,
    content,
    index_of,
    killed,
    make_file,
    refused,
    remove,
    rewrite,
    shown,
    take_checkpoint,
)

DATA = random.Random(5).randbytes(3 * MIB + 1234)


def opened(fs: FileSystem, name: bytes, flags: int = os.O_RDWR) -> int:
    return fs.open(fs.lookup(1, name).number, flags, ROOT)


def copy(fs: FileSystem, name: bytes, other: bytes, offset: int = 0, to: int = 0, *, length: int = 2**40) -> int:
    """Copies as a front-end does."""
    source, destination = opened(fs, name, os.O_RDONLY), opened(fs, other)
    copied = fs.copy_range_now(source, offset, destination, to, length)
    if copied is None:
        copied = fs.copy_range(source, offset, destination, to, length)
    fs.release(source)
    fs.release(destination)
    return copied


@pytest.fixture
def stored(fs: FileSystem) -> FileSystem:
    """A file system with a stored file ``a`` and an empty file ``b``."""
    make_file(fs, 1, b"a", DATA)
    fs.store_all()
    make_file(fs, 1, b"b")
    return fs


@pytest.mark.promise("copies-share-blocks")
def test_a_copy_of_a_stored_file_reads_and_stores_nothing(stored: FileSystem) -> None:
    counters = [stored.metrics.counter(name) for name in ("writer.stored_bytes", "reader.got_bytes")]
    before = [one.value for one in counters]
    assert copy(stored, b"a", b"b") == len(DATA)
    stored.store_all()
    assert [one.value for one in counters] == before
    assert stored.staging.size_bytes == 0
    assert content(stored, b"b") == DATA


@pytest.mark.parametrize(("offset", "to", "length"), [(1, 7, 1_000_000), (500_000, 3_000_000, 9_999), (5, 0, 1)])
def test_any_part_goes_to_any_place(stored: FileSystem, offset: int, to: int, length: int) -> None:
    rewrite(stored, b"b", 0, DATA[::-1])
    expected = bytearray(DATA[::-1])
    for is_stored in (False, True):
        if is_stored:
            stored.store_all()
        assert copy(stored, b"a", b"b", offset, to, length=length) == length
        expected[to : to + length] = DATA[offset : offset + length]
        assert content(stored, b"b") == bytes(expected)
        assert stored.lookup(1, b"b").size == len(expected)


def test_holes_stay_holes_and_fill_what_was_there(stored: FileSystem) -> None:
    number = make_file(stored, 1, b"sparse", b"x" * 1000).number
    handle = opened(stored, b"sparse")
    stored.write(handle, 2 * MIB, b"y" * 1000)
    for is_stored in (False, True):
        if is_stored:
            stored.store_all()
        other = make_file(stored, 1, b"c%d" % is_stored, DATA).number
        if is_stored:
            stored.store_all()
        assert copy(stored, b"sparse", b"c%d" % is_stored) == 2 * MIB + 1000
        assert content(stored, b"c%d" % is_stored)[: 2 * MIB + 1000] == content(stored, b"sparse")
        assert stored.data_ranges(other, 0, 2 * MIB + 1000) == stored.data_ranges(number, 0, 2 * MIB + 1000)


def test_a_copy_within_a_file_may_not_overlap(stored: FileSystem) -> None:
    handle = opened(stored, b"a")
    refused(errno.EINVAL, stored.copy_range_now, handle, 0, handle, 1000, 1001)
    refused(errno.EINVAL, stored.copy_range, handle, 1000, handle, 0, 1001)
    assert copy(stored, b"a", b"a", 0, 2 * MIB, length=2 * MIB) == 2 * MIB
    assert content(stored, b"a") == DATA[: 2 * MIB] + DATA[: 2 * MIB]
    assert copy(stored, b"a", b"a", 2 * MIB + 5, 0, length=10) == 10
    assert content(stored, b"a") == DATA[5:15] + DATA[10 : 2 * MIB] + DATA[: 2 * MIB]


def test_what_cannot_be_copied_is_refused(stored: FileSystem) -> None:
    a, b = opened(stored, b"a"), opened(stored, b"b")
    reading, writing = opened(stored, b"a", os.O_RDONLY), opened(stored, b"b", os.O_WRONLY)
    for handle, to_handle in ((b, reading), (writing, a)):
        refused(errno.EBADF, stored.copy_range_now, handle, 0, to_handle, 0, 1)
    for offset, to, length in ((-1, 0, 1), (0, -1, 1), (0, 0, -1)):
        refused(errno.EINVAL, stored.copy_range_now, a, offset, b, to, length)
    refused(errno.EFBIG, stored.copy_range_now, a, 0, b, 2**63 - 1, 5)
    refused(errno.EINVAL, lambda: stored.copy_range_now(a, 0, b, 0, 5, flags=1))
    assert stored.copy_range_now(a, 0, b, 2**63 - 3, 5) == 2
    assert stored.copy_range_now(a, len(DATA), b, 0, 5) == 0
    stored.turn_read_only("for the test")
    refused(errno.EROFS, stored.copy_range_now, a, 0, b, 0, 1)


def test_a_copy_changes_the_times_and_clears_set_id_bits(stored: FileSystem) -> None:
    inode = stored.lookup(1, b"b")
    for length in (100, 0):
        stored.setattr(inode.number, ROOT, mode=0o6777, mtime_ns=5)
        destination = stored.open(inode.number, os.O_RDWR, USER)
        assert stored.copy_range_now(opened(stored, b"a"), 0, destination, 0, length) == length
        assert (inode.mtime_ns == inode.ctime_ns) is (length > 0)
        assert inode.mode & 0o7777 == (0o777 if length else 0o6777)


@pytest.mark.promise("synced-data-survives-a-crash", "staged-bytes-never-hide-a-copy")
@pytest.mark.parametrize("had_row", [False, True])
@pytest.mark.parametrize("change", ["nothing", "cut", "punched"])
def test_a_committed_copy_survives_a_crash(machine: Machine, change: str, had_row: bool) -> None:
    """Whatever layers without bytes the destination had, and whether they had rows."""
    fs = machine.mount()
    make_file(fs, 1, b"a", DATA)
    before = make_file(fs, 1, b"b", DATA[::-1]).number
    fs.store_all()
    if change == "cut":
        fs.setattr(before, ROOT, size=0)
    elif change == "punched":
        fs.allocate(opened(fs, b"b"), 0, 2 * MIB, 3)
    if had_row:
        fs.commit()
    old = content(fs, b"b")
    assert copy(fs, b"a", b"b", 0, 100, length=MIB) == MIB
    expected = (old[:100] if old else bytes(100)) + DATA[:MIB] + old[MIB + 100 :]
    assert content(fs, b"b") == expected
    if had_row:
        assert after_a_crash(machine, b"b") == old, "the copy was not committed"
    fs.commit()
    assert content(fs, b"b") == expected
    assert after_a_crash(machine, b"b") == expected


@pytest.mark.promise("staged-bytes-never-hide-a-copy")
def test_a_write_over_a_copy_is_not_durable_before_the_copy(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"a", DATA)
    make_file(fs, 1, b"b", DATA[::-1])
    fs.store_all()
    assert copy(fs, b"a", b"b", 0, 0, length=MIB) == MIB
    rewrite(fs, b"b", len(DATA), b"appended")
    inode = fs.lookup(1, b"b")
    with fs.staging.lock:
        assert not fs.staging.rows.save_some(2**40)
        assert not any(layer.has_row for layer in inode.layers)
    fs.commit()
    expected = DATA[:MIB] + DATA[::-1][MIB:] + b"appended"
    assert after_a_crash(machine, b"b") == expected
    fs.store_all()
    assert content(fs, b"b") == expected


@pytest.mark.promise("copies-share-blocks")
def test_a_new_file_that_was_copied_and_written_is_stored_whole(stored: FileSystem) -> None:
    """The storer knows that the index has something of it."""
    assert copy(stored, b"a", b"b", 0, 0, length=MIB) == MIB
    rewrite(stored, b"b", MIB // 2, b"new")
    stored.store_all()
    assert content(stored, b"b") == DATA[: MIB // 2] + b"new" + DATA[MIB // 2 + 3 : MIB]


@pytest.mark.promise("staged-bytes-never-hide-a-copy")
def test_blocks_of_a_copy_are_in_use_before_it_is_committed(stored: FileSystem) -> None:
    assert copy(stored, b"a", b"b") == len(DATA)
    remove(stored, b"a")
    stored.commit()
    with stored.index_transaction() as index:
        assert index.garbage.delete_unreferenced_blocks() == 0
    assert content(stored, b"b") == DATA


def test_staged_bytes_of_a_long_source_are_stored_first(stored: FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_BYTES", MIB)
    rewrite(stored, b"a", 5, b"staged")
    expected = DATA[:5] + b"staged" + DATA[11:]
    assert copy(stored, b"a", b"b") == len(DATA)
    assert content(stored, b"b") == expected
    assert not stored.lookup(1, b"a").is_unstored
    assert not stored.lookup(1, b"b").layers


def test_a_long_copy_has_the_target_stored_first(stored: FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_BYTES", MIB)
    rewrite(stored, b"b", 0, b"staged" * 10)
    assert copy(stored, b"a", b"b", 0, 30) == len(DATA)
    assert content(stored, b"b") == b"staged" * 5 + DATA
    assert stored.lookup(1, b"b").unstored_bytes == 0


def test_bytes_are_copied_where_nothing_can_be_stored(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_BYTES", MIB)
    fs = gated.fs
    make_file(fs, 1, b"a", DATA)
    make_file(fs, 1, b"b")
    gated.store.failing = True
    copied = 0
    while copied < len(DATA):
        step = copy(fs, b"a", b"b", copied, copied)
        assert step <= MIB
        copied += step
    assert content(fs, b"b") == DATA


@pytest.mark.promise("staged-bytes-never-hide-a-copy")
def test_a_copy_under_way_while_the_source_is_stored_is_right(gated: Gated) -> None:
    fs = gated.fs
    make_file(fs, 1, b"a", DATA)
    fs.store_all()
    make_file(fs, 1, b"b")
    rewrite(fs, b"a", 2 * MIB, b"staged")
    gated.close_gate()
    storing = gated.storing()
    assert copy(fs, b"a", b"b", 0, 0, length=MIB) == MIB  # not what is being stored
    assert copy(fs, b"a", b"b", 2 * MIB, MIB, length=10) == 10  # its bytes
    gated.store.gate.set()
    storing.join()
    assert content(fs, b"b") == DATA[:MIB] + b"staged" + DATA[2 * MIB + 6 : 2 * MIB + 10]
    fs.store_all()
    assert content(fs, b"b") == DATA[:MIB] + b"staged" + DATA[2 * MIB + 6 : 2 * MIB + 10]


@pytest.mark.promise("staged-bytes-never-hide-a-copy")
def test_a_cut_destination_that_is_being_stored_takes_a_copy(gated: Gated) -> None:
    """What the storing job finds when it ends is newer than what it stored."""
    fs = gated.fs
    make_file(fs, 1, b"a", DATA)
    number = make_file(fs, 1, b"b", DATA[::-1]).number
    fs.store_all()
    rewrite(fs, b"a", 0, b"x")  # has the job wait at the gate
    fs.setattr(number, ROOT, size=1000)
    gated.close_gate()
    storing = gated.storing()
    assert copy(fs, b"a", b"b", MIB, 500, length=MIB) == MIB
    gated.store.gate.set()
    storing.join()
    assert content(fs, b"b") == DATA[::-1][:500] + DATA[MIB : 2 * MIB]
    fs.store_all()
    assert content(fs, b"b") == DATA[::-1][:500] + DATA[MIB : 2 * MIB]


@pytest.mark.promise("a-snapshot-shows-replaced-files-whole")
def test_a_copy_just_before_a_snapshot_is_in_it_whole(machine: Machine, tmp_path: Path) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"a", DATA)
    number = make_file(fs, 1, b"b", b"old" * 1000).number
    fs.store_all()

    def replace() -> None:
        fs.setattr(number, ROOT, size=0)
        assert copy(fs, b"a", b"b") == len(DATA)

    before_the_instant(fs, replace)
    take_checkpoint(fs, tmp_path / "copy")
    assert shown(machine, tmp_path / "copy", b"b") == DATA


@pytest.mark.promise("flags-protect")
def test_a_copy_overwrites_nothing_of_an_append_only_file(stored: FileSystem) -> None:
    """Whether or not its handle has kept O_APPEND, which the file system cannot know."""
    rewrite(stored, b"b", 0, b"log")
    stored.store_all()
    stored.set_flags(stored.lookup(1, b"b").number, APPEND)
    source, log = opened(stored, b"a", os.O_RDONLY), opened(stored, b"b", os.O_WRONLY | os.O_APPEND)
    for offset in (0, 2):
        refused(errno.EPERM, stored.copy_range_now, source, 0, log, offset, 100)
        refused(errno.EPERM, stored.copy_range, source, 0, log, offset, 100)
    assert stored.copy_range_now(source, 0, log, 3, 100) == 100
    assert content(stored, b"b") == b"log" + DATA[:100]


def test_a_copy_of_bytes_that_ends_early_says_how_far_it_came(
    stored: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops only what it has cached of a range that it was told to be copied."""
    source, destination = opened(stored, b"a"), opened(stored, b"b")
    stored.allocate(source, 1000, 1000, PUNCH_HOLE | KEEP_SIZE)
    stored.write(source, 0, b"staged")
    write, written = stored.files.write, []

    def write_once(handle: int, offset: int, data: Buffer, *, pause: object) -> int:
        if written:
            raise FileSystemError(errno.ENOSPC)
        written.append(offset)
        return write(handle, offset, data)

    monkeypatch.setattr(stored.files, "write", write_once)
    assert stored.copy_range(source, 0, destination, 0, 5000) == 2000
    refused(errno.ENOSPC, stored.copy_range, source, 2000, destination, 2000, 3000)
    assert content(stored, b"b") == b"staged" + DATA[6:1000] + bytes(1000)


@pytest.mark.promise("a-mount-ends-cleanly")
def test_a_copy_that_waits_ends_when_its_program_is_killed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has copied nothing, and copies nothing later."""
    monkeypatch.setattr(copies, "MOST_BYTES", 1000)
    gated = Gated(machine)
    make_file(gated.fs, 1, b"a", DATA)
    make_file(gated.fs, 1, b"b")
    source, destination = opened(gated.fs, b"a"), opened(gated.fs, b"b")
    gated.store.gate.clear()
    with pytest.raises(InterruptedError):
        gated.fs.copy_range(source, 0, destination, 0, len(DATA), pause=killed)
    gated.store.gate.set()
    gated.fs.store_all()
    assert content(gated.fs, b"b") == b""


def test_a_lost_block_is_not_copied(stored: FileSystem) -> None:
    span = index_of(stored).chunks.spans(stored.lookup(1, b"a").number, MIB, MIB + 1)[0]
    stored.packs.mark_block_lost(span.block)
    with pytest.raises(BlockError):
        copy(stored, b"a", b"b")
    assert stored.lookup(1, b"b").size == 0
    assert copy(stored, b"a", b"b", 0, 0, length=span.offset) == span.offset


@pytest.mark.promise("copies-share-blocks")
def test_a_copy_of_ten_gibibytes_takes_less_than_a_second(machine: Machine) -> None:
    """A file of 10,240 chunks of a mebibyte, all of one block, goes to a file that is cut first."""
    machine = Machine(machine.folder.with_name("large"), "fixed", MIB)
    fs = machine.mount()
    number = make_file(fs, 1, b"a", DATA[:MIB]).number
    fs.store_all()
    grow(fs, number, 10_240)
    destination = make_file(fs, 1, b"b", b"old").number
    fs.store_all()
    fs.setattr(destination, ROOT, size=0)
    begun_s = time.monotonic()
    copied = requests = 0
    while step := copy(fs, b"a", b"b", copied, copied):
        copied += step
        requests += 1
    assert time.monotonic() - begun_s < 5  # a tenth of that on an idle machine
    assert (copied, requests) == (10_240 * MIB, 3)
    assert chunk_bytes(fs, destination) == 10_240 * MIB
    fs.store_all()
    assert fs.getattr(destination).size == 10_240 * MIB
    machine.close()


def grow(fs: FileSystem, number: int, chunks: int) -> None:
    """Gives a file so many copies of its first chunk."""
    with fs.index_transaction() as index:
        enter_copies(index, number, chunks)
    inode = fs.getattr(number)
    inode.size = chunks * MIB
    fs.commit()


def enter_copies(index: Index, number: int, chunks: int) -> None:
    first = index.chunks.whole_chunks(number, 0, MIB)
    rows = [(n * MIB + offset, length, block, skip) for n in range(chunks) for offset, length, block, skip in first]
    index.chunks.replace(number, 0, chunks * MIB, rows)
    index.chunks.stored(number, chunks * MIB, 1, 1, 1)
