# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs at work on a mount: threads that write, replace, cut, remove and sync files, and keep account of it.

Each thread has files of its own, a log that only grows, and a `Walk` of names. All of it can be looked through
afterwards: `Load.problems` tells what is not as promised. `Load.quiet` stops them between two operations.
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

from tests.crash.history import History
from tests.crash.stamps import UNIT_BYTES, stamp

_GONE = (errno.ENOTCONN, errno.ECONNABORTED)
"""What programs are told when the process of their mount has died."""
_BREATH_S = 0.002  # without it all the time goes into looking through what was written
_MOST_UNITS = 32  # what the kernel sends in one request


def content(file: int, version: int, start: int, units: int) -> bytes:
    return b"".join(stamp(file, version, unit) for unit in range(start, start + units))


def read_units(path: Path) -> tuple[bytes | None, set[int]]:
    """The content of a file, None if there is none, and which of its units cannot be read: zeros stand for these."""
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


class Walk:
    """Names that tell the instant: step n makes the folder ``steps/n``, then renames ``at/n`` to ``at/n+1``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.steps = 0
        self.synced = 0

    def begin(self, top: Path) -> None:
        (top / self.folder / "steps").mkdir(parents=True)
        (top / self.folder / "at").mkdir()
        (top / self.folder / "at" / "0").touch()

    def step(self, top: Path) -> None:
        step, self.steps = self.steps, self.steps + 1
        (top / self.folder / "steps" / str(step)).mkdir()
        (top / self.folder / "at" / str(step)).rename(top / self.folder / "at" / str(step + 1))

    def problems(self, top: Path, low: int, high: int) -> Iterator[str]:
        made = sorted(int(path.name) for path in (top / self.folder / "steps").iterdir())
        at = [int(path.name) for path in (top / self.folder / "at").iterdir()]
        if made != list(range(len(made))) or len(at) != 1 or not at[0] <= len(made) <= at[0] + 1:
            yield f"{self.folder}: steps {made} and {at} are of no instant"
        elif not low <= at[0] <= high:
            yield f"{self.folder}: is at {at[0]}, should be at {low} to {high}"


class Worker:
    """One thread's files and doings."""

    def __init__(self, number: int, seed: int, done: Callable[[str], None]) -> None:
        self.random = random.Random(f"{seed}-{number}")
        self.folder = f"w{number}"
        self.walk = Walk(f"{self.folder}/walk")
        first = 1 + number * 100
        self.changed = [History(first + n, f"{self.folder}/changed{n}") for n in range(3)]
        self.whole = [History(first + 50 + n, f"{self.folder}/whole{n}", whole=True) for n in range(3)]
        self.log = History(first + 99, f"{self.folder}/log")
        self.lock = threading.Lock()
        self.operations = 0
        self._done = done
        self.acts: list[tuple[Callable[[Path], None], int]] = [
            (self.append, 2),
            (self.change, 3),
            (self.cut, 1),
            (self.renew, 2),
            (self.step, 2),
            (self.remove, 1),
            (self.sync_one, 2),
        ]
        """What it does, and how often."""

    @property
    def histories(self) -> list[History]:
        return [*self.changed, *self.whole, self.log]

    def begin(self, top: Path) -> None:
        """The folder, and what makes a first state."""
        (top / self.folder).mkdir()
        self.walk.begin(top)
        for history in self.histories:
            self.replace(top, history)
        self.sync(top, self.log)

    def work(self, top: Path) -> None:
        """One operation."""
        act = self.random.choices(*zip(*self.acts, strict=True))[0]
        act(top)
        self.operations += 1

    def append(self, top: Path) -> None:
        units = self.random.choice([1, 2, 5, _MOST_UNITS])
        self._write(top, self.log, self.log.size or 0, units)

    def change(self, top: Path) -> None:
        """Writes in place, or over the end, or behind it so that a hole is left."""
        history = self.random.choice(self.changed)
        size = history.size or 0
        start = self.random.randrange(size + 1) if self.random.random() < 0.8 else size + self.random.randrange(80)
        self._write(top, history, start, self.random.choice([1, 3, _MOST_UNITS]))

    def _write(self, top: Path, history: History, start: int, units: int) -> None:
        version = history.next_version()
        data = content(history.file, version, start, units)
        if history.size is None:
            history.truncated(0)
        file = os.open(top / history.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            history.wrote(start, units, version)
            if os.pwrite(file, data, start * UNIT_BYTES) < len(data):
                raise OSError(errno.EIO, "it was written in part", history.path)
        finally:
            os.close(file)

    def cut(self, top: Path) -> None:
        history = self.random.choice(self.changed)
        if history.size is not None:
            units = self.random.randrange(2 * history.size + 2) if self.random.random() < 0.3 else history.size // 2
            history.truncated(units)
            os.truncate(top / history.path, units * UNIT_BYTES)

    def renew(self, top: Path) -> None:
        self.replace(top, self.random.choice(self.whole))

    def replace(self, top: Path, history: History) -> None:
        """A new file takes the other's name, as editors do; half of them sync it first."""
        version = history.next_version()
        units = self.random.choice([1, 4, 20, 90, 300])
        aside = top / f"{history.path}.new"
        with open(aside, "wb", buffering=0) as file:
            file.writelines(
                content(history.file, version, start, min(_MOST_UNITS, units - start))
                for start in range(0, units, _MOST_UNITS)
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
        self.walk.step(top)

    def sync_one(self, top: Path) -> None:
        self.sync(top, self.random.choice(self.histories))

    def sync(self, top: Path, history: History) -> None:
        """One fsync, of the folder if the file is gone; what it promises beyond its file, that names are as they were,
        is taken at its word too."""
        mark, steps = history.mark, self.walk.steps
        file = os.open(top / (self.folder if history.size is None else history.path), os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        history.synced, self.walk.synced = mark, steps
        self._done(f"synced {history.path} {mark} {self.walk.folder} {steps}")


Marks = dict[str, int]
"""By path: up to where each history, and each walk, is certain."""


class Load:
    """Some workers on one mount."""

    def __init__(
        self,
        seed: int,
        workers: int = 3,
        done: Callable[[str], None] = lambda _: None,
        kind: Callable[[int, int, Callable[[str], None]], Worker] = Worker,
    ) -> None:
        """`done` is told of every fsync that has returned."""
        self.workers = [kind(number, seed, done) for number in range(workers)]
        self.failures: list[BaseException] = []
        self._go = threading.Event()
        self._stopping = False
        self._threads: list[threading.Thread] = []

    @property
    def operations(self) -> int:
        return sum(worker.operations for worker in self.workers)

    def begin(self, top: Path) -> None:
        """Makes the first state of all, which is synced."""
        for worker in self.workers:
            worker.begin(top)
        self.sync(top)

    def sync(self, top: Path) -> None:
        """Everything is synced, while nobody works."""
        for worker in self.workers:
            for history in worker.histories:
                worker.sync(top, history)

    def start(self, top: Path) -> None:
        self._go.set()
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, args=(worker, top)) for worker in self.workers]
        for thread in self._threads:
            thread.start()

    def _run(self, worker: Worker, top: Path) -> None:
        try:
            while not self._stopping:
                self._go.wait()
                with worker.lock:
                    worker.work(top)
                time.sleep(_BREATH_S)
        except OSError as error:
            if error.errno not in _GONE:
                self.failures.append(error)
        except BaseException as error:  # noqa: BLE001 - told by `failures`
            self.failures.append(error)

    def stop(self) -> None:
        """The threads have ended on return."""
        self._stopping = True
        self._go.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nobody is within an operation, or begins one."""
        self._go.clear()
        with ExitStack() as held:
            for worker in self.workers:
                held.enter_context(worker.lock)
            yield
        self._go.set()

    @property
    def account(self) -> "Account":
        """What was done."""
        histories = [history for worker in self.workers for history in worker.histories]
        return Account(histories, [worker.walk for worker in self.workers])


@attrs.frozen
class Account:
    """What was done to files and names, and what may be found of it."""

    histories: list[History]
    walks: list[Walk]

    def now(self) -> Marks:
        """Up to here."""
        marks = {history.path: history.mark for history in self.histories}
        return marks | {walk.folder: walk.steps for walk in self.walks}

    def synced(self) -> Marks:
        """What is durable on the machine."""
        marks = {history.path: history.synced for history in self.histories}
        return marks | {walk.folder: walk.synced for walk in self.walks}

    def problems(self, top: Path, low: Marks, high: Marks | None = None) -> list[str]:
        """What in the tree `top` is not as it may be, if up to `low` everything is certain, and after `high` nothing
        has happened."""
        high = self.now() if high is None else high
        found: list[str] = []
        for history in self.histories:
            data, unreadable = read_units(top / history.path)
            found += history.problems(data, low[history.path], high[history.path], unreadable)
        for walk in self.walks:
            found += walk.problems(top, low[walk.folder], high[walk.folder])
        return found
