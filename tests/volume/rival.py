# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that opens a volume as its writer whenever it is told to: ``python rival.py URL FOLDER``.

It opens, as a mount does before it reaches for the kernel, on each line that it reads, and answers ``held`` (by
another) or ``won``. Who won holds the volume until the next line: ``leave``, and it releases it, or a name, and it
first writes a file of that name and publishes it. Then it answers with that line.
"""

import os
import sys
from pathlib import Path

from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.errors import EpochHeld
from cas3fs.filesystem import ROOT, Owner
from cas3fs.volume.opening import OpenVolume, open_writer


def main(url: str, folder: Path) -> None:
    """Lives until standard input ends."""
    say("ready")
    while sys.stdin.readline():
        try:
            volume = open_writer(
                StoreSettings(url), WriterSettings(cache_size_bytes=0), LocalFolders(folder, folder / "c")
            )
        except EpochHeld:
            say("held")
            continue
        try:
            volume.start(0)
            say("won")
            told = sys.stdin.readline().strip()
            if told == "leave":
                volume.release_unserved()
            else:
                write(volume, told)
                volume.finish()
        finally:
            volume.close()
        say(told)


def write(volume: OpenVolume, name: str) -> None:
    """A file that holds its name."""
    fs = volume.filesystem
    _, handle = fs.create(ROOT, name.encode(), 0o644, os.O_WRONLY, Owner())
    fs.write(handle, 0, name.encode())
    fs.release(handle)


def say(word: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
