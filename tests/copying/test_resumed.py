# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy that was interrupted anywhere is continued: it ends as if it had not been, and stores no block twice."""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from pathlib import Path

import attrs
import pytest

from cas3fs.commands.copy import CopyRequest, copy_volume
from cas3fs.config import LocalFolders
from cas3fs.control import Message
from cas3fs.errors import EpochHeld, TransientStoreError
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStores

from .conftest import Pair, Place, filled, noise, silent, write

ALIKE = {"block_size_bytes": 64 * 1024, "pack_size_bytes": 1 << 20}
DESTINATIONS = {
    "alike": ALIKE,
    "sealed": ALIKE | {"encrypt": True},
    "sealed-and-cut-anew": ALIKE | {"encrypt": True, "chunker": "fixed"},
}
POINTS = {
    "copy-mark-after": 1,
    "pack-put-before": 3,
    "pack-put-after": 5,
    "copy-commit-before": 9,
    "copy-commit-after": 30,
    "manifest-put-before": 2,
    "manifest-put-after": 1,
    "copy-published-after": 1,
    "release-before": 1,
}
"""Failpoints, and at which count they kill."""


@pytest.fixture
def originals(volumes: Pair) -> list[str]:
    return filled(volumes.source)


def check(volumes: Pair, destination: Place, originals: list[str]) -> None:
    """A copy that is continued has the whole source, and every block once."""
    volumes.copy(destination)
    copies = destination.snapshots()
    assert [one.copied for one in copies] == originals
    for one in copies:
        assert destination.tree(one.id) == volumes.source.tree(one.copied)
    assert destination.check() == (0, {})
    stored = Counter(block.hash for block in destination.packed_blocks())
    assert [block for block, times in stored.items() if times > 1] == []
    assert volumes.copy(destination).already_copied == 3


def at_report(number: int, action: Callable[[], object]) -> Callable[[Message], None]:
    """A callable for progress that does something when it is called for that time."""
    calls = count()

    def report(message: Message) -> None:
        if next(calls) == number:
            action()

    return report


class Interrupted(Exception):
    """The process ends, and cleans up."""


def interrupted(volumes: Pair, destination: Place, after: int) -> bool:
    """Copies until so much progress was reported; returns whether it came to that."""

    def interrupt() -> None:
        raise Interrupted

    report = at_report(after, interrupt)
    try:
        copy_volume(volumes.source.settings, destination.settings, destination.folders, CopyRequest(), report)
    except Interrupted:
        return True
    return False


@pytest.mark.promise("a-copy-is-continued")
@pytest.mark.parametrize("kind", DESTINATIONS)
def test_a_copy_is_continued_wherever_it_was_interrupted(volumes: Pair, originals: list[str], kind: str) -> None:
    destination = volumes.make(**DESTINATIONS[kind])
    after = 20
    while interrupted(volumes, destination, after):
        after += 37
    check(volumes, destination, originals)


@pytest.mark.promise("a-copy-is-continued")
@pytest.mark.parametrize("kind", DESTINATIONS)
def test_a_copy_is_continued_without_the_state_directory(volumes: Pair, originals: list[str], kind: str) -> None:
    destination = volumes.make(**DESTINATIONS[kind])
    for after in (20, 30, 40):  # of some 150 reports, less what was stored before: each run is interrupted
        assert interrupted(volumes, destination, after)
        shutil.rmtree(destination.root / "state")
    known = sum(block.plain_length for block in destination.packed_blocks())
    result = volumes.copy(destination)
    check(volumes, destination, originals)
    if kind == "alike":  # what is there is known by its hash
        assert result.read_bytes == volumes.copy(volumes.make(**ALIKE)).read_bytes - known


@pytest.mark.promise("a-copy-is-continued")
@pytest.mark.parametrize("kind", DESTINATIONS)
def test_packs_that_a_gc_has_deleted_in_between_are_stored_again(
    volumes: Pair, originals: list[str], kind: str
) -> None:
    destination = volumes.make(**DESTINATIONS[kind])
    stored, after = list[Path](), 60
    while not stored:
        assert interrupted(volumes, destination, after)
        stored, after = sorted((destination.store / "packs").rglob("*/*")), after + 10
    stored[0].unlink()
    check(volumes, destination, originals)


@pytest.mark.promise("a-copy-is-continued")
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_whose_stores_fail_is_continued(
    volumes: Pair, originals: list[str], faulty_stores: FaultyStores, seed: int
) -> None:
    chance = random.Random(seed)
    destination = volumes.make(**DESTINATIONS[chance.choice(sorted(DESTINATIONS))])
    source, target = (attrs.evolve(one.settings, timeout_s=0.1) for one in (volumes.source, destination))
    failures, is_done = 0, False
    while not is_done:
        kind = chance.choice([FaultKind.RESET, FaultKind.UNAVAILABLE, FaultKind.APPLIED_THEN_ERROR])
        with ExitStack() as faults, suppress(TransientStoreError):
            on = partial(faults.enter_context, faulty_stores.faults.on(kind))
            report = at_report(chance.randrange(20 + 30 * failures), on)
            copy_volume(source, target, destination.folders, CopyRequest(), report)
            is_done = True
        failures += not is_done
    assert failures > 1
    check(volumes, destination, originals)


def killed(volumes: Pair, destination: Place, point: str, times: int) -> int:
    """Copies in a process that is killed at a failpoint; returns its exit status."""
    keys = ("--key-file", str(destination.key_file)) if destination.key_file else ()
    command = ("copy", volumes.source.settings.url, destination.settings.url, *keys)
    folders = {"CAS3FS_STATE_DIR": str(destination.root / "state"), "CAS3FS_CACHE_DIR": str(destination.root / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "cas3fs.testing.failpoints", "kill", f"{point}:{times}", *command],
        env=os.environ | folders,
        capture_output=True,
        check=False,
    ).returncode


@pytest.mark.promise("a-copy-is-continued")
@pytest.mark.lasts(240, long_s=1200)
@pytest.mark.parametrize("point", POINTS)
def test_a_copy_is_continued_after_a_kill(
    volumes: Pair, originals: list[str], point: str, request: pytest.FixtureRequest
) -> None:
    kinds = sorted(DESTINATIONS)
    destination = volumes.make(**DESTINATIONS[kinds[sorted(POINTS).index(point) % len(kinds)]])
    assert killed(volumes, destination, point, POINTS[point]) == -9
    volumes.copy(destination)
    check(volumes, destination, originals)


def test_a_copy_is_continued_on_another_machine_by_a_take_over(volumes: Pair, originals: list[str]) -> None:
    destination = volumes.make(**ALIKE)
    assert killed(volumes, destination, "manifest-put-after", 1) == -9
    elsewhere = LocalFolders(volumes.root / "elsewhere", volumes.root / "elsewhere-cache")
    stores = (volumes.source.settings, destination.settings, elsewhere)
    with pytest.raises(EpochHeld):
        copy_volume(*stores, CopyRequest(), silent)
    copy_volume(*stores, CopyRequest(take_over=True), silent)
    check(volumes, attrs.evolve(destination, root=volumes.root / "third"), originals)


def test_a_later_copy_adds_new_snapshots_only(volumes: Pair, originals: list[str]) -> None:
    destination = volumes.make(**ALIKE, encrypt=True)
    volumes.copy(destination)
    opened = volumes.source.open()
    write(opened.filesystem, "later", noise(77, 500_000))
    opened.finish()
    opened.close()
    later = volumes.source.snapshots()[-1].id
    result = volumes.copy(destination)
    assert (result.already_copied, [one["source"] for one in result.snapshots]) == (3, [later])
    assert 500_000 <= result.read_bytes < 600_000
    assert destination.tree() == volumes.source.tree()


def test_an_interrupted_copy_holds_nothing_for_others(volumes: Pair, originals: list[str]) -> None:
    destination = volumes.make(**ALIKE)
    assert interrupted(volumes, destination, 50)
    copy_volume(
        volumes.source.settings,
        destination.settings,
        LocalFolders(Path(volumes.root / "elsewhere"), volumes.root / "elsewhere-cache"),
        CopyRequest(),
        silent,
    )
    assert destination.tree() == volumes.source.tree()
