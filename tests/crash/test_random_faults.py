# SPDX-License-Identifier: GPL-3.0-or-later
"""Real mounts with random faults everywhere, killed at any time: all promises are kept."""

from pathlib import Path

import pytest

from tests.crash.faulty_round import FaultyRound

DEFAULT_ROUNDS = ((0, "disk,sqlite,store"), (1, "disk"), (2, "sqlite"), (3, "store"))
LONG_SEEDS, LONG_KINDS = range(40), ("disk", "sqlite", "store", "disk,sqlite", "disk,sqlite,store")
LIFE_S = 2.0

pytestmark = pytest.mark.lasts(300, long_s=1200)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long form has more seeds, of all mixtures."""
    long = metafunc.config.getoption("--long")
    rounds = [(seed, kinds) for seed in LONG_SEEDS for kinds in LONG_KINDS] if long else DEFAULT_ROUNDS
    metafunc.parametrize("seed, kinds", rounds)


@pytest.mark.promise("everything-fails-at-random")
def test_acknowledged_data_survives_random_faults_and_kills(
    need_fuse: None, encryption: str, workspace: Path, seed: int, kinds: str
) -> None:
    """Synced data is there, flushed data is in the store, no byte is wrong, and fsck reports what the disk has lost."""
    made = FaultyRound(workspace, seed, kinds)
    try:
        made.make_published_volume()
        made.live_with_faults(LIFE_S)
        made.check()
    finally:
        made.clean_up()
