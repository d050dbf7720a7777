# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests do with a file system and its machine."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cas3fs.errors import FileSystemError
from cas3fs.filesystem import FileSystem, Inode
from cas3fs.index import Index
from tests.filesystem.machine import ROOT, Machine

DEADLINE_S = 30


def refused(number: int, action: Callable[..., object], *args: object) -> None:
    with pytest.raises(FileSystemError) as caught:
        action(*args)
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def take_checkpoint(fs: FileSystem, path: Path, *, settled: bool = False, in_place: bool = True) -> None:
    """Writes the image of a checkpoint to a file."""
    with fs.checkpoint(path.with_name("scratch.sqlite"), settled=settled, in_place=in_place) as image:
        content = bytearray(image.size)
        image.read_into(memoryview(content), 0)
        image.check()
    path.write_bytes(content)


@contextmanager
def killed() -> Iterator[None]:
    """A pause in which the program is killed that waits."""
    yield
    raise InterruptedError


def index_of(fs: FileSystem) -> Index:
    """The index that the file system writes, to look into or to break it."""
    with fs.index_transaction() as index:
        return index


def make_file(fs: FileSystem, parent: int, name: bytes, data: bytes = b"") -> Inode:
    inode, handle = fs.create(parent, name, 0o644, os.O_RDWR, ROOT)
    if data:
        fs.write(handle, 0, data)
    fs.release(handle)
    return inode


def names_in(fs: FileSystem, directory: int) -> list[bytes]:
    handle = fs.opendir(directory)
    names = [name for name, _, _ in fs.readdir(handle, 0)]
    fs.releasedir(handle)
    return names


def until(condition: Callable[[], bool]) -> None:
    """Waits for what happens in another thread."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)


def content(fs: FileSystem, name: bytes) -> bytes:
    inode = fs.lookup(1, name)
    handle = fs.open(inode.number, os.O_RDONLY, ROOT)
    data = bytes(fs.read(handle, 0, inode.size + 1))
    fs.release(handle)
    return data


def rewrite(fs: FileSystem, name: bytes, offset: int, data: bytes) -> None:
    handle = fs.open(fs.lookup(1, name).number, os.O_WRONLY, ROOT)
    fs.write(handle, offset, data)
    fs.release(handle)


def remove(fs: FileSystem, name: bytes) -> None:
    """Removes the last name of a file, and has the kernel forget it: nothing of it is kept."""
    number = fs.lookup(1, name).number
    fs.unlink(1, name)
    fs.forget([(number, 100)])


def after_a_crash(machine: Machine, name: bytes) -> bytes:
    other = machine.copy_of_the_disk()
    data = content(other.mount(), name)
    other.close()
    return data


def open_below(folder: Path) -> list[str]:
    """What this process has open in a folder, files without a name as well."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the look itself opens one
            found.append(str(link.readlink()))
    return [target for target in found if target.startswith(f"{folder}/")]


def store_without_commit(fs: FileSystem) -> None:
    """Stores everything, as the storers do between two commits."""
    fs.storer.store_all()


def with_part_of(now: Machine, part: str, before: Machine) -> Machine:
    """The disk of `now`, but for the database `part`, which is as `before` has it: what a crash in between leaves."""
    for path in now.folder.glob(f"{part}*"):
        path.unlink()
    for path in before.folder.glob(f"{part}*"):
        shutil.copy(path, now.folder)
    return now


def on_another_machine(machine: Machine, copy: Path) -> Machine:
    """A machine that has nothing but that copy of the index, and the store."""
    machine.number += 1
    other = Machine(machine.folder.with_name(f"other-{machine.number}"))
    other.store, other.chunker = machine.store, machine.chunker
    other.folder.mkdir()
    shutil.copy(copy, other.folder / "index.sqlite")
    return other


def shown(machine: Machine, copy: Path, name: bytes) -> bytes:
    other = on_another_machine(machine, copy)
    data = content(other.mount(), name)
    other.close()
    return data


def replace_by_rename(fs: FileSystem, name: bytes, data: bytes) -> None:
    make_file(fs, 1, b"temporary", data)
    fs.rename(1, b"temporary", 1, name)


def before_the_instant(fs: FileSystem, action: Callable[[], None]) -> None:
    """Does `action` between the storing and the instant of the next checkpoint."""
    commit_and = fs.commits.commit_and

    def late(pin):  # type: ignore[no-untyped-def]
        action()
        return commit_and(pin)

    fs.commits.commit_and = late  # type: ignore[method-assign]


def chunk_bytes(fs: FileSystem, number: int) -> int:
    """How many bytes of the file lie in chunks, not in holes."""
    return sum(length for _, length in index_of(fs).chunks.bounds(number, 0, 2**62))
