# SPDX-License-Identifier: GPL-3.0-or-later
"""Real mounts that are killed: at a failpoint, or at any time, while programs are at work on them.

One *round*: a volume that has a past, mounted in a process in which a failpoint is armed; programs write, snapshots are
taken, deleted, garbage is collected; the process dies. Then what it left is looked at.
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
from tests.crash.load import Load, Marks
from tests.crash.looking import Facts, facts_of, findings, places, tree_of_machine, tree_of_store

TIMEOUT_S = 60
KIB = 1024
Request = tuple[str, dict[str, Any]]
"""A verb of the control socket, and its arguments."""


FLUSH: Request = ("flush", {})
GC: Request = ("gc", {"min_live": 0.9, "grace_s": 0})
PRUNE: Request = ("snapshot-prune", {"policy": {"last": 1}})
REQUESTS = (FLUSH, FLUSH, FLUSH, GC, PRUNE, GC, PRUNE)


class Past(Enum):
    """How the mount before came to its end."""

    SAME_MACHINE = "unmounted, on this machine"
    OTHER_MACHINE = "unmounted, on another machine"
    TAKEN_OVER = "its machine was lost"


class Crashed(Exception):
    """The process of the mount is gone."""


class Round:
    """One volume and one machine in one folder: ``v`` the store, ``s`` the state, ``c`` the cache, ``m`` the mount.

    The seed decides what programs do, and whether they stand still while something is published.
    """

    def __init__(self, folder: Path, seed: int, done: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self.url = (folder / "v").as_uri()
        self.top = folder / "m"
        self.top.mkdir(parents=True, exist_ok=True)
        self.load = Load(seed, done=done)
        self.exactly = seed % 2 == 0
        self.process: subprocess.Popen[bytes] | None = None
        self.published: dict[str, tuple[Marks, Facts]] = {}
        """By snapshot: what it is to show."""
        self.attempt: tuple[Marks, Facts] | None = None
        """What a snapshot shows that is newer than all of them."""

    # -- the life of the mount

    def make(self) -> None:
        (self.folder / "v").mkdir()
        create_volume(StoreSettings(self.url), VolumeSettings(pack_size_bytes=1024 * KIB, block_size_bytes=16 * KIB))

    def mount(self, *options: str, armed: tuple[str, ...] = ()) -> None:
        """Mounts in a process of its own.

        Raises:
            Crashed: it died before it served.
        """
        machine = places(self.folder)
        command = [sys.executable, "-m", *self.module(armed), "mount", self.url, self.top, "--foreground", *options]
        command += ["--snapshot-interval", "0", "--state-dir", machine.state_dir, "--cache-dir", machine.cache_dir]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stderr=log, stdout=log)
        deadline_s = time.monotonic() + TIMEOUT_S
        while not self.is_mounted():
            if self.process.poll() is not None:
                raise Crashed
            assert time.monotonic() < deadline_s, self.log()
            time.sleep(0.01)

    def module(self, armed: tuple[str, ...]) -> list[str]:
        """What Python runs, and its first arguments."""
        return ["cas3fs.testing.failpoints", *armed] if armed else ["cas3fs"]

    def is_mounted(self) -> bool:
        try:
            return self.top.is_mount()
        except OSError:
            return True  # but nobody serves it

    def ask(self, request: Request) -> dict[str, Any]:
        """Has the mount's process do something; gives its reply.

        Raises:
            Crashed: it died before it was done.
            Cas3fsError: it could not do it.
        """
        try:
            with ControlClient(next((self.folder / "s").glob("*/control.sock"))) as client:
                return client.call(*request)
        except ControlError as error:
            self._await_death(error)

    def unmount(self) -> None:
        """Unmounts, and returns when everything is published and released.

        Raises:
            Crashed: the process died before.
        """
        assert self.process is not None
        done = subprocess.run(["umount", self.top], check=False, capture_output=True, text=True)
        if done.returncode:
            self._await_death(OSError(done.stderr))
        if self.process.wait(TIMEOUT_S):
            raise Crashed

    def _await_death(self, error: Exception) -> NoReturn:
        """Something failed since the process dies; if it does not, that was the trouble."""
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
        """Nothing runs and nothing is mounted any more."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.load.stop()
        while self.is_mounted():
            subprocess.run(["umount", "--lazy", self.top], check=True)

    # -- what is done with it

    def publish(self, what: Callable[[], object], *, exactly: bool) -> None:
        """Has something publish a snapshot; with `exactly`, nobody changes anything meanwhile."""
        if not exactly:
            self._publish(what, {})
            return
        with self.load.quiet():
            try:
                facts = facts_of(self.top)
            except OSError as error:
                self._await_death(error)
            self._publish(what, facts)

    def _publish(self, what: Callable[[], object], facts: Facts) -> None:
        self.attempt = self.load.account.now(), facts
        what()
        self.published[self.newest()] = self.attempt
        self.attempt = None

    def newest(self) -> str:
        return max(path.name for path in (self.folder / "v" / "snapshots").iterdir())

    def have_a_past(self, past: Past) -> None:
        """Makes the volume and the first state of all files, and ends the mount in one of the ways."""
        self.make()
        self.mount()
        self.load.begin(self.top)
        if past is Past.TAKEN_OVER:
            self.publish(lambda: self.ask(FLUSH), exactly=True)
            self.kill()
            self.clean_up()
        else:
            self.publish(self.unmount, exactly=True)
        if past is not Past.SAME_MACHINE:
            shutil.rmtree(self.folder / "s")
            shutil.rmtree(self.folder / "c", ignore_errors=True)

    def live(self, armed: tuple[str, ...] = (), kill_after_s: float | None = None) -> None:
        """All that a volume goes through, from mounting to unmounting, while programs work on it; over and over, if it
        is to be killed some time.

        Raises:
            Crashed: its process died.
        """
        self.mount("--take-over", armed=armed)
        assert self.process is not None
        exactly = self.exactly
        killer = threading.Timer(kill_after_s or 0, self.process.kill)
        if kill_after_s is not None:
            killer.start()
        self.load.start(self.top)
        try:
            for request in REQUESTS if kill_after_s is None else itertools.cycle(REQUESTS):
                self.await_operations(20)
                if request is PRUNE:
                    self.ask(request)
                else:
                    self.publish(partial(self.ask, request), exactly=exactly)
        finally:
            self.load.stop()
            killer.cancel()
        self.publish(self.unmount, exactly=exactly)

    def await_operations(self, count: int) -> None:
        """Until the programs have done so much more, or cannot go on."""
        wanted, deadline_s = self.load.operations + count, time.monotonic() + TIMEOUT_S
        while self.load.operations < wanted:
            assert self.process is not None
            if self.process.poll() is not None:
                raise Crashed
            assert not self.load.failures, self.load.failures
            assert time.monotonic() < deadline_s, "the programs get nothing done"
            time.sleep(0.005)

    # -- afterwards

    def check(self) -> None:
        """Everything that is promised after the process died, and after the machine was lost with it."""
        self.clean_up()
        none_of(self.load.failures)
        self.check_loss_of_machine()
        self.check_machine()

    def check_machine(self) -> None:
        """The same machine: fsck finds nothing, a mount goes on, and the store has the same at last."""
        machine = places(self.folder)
        none_of(findings(self.url, machine))
        self.mount("--take-over")
        seen = facts_of(self.top)
        none_of(self.load.account.problems(self.top, self.load.account.synced()))
        self.unmount()
        none_of(findings(self.url, machine, verify_data=True))
        tree_of_store(self.url, places(self.folder / "after"), self.folder / "out-after")
        assert facts_of(self.folder / "out-after") == seen
        shutil.rmtree(self.folder / "out-after")

    def check_loss_of_machine(self) -> None:
        """Another machine, with a copy of the store: the newest snapshot, as it was when it was taken."""
        other = self.folder / "other"
        shutil.copytree(self.folder / "v", other / "v", symlinks=True)
        url = (other / "v").as_uri()
        newest = tree_of_store(url, places(other), other / "out")
        if newest is None:
            assert not self.published
        else:
            assert newest >= max(self.published, default="")
            expected = self.published.get(newest, self.attempt)
            assert expected is not None, f"nobody published {newest}"
            marks, facts = expected
            top = other / "out"
            none_of(self.load.account.problems(top, marks, marks if facts else None))
            if facts:
                assert facts_of(top) == facts
        none_of(findings(url, places(other)))
        tree_of_machine(url, places(other), other / "out2", take_over=True)
        if newest is not None:
            assert facts_of(other / "out2") == facts_of(other / "out")
        none_of(findings(url, places(other), verify_data=True))
        shutil.rmtree(other)


def none_of(problems: Sequence[object]) -> None:
    """There are none; else it tells them."""
    assert not problems, "\n".join(map(str, problems[:20]))
