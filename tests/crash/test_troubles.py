# SPDX-License-Identifier: GPL-3.0-or-later
"""Real mounts on which everything fails at random, that are killed at any time: what was promised is kept."""

from pathlib import Path

import pytest

from tests.crash.troubled import TroubledRound

USUAL = ((0, "disk,sqlite,store"), (1, "disk"), (2, "sqlite"), (3, "store"))
LONG_SEEDS, LONG_KINDS = range(40), ("disk", "sqlite", "store", "disk,sqlite", "disk,sqlite,store")
LIFE_S = 2.0

pytestmark = pytest.mark.lasts(300, long_s=1200)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long form has more seeds, of all mixtures."""
    long = metafunc.config.getoption("--long")
    rounds = [(seed, kinds) for seed in LONG_SEEDS for kinds in LONG_KINDS] if long else USUAL
    metafunc.parametrize("seed, kinds", rounds)


@pytest.mark.promise("everything-fails-at-random")
def test_whatever_fails_and_when_it_is_killed_what_was_acknowledged_is_there(
    need_fuse: None, workspace: Path, seed: int, kinds: str
) -> None:
    """What an fsync promised is there, what a flush promised is in the store, no byte is wrong, and fsck names what the
    disk has lost."""
    made = TroubledRound(workspace, seed, kinds)
    try:
        made.begin()
        made.live_in_trouble(LIFE_S)
        made.check()
    finally:
        made.clean_up()
