# SPDX-License-Identifier: GPL-3.0-or-later
"""Writers and readers of a layer's file, beside those who freeze, truncate and store it."""

import os

import pytest

from cas3fs.filesystem.state.layer_files import FileBytes, PendingWrite
from cas3fs.filesystem.state.layers import Layer
from cas3fs.values import Buffer
from tests.filesystem.gated import Gated
from tests.filesystem.machine import MIB, ROOT, Machine
from tests.filesystem.usage import content, killed, make_file, until


@pytest.mark.promise("frozen-layers-are-frozen")
def test_two_threads_that_freeze_a_file_get_the_layers_of_their_moment(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storer and a checkpoint wait for the same write; the checkpoint wakes when the next write has begun a layer."""
    fs = machine.mount()
    inode = make_file(fs, 1, b"f", b"a" * MIB)
    by_the_other: list[Layer] = []

    with fs.staging.lock:
        layer, held = fs.staging.begin_file_write(inode)  # a write is under way

        def meanwhile(timeout: float | None = None) -> bool:
            fs.staging.end_file_write(inode, layer, held, None)
            by_the_other.extend(fs.staging.freeze(inode))
            later.append(fs.staging.begin_file_write(inode))
            return True

        later: list[tuple[Layer, FileBytes]] = []
        with monkeypatch.context() as patch:
            patch.setattr(fs.staging.space_available, "wait", meanwhile)
            layers = fs.staging.freeze(inode)
        assert all(one.frozen for one in layers)
        assert layers == by_the_other
        fs.staging.end_file_write(inode, *later[0], None)


@pytest.mark.promise("frozen-layers-are-frozen")
def test_freezing_a_file_that_is_removed_meanwhile_gives_no_layers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine.mount()
    inode = make_file(fs, 1, b"f", b"a" * MIB)
    with fs.staging.lock:
        layer, held = fs.staging.begin_file_write(inode)

        def meanwhile(timeout: float | None = None) -> bool:
            fs.staging.end_file_write(inode, layer, held, None)
            fs.staging.discard(inode)
            return True

        with monkeypatch.context() as patch:
            patch.setattr(fs.staging.space_available, "wait", meanwhile)
            assert fs.staging.freeze(inode) == []


@pytest.mark.promise("frozen-layers-are-frozen")
def test_a_reader_beside_a_truncation_reads_what_was_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = machine.mount()
    inode = make_file(fs, 1, b"f", b"a" * MIB)
    handle = fs.open(inode.number, os.O_RDONLY, ROOT)
    read_into = FileBytes.read_into

    def truncate_and_read(held: FileBytes, start: int, into: memoryview) -> None:
        fs.setattr(inode.number, ROOT, size=0)
        read_into(held, start, into)

    monkeypatch.setattr(FileBytes, "read_into", truncate_and_read)
    assert bytes(fs.read(handle, 0, MIB)) == b"a" * MIB
    assert bytes(fs.read(handle, 0, MIB)) == b""


@pytest.mark.promise("frozen-layers-are-frozen")
def test_a_write_whose_bytes_came_before_a_truncation_and_its_size_after_it_is_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine.mount()
    inode = make_file(fs, 1, b"f", b"a" * MIB)
    handle = fs.open(inode.number, os.O_RDWR, ROOT)
    put = FileBytes.write

    def put_and_truncate(held: FileBytes, offset: int, data: Buffer) -> PendingWrite:
        done = put(held, offset, data)
        if len(data) == MIB:
            fs.setattr(inode.number, ROOT, size=0)
        return done

    monkeypatch.setattr(FileBytes, "write", put_and_truncate)
    fs.write(handle, MIB, b"b" * MIB)
    assert content(fs, b"f") == bytes(MIB) + b"b" * MIB
    fs.store_all()
    assert content(fs, b"f") == bytes(MIB) + b"b" * MIB


@pytest.mark.promise("staged-bytes-are-read-not-mapped")
def test_unreadable_staged_bytes_concern_their_file_only(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"hurt", b"a" * MIB)
    make_file(fs, 1, b"well", b"b" * MIB)
    hurt = fs.lookup(1, b"hurt")
    os.truncate(machine.folder / "staging" / f"{hurt.number:x}-1", 5000)
    with pytest.raises(OSError, match="shorter than its ranges"):
        fs.store_all()
    with pytest.raises(OSError, match="shorter than its ranges"):
        content(fs, b"hurt")
    until(lambda: not fs.lookup(1, b"well").is_unstored)
    assert content(fs, b"well") == b"b" * MIB
    assert hurt.is_unstored
    assert hurt.stored_seq == 0


@pytest.mark.promise("a-mount-ends-cleanly")
def test_a_write_that_waits_ends_when_its_program_is_killed(machine: Machine) -> None:
    """It has written nothing, and writes nothing later."""
    gated = Gated(machine, limit_bytes=MIB)
    inode = make_file(gated.fs, 1, b"f", b"a" * MIB)
    gated.store.gate.clear()
    handle = gated.fs.open(inode.number, os.O_RDWR, ROOT)
    with pytest.raises(InterruptedError):
        gated.fs.write(handle, 0, b"late", pause=killed)
    gated.store.gate.set()
    gated.fs.store_all()
    assert content(gated.fs, b"f") == b"a" * MIB
