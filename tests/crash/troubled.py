# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs at work on a mount, and its process killed, while local disk, databases and store fail at random.

Programs go on when something failed, as they look at what became of it. They are told errors; what they are not told is
promised. `TroubledRound.check` looks at what is left when nothing fails any more.
"""

import errno
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cas3fs.errors import Cas3fsError
from tests.crash.driver import FLUSH, GC, PRUNE, TIMEOUT_S, Crashed, Past, Round, none_of
from tests.crash.history import LOST, History
from tests.crash.load import Load, Marks, Walk, Worker, read_units
from tests.crash.looking import facts_of, findings, places, tree_of_machine, tree_of_store
from tests.crash.stamps import UNIT_BYTES

Given = TypeVar("Given")
EXPECTED = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOMEM, errno.EAGAIN)
"""What programs are told of such troubles."""
KNOWN_LOSS = "known"
LOSSES = ("staging-bytes-lost",)
"""What fsck calls that which the local disk has lost."""


def patiently(act: Callable[[], Given]) -> Given:
    """What `act` gives as soon as it can; it changes nothing.

    Raises:
        OSError: it cannot, for a minute, or the process of the mount is gone.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return act()
        except OSError as error:
            if error.errno not in EXPECTED or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)


def size_of(path: Path) -> int | None:
    """In units; None if there is no such file."""
    try:
        size = patiently(lambda: os.lstat(path).st_size)
    except FileNotFoundError:
        return None
    assert size % UNIT_BYTES == 0, f"{path} is of {size} bytes: an operation was done in part"
    return size // UNIT_BYTES


def is_there(path: Path) -> bool:
    return size_of_any(path) is not None


def size_of_any(path: Path) -> int | None:
    try:
        return patiently(lambda: os.lstat(path).st_size)
    except FileNotFoundError:
        return None


class TroubledWalk(Walk):
    """A walk that goes on with a step that failed."""

    def step(self, top: Path) -> None:
        step, self.steps = self.steps, self.steps + 1
        try:
            (top / self.folder / "steps" / str(step)).mkdir(exist_ok=True)
            (top / self.folder / "at" / str(step)).rename(top / self.folder / "at" / str(step + 1))
        except OSError as error:
            if error.errno in EXPECTED and not is_there(top / self.folder / "at" / str(step + 1)):
                self.steps = step
            raise


class TroubledWorker(Worker):
    """A worker that notes what failed, and goes on."""

    def __init__(self, number: int, seed: int, done: Callable[[str], None]) -> None:
        super().__init__(number, seed, done)
        self.walk = TroubledWalk(f"{self.folder}/walk")
        self.refused = 0
        """How many operations failed."""
        self.acts = [*self.acts, (self.look, 3)]
        for history in self.histories:
            history.disk_loses = True

    def work(self, top: Path) -> None:
        marks = {history: history.mark for history in self.histories}
        try:
            super().work(top)
        except OSError as error:
            if error.errno not in EXPECTED:
                raise
            self.refused += 1
            for history, mark in marks.items():
                if history.mark > mark:
                    history.failed(mark, size_of(top / history.path))

    def sync(self, top: Path, history: History) -> None:
        try:
            super().sync(top, history)
        except OSError as error:
            if error.errno not in EXPECTED:
                raise
            self.refused += 1
            history.lost()
            if self.random.random() < 0.7:
                self.begin_anew(top, history)

    def begin_anew(self, top: Path, history: History) -> None:
        """What a program does that was told of a loss."""
        if history.whole:
            self.replace(top, history)
        elif history.size is not None:
            history.removed()
            (top / history.path).unlink()

    def look(self, top: Path) -> None:
        """Whatever can be read is what was written last."""
        history = self.random.choice(self.histories)
        data, unreadable = read_units(top / history.path)
        problems = list(history.problems(data, history.mark, history.mark, unreadable, errors_are_fine=True))
        assert not problems, problems


class TroubledRound(Round):
    """A round in which faults of some kinds come and go while a file exists."""

    def __init__(self, folder: Path, seed: int, kinds: str) -> None:
        super().__init__(folder, seed)
        self.chance = random.Random(seed)
        self.load = Load(seed, kind=TroubledWorker)
        self.kinds = kinds
        self.flag = folder / "troubles"
        self.acknowledged: Marks = {}
        """What is in the store at least, as a flush has said."""
        self.in_trouble = False
        """Whether what is mounted meets faults while the file is there."""
        self.told: list[str] = []

    def module(self, armed: tuple[str, ...]) -> list[str]:
        if not self.in_trouble:
            return super().module(armed)
        return ["cas3fs.testing.random_faults", str(self.chance.randrange(1000)), str(self.flag), self.kinds]

    def live_in_trouble(self, seconds: float) -> None:
        """One mount, from its beginning to its end, of either kind."""
        self.mount_in_trouble()
        self.load.start(self.top)
        ending_s = time.monotonic() + seconds
        try:
            while time.monotonic() < ending_s:
                request = self.chance.choice((FLUSH, FLUSH, GC, PRUNE))
                time.sleep(self.chance.uniform(0, 0.2))
                self.flush() if request is FLUSH else self.try_to(lambda request=request: self.ask(request))
                none_of(self.load.failures)
            if self.chance.random() < 0.5:
                self.flag.unlink()
                self.load.stop()
                self.end()
        finally:
            assert self.process is not None
            if self.process.poll() is None:
                self.kill()
            self.load.stop()
            self.flag.unlink(missing_ok=True)
            self.clean_up()
        none_of(self.load.failures)

    def mount_in_trouble(self) -> None:
        """Some begin in trouble; what cannot be mounted says why."""
        self.in_trouble = True
        for _ in range(3):
            if self.chance.random() < 0.5:
                self.flag.touch()
            try:
                self.mount("--take-over")
            except Crashed:
                self.flag.unlink()
                self.clean_up()
            else:
                break
        else:
            self.mount("--take-over")
        self.in_trouble = False
        self.flag.touch()

    def try_to(self, act: Callable[[], object]) -> bool:
        """Whether it could."""
        try:
            act()
        except Crashed as error:
            raise AssertionError(f"the process of the mount is gone: {self.log()}") from error
        except (Cas3fsError, OSError) as error:
            self.told.append(str(error))
            return False
        return True

    def end(self) -> None:
        """Unmounts; what cannot be stored is told, and the volume stays held."""
        assert self.process is not None
        try:
            self.unmount()
        except Crashed:
            assert self.process.returncode == 1, self.log()
            assert "cas3fs: ERROR: the volume is not released: " in self.log(), self.log()

    def flush(self) -> bool:
        """Has everything be in the store; the programs go on meanwhile."""
        with self.load.quiet():
            marks = self.load.account.now()
        told: list[Any] = []
        if not self.try_to(lambda: told.extend(self.ask(FLUSH)["unstored"])):
            return False
        if not told:
            self.acknowledged = marks
        self.told += map(str, told)
        return not told

    def begin(self) -> None:
        """A volume with a past, of which everything is in the store."""
        self.have_a_past(Past.SAME_MACHINE)
        self.acknowledged = self.load.account.now()

    def check(self) -> None:
        """What is promised, now that nothing fails any more."""
        assert "Traceback" not in self.log(), self.log()
        self.check_the_store_alone()
        self.check_here()

    def check_the_store_alone(self) -> None:
        """A machine that has nothing else finds what was acknowledged, and can go on with it."""
        other = self.folder / "other"
        shutil.copytree(self.folder / "v", other / "v", symlinks=True)
        url = (other / "v").as_uri()
        problems: list[str] = []
        tree_of_store(url, places(other), other / "out", problems=problems)
        hurt = {str(Path(told.partition(": ")[0]).relative_to(other / "out")) for told in problems}
        none_of([path for path in hurt if not self.may_be_hurt(path)])
        found = self.load.account.problems(other / "out", self.acknowledged)
        none_of([problem for problem in found if problem.partition(":")[0] not in hurt])
        none_of([finding for finding in findings(url, places(other)) if not (hurt and KNOWN_LOSS in finding)])
        tree_of_machine(url, places(other), other / "out2", take_over=True, problems=problems)
        facts = facts_of(other / "out")
        assert facts_of(other / "out2") == facts
        told = findings(url, places(other), verify_data=True)
        none_of([finding for finding in told if not (hurt and KNOWN_LOSS in finding)])
        shutil.rmtree(other)

    def may_be_hurt(self, path: str) -> bool:
        """Whether a snapshot may show I/O errors there: the file took another's place, and the disk lost its bytes."""
        (history,) = [one for one in self.load.account.histories if one.path == path]
        values = history.possible(self.acknowledged[path], history.mark).values()
        return history.whole and any(LOST in one for one in values)

    def check_here(self) -> None:
        """The machine has what was synced; fsck names what the disk has lost and finds nothing else; when that is
        removed, all the rest goes to the store."""
        machine = places(self.folder)
        told = findings(self.url, machine)
        none_of([finding for finding in told if not any(loss in finding for loss in LOSSES)])
        self.mount("--take-over")
        none_of(self.load.account.problems(self.top, self.load.account.synced()))
        damaged = [path for path in files_of(self.top) if read_units(path)[1]]
        assert all(any(f"/{path.relative_to(self.top)}" in finding for finding in told) for path in damaged), told
        for path in damaged:
            path.unlink()
        self.ask(FLUSH)
        seen = facts_of(self.top)
        self.unmount()
        none_of(findings(self.url, machine, verify_data=True))
        tree_of_store(self.url, places(self.folder / "after"), self.folder / "out-after")
        assert facts_of(self.folder / "out-after") == seen
        shutil.rmtree(self.folder / "out-after")


def files_of(top: Path) -> list[Path]:
    return [path for path in sorted(top.rglob("*")) if path.is_file()]
