# SPDX-License-Identifier: GPL-3.0-or-later
"""Contents against a model: plain bytearrays, through storing, commits, crashes and remounts.

A crash takes back what was not committed; but bytes that were written over committed ones, in place, may have come
through, as on any file system.
"""

import errno
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cas3fs.errors import FileSystemError
from cas3fs.filesystem.operations.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import refused

NAMES = st.sampled_from([b"a", b"b"])
OFFSETS = st.one_of(st.integers(0, 40_000), st.sampled_from([0, 4096, 16_384, 300_000]))
ALLOCATIONS = [0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE]
LENGTHS = st.one_of(st.integers(1, 40_000), st.sampled_from([1, 4096, 270_000]))


class Contents(RuleBasedStateMachine):
    """Two files, and what may happen to them."""

    chunker = "fastcdc"
    memory_bytes = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="cas3fs-model-"))
        self.machine = Machine(self.place / "machine", self.chunker)
        self.model: dict[bytes, bytearray] = {}
        self.committed: dict[bytes, bytearray] = {}
        self.since: list[tuple[bytes, int, bytes]] = []
        """(name, offset, data) of what was written since the commit."""
        self.mount()

    def mount(self) -> None:
        self.fs = self.machine.mount(memory_bytes=self.memory_bytes)

    def teardown(self) -> None:
        self.machine.close()
        shutil.rmtree(self.place)

    def now_committed(self) -> None:
        self.committed = {name: bytearray(data) for name, data in self.model.items()}
        self.since = []

    def handle(self, name: bytes) -> int:
        if name in self.model:
            return self.fs.open(self.fs.lookup(1, name).number, os.O_RDWR, ROOT)
        self.model[name] = bytearray()
        return self.fs.create(1, name, 0o644, os.O_RDWR, ROOT)[1]

    @rule(name=NAMES, offset=OFFSETS, length=LENGTHS, seed=st.integers(0, 20))
    def write(self, name: bytes, offset: int, length: int, seed: int) -> None:
        data = random.Random(seed).randbytes(length)
        handle = self.handle(name)
        assert self.fs.write(handle, offset, data) == length
        self.fs.release(handle)
        held = self.model[name]
        held.extend(bytes(max(0, offset + length - len(held))))
        held[offset : offset + length] = data
        self.since.append((name, offset, data))

    @precondition(lambda self: self.model)
    @rule(name=NAMES, size=OFFSETS)
    def truncate(self, name: bytes, size: int) -> None:
        if name not in self.model:
            return
        self.fs.setattr(self.fs.lookup(1, name).number, ROOT, size=size)
        held = self.model[name]
        del held[size:]
        held.extend(bytes(size - len(held)))

    @rule(name=NAMES, offset=OFFSETS, length=LENGTHS, mode=st.sampled_from(ALLOCATIONS))
    def allocate(self, name: bytes, offset: int, length: int, mode: int) -> None:
        handle = self.handle(name)
        self.fs.allocate(handle, offset, length, mode)
        self.fs.release(handle)
        held = self.model[name]
        if not mode & KEEP_SIZE:
            held.extend(bytes(max(0, offset + length - len(held))))
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            zeros = bytes(max(0, min(offset + length, len(held)) - offset))
            held[offset : offset + length] = zeros
            self.since.append((name, offset, zeros))

    @rule(name=NAMES, other=NAMES, offset=OFFSETS, to_offset=OFFSETS, length=LENGTHS, stored=st.booleans())
    def copy(self, name: bytes, other: bytes, offset: int, to_offset: int, length: int, *, stored: bool) -> None:
        handle, to_handle = self.handle(name), self.handle(other)
        if stored:
            self.fs.storer.store_all()
        held = self.model[name]
        length = max(0, min(length, len(held) - offset))
        wanted = (handle, offset, to_handle, to_offset, length)
        if name == other and abs(offset - to_offset) < length:
            refused(errno.EINVAL, self.fs.copy_range, *wanted)
        else:
            copied = self.fs.copy_range_now(*wanted)
            assert copied is not None or not stored
            if copied is None:
                copied = self.fs.copy_range(*wanted)
            assert copied == length
            data = bytes(held[offset : offset + length])
            held = self.model[other]
            if length:
                held.extend(bytes(max(0, to_offset + length - len(held))))
                held[to_offset : to_offset + length] = data
                self.since.append((other, to_offset, data))
        self.fs.release(handle)
        self.fs.release(to_handle)

    @precondition(lambda self: self.model)
    @rule(name=NAMES, offset=OFFSETS)
    def seek(self, name: bytes, offset: int) -> None:
        """Data and holes alternate, and what is no data is zeros."""
        if name not in self.model or offset >= len(self.model[name]):
            return
        handle = self.handle(name)
        position, size = offset, len(self.model[name])
        while position < size:
            hole = self.fs.seek(handle, position, os.SEEK_HOLE)
            try:
                following = self.fs.seek(handle, hole, os.SEEK_DATA) if hole < size else size
            except FileSystemError as error:
                assert error.errno == errno.ENXIO
                following = size
            assert position <= hole <= following
            assert hole == size or hole < following
            assert not any(self.model[name][hole:following])
            position = following
        self.fs.release(handle)

    @rule(name=NAMES, offset=OFFSETS, length=LENGTHS)
    def read(self, name: bytes, offset: int, length: int) -> None:
        if name in self.model:
            handle = self.handle(name)
            expected = bytes(self.model[name][offset : offset + length])
            assert bytes(self.fs.read(handle, offset, length)) == expected
            self.fs.release(handle)

    @rule(name=NAMES)
    def remove(self, name: bytes) -> None:
        if self.model.pop(name, None) is not None:
            inode = self.fs.lookup(1, name)
            self.fs.unlink(1, name)
            self.fs.forget([(inode.number, 2**40)])

    @rule()
    def commit(self) -> None:
        self.fs.commit()
        self.now_committed()

    @rule()
    def store(self) -> None:
        self.fs.store_all()
        self.now_committed()

    @rule()
    def crash(self) -> None:
        """The process is killed: what was committed is there, all of it, and nothing that was never written."""
        before, self.machine = self.machine, self.machine.copy_of_the_disk()
        before.close()
        self.mount()
        for name, held in self.committed.items():
            self.take_over_what_came_through(name, held)
        self.model = self.committed
        self.now_committed()
        self.check()

    def take_over_what_came_through(self, name: bytes, held: bytearray) -> None:
        found = self.content(name)
        assert len(found) == len(held)
        for _, offset, data in [write for write in self.since if write[0] == name]:
            end = min(offset + len(data), len(held))
            for position in range(offset, end):
                if found[position] == data[position - offset]:
                    held[position] = found[position]
        assert found == bytes(held)

    @rule()
    def remount(self) -> None:
        self.fs.close()
        self.machine.running.clear()
        self.mount()
        self.now_committed()
        self.check()

    def check(self) -> None:
        handle = self.fs.opendir(1)
        assert sorted(name for name, _, _ in self.fs.readdir(handle, 0)) == sorted(self.model)
        self.fs.releasedir(handle)
        for name, expected in self.model.items():
            assert self.content(name) == bytes(expected)

    def content(self, name: bytes) -> bytes:
        inode = self.fs.lookup(1, name)
        opened = self.fs.open(inode.number, os.O_RDONLY, ROOT)
        data = bytes(self.fs.read(opened, 0, inode.size + 1))
        self.fs.release(opened)
        assert len(data) == inode.size
        return data

    @invariant()
    def blocks_are_those_of_data(self) -> None:
        for name, held in self.model.items():
            inode = self.fs.lookup(1, name)
            data = sum(end - start for start, end in self.fs.data_ranges(inode.number, 0, len(held)))
            assert -(-data // 512) <= inode.blocks <= -(-len(held) // 512)
            if not inode.layers:
                assert inode.blocks == -(-data // 512)
            self.fs.forget([(inode.number, 1)])

    @invariant()
    def accounts_are_right(self) -> None:
        staging = self.fs.staging
        held = sum(layer.bytes.size_bytes for inode in staging.files.values() for layer in inode.layers)
        assert staging.size_bytes == held

    @invariant()
    def inodes_say_how_much_of_them_is_stored(self) -> None:
        for name in self.model:
            inode = self.fs.lookup(1, name)
            with self.fs.index_transaction() as index:
                bounds = index.chunks.bounds(inode.number, 0, 2**62)
                assert inode.chunk_bytes == sum(length for _, length in bounds)


class FixedContents(Contents):
    chunker = "fixed"


class LittleMemoryContents(Contents):
    memory_bytes = 1


@pytest.mark.promise("a-file-in-parts-is-always-a-state-it-had", "files-never-show-foreign-bytes")
@pytest.mark.parametrize("model", [Contents, FixedContents, LittleMemoryContents])
def test_files_hold_what_was_written_whatever_is_stored_committed_or_killed_between(
    model: type[RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=settings.default.max_examples * 2 // 5,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
