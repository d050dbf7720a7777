# SPDX-License-Identifier: GPL-3.0-or-later
"""``./dev bench snapshots``: the cost of snapshots of volumes with many files, compared with goals.

A volume is made in a folder, and its index is filled by bulk SQL: each file has a name, a chunk and a block; no block
is read, so the packs do not exist. Then the volume is mounted and used. Sizes are those of the objects that a snapshot
added; seconds are those of a request to the control socket; a stall is the longest wait of a kernel request while a
snapshot is taken.
"""

import argparse
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.results import Measurement
from benchmarks.subjects import peak_memory_kib
from cas3fs.commands.mkfs import create_volume
from cas3fs.config import LocalFolders, SecretSettings, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.control import ControlClient
from cas3fs.index.checksums import RECOMPUTE_CHECKSUMS
from cas3fs.volume.opening import open_writer

KIB, MIB = 1 << 10, 1 << 20
FILES_IN_FOLDER = 1000
CHANGED_FILES = 1000
_FIRST_INODE = 10
NO_SECRETS: Final = SecretSettings()


class SnapshotVolume:
    """A volume with so many files in a folder, mounted by the command line."""

    def __init__(self, folder: Path, files: int, secrets: SecretSettings = NO_SECRETS) -> None:
        self.folder = folder
        self.files = files
        for name in ("v", "m"):
            (folder / name).mkdir()
        self.settings = StoreSettings((folder / "v").as_uri(), secrets=secrets)
        self.places = LocalFolders(folder / "s", folder / "c")
        self.uuid = str(create_volume(self.settings, VolumeSettings(encrypt=secrets.is_given))["uuid"])
        self.mountpoint = folder / "m"

    @property
    def state(self) -> Path:
        return self.places.state_of(self.uuid)

    def fill(self) -> None:
        """Leave the state directory like a mount that created all files and was killed."""
        volume = open_writer(self.settings, WriterSettings(cache_size_bytes=0), self.places)
        volume.start(0)
        volume.finish()
        volume.close()
        with closing(sqlite3.connect(self.state / "index.sqlite")) as connection, connection:
            fill_index(connection, self.files)
            connection.execute("DELETE FROM volume_state WHERE key = 'clean'")

    def command(self, *words: str | Path) -> None:
        places = ("--state-dir", str(self.places.state_dir), "--cache-dir", str(self.places.cache_dir))
        status = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-m", "cas3fs", *map(str, words), *places])
        if status:
            raise SystemExit(f"cas3fs {words[0]} failed")

    def mount(self) -> None:
        self.command("mount", self.settings.url, self.mountpoint, "--snapshot-interval", "0")

    def umount(self) -> None:
        self.command("umount", self.mountpoint)

    def request(self, verb: str) -> Mapping[str, object]:
        with ControlClient(self.state / "control.sock") as client:
            return client.call(verb)

    def pid(self) -> int:
        return int(str(self.request("status")["pid"]))

    def objects(self) -> dict[Path, int]:
        """The sizes of all objects of snapshots: pages and manifests."""
        kinds = ("pages", "snapshots")
        found = (path for kind in kinds for path in (self.folder / "v" / kind).glob("*"))
        return {path: path.stat().st_size for path in found}


def fill_index(connection: sqlite3.Connection, files: int) -> None:
    """Add folders of a thousand files, each with a name, a chunk and a block of random hash."""
    noise = random.Random(11)
    folders = -(-files // FILES_IN_FOLDER)
    first = _FIRST_INODE + folders
    directory, regular = 0o040755, 0o100644
    connection.executemany(
        "INSERT INTO inodes VALUES (?, ?, 0, 0, 2, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0)",
        ((_FIRST_INODE + number, directory) for number in range(folders)),
    )
    connection.executemany(
        "INSERT INTO dentries (parent, name, inode) VALUES (1, ?, ?)",
        ((b"folder%06d" % number, _FIRST_INODE + number) for number in range(folders)),
    )
    connection.executemany(
        "INSERT INTO inodes VALUES (?, ?, 0, 0, 1, 0, 0, 4096, ?, ?, ?, ?, 1, 0, 0, 0)",
        ((first + number, regular, *[10**18 + number * 12345] * 4) for number in range(files)),
    )
    connection.executemany(
        "INSERT INTO dentries (parent, name, inode) VALUES (?, ?, ?)",
        ((_FIRST_INODE + number // FILES_IN_FOLDER, b"file%07d" % number, first + number) for number in range(files)),
    )
    packs = -(-files // 4000)
    connection.executemany(
        "INSERT INTO packs (id, name, size, born) VALUES (?, ?, 16000000, 1)",
        ((number + 1, f"00000001/{noise.randbytes(32).hex()}") for number in range(packs)),
    )
    connection.executemany(
        "INSERT INTO blocks (id, hash, pack, offset, stored_length, plain_length) VALUES (?, ?, ?, ?, 4000, 4096)",
        ((number + 1, noise.randbytes(32), number // 4000 + 1, number % 4000 * 4000) for number in range(files)),
    )
    connection.executemany(
        "INSERT INTO chunks VALUES (?, 0, 4096, ?, 0)", ((first + number, number + 1) for number in range(files))
    )
    connection.execute(RECOMPUTE_CHECKSUMS.text)


@contextmanager
def watched(path: Path) -> Iterator[Callable[[], float]]:
    """Repeat a request that the kernel does not cache; yields a function for the longest wait in ms."""
    stopping, longest_s = threading.Event(), [0.0]

    def watch() -> None:
        while not stopping.wait(0.002):
            started_s = time.perf_counter()
            os.listxattr(path)
            longest_s[0] = max(longest_s[0], time.perf_counter() - started_s)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: longest_s[0] * 1000
    finally:
        stopping.set()
        thread.join()


def seconds(action: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s


def current_memory_kib(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0])


class Goals(NamedTuple):
    """The upper limits of the figures; None: no limit."""

    first_s: float | None = None
    next_s: float | None = None
    many_s: float | None = None
    stall_ms: float | None = None
    restore_s: float | None = None
    local_mount_s: float | None = None
    memory_mib: float | None = None
    one_kib: float | None = None
    one_puts: float | None = None
    many_mib: float | None = None


GOALS: Final[Mapping[int, Goals]] = {
    200_000: Goals(restore_s=0.5, one_kib=100, one_puts=2, many_mib=2),
    1_000_000: Goals(first_s=6, next_s=0.2, many_s=0.5, stall_ms=20, restore_s=6, local_mount_s=1, memory_mib=200),
}


def measure(volume: SnapshotVolume, goals: Goals) -> Iterator[Measurement]:
    """Use a volume with many files, and measure each step."""
    yield Measurement("index filled by bulk SQL", seconds(volume.fill), "s")
    yield Measurement("size of the index", (volume.state / "index.sqlite").stat().st_size / MIB, "MiB")
    yield Measurement("mount, with the local index", seconds(volume.mount), "s", goals.local_mount_s)
    pid, stall = volume.pid(), volume.mountpoint
    idle_kib = current_memory_kib(pid)
    yield Measurement("memory of the idle mount", idle_kib / KIB, "MiB")
    with watched(stall) as longest_ms:
        yield from snapshot(volume, "first snapshot", goals.first_s, None, None)
        (volume.mountpoint / "folder000007" / "file0007007").write_bytes(os.urandom(3000))
        volume.request("store")
        yield from snapshot(volume, "one file changed", goals.next_s, goals.one_kib, goals.one_puts)
        for number in range(CHANGED_FILES):
            (volume.mountpoint / "folder000011" / f"file{11 * FILES_IN_FOLDER + number:07d}").write_bytes(
                os.urandom(3000)
            )
        volume.request("store")
        yield from snapshot(volume, "1,000 files changed", goals.many_s, goals.many_mib and goals.many_mib * KIB, None)
        hashes = next(volume.state.glob("index.sqlite-hashes*"))
        yield Measurement("size of the database of hashes", hashes.stat().st_size / MIB, "MiB")
        yield Measurement("longest stall of a request", longest_ms(), "ms", goals.stall_ms)
    added_mib = (peak_memory_kib(pid) - idle_kib) / KIB
    yield Measurement("peak memory over the idle mount", added_mib, "MiB", goals.memory_mib)
    yield Measurement("umount", seconds(volume.umount), "s")
    yield Measurement("mount, with the local index", seconds(volume.mount), "s", goals.local_mount_s)
    volume.umount()
    shutil.rmtree(volume.places.state_dir)
    yield Measurement("mount, from the store alone", seconds(volume.mount), "s", goals.restore_s)
    yield Measurement("peak memory of that mount", peak_memory_kib(volume.pid()) / KIB, "MiB")
    volume.umount()


def snapshot(
    volume: SnapshotVolume, title: str, goal_s: float | None, goal_kib: float | None, goal_puts: float | None
) -> Iterator[Measurement]:
    """Take a snapshot and measure its cost."""
    before = volume.objects()
    yield Measurement(f"{title}: time", seconds(lambda: volume.request("flush")), "s", goal_s)
    added = {path: size for path, size in volume.objects().items() if path not in before}
    yield Measurement(f"{title}: stored", sum(added.values()) / KIB, "KiB", goal_kib)
    yield Measurement(f"{title}: PUTs", len(added), "", goal_puts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="./dev bench snapshots", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=list(GOALS), help="numbers of files of the volumes")
    options = parser.parse_args(arguments)
    missed = False
    for files in options.files:
        folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
        try:
            figures = list(measure(SnapshotVolume(folder, files), GOALS.get(files, Goals())))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        Console(width=100).print(table(f"{files:,} files", figures))
        missed = missed or any(one.goal is not None and one.figure > one.goal for one in figures)
    return int(missed)


def table(title: str, figures: Sequence[Measurement]) -> Table:
    """The table of figures."""
    made = Table("figure", "measured", "at most", title=title)
    for one in figures:
        goal = "" if one.goal is None else f"{one.goal:,.1f} {one.unit}" + (" MISSED" if one.figure > one.goal else "")
        made.add_row(one.what, f"{one.figure:,.2f} {one.unit}", goal)
    return made


if __name__ == "__main__":
    sys.exit(main())
