# SPDX-License-Identifier: GPL-3.0-or-later
"""Contents against a model, on a local disk that fails at random: what an fsync promised is right, and whatever is read
was written there at some time, or is an I/O error where the disk has lost bytes; never zeros for data.

Files consist of cells that are written whole, each time with another byte.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cas3fs.errors import Cas3fsError, FileSystemError
from tests.filesystem.machine import ROOT, Machine

CELL = 8192
NAMES = st.sampled_from([b"a", b"b"])
CELLS = st.integers(0, 40)
COUNTS = st.integers(1, 12)
OPERATIONS = st.sampled_from(["open", "read_into", "write", "sync", "sync", "sync_folder", "truncate", "rename"])
NUMBERS = st.sampled_from([errno.EIO, errno.ENOSPC, errno.EMFILE])


@attrs.define
class File:
    """What is known of one."""

    cells: list[int] = attrs.field(factory=list)
    """What was written last, 0 for a hole."""
    before: dict[int, set[int]] = attrs.field(factory=dict)
    """What else stood in a cell since the last fsync that succeeded: a crash may bring it back."""
    sizes: set[int] = attrs.field(factory=set)
    unsynced: set[int] = attrs.field(factory=set)
    doubtful: set[int] = attrs.field(factory=set)
    """Cells that the disk may have lost, which no fsync has reported."""
    lost: set[int] = attrs.field(factory=set)
    """Cells that it may have lost, as an fsync has reported."""
    faded: set[int] = attrs.field(factory=set)
    """Cells that were one or the other since the last fsync that succeeded: a crash may bring that back, too."""
    is_promised: bool = False
    is_in_doubt: bool = False
    """The disk has lost a write, and has not reported it; that write may have been cut off since."""

    def put(self, cell: int, value: int) -> None:
        while len(self.cells) <= cell:
            self._note(len(self.cells), 0)
            self.cells.append(0)
        self._note(cell, self.cells[cell])
        self.cells[cell] = value
        self.faded |= {cell} & (self.doubtful | self.lost)
        self.unsynced.add(cell)
        if (
            self.is_in_doubt
        ):  # the disk reports a loss once, and not of which write: until then this one is in doubt too
            self.doubtful.add(cell)
        self.lost.discard(cell)

    def _note(self, cell: int, value: int) -> None:
        self.before.setdefault(cell, set()).add(value)

    def cut(self, size: int) -> None:
        for cell in range(size, len(self.cells)):
            self.before.setdefault(cell, set()).update((self.cells[cell], 0))
        for cell in range(len(self.cells), size):
            self._note(cell, 0)
        self.cells = [*self.cells[:size], *[0] * (size - len(self.cells))]
        self.faded |= self.doubtful | self.lost
        for cells in (self.unsynced, self.doubtful, self.lost):
            cells.difference_update({cell for cell in cells if cell >= size})

    def doubt(self) -> None:
        """The disk has lost a write, perhaps one of these."""
        self.doubtful |= self.unsynced
        self.is_in_doubt = self.is_in_doubt or bool(self.unsynced)

    def settle(self) -> None:
        """The disk has reported every loss."""
        self.doubtful.clear()
        self.is_in_doubt = False

    def promise(self) -> None:
        """An fsync succeeded: what was written since the last one that reported a loss is there."""
        self.settle()
        self.unsynced.clear()
        self.before.clear()
        self.faded.clear()
        self.sizes = {len(self.cells)}
        self.is_promised = True

    def may_be(self, cell: int) -> set[int]:
        return self.before.get(cell, set()) | ({self.cells[cell]} if cell < len(self.cells) else set())


class FaultyContents(RuleBasedStateMachine):
    """Two files, and what may befall them."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="cas3fs-faults-"))
        self.machine = Machine(self.place / "machine")
        self.files: dict[bytes, File] = {}
        self.value = 0
        self.losses = 0
        self.mount()

    def mount(self) -> None:
        self.fs = self.machine.mount(memory_bytes=0, most_open=2)
        self.disk = self.machine.disk

    def teardown(self) -> None:
        self.disk.clear_faults()
        self.machine.close()
        shutil.rmtree(self.place)

    # -- faults

    @rule(operation=OPERATIONS, number=NUMBERS, after=st.integers(0, 4))
    def fail(self, operation: str, number: int, after: int) -> None:
        self.disk.fail(operation, number, after=after)

    @rule()
    def lose(self) -> None:
        self.disk.lose_writes()

    @rule()
    def heal(self) -> None:
        self.disk.clear_faults()

    @invariant()
    def a_loss_puts_in_doubt_what_is_not_synced(self) -> None:
        if self.disk.losses != self.losses:
            self.losses = self.disk.losses
            for file in self.files.values():
                file.doubt()

    # -- what programs do

    def handle(self, name: bytes) -> int:
        if name not in self.files:
            self.files[name] = File()
            return self.fs.create(1, name, 0o644, os.O_RDWR, ROOT)[1]
        return self.fs.open(self.fs.lookup(1, name).number, os.O_RDWR, ROOT)

    @rule(name=NAMES, start=CELLS, count=COUNTS)
    def write(self, name: bytes, start: int, count: int) -> None:
        handle = self.handle(name)
        file = self.files[name]
        self.value = self.value % 255 + 1
        times_triggered = self.disk.times_triggered
        try:
            self.fs.write(handle, start * CELL, bytes([self.value]) * (count * CELL))
        except (Cas3fsError, OSError):
            assert self.disk.times_triggered > times_triggered
            for cell in range(start, start + count):
                file.before.setdefault(cell, set()).add(self.value)
        else:
            for cell in range(start, start + count):
                file.put(cell, self.value)
        file.sizes.add(len(file.cells))
        self.fs.release(handle)

    @rule(name=NAMES, size=CELLS)
    def truncate(self, name: bytes, size: int) -> None:
        if name in self.files:
            self.fs.setattr(self.fs.lookup(1, name).number, ROOT, size=size * CELL)
            self.files[name].cut(size)
            self.files[name].sizes.add(size)

    @rule(name=NAMES)
    def fsync(self, name: bytes) -> None:
        handle = self.handle(name)
        times_triggered = self.disk.times_triggered
        file = self.files[name]
        try:
            self.fs.fsync(handle)
        except FileSystemError as error:
            assert error.errno == errno.EIO
            file.lost |= file.doubtful | file.unsynced
            file.settle()
            file.unsynced.clear()
        except (Cas3fsError, OSError):
            assert self.disk.times_triggered > times_triggered
        else:
            file.promise()
        self.fs.release(handle)

    @rule()
    def commit(self) -> None:
        times_triggered = self.disk.times_triggered
        try:
            self.fs.commit()
        except (Cas3fsError, OSError):
            assert self.disk.times_triggered > times_triggered

    @rule()
    def store(self) -> None:
        """What was lost cannot be stored; if all was stored, nothing is lost."""
        try:
            self.fs.store_all(timeout_s=20)
        except (Cas3fsError, OSError) as error:
            assert not isinstance(error, TimeoutError)
        else:
            for file in self.files.values():
                file.promise()
                file.lost.clear()

    @rule()
    def check(self) -> None:
        self.disk.clear_faults()
        for name, file in self.files.items():
            found = self.found(name)
            assert len(found) == len(file.cells)
            for cell, value in enumerate(found):
                if value is None:
                    assert cell in file.doubtful | file.lost
                    file.lost.add(cell)
                else:
                    assert value == file.cells[cell]
            file.settle()  # the disk has reported every loss to one of these reads

    @rule()
    def crash(self) -> None:
        self.disk.clear_faults()
        before, self.machine = self.machine, self.machine.copy_of_the_disk()
        before.close()
        self.mount()
        self.losses = self.disk.losses
        there = {name for name, _, _ in self.fs.readdir(self.fs.opendir(1), 0)}
        assert there >= {name for name, file in self.files.items() if file.is_promised}
        for name in [name for name in self.files if name not in there]:
            del self.files[name]
        for name, file in self.files.items():
            found = self.found(name)
            assert len(found) in file.sizes | {0}
            for cell, value in enumerate(found):
                if value is None:
                    assert cell in file.doubtful | file.lost | file.unsynced | file.faded
                else:
                    assert value in file.may_be(cell)
            lost = {cell for cell, value in enumerate(found) if value is None}
            cells = [value or 0 for value in found]
            for cell in lost:
                cells[cell] = file.cells[cell] if cell < len(file.cells) else 0
            self.files[name] = File(cells, {}, {len(found)}, set(), set(), lost, set(), is_promised=True)

    def found(self, name: bytes) -> list[int | None]:
        """The byte that each cell consists of, None where it cannot be read."""
        inode = self.fs.lookup(1, name)
        handle = self.fs.open(inode.number, os.O_RDONLY, ROOT)
        cells: list[int | None] = []
        for cell in range(inode.size // CELL):
            try:
                data = set(bytes(self.fs.read(handle, cell * CELL, CELL)))
            except OSError as error:
                assert error.errno == errno.EIO
                cells.append(None)
            else:
                assert len(data) == 1
                cells.append(data.pop())
        self.fs.release(handle)
        return cells


@pytest.mark.promise("a-failed-sync-is-never-forgotten")
@pytest.mark.parametrize("model", [FaultyContents])
def test_reads_and_syncs_keep_their_promises_on_a_failing_disk(
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
