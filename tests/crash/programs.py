# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that use a mount: threads that write, replace, truncate, remove and sync files, and record what they did.

Each program has its own files, a log that only grows, and a `StepSequence` of names. `ExpectedState.problems` compares
a tree with the record afterwards. `Programs.paused` stops them between two operations.
"""

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from tests.crash.file_history import FileHistory
from tests.crash.stamps import UNIT_BYTES, stamp
from tests.posix.calls import EXCHANGE, fallocate, renameat2

_GONE = (errno.ENOTCONN, errno.ECONNABORTED)
"""The errors that programs get when the process of their mount has died."""
_PAUSE_S = 0.002  # without it most of the time is spent on checking what was written
_PUNCH_HOLE = 3  # and keep the size
_MAX_UNITS = 32  # the largest request of the kernel


def content(file: int, version: int, start: int, units: int) -> bytes:
    return b"".join(stamp(file, version, unit) for unit in range(start, start + units))


def read_units(path: Path) -> tuple[bytes | None, set[int]]:
    """The content of a file, None if it does not exist, and its unreadable units, which are zeros in the content."""
    if not path.exists():
        return None, set()
    unreadable: set[int] = set()
    pieces: list[bytes] = []
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for unit in range((size + UNIT_BYTES - 1) // UNIT_BYTES):
            try:
                pieces.append(os.pread(file.fileno(), UNIT_BYTES, unit * UNIT_BYTES))
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                unreadable.add(unit)
                pieces.append(bytes(min(UNIT_BYTES, size - unit * UNIT_BYTES)))
    return b"".join(pieces), unreadable


class StepSequence:
    """Names that identify an instant: step n makes the folder ``steps/n``, then renames ``at/n`` to ``at/n+1``.

    Then it exchanges ``one/it`` and ``two/it``, of which one is a folder, and the other a file.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.steps = 0
        self.synced = 0

    def prepare(self, top: Path) -> None:
        (top / self.folder / "steps").mkdir(parents=True)
        (top / self.folder / "at").mkdir()
        (top / self.folder / "at" / "0").touch()
        (top / self.folder / "one" / "it").mkdir(parents=True)
        (top / self.folder / "two").mkdir()
        (top / self.folder / "two" / "it").touch()

    def step(self, top: Path) -> None:
        step, self.steps = self.steps, self.steps + 1
        (top / self.folder / "steps" / str(step)).mkdir()
        (top / self.folder / "at" / str(step)).rename(top / self.folder / "at" / str(step + 1))
        self.exchange(top)

    def exchange(self, top: Path) -> None:
        try:
            renameat2(top / self.folder / "one" / "it", top / self.folder / "two" / "it", EXCHANGE)
        except OSError as error:
            if error.errno != errno.EINVAL:  # as with llfuse
                raise

    def problems(self, top: Path, low: int, high: int) -> Iterator[str]:
        made = sorted(int(path.name) for path in (top / self.folder / "steps").iterdir())
        at = [int(path.name) for path in (top / self.folder / "at").iterdir()]
        if made != list(range(len(made))) or len(at) != 1 or not at[0] <= len(made) <= at[0] + 1:
            yield f"{self.folder}: steps {made} and {at} do not belong to one instant"
        elif not low <= at[0] <= high:
            yield f"{self.folder}: is at {at[0]}, should be at {low} to {high}"
        folders = [(top / self.folder / name / "it").is_dir() for name in ("one", "two")]
        files = [(top / self.folder / name / "it").is_file() for name in ("one", "two")]
        if sum(folders) != 1 or sum(files) != 1:
            yield f"{self.folder}: shows half of an exchange: folders {folders}, files {files}"
        links = [(top / self.folder / name).stat().st_nlink - 2 for name in ("one", "two")]
        if links != folders:
            yield f"{self.folder}: links {links} of folders {folders}"


class Program:
    """The files and operations of one thread."""

    def __init__(self, number: int, seed: int, done: Callable[[str], None]) -> None:
        self.random = random.Random(f"{seed}-{number}")
        self.folder = f"w{number}"
        self.sequence = StepSequence(f"{self.folder}/walk")
        first = 1 + number * 100
        self.changed = [FileHistory(first + n, f"{self.folder}/changed{n}") for n in range(3)]
        self.whole = [FileHistory(first + 50 + n, f"{self.folder}/whole{n}", whole=True) for n in range(3)]
        self.log = FileHistory(first + 99, f"{self.folder}/log")
        self._sources: dict[FileHistory, tuple[int, int, int]] = {}
        """By the file to which it will be copied, what is in a file beside it: begin, units, version."""
        self.lock = threading.Lock()
        self.operations = 0
        self._done = done
        self.actions: list[tuple[Callable[[Path], None], int]] = [
            (self.append, 2),
            (self.change, 3),
            (self.truncate, 1),
            (self.punch, 1),
            (self.copy, 2),
            (self.replace_one, 2),
            (self.step, 2),
            (self.remove, 1),
            (self.sync_one, 2),
        ]
        """Its operations, with their weights."""

    @property
    def histories(self) -> list[FileHistory]:
        return [*self.changed, *self.whole, self.log]

    def prepare(self, top: Path) -> None:
        """Make the folder and the first state."""
        (top / self.folder).mkdir()
        self.sequence.prepare(top)
        for history in self.histories:
            self.replace(top, history)
        self.sync(top, self.log)

    def work(self, top: Path) -> None:
        """Carry out one operation."""
        action = self.random.choices(*zip(*self.actions, strict=True))[0]
        action(top)
        self.operations += 1

    def append(self, top: Path) -> None:
        units = self.random.choice([1, 2, 5, _MAX_UNITS])
        self._write(top, self.log, self.log.size or 0, units)

    def change(self, top: Path) -> None:
        """Write in place, across the end, or beyond it, which leaves a hole."""
        history = self.random.choice(self.changed)
        size = history.size or 0
        start = self.random.randrange(size + 1) if self.random.random() < 0.8 else size + self.random.randrange(80)
        self._write(top, history, start, self.random.choice([1, 3, _MAX_UNITS]))

    def _write(self, top: Path, history: FileHistory, start: int, units: int) -> None:
        version = history.next_version()
        data = content(history.file, version, start, units)
        if history.size is None:
            history.truncated(0)
        file = os.open(top / history.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            history.wrote(start, units, version)
            if os.pwrite(file, data, start * UNIT_BYTES) < len(data):
                raise OSError(errno.EIO, "only a part was written", history.path)
        finally:
            os.close(file)

    def truncate(self, top: Path) -> None:
        history = self.random.choice(self.changed)
        if history.size is not None:
            units = self.random.randrange(2 * history.size + 2) if self.random.random() < 0.3 else history.size // 2
            history.truncated(units)
            os.truncate(top / history.path, units * UNIT_BYTES)

    def punch(self, top: Path) -> None:
        history = self.random.choice(self.changed)
        if not history.size:
            return
        mark, start, units = history.mark, self.random.randrange(history.size), self.random.choice([1, 5, _MAX_UNITS])
        history.punched(start, units)
        with open(top / history.path, "r+b", buffering=0) as file:
            try:
                fallocate(file.fileno(), _PUNCH_HOLE, start * UNIT_BYTES, units * UNIT_BYTES)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:  # as with llfuse
                    raise
                history.failed(mark, history.size)

    def copy(self, top: Path) -> None:
        """Write a source, or copy the one that was written before: some of it may be in the store by then."""
        history = self.random.choice(self.changed)
        aside = top / f"{history.path}.source"
        prepared = self._sources.pop(history, None)
        if prepared is None:
            start, units = self.random.randrange((history.size or 0) + 1), self.random.choice([1, 20, _MAX_UNITS])
            version = history.next_version()
            aside.write_bytes(content(history.file, version, start, units))
            self._sources[history] = start, units, version
            return
        start, units, version = prepared
        if history.size is None:
            history.truncated(0)
        file = os.open(top / history.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            with open(aside, "rb", buffering=0) as source:
                history.wrote(start, units, version)
                length = units * UNIT_BYTES
                if os.copy_file_range(source.fileno(), file, length, 0, start * UNIT_BYTES) < length:
                    raise OSError(errno.EIO, "only a part was copied", history.path)
        finally:
            os.close(file)

    def replace_one(self, top: Path) -> None:
        self.replace(top, self.random.choice(self.whole))

    def replace(self, top: Path, history: FileHistory) -> None:
        """Replace a file by renaming a new one over it, as editors do; half of the time it is synced first."""
        version = history.next_version()
        units = self.random.choice([1, 4, 20, 90, 300])
        aside = top / f"{history.path}.new"
        with open(aside, "wb", buffering=0) as file:
            file.writelines(
                content(history.file, version, start, min(_MAX_UNITS, units - start))
                for start in range(0, units, _MAX_UNITS)
            )
            if self.random.random() < 0.5:
                os.fsync(file.fileno())
        history.replaced(version, units)
        aside.rename(top / history.path)

    def remove(self, top: Path) -> None:
        history = self.random.choice(self.changed)
        if history.size is not None:
            history.removed()
            (top / history.path).unlink()

    def step(self, top: Path) -> None:
        self.sequence.step(top)

    def sync_one(self, top: Path) -> None:
        self.sync(top, self.random.choice(self.histories))

    def sync(self, top: Path, history: FileHistory) -> None:
        """Call fsync, on the folder if the file is removed. That names are durable, too, is expected as well."""
        mark, steps = history.mark, self.sequence.steps
        file = os.open(top / (self.folder if history.size is None else history.path), os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        history.synced, self.sequence.synced = mark, steps
        self._done(f"synced {history.path} {mark} {self.sequence.folder} {steps}")


Marks = dict[str, int]
"""By path: up to which mark each history, and each sequence, is certain."""


class Programs:
    """Several programs on one mount."""

    def __init__(
        self,
        seed: int,
        count: int = 3,
        done: Callable[[str], None] = lambda _: None,
        kind: Callable[[int, int, Callable[[str], None]], Program] = Program,
    ) -> None:
        """`done` is called after every fsync that succeeded."""
        self.programs = [kind(number, seed, done) for number in range(count)]
        self.failures: list[BaseException] = []
        self._go = threading.Event()
        self._stopping = False
        self._threads: list[threading.Thread] = []

    @property
    def operations(self) -> int:
        return sum(program.operations for program in self.programs)

    def prepare(self, top: Path) -> None:
        """Make the first state of all files, and sync it."""
        for program in self.programs:
            program.prepare(top)
        self.sync(top)

    def sync(self, top: Path) -> None:
        """Sync everything while the programs are stopped."""
        for program in self.programs:
            for history in program.histories:
                program.sync(top, history)

    def start(self, top: Path) -> None:
        self._go.set()
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, args=(program, top)) for program in self.programs]
        for thread in self._threads:
            thread.start()

    def _run(self, program: Program, top: Path) -> None:
        try:
            while not self._stopping:
                self._go.wait()
                with program.lock:
                    program.work(top)
                time.sleep(_PAUSE_S)
        except OSError as error:
            if error.errno not in _GONE:
                self.failures.append(error)
        except BaseException as error:  # noqa: BLE001 - reported by `failures`
            self.failures.append(error)

    def stop(self) -> None:
        """Stop the programs and wait for their threads."""
        self._stopping = True
        self._go.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No program is within an operation or begins one."""
        self._go.clear()
        with ExitStack() as held:
            for program in self.programs:
                held.enter_context(program.lock)
            yield
        self._go.set()

    @property
    def expected(self) -> "ExpectedState":
        """What the tree should contain after what was done."""
        histories = [history for program in self.programs for history in program.histories]
        return ExpectedState(histories, [program.sequence for program in self.programs])


@attrs.frozen
class ExpectedState:
    """What was done to files and names, and what may be found afterwards."""

    histories: list[FileHistory]
    sequences: list[StepSequence]

    def now(self) -> Marks:
        """The marks of this moment."""
        marks = {history.path: history.mark for history in self.histories}
        return marks | {sequence.folder: sequence.steps for sequence in self.sequences}

    def synced(self) -> Marks:
        """The marks up to which everything is durable on this machine."""
        marks = {history.path: history.synced for history in self.histories}
        return marks | {sequence.folder: sequence.synced for sequence in self.sequences}

    def problems(self, top: Path, low: Marks, high: Marks | None = None) -> list[str]:
        """What is wrong in the tree `top`, if everything up to `low` is certain, and nothing happened after `high`."""
        high = self.now() if high is None else high
        found: list[str] = []
        for history in self.histories:
            data, unreadable = read_units(top / history.path)
            found += history.problems(data, low[history.path], high[history.path], unreadable)
        for sequence in self.sequences:
            found += sequence.problems(top, low[sequence.folder], high[sequence.folder])
        return found
