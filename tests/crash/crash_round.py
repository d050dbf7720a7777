# SPDX-License-Identifier: GPL-3.0-or-later
"""Real mounts that are killed, at a failpoint or at any time, while programs use them.

One *round*: a volume that was mounted before is mounted in a process with an armed failpoint. Programs write, snapshots
are taken and deleted, garbage is collected, and the process is killed. Then everything that it left is checked.
"""

import itertools
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import StoreSettings, VolumeSettings
from cas3fs.control import ControlClient
from cas3fs.errors import ControlError
from tests import frontends
from tests.crash.inspection import TreeState, export_as_writer, export_from_store, folders_of, fsck_findings, read_tree
from tests.crash.programs import Marks, Programs
from tests.encrypted import chosen

TIMEOUT_S = 60
KIB = 1024
SETTINGS = VolumeSettings(pack_size_bytes=1024 * KIB, block_size_bytes=16 * KIB)
Request = tuple[str, dict[str, Any]]
"""A verb of the control socket, and its arguments."""


FLUSH: Request = ("flush", {})
GC: Request = ("gc", {"min_live": 0.9, "grace_s": 0})
PRUNE: Request = ("snapshot-prune", {"policy": {"last": 1}})
REQUESTS = (FLUSH, FLUSH, FLUSH, GC, PRUNE, GC, PRUNE)


class PreviousMount(Enum):
    """How the previous mount ended."""

    SAME_MACHINE = "unmounted, on this machine"
    OTHER_MACHINE = "unmounted, on another machine"
    TAKEN_OVER = "its machine was lost"


class Crashed(Exception):
    """The process of the mount has died."""


class CrashRound:
    """One volume and one machine in one folder: ``v`` the store, ``s`` the state, ``c`` the cache, ``m`` the mount.

    The seed decides what programs do, and whether they are paused while a snapshot is published.
    """

    interval = "0"
    """What the mounts have for ``--snapshot-interval``."""

    def __init__(self, folder: Path, seed: int, done: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self.url = (folder / "v").as_uri()
        self.top = folder / "m"
        self.top.mkdir(parents=True, exist_ok=True)
        self.frontend = frontends.chosen()
        self.programs = Programs(seed, done=done)
        self.exactly = seed % 2 == 0
        self.process: subprocess.Popen[bytes] | None = None
        self.published: dict[str, tuple[Marks, TreeState]] = {}
        """By snapshot: its expected content."""
        self.unfinished: tuple[Marks, TreeState] | None = None
        """The expected content of a snapshot that is being published."""

    # -- the mount

    def make(self) -> None:
        (self.folder / "v").mkdir()
        create_volume(StoreSettings(self.url), chosen(SETTINGS))

    def mount(self, *options: str, armed: tuple[str, ...] = ()) -> None:
        """Mount in a process of its own.

        Raises:
            Crashed: it died before the mount was ready.
        """
        machine = folders_of(self.folder)
        command = [sys.executable, "-m", *self.module(armed), "mount", self.url, self.top, "--foreground", *options]
        command += ["--frontend", self.frontend, "--snapshot-interval", self.interval]
        command += ["--state-dir", machine.state_dir, "--cache-dir", machine.cache_dir]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stderr=log, stdout=log)
        deadline_s = time.monotonic() + TIMEOUT_S
        while not self.is_mounted():
            if self.process.poll() is not None:
                raise Crashed
            assert time.monotonic() < deadline_s, self.log()
            time.sleep(0.01)

    def module(self, armed: tuple[str, ...]) -> list[str]:
        """The Python module to run, and its first arguments."""
        return ["cas3fs.testing.failpoints", *armed] if armed else ["cas3fs"]

    def is_mounted(self) -> bool:
        try:
            return self.top.is_mount()
        except OSError:
            return True  # a stale mount

    def request(self, request: Request) -> dict[str, Any]:
        """Send a request to the mount's process; returns the reply.

        Raises:
            Crashed: the process died before it replied.
            Cas3fsError: the request failed.
        """
        try:
            with ControlClient(next((self.folder / "s").glob("*/control.sock"))) as client:
                return client.call(*request)
        except ControlError as error:
            self._await_death(error)

    def unmount(self) -> None:
        """Unmount, and return when everything is published and released.

        Raises:
            Crashed: the process died before that.
        """
        assert self.process is not None
        done = subprocess.run(["umount", self.top], check=False, capture_output=True, text=True)
        if done.returncode:
            self._await_death(OSError(done.stderr))
        if self.process.wait(TIMEOUT_S):
            raise Crashed

    def _await_death(self, error: Exception) -> NoReturn:
        """Raise Crashed if the process dies, and otherwise `error`."""
        assert self.process is not None
        try:
            self.process.wait(TIMEOUT_S / 10)
        except subprocess.TimeoutExpired:
            raise error from None
        raise Crashed from error

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT_S)

    def clean_up(self) -> None:
        """Stop the programs, end the process, and remove the mount."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.programs.stop()
        while self.is_mounted():
            subprocess.run(["umount", "--lazy", self.top], check=True)

    # -- operations

    def publish(self, what: Callable[[], object], *, exactly: bool) -> None:
        """Call `what`, which publishes a snapshot; with `exactly`, the programs are paused meanwhile."""
        if not exactly:
            self._publish(what, {})
            return
        with self.programs.paused():
            try:
                tree = read_tree(self.top)
            except OSError as error:
                self._await_death(error)
            self._publish(what, tree)

    def _publish(self, what: Callable[[], object], tree: TreeState) -> None:
        self.unfinished = self.programs.expected.now(), tree
        what()
        self.published[self.newest()] = self.unfinished
        self.unfinished = None

    def newest(self) -> str:
        return max(path.name for path in (self.folder / "v" / "snapshots").iterdir())

    def make_volume(self, previous: PreviousMount) -> None:
        """Make the volume and the first state of all files, and end the mount in one of the ways."""
        self.make()
        self.mount()
        self.programs.prepare(self.top)
        if previous is PreviousMount.TAKEN_OVER:
            self.publish(lambda: self.request(FLUSH), exactly=True)
            self.kill()
            self.clean_up()
        else:
            self.publish(self.unmount, exactly=True)
        if previous is not PreviousMount.SAME_MACHINE:
            shutil.rmtree(self.folder / "s")
            shutil.rmtree(self.folder / "c", ignore_errors=True)

    def run(self, armed: tuple[str, ...] = (), kill_after_s: float | None = None) -> None:
        """Mount, send requests while programs run, and unmount; with `kill_after_s`, the requests are repeated.

        Raises:
            Crashed: the process died.
        """
        self.mount("--take-over", armed=armed)
        assert self.process is not None
        exactly = self.exactly
        killer = threading.Timer(kill_after_s or 0, self.process.kill)
        if kill_after_s is not None:
            killer.start()
        self.programs.start(self.top)
        try:
            for request in REQUESTS if kill_after_s is None else itertools.cycle(REQUESTS):
                self.await_operations(20)
                if request is PRUNE:
                    self.request(request)
                else:
                    self.publish(partial(self.request, request), exactly=exactly)
        finally:
            self.programs.stop()
            killer.cancel()
        self.publish(self.unmount, exactly=exactly)

    def await_operations(self, count: int) -> None:
        """Wait until the programs have done `count` more operations."""
        wanted, deadline_s = self.programs.operations + count, time.monotonic() + TIMEOUT_S
        while self.programs.operations < wanted:
            assert self.process is not None
            if self.process.poll() is not None:
                raise Crashed
            assert not self.programs.failures, self.programs.failures
            assert time.monotonic() < deadline_s, "the programs make no progress"
            time.sleep(0.005)

    # -- checks

    def check(self) -> None:
        """Check everything that is promised after the process died, and after the machine was lost with it."""
        self.clean_up()
        assert_none(self.programs.failures)
        self.check_loss_of_machine()
        self.check_machine()

    def check_machine(self) -> None:
        """Check on the same machine: fsck finds nothing, a mount continues, and finally the store has the same tree."""
        machine = folders_of(self.folder)
        assert_none(fsck_findings(self.url, machine))
        self.mount("--take-over")
        seen = read_tree(self.top)
        assert_none(self.programs.expected.problems(self.top, self.programs.expected.synced()))
        self.unmount()
        assert_none(fsck_findings(self.url, machine, verify_data=True))
        export_from_store(self.url, folders_of(self.folder / "after"), self.folder / "out-after")
        assert read_tree(self.folder / "out-after") == seen
        shutil.rmtree(self.folder / "out-after")

    def check_loss_of_machine(self) -> None:
        """Check on another machine, with a copy of the store: it has the newest snapshot, as it was taken."""
        other = self.folder / "other"
        shutil.copytree(self.folder / "v", other / "v", symlinks=True)
        url = (other / "v").as_uri()
        newest = export_from_store(url, folders_of(other), other / "out")
        if newest is None:
            assert not self.published
        else:
            assert newest >= max(self.published, default="")
            expected = self.published.get(newest, self.unfinished)
            assert expected is not None, f"unexpected snapshot {newest}"
            marks, tree = expected
            top = other / "out"
            assert_none(self.programs.expected.problems(top, marks, marks if tree else None))
            if tree:
                assert read_tree(top) == tree
        assert_none(fsck_findings(url, folders_of(other)))
        export_as_writer(url, folders_of(other), other / "out2", take_over=True)
        if newest is not None:
            assert read_tree(other / "out2") == read_tree(other / "out")
        assert_none(fsck_findings(url, folders_of(other), verify_data=True))
        shutil.rmtree(other)


def assert_none(problems: Sequence[object]) -> None:
    """Fail with the first problems if there are any."""
    assert not problems, "\n".join(map(str, problems[:20]))
