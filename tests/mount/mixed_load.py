# SPDX-License-Identifier: GPL-3.0-or-later
"""A load for a mount: threads that do what programs do, check every byte, and time every operation.

Each thread has a folder of its own and knows every byte of its files, so it can compare what it reads and lists. Now
and then it lists the folder of another thread, where the only expected errors are those of deleted files. The data of
a thread is bounded, so a mount that grows without end does so by itself.
"""

import contextlib
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

KIB, MIB = 1024, 1024 * 1024
POOL = os.urandom(8 * MIB)
"""The source of some of the data, so that blocks repeat."""
MAX_FILES = {"s": 40, "l": 3}
"""Of one thread, by the first letter of the name: small, large."""
LARGEST_SMALL_BYTES, LARGEST_LARGE_BYTES = 16 * KIB, 4 * MIB
REQUEST_BYTES = 256 * KIB


class Latencies:
    """How often each operation was done, and its longest duration; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: dict[str, int] = defaultdict(int)
        self.worst: dict[str, tuple[float, str]] = {}
        """By operation: the longest duration in seconds, and a description of that operation."""
        self._begin_s = time.monotonic()

    @contextlib.contextmanager
    def of(self, operation: str, path: Path) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            yield
        finally:
            took_s = time.monotonic() - started_s
            with self._lock:
                self.counts[operation] += 1
                if took_s > self.worst.get(operation, (0.0, ""))[0]:
                    when = f"{started_s - self._begin_s:.0f} s after the start"
                    self.worst[operation] = took_s, f"{operation} of {path} took {took_s:.2f} s, {when}"

    def over(self, limit_s: float) -> list[str]:
        """Descriptions of the operations that took longer than `limit_s`."""
        return sorted(line for took_s, line in self.worst.values() if took_s > limit_s)


class LoadThread(threading.Thread):
    """Works in its folder until `stop` is set; `error` is the exception that ended it before, if any."""

    def __init__(self, root: Path, number: int, latencies: Latencies, stop: threading.Event) -> None:
        super().__init__(name=f"load-{number}")
        self.folder = root / f"w{number}"
        self.error: BaseException | None = None
        self.files: dict[str, bytes] = {}
        self._root = root
        self._timed = latencies.of
        self._stop_asked = stop
        self._random = random.Random(number)
        self._serial = 0
        self._steps = {
            self._write_small: 10,
            self._write_large: 1,
            self._append: 4,
            self._overwrite: 4,
            self._truncate: 2,
            self._read_back: 10,
            self._rename: 4,
            self._replace: 3,
            self._unlink: 3,
            self._list: 3,
            self._stat_all: 2,
            self._list_other_folder: 2,
        }

    def run(self) -> None:
        try:
            with self._timed("mkdir", self.folder):
                self.folder.mkdir()
            while not self._stop_asked.is_set():
                [step] = self._random.choices([*self._steps], [*self._steps.values()])
                step()
        except BaseException as error:  # noqa: BLE001
            self.error = error
            self._stop_asked.set()

    # -- steps

    def _write_small(self) -> None:
        self._write(self._new_name("s"), self._content(self._random.randrange(LARGEST_SMALL_BYTES)))

    def _write_large(self) -> None:
        self._write(self._new_name("l"), self._content(self._random.randrange(MIB, LARGEST_LARGE_BYTES)))

    def _append(self) -> None:
        if (name := self._any("s")) is not None:
            self._change(name, len(self.files[name]), self._content(self._random.randrange(1, 8 * KIB)))

    def _overwrite(self) -> None:
        if name := self._any(""):
            self._change(name, self._random.randrange(len(self.files[name]) + 1), self._content(4 * KIB))

    def _truncate(self) -> None:
        if name := self._any("s"):
            size = self._random.randrange(LARGEST_SMALL_BYTES)
            with self._timed("truncate", self.folder / name):
                os.truncate(self.folder / name, size)
            self.files[name] = self.files[name][:size].ljust(size, b"\0")

    def _read_back(self) -> None:
        """Read a file through the mount, not from the kernel's page cache."""
        if name := self._any(""):
            path, expected = self.folder / name, self.files[name]
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                for start in range(0, len(expected) + 1, REQUEST_BYTES):
                    with self._timed("read", path):
                        data = os.pread(file, REQUEST_BYTES, start)
                    assert data == expected[start : start + REQUEST_BYTES], f"{path} differs from {start} on"
            finally:
                os.close(file)

    def _rename(self) -> None:
        if name := self._any(""):
            self._move(name, self._new_name(name[0]))

    def _replace(self) -> None:
        """Save as editors do: write a new file, sync it, and rename it over the old one."""
        if name := self._any("s"):
            new = self._new_name("s")
            self._write(new, self._content(self._random.randrange(LARGEST_SMALL_BYTES)), sync=True)
            self._move(new, name)

    def _unlink(self) -> None:
        if name := self._any(""):
            with self._timed("unlink", self.folder / name):
                (self.folder / name).unlink()
            del self.files[name]

    def _list(self) -> None:
        with self._timed("list", self.folder):
            found = {path.name for path in self.folder.iterdir()}
        assert found == self.files.keys(), f"{self.folder}: {found ^ self.files.keys()}"

    def _stat_all(self) -> None:
        for name, content in self.files.items():
            with self._timed("stat", self.folder / name):
                size = (self.folder / name).stat().st_size
            assert size == len(content), f"{self.folder / name} has {size} bytes, not {len(content)}"

    def _list_other_folder(self) -> None:
        with self._timed("list", self._root):
            others = sorted(self._root.iterdir())
        other = self._random.choice(others)
        for path in list(other.iterdir())[:10]:
            with contextlib.suppress(FileNotFoundError), self._timed("stat", path):
                path.stat()

    # -- parts of steps

    def _write(self, name: str, content: bytes, *, sync: bool = False) -> None:
        path = self.folder / name
        while sum(one[0] == name[0] for one in self.files) >= MAX_FILES[name[0]]:
            self._unlink()
        with self._timed("create", path):
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            for start in range(0, len(content), REQUEST_BYTES):
                with self._timed("write", path):
                    os.pwrite(file, content[start : start + REQUEST_BYTES], start)
            if sync or self._random.random() < 0.1:
                with self._timed("fsync", path):
                    os.fsync(file)
        finally:
            with self._timed("close", path):
                os.close(file)
        self.files[name] = content

    def _change(self, name: str, offset: int, data: bytes) -> None:
        with open(self.folder / name, "r+b", buffering=0) as file, self._timed("write", self.folder / name):
            os.pwrite(file.fileno(), data, offset)
        old = self.files[name]
        self.files[name] = old[:offset] + data + old[offset + len(data) :]

    def _move(self, old: str, new: str) -> None:
        with self._timed("rename", self.folder / old):
            (self.folder / old).rename(self.folder / new)
        self.files[new] = self.files.pop(old)

    def _any(self, kind: str) -> str | None:
        names = [name for name in self.files if name.startswith(kind)]
        return self._random.choice(names) if names else None

    def _new_name(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}{self._serial}"

    def _content(self, size: int) -> bytes:
        """Half of all contents are repetitions, half are new."""
        if self._random.random() < 0.5:
            start = self._random.randrange(len(POOL) - size)
            return POOL[start : start + size]
        return self._random.randbytes(size)
