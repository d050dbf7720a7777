# SPDX-License-Identifier: GPL-3.0-or-later
"""The data that workloads write: random bytes, log text, a real tree of files.

It is made once in a run, and kept in memory (``/dev/shm``) where there is enough, so that reading it does not use the
disk.
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
NEEDED_BYTES = 6 << 30
VOCABULARY = 4000
WORDS_IN_LINE = 8
LARGEST_BYTES = 8 * MIB
ROOTS = ("usr/lib/python3*", "usr/share", "usr/include")


class Sources:
    """A folder of source data; `close` removes it."""

    def __init__(self, fallback: Path) -> None:
        has_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > NEEDED_BYTES
        self._folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-", dir=MEMORY if has_memory else fallback))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def random(self, mib: int) -> Path:
        """A file of random bytes."""
        return self._made(f"random-{mib}", lambda path: _write(path, (os.urandom(PIECE_BYTES) for _ in range(mib))))

    def text(self, mib: int) -> Path:
        """A file of log lines, all of them different."""
        return self._made(f"text-{mib}", lambda path: _write(path, log_text(mib * MIB)))

    def tree(self, files: int) -> Path:
        """A folder of files of this machine, with their links."""
        return self._made(f"tree-{files}", lambda path: _make_tree(path, files))

    def archive(self, files: int) -> Path:
        """The same tree as a tar file."""
        tree = self.tree(files)
        return self._made(f"tree-{files}.tar", lambda path: _run("tar", "-cf", path, "-C", tree, "."))

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self._folder / name
        if not path.exists():
            make(path)
        return path


def log_text(length_bytes: int) -> Iterator[bytes]:
    """Numbered lines of random words, which compress about four times."""
    noise = random.Random(7)
    words = ["".join(noise.choices("etaoinshrdlucmfw", k=noise.randint(3, 9))) for _ in range(VOCABULARY)]
    number = 0
    while length_bytes:
        drawn = noise.choices(words, k=WORDS_IN_LINE * 2500)
        lines = []
        for start in range(0, len(drawn), WORDS_IN_LINE):
            number += 1
            request = number * 2654435761 & 0xFFFFFF
            message = " ".join(drawn[start : start + WORDS_IN_LINE])
            lines.append(f"2026-11-22T{number:08d} INFO req={request:06x} {message}\n")
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
