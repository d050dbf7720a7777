# SPDX-License-Identifier: GPL-3.0-or-later
"""Storing in the background: what is stored, what wins when changes come in between, what failures leave behind."""

import os
import random
import threading
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from cas3fs.blocks.chunkers import Chunker
from cas3fs.errors import BlockMissing, StoreError, StoreUnreachable
from cas3fs.filesystem import FileSystem, FileSystemSettings
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layers import Layer
from cas3fs.filesystem.writeback.rechunk import FrozenFile
from cas3fs.index import InodeRow
from cas3fs.objectstores.base import ObjectStore
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStore
from tests.filesystem.gated import Gated
from tests.filesystem.machine import EAGER, MIB, ROOT, Machine
from tests.filesystem.usage import (
    DEADLINE_S,
    after_a_crash,
    chunk_bytes,
    content,
    index_of,
    make_file,
    open_below,
    refused,
    remove,
    rewrite,
    until,
)


def stored_bytes(machine: Machine) -> int:
    return sum(info.size for info in machine.store.list("packs/"))


def stored_size(fs: FileSystem, number: int) -> int:
    row = index_of(fs).namespace.inode(number)
    return 0 if row is None else InodeRow(*row).size


class TestWhatComesDuringAnUploadWins:
    """A file is being uploaded when something happens to it."""

    @pytest.mark.promise("changes-during-an-upload-win")
    def test_a_write(self, gated: Gated) -> None:
        gated.close_gate()
        make_file(gated.fs, 1, b"f", b"old" * 30_000)
        thread = gated.storing()
        rewrite(gated.fs, b"f", 3, b"NEW")
        gated.open_gate(thread)
        expected = b"oldNEW" + b"old" * 29_998
        assert content(gated.fs, b"f") == expected
        gated.fs.commit()
        assert after_a_crash(gated.machine, b"f") == expected
        gated.fs.store_all()
        assert content(gated.fs, b"f") == expected

    @pytest.mark.promise("changes-during-an-upload-win")
    def test_a_truncation(self, gated: Gated) -> None:
        gated.close_gate()
        file = make_file(gated.fs, 1, b"f", b"x" * 90_000)
        thread = gated.storing()
        gated.fs.setattr(file.number, ROOT, size=10)
        gated.fs.setattr(file.number, ROOT, size=20)
        gated.open_gate(thread)
        gated.fs.commit()
        assert content(gated.fs, b"f") == b"x" * 10 + bytes(10)
        assert after_a_crash(gated.machine, b"f") == b"x" * 10 + bytes(10)

    @pytest.mark.promise("changes-during-an-upload-win")
    def test_times(self, gated: Gated) -> None:
        gated.close_gate()
        file = make_file(gated.fs, 1, b"f", b"x" * 90_000)
        thread = gated.storing()
        gated.fs.setattr(file.number, ROOT, mtime_ns=123)
        gated.open_gate(thread)
        gated.fs.store_all()
        other = gated.machine.copy_of_the_disk()
        assert other.mount().getattr(file.number).mtime_ns == 123
        other.close()

    @pytest.mark.promise("changes-during-an-upload-win")
    def test_a_removal(self, gated: Gated) -> None:
        gated.close_gate()
        file = make_file(gated.fs, 1, b"f", b"x" * 90_000)
        thread = gated.storing()
        remove(gated.fs, b"f")
        gated.fs.commit()  # nothing would take away what came to be entered after this
        gated.open_gate(thread)
        gated.await_job()
        assert chunk_bytes(gated.fs, file.number) == 0
        assert gated.fs.pending().files == 0

    @pytest.mark.promise("changes-during-an-upload-win")
    def test_a_removal_that_is_being_committed(self, gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
        """The index knows of it, is not durable yet, and so the file's row and bytes are there still."""
        gated.close_gate()
        file = make_file(gated.fs, 1, b"f", b"x" * 90_000)
        gated.fs.commit()
        thread = gated.storing()
        remove(gated.fs, b"f")
        sync = index_of(gated.fs).sync

        def late_sync() -> None:
            gated.store.gate.set()
            gated.await_job()
            sync()

        monkeypatch.setattr(index_of(gated.fs), "sync", late_sync)
        gated.fs.commit()
        thread.join(DEADLINE_S)
        assert chunk_bytes(gated.fs, file.number) == 0
        assert gated.fs.pending().files == 0


@pytest.mark.promise("a-file-in-parts-is-always-a-state-it-had")
def test_a_rewritten_file_keeps_its_old_content_in_the_index_until_it_is_stored_whole(machine: Machine) -> None:
    part = FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600, part_bytes=256 * 1024)
    fs = machine.mount(part)
    file = make_file(fs, 1, b"f", b"old" * 100_000)
    fs.store_all()
    handle = fs.open(file.number, os.O_WRONLY | os.O_TRUNC, ROOT)
    fs.write(handle, 0, random.Random(1).randbytes(MIB))
    grown, growing = fs.create(1, b"g", 0o600, os.O_RDWR, ROOT)  # stored in parts meanwhile, as a witness
    fs.write(growing, 0, random.Random(2).randbytes(MIB))
    until(lambda: stored_size(fs, grown.number) == MIB)
    with fs.index_transaction() as index:
        row = index.namespace.inode(file.number)
        assert row is not None
        assert InodeRow(*row).size == 300_000
        assert sum(length for _, length in index.chunks.bounds(file.number, 0, MIB)) == 300_000
    fs.release(handle)
    fs.release(growing)


def test_the_same_data_is_stored_once(machine: Machine) -> None:
    fs = machine.mount()
    data = random.Random(3).randbytes(3 * MIB)
    make_file(fs, 1, b"a", data)
    fs.store_all()
    once = stored_bytes(machine)
    make_file(fs, 1, b"b", data)
    make_file(fs, 1, b"c", b"!" + data)
    fs.store_all()
    assert stored_bytes(machine) < 1.02 * once
    assert content(fs, b"c") == b"!" + data


def test_an_append_stores_little_more_than_what_was_appended(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"log", random.Random(4).randbytes(2 * MIB))
    fs.store_all()
    before = stored_bytes(machine)
    rewrite(fs, b"log", 2 * MIB, b"one line more\n")
    fs.store_all()
    assert stored_bytes(machine) - before < 3 * machine.chunker.max_size


@pytest.mark.promise("a-file-in-parts-is-always-a-state-it-had")
def test_a_file_written_in_parts_is_cut_like_one_written_at_once(machine: Machine) -> None:
    fs = machine.mount()
    data = random.Random(5).randbytes(MIB)
    make_file(fs, 1, b"whole", data)
    fs.store_all()
    before = stored_bytes(machine)
    make_file(fs, 1, b"parts")
    for start in range(0, MIB, 100_000):
        rewrite(fs, b"parts", start, data[start : start + 100_000])
        fs.store_all()
    assert content(fs, b"parts") == data
    whole, parts = (index_of(fs).chunks.bounds(fs.lookup(1, name).number, 0, MIB) for name in (b"whole", b"parts"))
    assert whole == parts
    assert stored_bytes(machine) - before < 20 * 3 * machine.chunker.max_size  # last chunks of parts, and little else


def test_an_outage_loses_nothing_and_ends_by_itself(gated: Gated) -> None:
    gated.store.failing = True
    make_file(gated.fs, 1, b"f", b"data" * 10_000)
    with pytest.raises(StoreError, match="503"):
        gated.fs.store_all()
    assert gated.fs.pending().files == 1
    assert content(gated.fs, b"f") == b"data" * 10_000
    gated.store.failing = False
    gated.fs.store_all()
    assert gated.fs.pending().files == 0
    assert content(gated.fs, b"f") == b"data" * 10_000


@pytest.mark.promise("a-known-block-is-checked-again")
def test_a_known_block_that_gc_deletes_before_its_chunk_is_entered_is_stored_again(gated: Gated) -> None:
    fs = gated.fs
    make_file(fs, 1, b"a", b"shared" * 100)
    fs.store_all()
    gated.close_gate()
    make_file(fs, 1, b"b", b"shared" * 100)
    make_file(fs, 1, b"c", b"other" * 100)  # holds the job at the gate, after the hit
    thread = gated.storing()
    first = fs.lookup(1, b"a").number
    with fs.index_transaction() as index:  # as a collection of garbage would
        index.chunks.truncate(first, 0)
        index._database.execute("DELETE FROM blocks")
    gated.open_gate(thread)
    fs.commit()
    assert after_a_crash(gated.machine, b"b") == b"shared" * 100


@pytest.mark.promise("work-goes-on-without-the-store")
def test_writers_wait_while_staging_is_full(machine: Machine) -> None:
    gated = Gated(machine, EAGER, limit_bytes=MIB, memory_bytes=MIB)
    gated.close_gate()
    make_file(gated.fs, 1, b"a", random.Random(6).randbytes(MIB))
    handle = gated.fs.create(1, b"b", 0o600, os.O_RDWR, ROOT)[1]
    assert gated.fs.write_now(handle, 0, b"x") is None
    done = threading.Event()
    thread = threading.Thread(target=lambda: (gated.fs.write(handle, 0, b"x" * 1000), done.set()))
    thread.start()
    assert gated.store.waiting.acquire(timeout=DEADLINE_S)
    assert not done.is_set()
    gated.store.gate.set()
    assert done.wait(DEADLINE_S)
    thread.join()
    gated.fs.release(handle)


def test_a_writer_that_cannot_wait_exceeds_the_limit_of_staging(machine: Machine) -> None:
    gated = Gated(machine, EAGER, limit_bytes=MIB, memory_bytes=MIB)
    gated.close_gate()
    make_file(gated.fs, 1, b"a", random.Random(8).randbytes(MIB))
    handle = gated.fs.create(1, b"b", 0o600, os.O_RDWR, ROOT)[1]
    assert gated.fs.write(handle, 0, b"x" * 1000, wait=False) == 1000
    assert gated.fs.staging.size_bytes == MIB + 1000
    assert bytes(gated.fs.read(handle, 0, 2000)) == b"x" * 1000
    gated.fs.release(handle)
    gated.store.gate.set()


def test_settled_files_are_stored_in_the_background_in_few_packs(machine: Machine) -> None:
    fs = machine.mount(EAGER)
    for number in range(200):
        make_file(fs, 1, b"%d" % number, b"%d" % number * 50)
    until(lambda: fs.pending().files == 0)
    fs.commit()
    assert len(list(machine.store.list("packs/"))) < 20
    assert after_a_crash(machine, b"123") == b"123" * 50


def test_reads_during_an_upload_see_the_bytes(gated: Gated) -> None:
    gated.close_gate()
    data = random.Random(7).randbytes(400_000)
    make_file(gated.fs, 1, b"f", data)
    thread = gated.storing()
    assert content(gated.fs, b"f") == data
    gated.open_gate(thread)
    assert content(gated.fs, b"f") == data


@pytest.mark.promise("every-block-is-verified")
def test_a_block_that_the_index_has_lost_is_an_error_for_its_range(machine: Machine) -> None:
    fs = machine.mount()
    data = random.Random(9).randbytes(200_000)
    inode = make_file(fs, 1, b"f", data)
    make_file(fs, 1, b"g", b"other" * 100)
    fs.store_all()
    with fs.index_transaction() as index:
        spans = index.chunks.spans(inode.number, 0, 200_000)
        lost = spans[len(spans) // 2]
        index._database.connection.execute("DELETE FROM blocks WHERE hash = ?", (lost.block.hash,))
    handle = fs.open(inode.number, os.O_RDWR, ROOT)
    with pytest.raises(BlockMissing, match="--repair"):
        fs.read(handle, lost.offset, 10)
    assert bytes(fs.read(handle, 0, lost.offset)) == data[: lost.offset]
    assert content(fs, b"g") == b"other" * 100
    fs.write(handle, lost.offset + 1, b"new bytes beside lost ones")
    fs.store_all()
    assert bytes(fs.read(handle, lost.offset + 1, 26)) == b"new bytes beside lost ones"
    with pytest.raises(BlockMissing):
        fs.read(handle, lost.offset, 1)
    fs.release(handle)


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_missing_staged_bytes_are_an_error_and_no_zeros(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"x" * 400_000)
    make_file(fs, 1, b"other", b"important")
    fs.commit()
    other = machine.copy_of_the_disk()
    for path in (other.folder / "staging").glob("*-*"):
        path.unlink()
    there = other.mount()
    assert content(there, b"other") == b"important"
    with pytest.raises(OSError, match="has lost bytes"):
        content(there, b"f")
    there.store_all(skip_unstorable=True)
    assert [one.path for one in there.unstorable_files()] == ["/f"]
    there.setattr(there.lookup(1, b"f").number, ROOT, size=0)
    rewrite(there, b"f", 0, b"written anew")
    there.store_all()
    assert content(there, b"f") == b"written anew"
    other.close()


@pytest.mark.promise("staging-belongs-to-one-lineage")
def test_a_staging_file_without_its_row_is_quarantined(machine: Machine) -> None:
    machine.mount().close()
    machine.running.clear()
    orphan = machine.folder / "staging" / "ff-1"
    orphan.write_bytes(b"who knows")
    machine.mount()
    aside = list((machine.folder / "staging" / "aside").iterdir())
    assert [path.read_bytes() for path in aside] == [b"who knows"]
    assert not orphan.exists()


def test_errors_of_the_store_reach_the_caller_of_store_all(gated: Gated) -> None:
    gated.store.failing = True
    make_file(gated.fs, 1, b"f", b"data")
    with pytest.raises(StoreError):
        gated.fs.store_all()
    refused(2, gated.fs.lookup, 1, b"nothing")  # the file system itself goes on


def test_a_settled_storing_does_not_wait_for_a_file_that_is_rewritten_meanwhile(gated: Gated) -> None:
    fs = gated.fs
    make_file(fs, 1, b"f", b"old" * 1000)
    fs.store_all()
    gated.close_gate()
    rewrite(fs, b"f", 0, b"changed")
    thread = threading.Thread(target=lambda: fs.store_all(settled=True))
    thread.start()
    assert gated.store.waiting.acquire(timeout=DEADLINE_S)
    handle = fs.open(fs.lookup(1, b"f").number, os.O_WRONLY | os.O_TRUNC, ROOT)
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    fs.release(handle)


class InterruptingChunker:
    """A chunker that has something else done before it cuts for the first time."""

    def __init__(self, inner: Chunker, interruption: Callable[[], None]) -> None:
        self._inner = inner
        self._interruption: Callable[[], None] | None = interruption

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def cut(self, data: memoryview, final: bool) -> Sequence[int]:
        interruption, self._interruption = self._interruption, None
        if interruption is not None:
            interruption()
        return self._inner.cut(data, final)


@pytest.mark.promise("changes-during-an-upload-win")
def test_a_file_that_is_removed_while_it_is_cut_fails_nothing(machine: Machine) -> None:
    def remove_second() -> None:
        remove(fs, b"second")

    machine.chunker = cast(Chunker, InterruptingChunker(machine.chunker, remove_second))
    fs = machine.mount()
    make_file(fs, 1, b"first", os.urandom(MIB))
    make_file(fs, 1, b"second", os.urandom(MIB))
    staging = machine.folder / "staging"
    assert len(open_below(staging)) == 2  # the files of both layers
    fs.store_all()
    assert fs.pending().files == 0
    assert open_below(staging) == []
    assert not list((machine.folder / "staging").glob("*-*"))


def test_a_file_that_changes_all_the_time_is_stored_on_request(machine: Machine) -> None:
    fs = machine.mount()
    inode, handle = fs.create(1, b"file", 0o644, os.O_RDWR, ROOT)
    fs.write(handle, 0, b"before")
    over = threading.Event()

    def touch() -> None:
        while not over.is_set():
            fs.write(handle, 8192, b"again")

    toucher = threading.Thread(target=touch)
    toucher.start()
    try:
        for _ in range(5):
            fs.store_all(timeout_s=10)
        assert inode.stored_seq > 0
    finally:
        over.set()
        toucher.join()


def test_a_job_that_fails_late_releases_only_what_it_still_holds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine.mount()
    storer = fs.storer
    first = make_file(fs, 1, b"a", b"first")
    make_file(fs, 1, b"b", b"second")
    monkeypatch.setattr("cas3fs.filesystem.writeback.storer._SLICE_FILES", 1)
    enter, entered = storer._enter_chunks, []

    def enter_one(files: list[FrozenFile]) -> None:
        entered.append(files)
        if len(entered) == 2:
            first.being_stored = True  # as another job that has taken the file up again
        if len(entered) > 1:
            raise StoreError("for the test")
        enter(files)

    monkeypatch.setattr(storer, "_enter_chunks", enter_one)
    with pytest.raises(StoreError, match="for the test"):
        fs.store_all()
    assert first.being_stored
    first.being_stored = False
    monkeypatch.setattr(storer, "_enter_chunks", enter)
    fs.store_all()


def test_a_storer_survives_a_failed_selection_of_files(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = machine.mount()
    storer = fs.storer
    pick, failed = storer._select, threading.Event()

    def fail_once() -> list[FrozenFile]:
        if failed.is_set():
            return pick()
        failed.set()
        raise KeyError("for the test")

    make_file(fs, 1, b"f", b"text")
    monkeypatch.setattr(storer, "_select", fail_once)
    assert failed.wait(DEADLINE_S)
    fs.store_all()
    assert fs.pending().files == 0


def test_a_failed_freeze_blocks_the_storing_of_no_file(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = machine.mount()
    for name in (b"f", b"g"):
        make_file(fs, 1, name, name * MIB)
    freeze, frozen = fs.staging.freeze, list[Inode]()

    def fail_once(inode: Inode) -> list[Layer]:
        frozen.append(inode)
        if len(frozen) == 2:
            raise MemoryError("for the test")
        return freeze(inode)

    monkeypatch.setattr(fs.staging, "freeze", fail_once)
    fs.store_all(timeout_s=DEADLINE_S)
    assert fs.pending().files == 0
    assert open_below(machine.folder / "staging") == []


@pytest.mark.promise("commands-wait-for-signs-of-life")
def test_a_caller_of_store_all_learns_of_a_long_outage_soon(machine: Machine) -> None:
    """However long the pauses between attempts have become in the background."""
    lying: list[FaultyStore] = []

    def wrap(store: ObjectStore) -> ObjectStore:
        lying.append(FaultyStore(store))
        return lying[0]

    fs = machine.mount(FileSystemSettings(commit_interval_s=3600, settle_s=3600, batch_wait_s=3600), wrap=wrap)
    make_file(fs, 1, b"f", b"data")
    with lying[0].faults.on(FaultKind.RESET):
        fs.storer._retry_s = 60.0
        with pytest.raises(StoreUnreachable):
            fs.store_all(timeout_s=25)
    fs.store_all(timeout_s=25)
