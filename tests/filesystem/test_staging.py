# SPDX-License-Identifier: GPL-3.0-or-later
"""Staging between two commits: layers that are stored, frozen, written and removed while others are on their way, and
what a kill or a loss of power finds then."""

import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError
from cas3fs.filesystem import FileSystem
from cas3fs.filesystem.state.inodes import Inode
from cas3fs.filesystem.state.layer_files import FileBytes, PendingWrite
from cas3fs.filesystem.state.layers import Layer
from cas3fs.index.staging import StagedRow
from cas3fs.values import Buffer
from tests.filesystem.gated import Gated
from tests.filesystem.machine import MIB, Machine
from tests.filesystem.usage import (
    DEADLINE_S,
    after_a_crash,
    before_the_instant,
    content,
    index_of,
    make_file,
    names_in,
    on_another_machine,
    open_below,
    remove,
    replace_by_rename,
    rewrite,
    shown,
    store_without_commit,
    take_checkpoint,
    until,
)


def stored_twice(machine: Machine) -> FileSystem:
    """A file whose first content has a row, which stays until the next commit, and whose second has none."""
    fs = machine.mount()
    make_file(fs, 1, b"f", b"1" * 1000)
    fs.commit()
    store_without_commit(fs)
    rewrite(fs, b"f", 0, b"2" * 1000)
    store_without_commit(fs)
    return fs


def test_a_file_stored_twice_between_commits_reads_as_the_second_time(machine: Machine) -> None:
    assert content(stored_twice(machine), b"f") == b"2" * 1000


def test_writing_to_a_file_stored_twice_between_commits_restores_nothing_old(machine: Machine) -> None:
    fs = stored_twice(machine)
    rewrite(fs, b"f", 500, b"3")
    fs.store_all()
    expected = b"2" * 500 + b"3" + b"2" * 499
    assert content(fs, b"f") == expected
    assert after_a_crash(machine, b"f") == expected


def test_a_sync_after_two_storings_without_a_commit_survives_a_crash(machine: Machine) -> None:
    fs = stored_twice(machine)
    rewrite(fs, b"f", 0, b"3" * 1000)
    fs.commit()
    assert after_a_crash(machine, b"f") == b"3" * 1000


@pytest.mark.promise("staged-state-is-numbered")
def test_a_sync_after_two_layers_were_stored_at_once_survives_a_crash(machine: Machine) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"1" * 1000)
    with fs.staging.lock:
        fs.staging.freeze(file)  # as a job does that fails
    rewrite(fs, b"f", 0, b"2")
    fs.commit()
    fs.store_all()  # the next commit deletes the rows of both
    rewrite(fs, b"f", 0, b"3")
    fs.commit()
    assert after_a_crash(machine, b"f") == b"3" + b"1" * 999


class Underway:
    """The bytes of one write are on the way into a layer's file until `end`."""

    def __init__(self, fs: FileSystem, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
        self._begun, self._may_end = threading.Event(), threading.Event()
        put = FileBytes.write

        def slow_put(held: FileBytes, offset: int, data: Buffer) -> PendingWrite:
            if len(data) == MIB:  # what was in memory goes to the file before, under the lock
                self._begun.set()
                assert self._may_end.wait(DEADLINE_S)
            return put(held, offset, data)

        with monkeypatch.context() as patch:
            patch.setattr(FileBytes, "write", slow_put)
            self._thread = threading.Thread(target=rewrite, args=(fs, name, 0, b"w" * MIB))
            self._thread.start()
            assert self._begun.wait(DEADLINE_S)

    def end(self) -> None:
        self._may_end.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


def when_frozen(fs: FileSystem, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a thread waits for a writer."""
    waits = threading.Event()
    wait = fs.staging.space_available.wait

    def noted(timeout: float | None = None) -> bool:
        waits.set()
        return wait(timeout)

    monkeypatch.setattr(fs.staging.space_available, "wait", noted)
    return waits


def test_a_file_removed_while_the_storer_waits_for_a_writer_blocks_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"written", b"x")
    make_file(fs, 1, b"removed", b"y" * 1000)
    fs.commit()  # both have a row
    underway = Underway(fs, monkeypatch, b"written")
    waits = when_frozen(fs, monkeypatch)
    storing = threading.Thread(target=fs.store_all)
    storing.start()
    assert waits.wait(DEADLINE_S)
    remove(fs, b"removed")
    underway.end()
    storing.join(DEADLINE_S)
    assert not storing.is_alive()
    fs.store_all(timeout_s=DEADLINE_S)
    assert fs.pending().files == 0
    assert after_a_crash(machine, b"written") == b"w" * MIB


def checkpoint_that_waits(
    fs: FileSystem, monkeypatch: pytest.MonkeyPatch, copy: Path, action: Callable[[], None]
) -> threading.Thread:
    """Begins a checkpoint, with `action` just before its instant; returns when it waits for a writer."""
    waits = when_frozen(fs, monkeypatch)
    before_the_instant(fs, action)
    taking = threading.Thread(target=take_checkpoint, args=(fs, copy))
    taking.start()
    assert waits.wait(DEADLINE_S)
    return taking


def test_a_checkpoint_that_waits_for_a_writer_shows_one_instant(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two files are renamed over others; during the wait for a writer of the one, the other is removed."""
    fs = machine.mount()
    for name in (b"f", b"g"):
        make_file(fs, 1, name, b"old")
    fs.store_all()
    underway: list[Underway] = []

    def replace_both() -> None:
        for name in (b"f", b"g"):
            replace_by_rename(fs, name, b"new" * 100)
        underway.append(Underway(fs, monkeypatch, b"f"))

    taking = checkpoint_that_waits(fs, monkeypatch, tmp_path / "copy", replace_both)
    remove(fs, b"g")
    underway[0].end()
    taking.join(DEADLINE_S)
    assert not taking.is_alive()
    assert shown(machine, tmp_path / "copy", b"f") == b"w" * MIB
    assert shown(machine, tmp_path / "copy", b"g") == b"new" * 100  # the instant was before it went


@pytest.mark.promise("a-file-in-parts-is-always-a-state-it-had")
def test_a_checkpoint_starts_over_when_a_file_is_stored_while_it_waits_for_its_writer(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was stored meanwhile is neither in the pinned index nor in the layers that are left."""
    gated = Gated(machine)
    fs = gated.fs
    data = random.Random(1).randbytes(2 * MIB)
    make_file(fs, 1, b"f", b"old")
    fs.store_all()
    threads: list[threading.Thread] = []
    underway: list[Underway] = []

    def replace_store_and_write() -> None:
        if not underway:
            replace_by_rename(fs, b"f", data)
            gated.close_gate()
            threads.append(gated.storing())
            underway.append(Underway(fs, monkeypatch, b"f"))

    taking = checkpoint_that_waits(fs, monkeypatch, tmp_path / "copy", replace_store_and_write)
    inode = fs.lookup(1, b"f")
    assert inode.stored_seq == 0
    gated.store.gate.set()
    until(lambda: inode.stored_seq > 0)
    underway[0].end()
    for thread in (taking, *threads):
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert shown(machine, tmp_path / "copy", b"f") == b"w" * MIB + data[MIB:]


@pytest.mark.promise("a-file-in-parts-is-always-a-state-it-had")
def test_a_checkpoint_starts_over_when_a_file_is_removed_while_it_waits_for_a_writer(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fs = machine.mount()
    for name in (b"f", b"g"):
        make_file(fs, 1, name, b"old")
    fs.store_all()
    underway: list[Underway] = []

    def replace_both() -> None:
        if not underway:
            for name in (b"f", b"g"):
                replace_by_rename(fs, name, b"new" * 100)
                underway.append(Underway(fs, monkeypatch, name))

    taking = checkpoint_that_waits(fs, monkeypatch, tmp_path / "copy", replace_both)  # for the writer of f
    underway[1].end()
    remove(fs, b"g")
    underway[0].end()
    taking.join(DEADLINE_S)
    assert not taking.is_alive()
    other = on_another_machine(machine, tmp_path / "copy")
    after = other.mount()
    assert names_in(after, 1) == [b"f"]
    assert content(after, b"f") == b"w" * MIB
    other.close()
    fs.commit()
    assert open_below(machine.folder / "staging") == []  # what was frozen the first time is released


@pytest.mark.parametrize("failing", ["freezing", "syncing"])
def test_a_checkpoint_that_fails_at_the_instant_releases_everything(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str
) -> None:
    fs = machine.mount()
    for name in (b"f", b"g"):
        make_file(fs, 1, name, b"old")
    fs.store_all()
    freeze, frozen = fs.staging.freeze, list[Inode]()

    def freeze_one(inode: Inode) -> list[Layer]:
        if frozen:
            raise MemoryError("for the test")
        frozen.append(inode)
        return freeze(inode)

    def sync() -> None:
        raise IndexDatabaseError("for the test")

    with monkeypatch.context() as patch:

        def replace_both() -> None:
            for name in (b"f", b"g"):
                replace_by_rename(fs, name, name * MIB)
            patch.setattr(
                *((fs.staging, "freeze", freeze_one) if failing == "freezing" else (index_of(fs), "sync", sync))
            )

        before_the_instant(fs, replace_both)
        with pytest.raises((MemoryError, IndexDatabaseError), match="for the test"):
            take_checkpoint(fs, tmp_path / "copy")
    fs.store_all()
    fs.commit()
    assert open_below(machine.folder / "staging") == []
    assert content(fs, b"f") + content(fs, b"g") == b"f" * MIB + b"g" * MIB


def test_no_row_is_written_over_a_layer_whose_bytes_have_none(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"x")
    fs.commit()
    rewrite(fs, b"f", 0, b"a" * MIB)
    sync, commit_rows, found = Layer.sync, fs.staging.rows.commit, list[bytes]()

    def write_and_freeze(layer: Layer) -> None:
        """Just after the bytes were synced more come, the layer is frozen, and few bytes go to the one above."""
        sync(layer)
        if not found and not layer.frozen:
            rewrite(fs, b"f", MIB, b"b" * MIB)
            with fs.staging.lock:
                fs.staging.freeze(file)
            rewrite(fs, b"f", 2 * MIB, b"c")

    def look() -> None:
        commit_rows()
        found.append(after_a_crash(machine, b"f"))

    monkeypatch.setattr(Layer, "sync", write_and_freeze)
    monkeypatch.setattr(fs.staging.rows, "commit", look)
    fs.commit()
    monkeypatch.undo()
    assert found
    assert all(len(data) <= MIB or data[MIB : 2 * MIB] == b"b" * MIB for data in found)
    assert content(fs, b"f") == b"a" * MIB + b"b" * MIB + b"c"


def test_a_commit_of_many_small_files_is_made_in_slices_of_whole_files(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite holds what is not committed in memory, once more; and no crash finds some layers of a file alone."""
    monkeypatch.setattr("cas3fs.filesystem.writeback.commits._SLICE_BYTES", 10_000)
    fs = machine.mount()
    records = fs.staging.rows.records
    slices: list[list[StagedRow]] = [[]]
    save, commit = records.save, records.commit

    def noted_save(rows: Iterable[StagedRow]) -> None:
        slices[-1] += (given := list(rows))
        save(given)

    def noted_commit(**options: bool) -> None:
        commit(**options)
        slices.append([])

    monkeypatch.setattr(records, "save", noted_save)
    monkeypatch.setattr(records, "commit", noted_commit)
    for number in range(30):
        inode = make_file(fs, 1, b"%d" % number, b"x" * 1000)
        for offset in (1000, 2000):
            with fs.staging.lock:
                fs.staging.freeze(inode)
            rewrite(fs, b"%d" % number, offset, b"y" * 1000)
    fs.commit()
    sizes = [sum(len(row.data or b"") for row in rows) for rows in slices]
    assert sum(sizes) == 30 * 3000
    assert max(sizes) < 10_000 + 3 * 1000 + 100
    holders = [{row.inode for row in rows} for rows in slices]
    assert sum(map(len, holders)) == len(set().union(*holders)) == 30
