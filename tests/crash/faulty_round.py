# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs use a mount, and its process is killed, while local disk, databases and store fail at random.

Programs check the result of a failed operation and continue. An operation that returned no error must be durable as
promised. `FaultyRound.check` inspects everything after the faults have ended.
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
from tests.crash.crash_round import FLUSH, GC, PRUNE, TIMEOUT_S, Crashed, CrashRound, PreviousMount, assert_none
from tests.crash.file_history import LOST, FileHistory
from tests.crash.inspection import export_as_writer, export_from_store, folders_of, fsck_findings, read_tree
from tests.crash.programs import Marks, Program, Programs, StepSequence, read_units
from tests.crash.stamps import UNIT_BYTES

Result = TypeVar("Result")
EXPECTED = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOMEM, errno.EAGAIN)
"""The errors that programs get because of such faults."""
KNOWN_LOSS = "known"
LOSSES = ("staging-bytes-lost",)
"""The codes of fsck for data that the local disk has lost."""


def retry(act: Callable[[], Result]) -> Result:
    """Repeat `act`, which changes nothing, until it succeeds, and return its result.

    Raises:
        OSError: it failed for a minute, or the process of the mount has died.
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
    """The size of a file in units; None if it does not exist."""
    try:
        size = retry(lambda: os.lstat(path).st_size)
    except FileNotFoundError:
        return None
    assert size % UNIT_BYTES == 0, f"{path} has {size} bytes: an operation was carried out in part"
    return size // UNIT_BYTES


def is_there(path: Path) -> bool:
    return size_of_any(path) is not None


def size_of_any(path: Path) -> int | None:
    try:
        return retry(lambda: os.lstat(path).st_size)
    except FileNotFoundError:
        return None


class FaultTolerantSequence(StepSequence):
    """A sequence that repeats a failed step."""

    def step(self, top: Path) -> None:
        step, self.steps = self.steps, self.steps + 1
        try:
            (top / self.folder / "steps" / str(step)).mkdir(exist_ok=True)
            (top / self.folder / "at" / str(step)).rename(top / self.folder / "at" / str(step + 1))
        except OSError as error:
            if error.errno in EXPECTED and not is_there(top / self.folder / "at" / str(step + 1)):
                self.steps = step
            raise
        self.exchange(top)


class FaultTolerantProgram(Program):
    """A program that records failures and continues."""

    def __init__(self, number: int, seed: int, done: Callable[[str], None]) -> None:
        super().__init__(number, seed, done)
        self.sequence = FaultTolerantSequence(f"{self.folder}/walk")
        self.refused = 0
        """How many operations failed."""
        self.actions = [*self.actions, (self.read_back, 3)]
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

    def sync(self, top: Path, history: FileHistory) -> None:
        try:
            super().sync(top, history)
        except OSError as error:
            if error.errno not in EXPECTED:
                raise
            self.refused += 1
            history.lost()
            if self.random.random() < 0.7:
                self.rewrite(top, history)

    def rewrite(self, top: Path, history: FileHistory) -> None:
        """Write the file again after a failed fsync."""
        if history.whole:
            self.replace(top, history)
        elif history.size is not None:
            history.removed()
            (top / history.path).unlink()

    def read_back(self, top: Path) -> None:
        """Check that everything readable is what was written last."""
        history = self.random.choice(self.histories)
        data, unreadable = read_units(top / history.path)
        problems = list(history.problems(data, history.mark, history.mark, unreadable, errors_are_fine=True))
        assert not problems, problems


class FaultyRound(CrashRound):
    """A round in which faults of some kinds occur while a certain file exists."""

    def __init__(self, folder: Path, seed: int, kinds: str) -> None:
        super().__init__(folder, seed)
        self.chance = random.Random(seed)
        self.programs = Programs(seed, kind=FaultTolerantProgram)
        self.kinds = kinds
        self.flag = folder / "faults"
        self.acknowledged: Marks = {}
        """What is in the store at least, according to a flush."""
        self.with_faults = False
        """Whether the next mount has faults while the file exists."""
        self.errors: list[str] = []

    def module(self, armed: tuple[str, ...]) -> list[str]:
        if not self.with_faults:
            return super().module(armed)
        return ["cas3fs.testing.random_faults", str(self.chance.randrange(1000)), str(self.flag), self.kinds]

    def live_with_faults(self, seconds: float) -> None:
        """Run one mount until it is unmounted or killed."""
        self.mount_with_faults()
        self.programs.start(self.top)
        ending_s = time.monotonic() + seconds
        try:
            while time.monotonic() < ending_s:
                request = self.chance.choice((FLUSH, FLUSH, GC, PRUNE))
                time.sleep(self.chance.uniform(0, 0.2))
                self.flush() if request is FLUSH else self.succeeds(lambda request=request: self.request(request))
                assert_none(self.programs.failures)
            if self.chance.random() < 0.5:
                self.flag.unlink()
                self.programs.stop()
                self.end()
        finally:
            assert self.process is not None
            if self.process.poll() is None:
                self.kill()
            self.programs.stop()
            self.flag.unlink(missing_ok=True)
            self.clean_up()
        assert_none(self.programs.failures)

    def mount_with_faults(self) -> None:
        """Mount; some mounts begin while faults occur, and may fail with an error."""
        self.with_faults = True
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
        self.with_faults = False
        self.flag.touch()

    def succeeds(self, act: Callable[[], object]) -> bool:
        """Call `act`; whether it succeeded."""
        try:
            act()
        except Crashed as error:
            raise AssertionError(f"the process of the mount has died: {self.log()}") from error
        except (Cas3fsError, OSError) as error:
            self.errors.append(str(error))
            return False
        return True

    def end(self) -> None:
        """Unmount; if something could not be stored, that is reported and the volume is not released."""
        assert self.process is not None
        try:
            self.unmount()
        except Crashed:
            assert self.process.returncode == 1, self.log()
            assert "cas3fs: ERROR: the volume is not released: " in self.log(), self.log()

    def flush(self) -> bool:
        """Flush while the programs continue; whether everything is in the store."""
        with self.programs.paused():
            marks = self.programs.expected.now()
        found: list[Any] = []
        if not self.succeeds(lambda: found.extend(self.request(FLUSH)["unstored"])):
            return False
        if not found:
            self.acknowledged = marks
        self.errors += map(str, found)
        return not found

    def make_published_volume(self) -> None:
        """Make a volume whose first state is completely in the store."""
        self.make_volume(PreviousMount.SAME_MACHINE)
        self.acknowledged = self.programs.expected.now()

    def check(self) -> None:
        """Check everything that is promised, after the faults have ended."""
        assert "Traceback" not in self.log(), self.log()
        self.check_store()
        self.check_machine_with_losses()

    def check_store(self) -> None:
        """Check on a machine that has only the store: it finds everything acknowledged, and can continue."""
        other = self.folder / "other"
        shutil.copytree(self.folder / "v", other / "v", symlinks=True)
        url = (other / "v").as_uri()
        problems: list[str] = []
        export_from_store(url, folders_of(other), other / "out", problems=problems)
        damaged = {str(Path(found.partition(": ")[0]).relative_to(other / "out")) for found in problems}
        assert_none([path for path in damaged if not self.may_be_damaged(path)])
        found = self.programs.expected.problems(other / "out", self.acknowledged)
        assert_none([problem for problem in found if problem.partition(":")[0] not in damaged])
        assert_none(
            [finding for finding in fsck_findings(url, folders_of(other)) if not (damaged and KNOWN_LOSS in finding)]
        )
        export_as_writer(url, folders_of(other), other / "out2", take_over=True, problems=problems)
        facts = read_tree(other / "out")
        assert read_tree(other / "out2") == facts
        found = fsck_findings(url, folders_of(other), verify_data=True)
        assert_none([finding for finding in found if not (damaged and KNOWN_LOSS in finding)])
        shutil.rmtree(other)

    def may_be_damaged(self, path: str) -> bool:
        """Whether reading may fail there in a snapshot: the file replaced another, and the disk lost its bytes."""
        (history,) = [one for one in self.programs.expected.histories if one.path == path]
        values = history.possible(self.acknowledged[path], history.mark).values()
        return history.whole and any(LOST in one for one in values)

    def check_machine_with_losses(self) -> None:
        """Check on the same machine: it has everything synced, and fsck reports exactly what the disk has lost.

        After the damaged files are removed, everything else is stored.
        """
        machine = folders_of(self.folder)
        found = fsck_findings(self.url, machine)
        assert_none([finding for finding in found if not any(loss in finding for loss in LOSSES)])
        self.mount("--take-over")
        assert_none(self.programs.expected.problems(self.top, self.programs.expected.synced()))
        damaged = [path for path in files_of(self.top) if read_units(path)[1]]
        assert all(any(f"/{path.relative_to(self.top)}" in finding for finding in found) for path in damaged), found
        for path in damaged:
            path.unlink()
        self.request(FLUSH)
        seen = read_tree(self.top)
        self.unmount()
        assert_none(fsck_findings(self.url, machine, verify_data=True))
        export_from_store(self.url, folders_of(self.folder / "after"), self.folder / "out-after")
        assert read_tree(self.folder / "out-after") == seen
        shutil.rmtree(self.folder / "out-after")


def files_of(top: Path) -> list[Path]:
    return [path for path in sorted(top.rglob("*")) if path.is_file()]
