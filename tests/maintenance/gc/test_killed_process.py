# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs gc`` of a volume that is not mounted, killed as ``kill -9`` does at each place where order matters: every
retained snapshot and the head stay, byte by byte, and the next gc finishes the work.

That of a mount is killed at the same places in ``tests/crash/test_failpoints.py``; a process that dies with what the
disk has at each step, more often than processes can be started, in `tests.maintenance.gc.test_interrupted`.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.control.messages.maintenance import FsckRequest, GcRequest
from cas3fs.filesystem import ROOT
from cas3fs.volume.opening import OpenVolume
from tests.maintenance.memory_volume import Tree, contents
from tests.volume.conftest import Volume, delete_snapshots, write

OPTIONS = ("--grace", "0s", "--min-live", "0.9")
USUAL_POINTS = (
    "pack-put-after",
    "blocks-moved",
    "blocks-dropped",
    "packs-marked-dead",
    "index-sync-before:2",
    "pages-put-after",
    "manifest-put-after",
    "packs-delete-before",
    "packs-delete-after",
    "packs-forgotten",
    "release-before",
    "mark-clean-before",
)
LONG_POINTS = (
    *USUAL_POINTS,
    "claim-put-after",
    "index-selected",
    "pack-put-before",
    "group-before:2",
    "group-after:2",
    "index-sync-after:2",
    "checkpoint-pinned",
    "log-moved",
    "index-pinned",
    "index-read",
    "pages-put-before",
    "manifest-put-before",
    "snapshot-made",
    "release-after",
)


class KillableVolume:
    """A volume that keeps the contents of its snapshots for comparison."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self.root = root
        self.volume = Volume(root)
        self.trees: dict[str, Tree] = {}
        self.head: Tree = {}

    def change(self, seed: int) -> None:
        """Creates and deletes files, and publishes a snapshot or two."""
        chance = random.Random(seed)
        opened = self.volume.open()
        try:
            for _ in range(chance.randrange(1, 3)):
                for _ in range(chance.randrange(2, 9)):
                    self._change_one(opened, chance)
                self.trees[opened.publisher.publish()] = dict(self.head)  # type: ignore[union-attr]
            newest = opened.finish()
            self.trees[str(newest)] = dict(self.head)
        finally:
            opened.close()

    def _change_one(self, opened: OpenVolume, chance: random.Random) -> None:
        name = f"f{chance.randrange(12)}"
        if name in self.head:
            self._remove(opened, name)
        else:
            self._write(opened, name, chance.randrange(9), chance.randrange(1, 90_000))

    def _write(self, opened: OpenVolume, name: str, seed: int, size: int) -> None:
        text = "".join(random.Random(seed).choices("0123456789abcdef", k=size))
        write(opened, name, text)
        self.head[name] = text.encode()

    def _remove(self, opened: OpenVolume, name: str) -> None:
        opened.filesystem.unlink(ROOT, name.encode())
        del self.head[name]

    def prepare(self) -> None:
        """Makes a dead pack, a sparsely used pack, and an older snapshot that needs the latter."""
        opened = self.volume.open()
        for number in range(4):
            self._write(opened, f"a{number}", number, 200_000)
        self.trees[opened.publisher.publish()] = dict(self.head)  # type: ignore[union-attr]
        for number in range(4):
            self._write(opened, f"b{number}", 10 + number, 200_000)
        first = opened.publisher.publish()  # type: ignore[union-attr]
        self.trees[first] = dict(self.head)
        for name in ("a0", "a1", "a2", "b0", "b1", "b2", "b3"):
            self._remove(opened, name)
        self.trees[str(opened.finish())] = dict(self.head)
        opened.close()
        self.delete([first])
        del self.trees[first]

    def delete(self, snapshots: list[str]) -> None:
        """Deletes snapshots as `cas3fs snapshot delete` does."""
        delete_snapshots(self.volume, "here", *snapshots)

    def delete_random_snapshots(self, chance: random.Random) -> None:
        """Deletes random snapshots, except for the newest."""
        for snapshot in sorted(self.trees)[:-1]:
            if chance.random() < 0.5:
                self.delete([snapshot])
                del self.trees[snapshot]

    def kill_gc(self, point: str) -> bool:
        """Runs a gc that is killed at that point; whether it came to that point."""
        environment = os.environ | {
            "CAS3FS_STATE_DIR": str(self.root / "here"),
            "CAS3FS_CACHE_DIR": str(self.root / "cache" / "here"),
        }
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "cas3fs.testing.failpoints",
                "kill",
                point,
                "gc",
                self.volume.shelf.store.url,
                *OPTIONS,
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode != 0

    def gc(self) -> None:
        request = GcRequest(min_live=0.9, grace_s=0)
        collect_unmounted(self.volume.store_settings, self.volume.folders("here"), request, ignore_progress_report)

    def check(self) -> None:
        """Checks the contents of every snapshot; those that a gc has published have those of the head."""
        for snapshot in self.volume.archive.ids():
            path = self.root / "check.sqlite"
            self.volume.archive.restore(snapshot, path)
            found = contents(path, self.volume.shelf.store)
            path.unlink()
            assert found == self.trees.setdefault(snapshot, dict(self.head)), snapshot
        assert set(self.trees) == set(self.volume.archive.ids())
        result = check_unmounted(
            self.volume.store_settings,
            self.volume.folders("here"),
            FsckRequest(verify_data=True),
            ignore_progress_report,
        )
        assert result.status == 0, result


def ignore_progress_report(progress: object) -> None:
    pass


@pytest.fixture
def killable(encryption: str, tmp_path: Path) -> Iterator[KillableVolume]:
    made = KillableVolume(tmp_path / "killable")
    yield made
    made.volume.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", LONG_POINTS if metafunc.config.getoption("--long") else USUAL_POINTS)


@pytest.mark.promise("publish-prune-and-gc-exclude-each-other")
def test_a_gc_that_is_killed_loses_nothing_and_the_next_one_finishes(killable: KillableVolume, point: str) -> None:
    killable.prepare()
    assert killable.kill_gc(point), "the gc of this volume does not come there"
    killable.check()
    killable.gc()
    killable.check()
    left = killable.volume.archive.ids()
    killable.delete(left[:-1])
    killable.trees = {left[-1]: killable.trees[left[-1]]}
    killable.gc()
    killable.check()
    packs = sum(info.size for info in killable.volume.shelf.store.list("packs/"))
    assert packs < 1.2 * sum(len(data) for data in killable.head.values()) + 1000


@pytest.mark.lasts(120, long_s=7200)
def test_random_rounds_with_kills_lose_nothing(killable: KillableVolume, long: bool) -> None:
    chance = random.Random(20)
    killed = 0
    for number in range(200 if long else 6):
        killable.change(number)
        killable.delete_random_snapshots(chance)
        point = chance.choice(LONG_POINTS).partition(":")[0]
        killed += killable.kill_gc(f"{point}:{chance.randrange(1, 3)}")
        killable.check()
    assert killed
