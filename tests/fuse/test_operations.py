# SPDX-License-Identifier: GPL-3.0-or-later
"""The handlers: request to call, error to errno, and nothing else out of them; without a mount."""

import errno
import logging
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llfuse
import pytest
from llfuse import FUSEError

from cas3fs.errors import BlockMissing, FileSystemError, IndexFull
from cas3fs.filesystem import Inode, VolumeStatistics
from cas3fs.fuse.limiter import BlockingLimiter
from cas3fs.fuse.operations import Operations


def inode(number: int, mode: int = stat.S_IFREG | 0o640) -> Inode:
    return Inode(number, mode, 7, 8, 3, 0, 1000, 1_500_000_001, 2_000_000_002, -1, 0, 0)


class StandIn:
    """Answers as a FileSystem does; `raises` comes out of every call, `calls` has them all."""

    read_only = False

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.raises: BaseException | None = None
        self.now: bytes | int | None = None
        self.is_directory = False

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.raises is not None:
            raise self.raises

    def lookup(self, parent: int, name: bytes) -> Inode:
        self._called("lookup", parent, name)
        found = inode(1 if name == b".." else 42)
        if self.is_directory:
            found.mode = stat.S_IFDIR | 0o755
        return found

    def forget(self, counts: list[tuple[int, int]]) -> None:
        self._called("forget", *counts)

    def getattr(self, number: int) -> Inode:
        self._called("getattr", number)
        return inode(number)

    def setattr(self, number: int, caller: object, **changes: int | None) -> Inode:
        self._called("setattr", number, {name: value for name, value in changes.items() if value is not None})
        return inode(number)

    def read_now(self, handle: int, offset: int, size: int) -> bytes | None:
        self._called("read_now", handle, offset, size)
        return self.now  # type: ignore[return-value]

    def read(self, handle: int, offset: int, size: int, gate: object) -> bytes:
        assert lock_is_free()
        self._called("read", handle, offset, size)
        return b"read"

    def write_now(self, handle: int, offset: int, data: bytes) -> int | None:
        self._called("write_now", handle, offset, data)
        return self.now  # type: ignore[return-value]

    def write(self, handle: int, offset: int, data: bytes, *, wait: bool = True) -> int:
        assert lock_is_free()
        self._called("write" if wait else "write without waiting", handle, offset, data)
        return len(data)

    def fsync(self, handle: int, datasync: bool) -> None:
        assert lock_is_free()
        self._called("fsync", handle, datasync)

    def opendir(self, number: int) -> int:
        self._called("opendir", number)
        return 5

    def readdir(self, handle: int, offset: int) -> Iterator[tuple[bytes, Inode, int]]:
        self._called("readdir", handle, offset)
        for number in range(offset, 3):
            yield b"n%d" % number, inode(100 + number), number + 1

    def getxattr(self, number: int, name: bytes) -> bytes:
        self._called("getxattr", number, name)
        return b"value"

    def setxattr(self, number: int, name: bytes, value: bytes, flags: int) -> None:
        self._called("setxattr", number, name, value, flags)

    def statfs(self) -> VolumeStatistics:
        self._called("statfs")
        return VolumeStatistics(4096, 10, 9, 8, 7, 255)


def lock_is_free() -> bool:
    """Whether another thread could get llfuse's lock now."""
    got: list[bool] = []

    def take() -> None:
        got.append(llfuse.lock.acquire(timeout=5))
        llfuse.lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(10)
    return got == [True]


@pytest.fixture
def fs() -> StandIn:
    return StandIn()


@pytest.fixture
def operations(fs: StandIn) -> Operations:
    return make(fs)


def make(fs: StandIn, **options: Any) -> Operations:
    options = {"capabilities": False, "control": b"/control", "limiter": BlockingLimiter(1, time.monotonic), **options}
    return Operations(fs, **options)  # type: ignore[arg-type]


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(FUSEError) as error:
        yield
    assert error.value.errno == number


def test_an_entry_shows_all_of_the_inode(operations: Operations) -> None:
    entry = operations.lookup(1, b"name", None)
    assert (entry.st_ino, entry.st_mode, entry.st_uid, entry.st_gid, entry.st_nlink) == (42, 0o100640, 7, 8, 3)
    assert (entry.st_size, entry.st_blocks) == (1000, 2)
    assert (entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns) == (1_500_000_001, 2_000_000_002, -1)
    assert entry.entry_timeout > 60


def test_the_kernel_believes_names_for_long_and_attributes_that_may_be_overtaken_for_a_moment(fs: StandIn) -> None:
    for given, names_s, file_s, directory_s in ((3600.0, 3600, 60, 1), (0.5, 0.5, 0.5, 0.5), (0.0, 0, 0, 0)):
        operations = make(fs, timeout_s=given)
        for fs.is_directory, attributes_s in ((False, file_s), (True, directory_s)):
            entry = operations.lookup(1, b"name", None)
            assert (entry.entry_timeout, entry.attr_timeout) == (names_s, attributes_s)


def test_an_absent_name_is_an_entry_that_the_kernel_remembers_as_absent(operations: Operations, fs: StandIn) -> None:
    fs.raises = FileSystemError(errno.ENOENT)
    entry = operations.lookup(1, b"name", None)
    assert entry.st_ino == 0
    assert entry.entry_timeout > 60


def test_other_errors_of_lookup_are_errors(operations: Operations, fs: StandIn) -> None:
    fs.raises = FileSystemError(errno.ENOTDIR)
    with refused(errno.ENOTDIR):
        operations.lookup(1, b"name", None)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (FileSystemError(errno.EPERM), errno.EPERM),
        (BlockMissing("gone"), errno.EIO),
        (IndexFull("full"), errno.ENOSPC),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (KeyError("defect"), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
        (SystemExit(), errno.EIO),
    ],
    ids=repr,
)
def test_whatever_goes_wrong_becomes_an_errno(
    operations: Operations, fs: StandIn, error: BaseException, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    fs.raises = error
    with refused(number):
        operations.getattr(9, None)
    with refused(number), llfuse.lock:
        operations.fsync(9, False)
    with refused(number):
        list(operations.readdir(9, 0))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert bool(told) == (number == errno.EIO)
    assert all("9" in line for line in told)


def test_forget_lets_nothing_out_at_all(operations: Operations, fs: StandIn) -> None:
    fs.raises = FileSystemError(errno.EIO)
    operations.forget([(1, 2)])
    fs.raises = KeyboardInterrupt()
    operations.forget([(3, 4)])
    assert fs.calls == [("forget", (1, 2)), ("forget", (3, 4))]


def test_only_what_is_to_change_is_handed_on(operations: Operations, fs: StandIn) -> None:
    class Fields:
        update_mode = update_uid = update_mtime = True
        update_gid = update_size = update_atime = False

    entry = llfuse.EntryAttributes()
    entry.st_mode, entry.st_uid, entry.st_mtime_ns = stat.S_IFREG | 0o4711, 5, 77
    operations.setattr(3, entry, Fields, None, None)
    assert fs.calls == [("setattr", 3, {"mode": 0o4711, "uid": 5, "mtime_ns": 77})]


def test_what_is_in_memory_is_read_and_written_at_once(operations: Operations, fs: StandIn) -> None:
    fs.now = b""
    with llfuse.lock:
        assert operations.read(1, 0, 10) == b""
    fs.now = 0
    with llfuse.lock:
        assert operations.write(1, 0, b"") == 0
    assert [call[0] for call in fs.calls] == ["read_now", "write_now"]


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_what_has_to_wait_waits_without_the_global_lock(operations: Operations, fs: StandIn) -> None:
    with llfuse.lock:
        assert operations.read(1, 0, 10) == b"read"
        assert operations.write(1, 0, b"data") == 4
        operations.fsync(1, True)
    assert [call[0] for call in fs.calls] == ["read_now", "read", "write_now", "write", "fsync"]


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_a_writer_for_whom_no_slot_comes_free_does_not_wait_in_its_worker(fs: StandIn) -> None:
    operations = make(fs, limiter=BlockingLimiter(0, time.monotonic))
    with llfuse.lock:
        assert operations.write(1, 0, b"data") == 4
    assert [call[0] for call in fs.calls] == ["write_now", "write without waiting"]


def test_the_question_before_every_write_does_not_reach_the_file_system(operations: Operations, fs: StandIn) -> None:
    with refused(errno.ENODATA):
        operations.getxattr(3, b"security.capability", None)
    assert fs.calls == []
    operations.setxattr(3, b"security.capability", b"x", None)
    assert operations.getxattr(3, b"security.capability", None) == b"value"


def test_getxattr_needs_no_context_as_llfuse_gives_none_with_flags(operations: Operations) -> None:
    assert operations.getxattr(3, b"user.x") == b"value"


def test_the_root_tells_where_its_control_socket_is(operations: Operations) -> None:
    assert operations.getxattr(1, b"user.cas3fs.control") == b"/control"
    assert operations.getxattr(2, b"user.cas3fs.control") == b"value"


def test_access_lists_are_refused_so_that_programs_fall_back_to_the_mode(operations: Operations, fs: StandIn) -> None:
    with refused(errno.EOPNOTSUPP):
        operations.setxattr(3, b"system.posix_acl_access", b"x", None)
    with refused(errno.EOPNOTSUPP):
        operations.getxattr(3, b"system.posix_acl_default", None)
    assert fs.calls == []


def test_a_listing_begins_with_the_folder_and_its_parent(operations: Operations) -> None:
    handle = operations.opendir(50, None)
    listed = list(operations.readdir(handle, 0))
    assert [(name, entry.st_ino) for name, entry, _ in listed] == [
        (b".", 50),
        (b"..", 1),
        (b"n0", 100),
        (b"n1", 101),
        (b"n2", 102),
    ]


@pytest.mark.parametrize("begin", range(6))
def test_a_listing_goes_on_at_any_of_its_offsets(operations: Operations, begin: int) -> None:
    handle = operations.opendir(50, None)
    names = [name for name, _, _ in operations.readdir(handle, 0)]
    offsets = [0, *(following for _, _, following in operations.readdir(handle, 0))]
    assert [name for name, _, _ in operations.readdir(handle, offsets[begin])] == names[begin:]


def test_the_parent_that_a_listing_looks_up_is_forgotten_again(operations: Operations, fs: StandIn) -> None:
    next(iter(list(operations.readdir(operations.opendir(50, None), 0))))
    assert ("lookup", 50, b"..") in fs.calls
    assert ("forget", (1, 1)) in fs.calls


def test_owners_are_shown_as_asked_for(fs: StandIn) -> None:
    entry = make(fs, uid=1000).getattr(3, None)
    assert (entry.st_uid, entry.st_gid) == (1000, 8)


def test_close_has_nothing_to_wait_for(operations: Operations, fs: StandIn) -> None:
    with refused(errno.ENOSYS):
        operations.flush(1)
    assert fs.calls == []


def test_room_is_told_in_full(operations: Operations) -> None:
    told = operations.statfs(None)
    assert (told.f_bsize, told.f_frsize, told.f_blocks, told.f_bavail, told.f_ffree) == (4096, 4096, 10, 9, 7)
    assert told.f_namemax == 255


def test_every_handler_of_the_binding_is_there_or_never_asked_for() -> None:
    never = {"access", "destroy", "init", "stacktrace"}
    ours = {name for name in vars(Operations) if not name.startswith("_")}
    theirs = {name for name in vars(llfuse.Operations) if not name.startswith("_")}
    assert theirs - ours == never
