# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount that is killed at any of the failpoints, or at any time, keeps what was promised; so does its store alone."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.testing.failpoints import FAILPOINTS
from tests.crash.driver import Crashed, Past, Round

OTHER_PASTS = {"restored": Past.OTHER_MACHINE, "base": Past.TAKEN_OVER}
"""Failpoints, by how they begin, that come only after such a past."""
USUAL_POINTS = {
    "rows-sync-before": 3,
    "stored-taken": 2,
    "layers-drop-before": 1,
    "pack-put-after": 2,
    "chunks-enter-after": 2,
    "restored-in-place-after": 1,
    "packs-delete-after": 1,
}
"""Those of the short form, and when they strike."""
USUAL_RANDOM, LONG_RANDOM = 3, 120
LONG_COUNTS = (1, 3, 9)


def past_of(point: str) -> Past:
    return next((past for beginning, past in OTHER_PASTS.items() if point.startswith(beginning)), Past.SAME_MACHINE)


@pytest.fixture
def folder(need_fuse: None, workspace: Path) -> Path:
    return workspace


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often a life that nobody cuts short comes to each failpoint, at most."""
    found: Counter[str] = Counter()
    for past in Past:
        place = tmp_path_factory.mktemp("recorded")
        for round_ in at_last_cleaned_up(Round(place, seed=0)):
            round_.have_a_past(past)
            round_.live(("record", str(place / "points")))
        found |= Counter((place / "points").read_text().split())
    return found


def at_last_cleaned_up(made: Round) -> Iterator[Round]:
    try:
        yield made
    finally:
        made.clean_up()


def die(folder: Path, seed: int, point: str | None, count: int = 1) -> None:
    """One round, at the end of which the process must have died by a kill; then everything is checked."""
    for round_ in at_last_cleaned_up(Round(folder, seed)):
        round_.have_a_past(Past.SAME_MACHINE if point is None else past_of(point))
        with pytest.raises(Crashed):
            if point is None:
                round_.live(kill_after_s=random.Random(seed).uniform(0.0, 3.0))
            else:
                round_.live(("kill", f"{point}:{count}"))
        assert round_.process is not None
        assert round_.process.returncode == -9, round_.log()
        round_.check()


pytestmark = pytest.mark.lasts(300, long_s=1200)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long form has all failpoints, and more seeds."""
    long = metafunc.config.getoption("--long")
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", list(FAILPOINTS if long else USUAL_POINTS))
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(LONG_RANDOM if long else USUAL_RANDOM))


def test_every_failpoint_is_reached(need_fuse: None, reached: Counter[str]) -> None:
    assert [point for point in FAILPOINTS if not reached[point]] == []


@pytest.mark.promise(
    "synced-data-survives-a-crash", "names-are-from-one-instant", "the-store-restores-the-newest-snapshot"
)
def test_a_mount_killed_at_a_failpoint_keeps_what_was_promised(
    folder: Path, point: str, long: bool, reached: Counter[str]
) -> None:
    # no two lives are the same: only what was reached twice as often is sure to be reached
    counts = [count for count in LONG_COUNTS if count <= (reached[point] + 1) // 2] if long else [USUAL_POINTS[point]]
    for number, count in enumerate(counts):
        die(folder / str(number), number + len(point), point, count)


@pytest.mark.promise("synced-data-survives-a-crash", "files-never-show-foreign-bytes", "a-replaced-file-is-whole")
def test_a_mount_killed_at_any_time_keeps_what_was_promised(folder: Path, seed: int) -> None:
    die(folder, seed, None)
