# SPDX-License-Identifier: GPL-3.0-or-later
"""Eight processes change one tree on a mount at random; afterwards it is consistent, also after a remount."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount
from tests.model.file_systems import LocalDirectory
from tests.model.tree_state import TreeState, differences

PROCESSES = 8
ATTR_TIMEOUT_S = 1.0
"""How long the kernel caches attributes, which a concurrent change may have overtaken."""
BUSY = ("--snapshot-interval", "300ms", "--gc-interval", "1s", "-o", f"timeout={ATTR_TIMEOUT_S}")


@pytest.fixture
def mount(need_fuse: None, cas3fs_mount: TemporaryMount) -> TemporaryMount:
    return cas3fs_mount


def read_tree(mount: TemporaryMount) -> TreeState:
    seen = LocalDirectory(mount.path).read_tree()
    folders = Counter(place[:-1] for place, state in seen.inodes.items() if state.kind == "directory" and place)
    for path in (path for path, state in seen.inodes.items() if state.kind == "directory"):
        links = mount.path.joinpath(*(name.decode() for name in path)).stat().st_nlink
        assert links == 2 + folders[path], path
    return seen


def stress(mount: TemporaryMount, seed: int, count: int) -> Counter[str]:
    """Run the processes; returns how many operations of each kind succeeded."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.model.stress", mount.path, str(seed + number), str(count)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    ends = [process.communicate() for process in processes]
    assert not any(process.returncode for process in processes), f"seed {seed}:\n" + "".join(end[1] for end in ends)
    return sum((Counter(json.loads(end[0])) for end in ends), Counter())


@pytest.mark.promise("a-mount-behaves-like-a-local-file-system")
@pytest.mark.lasts(300, long_s=3 * 3600)
def test_a_tree_changed_by_eight_processes_stays_consistent(mount: TemporaryMount, long: bool) -> None:
    rounds, count = (20, 20_000) if long else (1, 1_200)
    seed = random.randrange(2**32)
    mount.again(*BUSY)
    done: Counter[str] = Counter()
    for turn in range(rounds):
        done += stress(mount, seed + turn * PROCESSES, count)
        time.sleep(ATTR_TIMEOUT_S)
        check_after_remount(mount, keep_state=turn % 2 == 1)
        clear(mount)
    print(f"of {rounds * PROCESSES * count} operations succeeded: {dict(done)}")
    rare = {"rmdir", "link", "rename", "unlinked_while_open", "removexattr", "truncate"}
    assert rare <= done.keys()


def clear(mount: TemporaryMount) -> None:
    """Remove everything: names that renames have moved deep are out of the processes' reach and would accumulate."""
    for path in mount.path.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_after_remount(mount: TemporaryMount, *, keep_state: bool) -> None:
    before = read_tree(mount)
    mount.volume.run("fsck", mount.path)
    mount.down()
    mount.volume.run("fsck", mount.volume.url, "--verify-data")
    mount.again(*BUSY, keep_cache=False, keep_state=keep_state)
    after = read_tree(mount)
    assert not (lines := differences(before, after)), "\n".join(lines)
    assert {path: after.times_of(path) for path in after.inodes} == {
        path: before.times_of(path) for path in before.inodes
    }
