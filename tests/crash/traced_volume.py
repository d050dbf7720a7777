# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a volume that is traced: ``python -m tests.crash.traced_volume FOLDER SEED``.

It writes what it did to FOLDER/expected, and to FOLDER/t/acknowledged, line by line, what had succeeded at which time,
so that every line is in the trace between the operations before and after it.
"""

import os
import pickle
import sys
from functools import partial
from pathlib import Path

from tests.crash.crash_round import FLUSH, GC, PRUNE, CrashRound


def main(folder: Path, seed: int) -> None:
    """Make a volume and use it in many ways."""
    marks = os.open(folder / "t" / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def done(line: str) -> None:
        os.write(marks, f"{line}\n".encode())

    round_ = CrashRound(folder, seed, done)
    try:
        round_.make()
        round_.mount()
        round_.programs.prepare(round_.top)
        round_.programs.start(round_.top)
        for request in (FLUSH, FLUSH, GC, PRUNE, FLUSH):
            round_.await_operations(12)
            if request is PRUNE:
                round_.request(PRUNE)
                continue
            round_.publish(partial(round_.request, request), exactly=round_.exactly)
            done(f"published {round_.newest()}")
        round_.await_operations(12)
        round_.programs.stop()
        round_.programs.sync(round_.top)
        round_.kill()
        round_.clean_up()
        round_.mount()  # which recovers unstored data
        round_.programs.start(round_.top)
        round_.await_operations(12)
        round_.programs.stop()
        if seed % 4 < 2:
            round_.publish(round_.unmount, exactly=round_.exactly)
            done(f"published {round_.newest()}")
    finally:
        round_.clean_up()
    (folder / "expected").write_bytes(pickle.dumps((round_.programs.expected, round_.published)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
