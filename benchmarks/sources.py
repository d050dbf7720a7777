# SPDX-License-Identifier: GPL-3.0-or-later
"""What the workloads write: random bytes, log text, a real tree of files. Made once in a run, and read from memory
where there is room (``/dev/shm``), so that the disk is left to the file systems.
"""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import trees
from benchmarks.sizes import MIB, PIECE_BYTES

MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
VOCABULARY = 4000
WORDS_IN_LINE = 8
LARGEST_BYTES = 8 * MIB
ROOTS = ("usr/lib/python3*", "usr/share", "usr/include")


class Sources:
    """A folder of things to copy; `close` removes it."""

    def __init__(self, fallback: Path) -> None:
        roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
        self._folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-", dir=MEMORY if roomy else fallback))

    def close(self) -> None:
        """Removes everything."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def random(self, mib: int) -> Path:
        """A file of random bytes."""
        return self._made(f"random-{mib}", lambda path: _write(path, (os.urandom(PIECE_BYTES) for _ in range(mib))))

    def text(self, mib: int) -> Path:
        """A file of the lines of a log, no two of which are the same."""
        return self._made(f"text-{mib}", lambda path: _write(path, log_text(mib * MIB)))

    def tree(self, files: int) -> Path:
        """A folder of real files of this machine and links between them."""
        return self._made(f"tree-{files}", lambda path: _make_tree(path, files))

    def archive(self, files: int) -> Path:
        """The same as a tar file."""
        tree = self.tree(files)
        return self._made(f"tree-{files}.tar", lambda path: _run("tar", "-cf", path, "-C", tree, "."))

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self._folder / name
        if not path.exists():
            make(path)
        return path


def log_text(length_bytes: int) -> Iterator[bytes]:
    """Lines of random words, numbered: they compress about four times."""
    noise = random.Random(7)
    words = ["".join(noise.choices("etaoinshrdlucmfw", k=noise.randint(3, 9))) for _ in range(VOCABULARY)]
    number = 0
    while length_bytes:
        drawn = noise.choices(words, k=WORDS_IN_LINE * 2500)
        lines = []
        for start in range(0, len(drawn), WORDS_IN_LINE):
            number += 1
            request = number * 2654435761 & 0xFFFFFF
            told = " ".join(drawn[start : start + WORDS_IN_LINE])
            lines.append(f"2026-11-22T{number:08d} INFO req={request:06x} {told}\n")
        piece = "".join(lines).encode()[:length_bytes]
        length_bytes -= len(piece)
        yield piece


def _make_tree(path: Path, files: int) -> None:
    roots = [root for pattern in ROOTS for root in sorted(Path("/").glob(pattern))]
    items = trees.choose(roots, files, max_bytes=1 << 40, max_file_bytes=LARGEST_BYTES)
    trees.copy(items, path, lambda item: None)


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
