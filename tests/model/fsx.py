# SPDX-License-Identifier: GPL-3.0-or-later
"""Random I/O on one file of a mount and on a local file: every read and every size is compared.

One `Exerciser` is one file with several open handles, a shared mapping, and a seed. It does not know mounts.
"""

import errno
import mmap
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tests.posix.calls import fallocate

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
PUNCH = PUNCH_HOLE | KEEP_SIZE
MAX_BYTES = 1_500_000
HANDLES = 3
REPORTED_STEPS = 30


class ContentMismatch(AssertionError):
    """The file differs from the local one; the message has the seed and the last steps."""


class Exerciser:
    """Does random I/O on `file` and on the local file `plain`.

    Where the mount has no fallocate (`allocates` is false), that must be refused, and change nothing.
    """

    def __init__(self, file: Path, plain: Path, seed: int, *, allocates: bool = True) -> None:
        self.file = file
        self.plain = plain
        self.allocates = allocates
        self.seed = seed
        self.chance = random.Random(seed)
        self.count = 0
        self.steps: deque[str] = deque(maxlen=REPORTED_STEPS)
        self.noise = self.chance.randbytes(MAX_BYTES)
        file.touch()
        plain.touch()
        self.open()
        weighted: list[tuple[Callable[[], None], int]] = [
            (self.read, 30),
            (self.write, 30),
            (self.append, 6),
            (self.truncate, 6),
            (self.allocate, 6),
            (self.seek, 4),
            (self.copy, 6),
            (self.read_mapped, 12),
            (self.write_mapped, 8),
            (self.fsync, 1),
            (self.reopen, 2),
            (self.check_size, 5),
        ]
        self.actions = [action for action, _ in weighted]
        self.weights = [weight for _, weight in weighted]

    # -- running

    def run(self, count: int) -> None:
        """Do `count` steps.

        Raises:
            ContentMismatch: the files differ.
        """
        for action in self.chance.choices(self.actions, self.weights, k=count):
            action()
            self.count += 1

    def open(self) -> None:
        self.reference = os.open(self.plain, os.O_RDWR)
        self.handles = [os.open(self.file, os.O_RDWR) for _ in range(HANDLES)]
        self.appending = os.open(self.file, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        for handle in (self.reference, self.appending, *self.handles):
            os.close(handle)

    def verify(self) -> None:
        """Compare everything."""
        self.note("verify")
        self.check_size()
        size = self.size()
        for start in range(0, size, 1 << 18):
            self.compare(os.pread(self.handle(), 1 << 18, start), start, 1 << 18)

    def note(self, step: str) -> None:
        self.steps.append(f"{self.count}: {step}")

    def differs(self, what: str) -> ContentMismatch:
        steps = "\n  ".join(self.steps)
        return ContentMismatch(
            f"{self.file.name}, seed {self.seed}, step {self.count}: {what}; the last steps:\n  {steps}"
        )

    def compare(self, found: bytes, start: int, length: int) -> None:
        expected = os.pread(self.reference, length, start)
        if found != expected:
            where = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
            at = "" if where is None else f", from {start + where} on"
            raise self.differs(f"{len(found)} bytes read at {start} differ from the {len(expected)} written{at}")

    # -- choosing

    def handle(self) -> int:
        return self.chance.choice(self.handles)

    def size(self) -> int:
        return os.fstat(self.reference).st_size

    def place(self) -> tuple[int, int]:
        """An offset and a length; often small, often at the edge of a page or a block."""
        length = self.chance.choice((1, 10, 511, 4096, 10_000, 65_536, 150_000))
        length = self.chance.randint(1, length)
        start = self.chance.randrange(MAX_BYTES - length)
        if self.chance.random() < 0.3:
            start &= ~4095
        elif self.chance.random() < 0.5:
            start = min(start, max(0, self.size() - self.chance.randint(0, 5000)))
        return start, length

    def bytes_of(self, length: int) -> bytes:
        if self.chance.random() < 0.05:
            return bytes(length)  # written zeros are not a hole
        start = self.chance.randrange(MAX_BYTES - length)
        return self.noise[start : start + length]

    # -- the steps

    def read(self) -> None:
        start, length = self.place()
        self.note(f"read {length} at {start}")
        self.compare(os.pread(self.handle(), length, start), start, length)

    def write(self) -> None:
        start, length = self.place()
        self.note(f"write {length} at {start}")
        data = self.bytes_of(length)
        if (written := os.pwrite(self.handle(), data, start)) != length:
            raise self.differs(f"only {written} bytes of {length} were written")
        os.pwrite(self.reference, data, start)

    def append(self) -> None:
        size = self.size()
        length = min(self.place()[1], MAX_BYTES - size)
        self.note(f"append {length} at {size}")
        data = self.bytes_of(length)
        os.write(self.appending, data)
        os.pwrite(self.reference, data, size)

    def truncate(self) -> None:
        size = self.chance.randrange(MAX_BYTES) if self.chance.random() < 0.8 else self.chance.choice((0, 4096, 70_000))
        self.note(f"truncate to {size}")
        if self.chance.random() < 0.5:
            os.ftruncate(self.handle(), size)
        else:
            os.truncate(self.file, size)
        os.ftruncate(self.reference, size)

    def allocate(self) -> None:
        mode = self.chance.choice((0, KEEP_SIZE, PUNCH, PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE))
        start, length = self.place()
        self.note(f"fallocate with mode {mode:#x}: {length} at {start}")
        try:
            fallocate(self.handle(), mode, start, length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or self.allocates:
                raise
            return
        size = self.size()
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            end = start + length if not mode & KEEP_SIZE else min(start + length, size)
            os.pwrite(self.reference, bytes(max(0, end - start)), start)
        elif not mode:
            os.ftruncate(self.reference, max(size, start + length))

    def copy(self) -> None:
        """Within the file; where the ranges overlap, it is refused."""
        start, length = self.place()
        to = min(self.place()[0], MAX_BYTES - length)
        length = max(0, min(length, self.size() - start))
        self.note(f"copy {length} from {start} to {to}")
        try:
            copied = os.copy_file_range(self.handle(), self.handle(), length, start, to)
        except OSError as error:
            if error.errno != errno.EINVAL or abs(start - to) >= length:
                raise
            return
        if copied != length:
            raise self.differs(f"only {copied} bytes of {length} were copied")
        os.pwrite(self.reference, os.pread(self.reference, length, start), to)

    def seek(self) -> None:
        """What is said to be a hole is zeros."""
        size, handle = self.size(), self.handle()
        if size == 0:
            return
        start = self.chance.randrange(size)
        self.note(f"seek from {start}")
        hole = os.lseek(handle, start, os.SEEK_HOLE)
        try:
            data = os.lseek(handle, hole, os.SEEK_DATA) if hole < size else size
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = size
        if not start <= hole <= data <= size:
            raise self.differs(f"from {start} on a hole is at {hole}, and data at {data}, of {size} bytes")
        if any(os.pread(self.reference, data - hole, hole)):
            raise self.differs(f"{hole} to {data} is no hole")

    def _mapped(self) -> tuple[int, int] | None:
        """A range within the file that starts at a page."""
        size = self.size()
        if size == 0:
            return None
        start = self.chance.randrange(size) & ~(mmap.ALLOCATIONGRANULARITY - 1)
        return start, min(size - start, self.chance.randint(1, 100_000))

    def read_mapped(self) -> None:
        if place := self._mapped():
            start, length = place
            self.note(f"read by mmap {length} at {start}")
            with mmap.mmap(self.handle(), length, prot=mmap.PROT_READ, offset=start) as mapped:
                self.compare(mapped[:], start, length)

    def write_mapped(self) -> None:
        if place := self._mapped():
            start, length = place
            skip = self.chance.randrange(length)
            data = self.bytes_of(length - skip)
            self.note(f"write by mmap {len(data)} at {start + skip}")
            with mmap.mmap(self.handle(), length, offset=start) as mapped:
                mapped[skip:] = data
                if self.chance.random() < 0.5:
                    mapped.flush()
            os.pwrite(self.reference, data, start + skip)

    def fsync(self) -> None:
        self.note("fsync")
        os.fsync(self.handle())

    def reopen(self) -> None:
        self.note("close and open")
        self.close()
        self.open()

    def check_size(self) -> None:
        self.note("check the size")
        found = os.fstat(self.handle()).st_size, os.stat(self.file).st_size
        if found != (self.size(), self.size()):
            raise self.differs(f"the sizes are {found}, not {self.size()}")
