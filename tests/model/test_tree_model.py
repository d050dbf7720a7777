# SPDX-License-Identifier: GPL-3.0-or-later
"""The file system against a local directory: after every step both have the same state, errno and bytes included.

Times: an operation must change the same times as in the local directory. Then the local times are set to ours, so that
later comparisons are exact. The ctime cannot be set, so ours is compared with itself: only an operation may change it.
"""

import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.model.file_systems import KINDS, Cas3fsTree, LocalDirectory, TreeOperations, outcome
from tests.model.movable_volume import MovableVolume
from tests.model.tree_state import Location, TreeState, changes_of_times, differences, open_file, same_inodes
from tests.posix.calls import EXCHANGE, NOREPLACE, WHITEOUT

SECOND = 10**9
IS_ROOT = os.geteuid() == 0

NAMES = {
    "a": b"a",
    "b": b"b",
    "c": b"c",
    "odd": b"\xff\n\xe4",
    "longest": b"n" * 255,
    "too long": b"n" * 256,
}
names = st.sampled_from(["a", "b", "a", "b", "a", "b", "c", "c", "odd", "longest", "too long"])
paths = st.one_of(names, st.lists(names, min_size=1, max_size=3).map("/".join))
slots = st.sampled_from(["x", "y"])
modes = st.sampled_from([0o644, 0o755, 0o000, 0o4755, 0o2755, 0o2644, 0o1777])
offsets = st.sampled_from([0, 1, 4095, 4096, 10_000, 70_000])
lengths = st.sampled_from([0, 1, 4096, 5000, 20_000])
moments = st.sampled_from([0, 1, -SECOND - 1, 1_700_000_000 * SECOND + 123_456_789, 2**33 * SECOND])
owners = st.sampled_from([(0, 0), (1000, 1000), (1000, 50), (2**31, 7)] if IS_ROOT else [(os.geteuid(), os.getegid())])
kinds = st.sampled_from(sorted(KINDS) if IS_ROOT else ["fifo", "file", "socket"])
xattr_flags = {"": 0, "CREATE": os.XATTR_CREATE, "REPLACE": os.XATTR_REPLACE}
values = st.sampled_from([b"", b"1", b"\0" * 30])
xattr_names = st.sampled_from(["trusted.a", "trusted.b"] if IS_ROOT else ["user.a", "user.b"])
RENAMES = {
    "replacing": 0,
    "not replacing": NOREPLACE,
    "exchanging": EXCHANGE,
    "leaving a whiteout": WHITEOUT,
    "leaving a whiteout, not replacing": WHITEOUT | NOREPLACE,
    "exchanging, not replacing": EXCHANGE | NOREPLACE,
    "unknown": 8,
}
ALLOCATIONS = {"extending": 0, "keeping the size": 1, "punching": 3, "zeroing": 16, "zeroing, keeping the size": 17}
allocations = st.sampled_from(sorted(ALLOCATIONS))
accesses = st.sampled_from(["r", "w", "r+", "truncate"])
ACCESS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "r+": os.O_RDWR, "truncate": os.O_RDWR | os.O_TRUNC}


def parse(path: str) -> Location:
    return tuple(NAMES[name] for name in path.split("/"))


class TreeMachine(RuleBasedStateMachine):
    """Two trees, operations on both, and events of the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cas3fs-tree-"))
        self.umask = os.umask(0)
        self.reference = LocalDirectory(self.folder / "reference")
        self.machine = MovableVolume()
        self.ours = Cas3fsTree(self.machine.fs)
        root = self.machine.fs.getattr(1)
        self.reference.chown((), root.uid, root.gid)
        self.reference.chmod((), stat.S_IMODE(root.mode))
        self.reference.utimes((), root.atime_ns, root.mtime_ns)
        self.committed: list[TreeState] = []
        """The states that a kill may leave: that of the last commit, and later ones."""
        self.snapshots: dict[str, TreeState] = {}
        self.seen = self.ours.read_tree(), self.reference.read_tree()
        self.set_committed()

    def teardown(self) -> None:
        self.reference.close_all()
        self.ours.close_all()
        self.machine.close()
        os.umask(self.umask)
        shutil.rmtree(self.folder)

    # -- comparing

    def on_both(self, operation: Callable[[TreeOperations], object], **names: str) -> None:
        """Carry out an operation on both trees, and compare the results and the trees."""
        self.await_tick()
        expected = outcome(operation, self.reference)
        found = outcome(operation, self.ours)
        assert found == expected, f"returns {found!r}, not {expected!r}"
        self.compare()
        self.committed.append(self.seen[0].without_open_files())

    def await_tick(self) -> None:
        """Wait until the clock of the local file system advances, so that a change of times is visible."""
        probe = self.folder / "probe"
        probe.touch()
        before = probe.stat().st_ctime_ns
        while probe.stat().st_ctime_ns == before:
            probe.touch()

    def compare(self) -> None:
        ours, reference = self.ours.read_tree(), self.reference.read_tree()
        assert not (lines := differences(reference, ours)), "\n".join(lines)
        was = same_inodes(self.seen[0], ours)
        assert was.keys() == same_inodes(self.seen[1], reference).keys()
        changed = changes_of_times(self.seen[0], ours, was)
        expected = changes_of_times(self.seen[1], reference, was)
        assert changed == expected
        self.adopt_times(ours, reference)
        self.seen = ours, self.reference.read_tree()

    def adopt_times(self, ours: TreeState, reference: TreeState) -> None:
        for location in reference.inodes:
            times = ours.times_of(location)
            if (times.atime, times.mtime) != (reference.times_of(location).atime, reference.times_of(location).mtime):
                self.reference.set_times(location, times)

    def check_unchanged(self) -> None:
        """Check that the tree has not changed, not even a ctime."""
        found = self.ours.read_tree()
        assert not (lines := differences(self.seen[0], found)), "\n".join(lines)
        assert found.times == self.seen[0].times

    def set_committed(self) -> None:
        self.committed = [self.seen[0].without_open_files()]

    # -- names

    @rule(path=paths, mode=modes)
    def create(self, path: str, mode: int) -> None:
        self.on_both(lambda side: side.create(parse(path), mode))

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.on_both(lambda side: side.mkdir(parse(path), mode))

    @rule(path=paths, kind=kinds, mode=modes)
    def mknod(self, path: str, kind: str, mode: int) -> None:
        rdev = os.makedev(7, 300) if "device" in kind else 0
        self.on_both(lambda side: side.mknod(parse(path), KINDS[kind] | mode, rdev))

    @rule(path=paths, points_to=st.sampled_from(["a", "../b/c", "odd", "x" * 4000]))
    def symlink(self, path: str, points_to: str) -> None:
        self.on_both(lambda side: side.symlink(parse(path), NAMES.get(points_to, points_to.encode())))

    @rule(path=paths, new=paths)
    def link(self, path: str, new: str) -> None:
        self.on_both(lambda side: side.link(parse(path), parse(new)))

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.on_both(lambda side: side.unlink(parse(path)))

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.on_both(lambda side: side.rmdir(parse(path)))

    @rule(path=paths, new=paths, how=st.sampled_from(sorted(RENAMES)))
    def rename(self, path: str, new: str, how: str) -> None:
        self.on_both(lambda side: side.rename(parse(path), parse(new), RENAMES[how]))

    @rule(path=paths)
    def readlink(self, path: str) -> None:
        self.on_both(lambda side: side.readlink(parse(path)))

    # -- attributes

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.on_both(lambda side: side.chmod(parse(path), mode))

    @rule(path=paths, owner=owners)
    def chown(self, path: str, owner: tuple[int, int]) -> None:
        self.on_both(lambda side: side.chown(parse(path), *owner))

    @rule(path=paths, atime_ns=moments, mtime_ns=moments)
    def utimes(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        self.on_both(lambda side: side.utimes(parse(path), atime_ns, mtime_ns))

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        self.on_both(lambda side: side.truncate(parse(path), size))

    @rule(path=paths, name=xattr_names, value=values, flag=st.sampled_from(sorted(xattr_flags)))
    def setxattr(self, path: str, name: str, value: bytes, flag: str) -> None:
        self.on_both(lambda side: side.setxattr(parse(path), name, value, xattr_flags[flag]))

    @rule(path=paths, name=xattr_names)
    def getxattr(self, path: str, name: str) -> None:
        self.on_both(lambda side: side.getxattr(parse(path), name))

    @rule(path=paths, name=xattr_names)
    def removexattr(self, path: str, name: str) -> None:
        self.on_both(lambda side: side.removexattr(parse(path), name))

    # -- open files

    @rule(path=paths, slot=slots, access=accesses)
    def open(self, path: str, slot: str, access: str) -> None:
        if slot not in self.reference.files:
            self.on_both(lambda side: side.open(parse(path), ACCESS[access], slot))

    @rule(path=paths, slot=slots, mode=modes, flags=st.sampled_from([0, os.O_EXCL]))
    def tmpfile(self, path: str, slot: str, mode: int, flags: int) -> None:
        if slot not in self.reference.files:
            self.on_both(lambda side: side.tmpfile(parse(path), flags, mode, slot))

    @rule(slot=slots, new=paths)
    def link_open(self, slot: str, new: str) -> None:
        if slot in self.reference.files and self.seen[1].inodes[open_file(slot)].links == 0:
            self.on_both(lambda side: side.link_open(slot, parse(new)))

    @rule(slot=slots, offset=offsets, length=lengths, seed=st.integers(0, 3))
    def write(self, slot: str, offset: int, length: int, seed: int) -> None:
        if slot in self.reference.files:
            data = random.Random(seed).randbytes(length)
            self.on_both(lambda side: side.write(slot, offset, data))

    @rule(slot=slots, offset=offsets, length=lengths)
    def read(self, slot: str, offset: int, length: int) -> None:
        if slot in self.reference.files:
            self.on_both(lambda side: side.read(slot, offset, length))

    @rule(slot=slots, mode=allocations, offset=offsets, length=lengths)
    def allocate(self, slot: str, mode: str, offset: int, length: int) -> None:
        if slot in self.reference.files:
            self.on_both(lambda side: side.allocate(slot, ALLOCATIONS[mode], offset, length))

    @rule(slot=slots, offset=offsets, to=slots, to_offset=offsets, length=lengths)
    def copy(self, slot: str, offset: int, to: str, to_offset: int, length: int) -> None:
        if slot in self.reference.files and to in self.reference.files:
            self.on_both(lambda side: side.copy(slot, offset, to, to_offset, length))

    @rule(slot=slots)
    def close(self, slot: str) -> None:
        if slot in self.reference.files:
            self.on_both(lambda side: side.close(slot))

    # -- events of the machine

    @rule()
    def commit(self) -> None:
        self.machine.fs.commit()
        self.set_committed()
        self.check_unchanged()

    @rule()
    def store(self) -> None:
        self.machine.fs.store_all()
        self.set_committed()
        self.check_unchanged()

    @rule()
    def lose_the_cache(self) -> None:
        self.machine.lose_the_cache()
        self.check_unchanged()

    @rule()
    def publish(self) -> None:
        self.published(self.machine.publish())
        self.check_unchanged()

    def published(self, snapshot: str) -> None:
        self.set_committed()
        shown = self.snapshots.setdefault(snapshot, self.committed[0])
        assert shown == self.committed[0], f"{snapshot} was returned for a state that has changed since"

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 9))
    def view(self, which: int) -> None:
        """Check a snapshot on another machine."""
        snapshot, expected = self.snapshot(which)
        opened = self.machine.view(snapshot)
        try:
            found = Cas3fsTree(opened.filesystem).read_tree()
        finally:
            opened.close()
        assert not (lines := differences(expected, found)), "\n".join(lines)
        assert found.times == expected.times

    def snapshot(self, which: int) -> tuple[str, TreeState]:
        return list(self.snapshots.items())[which % len(self.snapshots)]

    @precondition(lambda self: len(self.snapshots) > 1)
    @rule(which=st.integers(0, 9))
    def delete_snapshot(self, which: int) -> None:
        snapshot, _ = self.snapshot(which)
        if snapshot != max(self.snapshots):
            self.machine.delete_snapshot(snapshot)
            del self.snapshots[snapshot]

    @rule()
    def collect_garbage(self) -> None:
        self.machine.collect_garbage()
        self.set_committed()
        self.check_unchanged()

    @rule(how=st.sampled_from(["remount", "move to another machine"]))
    def remount(self, how: str) -> None:
        self.close_all()
        other = how == "move to another machine"
        self.published(self.machine.move_to_another_machine() if other else self.machine.remount())
        self.ours = Cas3fsTree(self.machine.fs)
        self.check_unchanged()

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 9))
    def restore(self, which: int) -> None:
        """Make a snapshot the head."""
        self.close_all()
        snapshot, expected = self.snapshot(which)
        self.published(self.machine.restore(snapshot))
        self.ours = Cas3fsTree(self.machine.fs)
        self.continue_from(expected)

    @rule()
    def kill(self) -> None:
        """Kill the process: the committed state is there, or a later one."""
        self.reference.close_all()
        self.ours.files.clear()
        self.machine.kill()
        self.ours = Cas3fsTree(self.machine.fs)
        found = self.ours.read_tree()
        if found not in self.committed:
            lines = differences(self.committed[0], found)
            raise AssertionError("neither the last commit nor a later state:\n" + "\n".join(lines or ["times differ"]))
        self.continue_from(found)

    def continue_from(self, tree: TreeState) -> None:
        self.reference.rebuild(tree)
        self.seen = tree, self.reference.read_tree()
        self.check_unchanged()
        self.set_committed()

    def close_all(self) -> None:
        for slot in list(self.reference.files):
            self.close(slot)


@pytest.mark.promise("a-mount-behaves-like-a-local-file-system")
@pytest.mark.lasts(900, long_s=7200)  # shrinking a failure takes a while
def test_the_file_system_matches_a_local_directory(encryption: str) -> None:
    run_state_machine_as_test(
        TreeMachine,
        settings=settings(
            max_examples=settings.default.max_examples // 5,
            stateful_step_count=40,
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
