# SPDX-License-Identifier: GPL-3.0-or-later
"""Power is lost: what the disk was told to sync is there, of the rest some; the volume keeps what was promised.

The life of a volume (module `powered`) is traced once: every write, sync, renaming and removal in the folders of state
and store. Then a disk that forgets (module `disk`) is led through it to many instants, at each of which power is lost
in one of several ways, and what is left is looked at.
"""

import pickle
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.disk import Disk, Luck
from tests.crash.driver import none_of
from tests.crash.load import Account, Marks
from tests.crash.looking import findings, forget_places, places, tree_of_machine, tree_of_store
from tests.crash.tracing import Operation, operations, traced

USUAL_LOSSES, LONG_LOSSES = 30, 250
FOLDERS = ("s", "v", "t")  # state, store, and what was told
USUAL_SEEDS, LONG_SEEDS = 1, 6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(LONG_SEEDS if metafunc.config.getoption("--long") else USUAL_SEEDS))


class Acknowledged:
    """What programs had been told by an instant."""

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
def test_what_was_synced_survives_a_loss_of_power_at_any_instant(
    need_fuse: None, workspace: Path, seed: int, long: bool
) -> None:
    (workspace / "t").mkdir()
    traced([sys.executable, "-m", "tests.crash.powered", str(workspace), str(seed)], workspace / "trace")
    account, published = pickle.loads((workspace / "load").read_bytes())
    done = list(operations(workspace / "trace", [workspace / name for name in FOLDERS]))
    shutil.rmtree(workspace / "s")
    shutil.rmtree(workspace / "v")
    losses = dict(chosen(done, account, LONG_LOSSES if long else USUAL_LOSSES, seed))
    assert len(losses) == (LONG_LOSSES if long else USUAL_LOSSES)
    disk, told = Disk(workspace, FOLDERS), Acknowledged()
    for number, operation in enumerate(done):
        if operation.path == f"{workspace}/t/acknowledged":
            told.take(operation.data)
        else:
            disk.do(operation)
        if number in losses:
            image = workspace / "image"
            disk.lose_power(image, losses[number], number)
            try:
                check(image, account, told, published)
            except BaseException as error:
                error.add_note(f"after operation {number} of {len(done)}, {operation.call} {operation.path}, of what "
                               f"was not synced the disk has {losses[number].value}")  # fmt: skip
                raise
            shutil.rmtree(image)


def chosen(done: list[Operation], account: Account, count: int, seed: int) -> Iterator[tuple[int, Luck]]:
    """Instants, half of them just before or after the disk was waited for, and how much is lost at each."""
    chance = random.Random(seed)
    first = beginning(done, account)
    waits = [n for n, one in enumerate(done) if n > first and one.call in ("fsync", "fdatasync", "rename", "link")]
    numbers: set[int] = set()
    while len(numbers) < count:
        numbers.add(chance.choice(waits) - chance.randrange(2) if chance.random() < 0.5 else
                    chance.randrange(first, len(done)))  # fmt: skip
    for place, number in enumerate(sorted(numbers)):
        yield number, list(Luck)[place % len(Luck)]


def beginning(done: list[Operation], account: Account) -> int:
    """The first instant at which every file was synced once."""
    told = Acknowledged()
    wanted = set(account.now())
    for number, operation in enumerate(done):
        if operation.path.endswith("/t/acknowledged"):
            told.take(operation.data)
            if set(told.synced) == wanted:
                return number
    raise AssertionError("nothing was synced")


def check(image: Path, account: Account, told: Acknowledged, published: dict[str, tuple[Marks, object]]) -> None:
    """What is left on a machine, and in its store."""
    url, machine = (image / "v").as_uri(), places(image)
    forget_places(machine.state_dir)
    newest = tree_of_store(url, places(image / "other"), image / "stored")
    assert (newest or "") >= told.published
    if newest in published:
        none_of(account.problems(image / "stored", published[newest][0]))
    none_of(findings(url, machine))
    tree_of_machine(url, machine, image / "out")
    none_of(account.problems(image / "out", told.synced))
    none_of(findings(url, machine, verify_data=True))
