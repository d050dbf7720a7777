# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount that is killed at any failpoint, or at any time, keeps all promises, and so does the store alone."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.testing.failpoints import FAILPOINTS
from tests.crash.crash_round import Crashed, CrashRound, PreviousMount

OTHER_PREVIOUS = {
    "hashes-made": PreviousMount.OTHER_MACHINE,
    "restored": PreviousMount.OTHER_MACHINE,
    "base": PreviousMount.TAKEN_OVER,
}
"""Prefixes of failpoints that are only reached after such a previous mount."""
DEFAULT_POINTS = {
    "rows-sync-before": 3,
    "stored-taken": 2,
    "layers-drop-before": 1,
    "pack-put-after": 2,
    "chunks-enter-after": 2,
    "hashes-made": 1,
    "log-moved": 2,
    "index-pinned": 2,
    "index-read": 1,
    "restored-in-place-after": 1,
    "packs-delete-after": 1,
}
"""The failpoints of the short form, and at which count they kill."""
DEFAULT_RANDOM, LONG_RANDOM = 3, 120
LONG_COUNTS = (1, 3, 9)


def previous_mount_of(point: str) -> PreviousMount:
    return next(
        (previous for beginning, previous in OTHER_PREVIOUS.items() if point.startswith(beginning)),
        PreviousMount.SAME_MACHINE,
    )


@pytest.fixture
def folder(need_fuse: None, encryption: str, workspace: Path) -> Path:
    return workspace


@pytest.fixture(scope="module")
def reached(encryption: str, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often an uninterrupted round reaches each failpoint, at most."""
    found: Counter[str] = Counter()
    for previous in PreviousMount:
        place = tmp_path_factory.mktemp("recorded")
        for round_ in cleaned_up(CrashRound(place, seed=0)):
            round_.make_volume(previous)
            round_.run(("record", str(place / "points")))
        found |= Counter((place / "points").read_text().split())
    return found


def cleaned_up(made: CrashRound) -> Iterator[CrashRound]:
    try:
        yield made
    finally:
        made.clean_up()


def die(folder: Path, seed: int, point: str | None, count: int = 1, frontend: str | None = None) -> None:
    """Run a round in which the process must be killed, and check everything."""
    for round_ in cleaned_up(CrashRound(folder, seed)):
        round_.frontend = frontend or round_.frontend
        round_.make_volume(PreviousMount.SAME_MACHINE if point is None else previous_mount_of(point))
        with pytest.raises(Crashed):
            if point is None:
                round_.interval = "1s"
                round_.run(kill_after_s=random.Random(seed).uniform(0.0, 3.0))
            else:
                round_.run(("kill", f"{point}:{count}"))
        assert round_.process is not None
        assert round_.process.returncode == -9, round_.log()
        round_.check()


pytestmark = pytest.mark.lasts(300, long_s=1200)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long form has all failpoints, and more seeds."""
    long = metafunc.config.getoption("--long")
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", list(FAILPOINTS if long else DEFAULT_POINTS))
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(LONG_RANDOM if long else DEFAULT_RANDOM))


def test_every_failpoint_is_reached(need_fuse: None, reached: Counter[str]) -> None:
    assert [point for point in FAILPOINTS if not reached[point]] == []


@pytest.mark.promise(
    "synced-data-survives-a-crash", "names-are-from-one-instant", "the-store-restores-the-newest-snapshot"
)
def test_a_kill_at_a_failpoint_keeps_all_promises(folder: Path, point: str, long: bool, reached: Counter[str]) -> None:
    # no two rounds are the same: only a point reached twice as often is sure to be reached
    counts = [count for count in LONG_COUNTS if count <= (reached[point] + 1) // 2] if long else [DEFAULT_POINTS[point]]
    for number, count in enumerate(counts):
        die(folder / str(number), number + len(point), point, count)


@pytest.mark.promise(
    "synced-data-survives-a-crash", "files-never-show-foreign-bytes", "a-replaced-file-is-whole", "renames-have-flags"
)
def test_a_kill_at_any_time_keeps_all_promises(folder: Path, seed: int) -> None:
    die(folder, seed, None)


@pytest.mark.frontend("llfuse")
@pytest.mark.promise("synced-data-survives-a-crash", "files-never-show-foreign-bytes", "a-replaced-file-is-whole")
def test_a_kill_with_llfuse_keeps_all_promises(folder: Path, frontend: str) -> None:
    die(folder, 0, None, frontend=frontend)
