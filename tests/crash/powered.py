# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a volume that is traced: ``python -m tests.crash.powered FOLDER SEED``.

It leaves what it did in FOLDER/load, and in FOLDER/t/acknowledged, line by line, what had come to an end at which time:
so every line stands in the trace between the operations before and after it.
"""

import os
import pickle
import sys
from functools import partial
from pathlib import Path

from tests.crash.driver import FLUSH, GC, PRUNE, Round


def main(folder: Path, seed: int) -> None:
    """Makes a volume and does all sorts of things with it."""
    marks = os.open(folder / "t" / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def done(line: str) -> None:
        os.write(marks, f"{line}\n".encode())

    round_ = Round(folder, seed, done)
    try:
        round_.make()
        round_.mount()
        round_.load.begin(round_.top)
        round_.load.start(round_.top)
        for request in (FLUSH, FLUSH, GC, PRUNE, FLUSH):
            round_.await_operations(12)
            if request is PRUNE:
                round_.ask(PRUNE)
                continue
            round_.publish(partial(round_.ask, request), exactly=round_.exactly)
            done(f"published {round_.newest()}")
        round_.await_operations(12)
        round_.load.stop()
        round_.load.sync(round_.top)
        round_.kill()
        round_.clean_up()
        round_.mount()  # which takes up what was not stored
        round_.load.start(round_.top)
        round_.await_operations(12)
        round_.load.stop()
        if seed % 4 < 2:
            round_.publish(round_.unmount, exactly=round_.exactly)
            done(f"published {round_.newest()}")
    finally:
        round_.clean_up()
    (folder / "load").write_bytes(pickle.dumps((round_.load.account, round_.published)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
