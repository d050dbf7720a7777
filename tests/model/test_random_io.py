# SPDX-License-Identifier: GPL-3.0-or-later
"""Random I/O on a real mount, by several threads on files of their own, with remounts, compared with local files."""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount
from tests.model.fsx import Exerciser

FILES = 4


@pytest.fixture
def mount(need_fuse: None, cas3fs_mount: TemporaryMount) -> TemporaryMount:
    return cas3fs_mount


MakeExerciser = Callable[[str, int], Exerciser]
"""Of a file with that name, and a seed."""


@pytest.fixture
def exerciser(mount: TemporaryMount, frontend: str, tmp_path: Path) -> MakeExerciser:
    return lambda name, seed: Exerciser(mount / name, tmp_path / name, seed, allocates=frontend != "llfuse")


@pytest.mark.promise("a-mount-behaves-like-a-local-file-system")
@pytest.mark.lasts(300, long_s=6 * 3600)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="plain"),
        pytest.param(("--writeback",), id="writeback", marks=pytest.mark.frontend("kernel", lacks="--writeback")),
    ],
)
def test_random_io_matches_a_local_file(
    mount: TemporaryMount, exerciser: MakeExerciser, long: bool, options: tuple[str, ...]
) -> None:
    """The long form has a million steps; a failure reports the seed."""
    mount.again(*options)
    rounds, steps = (50, 5_000) if long else (3, 1_000)
    seed = random.randrange(2**32)
    files = [exerciser(f"file{number}", seed + number) for number in range(FILES)]
    with ThreadPoolExecutor(FILES) as threads:
        for turn in range(rounds):
            list(threads.map(lambda one: one.run(steps), files))
            for one in files:
                one.close()
            mount.again(*options, keep_cache=turn % 2 == 0, keep_state=turn % 3 == 0)
            for one in files:
                one.open()
                one.verify()
    assert sum(one.count for one in files) == rounds * steps * FILES
    for one in files:
        one.close()


@pytest.mark.promise("a-mount-behaves-like-a-local-file-system")
@pytest.mark.lasts(120, long_s=3600)
def test_random_io_matches_a_local_file_while_it_is_stored(
    mount: TemporaryMount, exerciser: MakeExerciser, long: bool
) -> None:
    mount.again("--snapshot-interval", "100ms", "--cache-size", "1MiB")
    one = exerciser("file", random.randrange(2**32))
    with ThreadPoolExecutor(1) as storing:
        for _ in range(100 if long else 2):
            flushed = storing.submit(mount.flush)
            while not flushed.done():  # it ends even though the file keeps changing
                one.run(50)
            flushed.result()
    one.verify()
    one.close()


@pytest.mark.frontend("kernel", "llfuse")
@pytest.mark.promise("a-mount-behaves-like-a-local-file-system")
@pytest.mark.lasts(120, long_s=3600)
def test_threads_writing_parts_of_one_file_do_not_interfere(mount: TemporaryMount, long: bool) -> None:
    """Each thread has every fourth part of the file; the length of a part is no multiple of a page."""
    rounds, stretch, stretches = (20_000 if long else 500), 5_003, 100

    def work(mine: int) -> None:
        chance = random.Random(mine)
        held = {number: bytes(stretch) for number in range(mine, stretches, FILES)}
        with open(mount / "file", "r+b", buffering=0) as file:
            for _ in range(rounds):
                number = chance.choice(list(held))
                if chance.random() < 0.5:
                    held[number] = chance.randbytes(1) * stretch
                    assert os.pwrite(file.fileno(), held[number], number * stretch) == stretch
                assert os.pread(file.fileno(), stretch, number * stretch) == held[number]
            for number, data in held.items():
                assert os.pread(file.fileno(), stretch, number * stretch) == data

    (mount / "file").write_bytes(bytes(stretch * stretches))
    with ThreadPoolExecutor(FILES + 1) as threads:
        works = [threads.submit(work, mine) for mine in range(FILES)]
        threads.submit(mount.flush).result()
        for one in works:
            one.result()
