# SPDX-License-Identifier: GPL-3.0-or-later
"""A power loss: synced data is there, and of the rest any part; the volume keeps its promises.

The life of a volume (module `traced_volume`) is traced once: every write, sync, rename and removal in the folders of
state and store. The trace is replayed on the simulated disk up to many instants, at each of which power is lost in one
of several ways, and the result is checked.
"""

import pickle
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.crash_round import assert_none
from tests.crash.inspection import export_as_writer, export_from_store, folders_of, forget_location, fsck_findings
from tests.crash.programs import ExpectedState, Marks
from tests.crash.simulated_disk import SimulatedDisk, Unsynced
from tests.crash.tracing import TracedOperation, operations, traced

DEFAULT_LOSSES, LONG_LOSSES = 30, 250
FOLDERS = ("s", "v", "t")  # state, store, and acknowledgements
DEFAULT_SEEDS, LONG_SEEDS = 1, 6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(LONG_SEEDS if metafunc.config.getoption("--long") else DEFAULT_SEEDS))


class Acknowledged:
    """What had been acknowledged to programs by an instant."""

    def __init__(self) -> None:
        self.synced: Marks = {}
        self.published = ""

    def take(self, lines: bytes) -> None:
        for line in lines.decode().splitlines():
            what, *words = line.split()
            if what == "published":
                self.published = words[0]
            else:
                self.synced |= {words[0]: int(words[1]), words[2]: int(words[3])}


@pytest.mark.promise("staged-bytes-outlive-their-index-entry", "synced-data-survives-a-power-loss")
@pytest.mark.lasts(300, long_s=3600)
def test_synced_data_survives_a_power_loss_at_any_instant(
    need_fuse: None, encryption: str, workspace: Path, seed: int, long: bool
) -> None:
    (workspace / "t").mkdir()
    traced([sys.executable, "-m", "tests.crash.traced_volume", str(workspace), str(seed)], workspace / "trace")
    expected, published = pickle.loads((workspace / "expected").read_bytes())
    done = list(operations(workspace / "trace", [workspace / name for name in FOLDERS]))
    shutil.rmtree(workspace / "s")
    shutil.rmtree(workspace / "v")
    losses = dict(chosen(done, expected, LONG_LOSSES if long else DEFAULT_LOSSES, seed))
    assert len(losses) == (LONG_LOSSES if long else DEFAULT_LOSSES)
    disk, acknowledged = SimulatedDisk(workspace, FOLDERS), Acknowledged()
    for number, operation in enumerate(done):
        if operation.path == f"{workspace}/t/acknowledged":
            acknowledged.take(operation.data)
        else:
            disk.do(operation)
        if number in losses:
            image = workspace / "image"
            disk.lose_power(image, losses[number], number)
            try:
                check(image, expected, acknowledged, published)
            except BaseException as error:
                error.add_note(f"after operation {number} of {len(done)}, {operation.call} {operation.path}, of what "
                               f"was not synced the disk has kept {losses[number].value}")  # fmt: skip
                raise
            shutil.rmtree(image)


def chosen(
    done: list[TracedOperation], expected: ExpectedState, count: int, seed: int
) -> Iterator[tuple[int, Unsynced]]:
    """Instants, half of them just before or after a wait for the disk, and what is lost at each."""
    chance = random.Random(seed)
    first = beginning(done, expected)
    waits = [n for n, one in enumerate(done) if n > first and one.call in ("fsync", "fdatasync", "rename", "link")]
    numbers: set[int] = set()
    while len(numbers) < count:
        numbers.add(chance.choice(waits) - chance.randrange(2) if chance.random() < 0.5 else
                    chance.randrange(first, len(done)))  # fmt: skip
    for place, number in enumerate(sorted(numbers)):
        yield number, list(Unsynced)[place % len(Unsynced)]


def beginning(done: list[TracedOperation], expected: ExpectedState) -> int:
    """The first instant at which every file had been synced once."""
    acknowledged = Acknowledged()
    wanted = set(expected.now())
    for number, operation in enumerate(done):
        if operation.path.endswith("/t/acknowledged"):
            acknowledged.take(operation.data)
            if set(acknowledged.synced) == wanted:
                return number
    raise AssertionError("nothing was synced")


def check(
    image: Path, expected: ExpectedState, acknowledged: Acknowledged, published: dict[str, tuple[Marks, object]]
) -> None:
    """Check the machine and its store after a power loss."""
    url, machine = (image / "v").as_uri(), folders_of(image)
    forget_location(machine.state_dir)
    newest = export_from_store(url, folders_of(image / "other"), image / "stored")
    assert (newest or "") >= acknowledged.published
    if newest in published:
        assert_none(expected.problems(image / "stored", published[newest][0]))
    assert_none(fsck_findings(url, machine))
    export_as_writer(url, machine, image / "out")
    assert_none(expected.problems(image / "out", acknowledged.synced))
    assert_none(fsck_findings(url, machine, verify_data=True))
