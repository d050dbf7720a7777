# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests through the llfuse front-end and the handlers, without a mount: calls, replies and errnos."""

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
from cas3fs.fuse.attribute_view import AttributeView
from cas3fs.fuse.handlers import RequestHandlers
from cas3fs.fuse.limiter import BlockingLimiter
from cas3fs.fuse.llfuse_frontend.operations import LlfuseOperations
from tests.fuse.stand_in import StandIn


def lock_is_free() -> bool:
    """Whether another thread can take the lock of llfuse now."""
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
    return StandIn(lock_is_free)


@pytest.fixture
def operations(fs: StandIn) -> LlfuseOperations:
    return make(fs)


def make(fs: StandIn, limiter: BlockingLimiter | None = None, **view: Any) -> LlfuseOperations:
    handlers = RequestHandlers(
        fs,  # type: ignore[arg-type]
        limiter=limiter or BlockingLimiter(1, time.monotonic),
        control=b"/control",
        capabilities=False,
    )
    return LlfuseOperations(handlers, AttributeView(**view))


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(FUSEError) as error:
        yield
    assert error.value.errno == number


def test_an_entry_has_all_attributes_of_the_inode(operations: LlfuseOperations) -> None:
    entry = operations.lookup(1, b"name", None)
    assert (entry.st_ino, entry.st_mode, entry.st_uid, entry.st_gid, entry.st_nlink) == (42, 0o100640, 7, 8, 3)
    assert (entry.st_size, entry.st_blocks) == (1000, 2)
    assert (entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns) == (1_500_000_001, 2_000_000_002, -1)
    assert entry.entry_timeout > 60


def test_timeouts_of_names_and_attributes(fs: StandIn) -> None:
    """Names stay valid for long; attributes that a concurrent change may overtake, only for a moment."""
    for given, names_s, file_s, directory_s in ((3600.0, 3600, 60, 1), (0.5, 0.5, 0.5, 0.5), (0.0, 0, 0, 0)):
        operations = make(fs, timeout_s=given)
        for fs.is_directory, attributes_s in ((False, file_s), (True, directory_s)):
            entry = operations.lookup(1, b"name", None)
            assert (entry.entry_timeout, entry.attr_timeout) == (names_s, attributes_s)


def test_lookup_of_an_absent_name_replies_with_inode_0(operations: LlfuseOperations, fs: StandIn) -> None:
    """The kernel then remembers the name as absent."""
    fs.is_absent = True
    entry = operations.lookup(1, b"name", None)
    assert entry.st_ino == 0
    assert entry.entry_timeout > 60


def test_lookup_raises_other_errors(operations: LlfuseOperations, fs: StandIn) -> None:
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
def test_every_exception_becomes_an_errno(
    operations: LlfuseOperations, fs: StandIn, error: BaseException, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    operations.opendir(9, None)
    fs.raises = error
    with refused(number):
        operations.getattr(9, None)
    with refused(number), llfuse.lock:
        operations.fsync(9, False)
    with refused(number):
        list(operations.readdir(9, 0))
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert bool(logged) == (number == errno.EIO)
    assert all("9" in line for line in logged)


def test_forget_never_raises(operations: LlfuseOperations, fs: StandIn) -> None:
    fs.raises = FileSystemError(errno.EIO)
    operations.forget([(1, 2)])
    fs.raises = KeyboardInterrupt()
    operations.forget([(3, 4)])
    assert fs.calls == [("forget", (1, 2)), ("forget", (3, 4))]


def test_setattr_passes_on_only_changed_fields(operations: LlfuseOperations, fs: StandIn) -> None:
    class Fields:
        update_mode = update_uid = update_mtime = True
        update_gid = update_size = update_atime = False

    entry = llfuse.EntryAttributes()
    entry.st_mode, entry.st_uid, entry.st_mtime_ns = stat.S_IFREG | 0o4711, 5, 77
    operations.setattr(3, entry, Fields, None, None)
    assert fs.calls == [("setattr", 3, {"mode": 0o4711, "uid": 5, "mtime_ns": 77})]


def test_data_in_memory_is_read_and_written_without_waiting(operations: LlfuseOperations, fs: StandIn) -> None:
    fs.now = b""
    with llfuse.lock:
        assert operations.read(1, 0, 10) == b""
    fs.now = 0
    with llfuse.lock:
        assert operations.write(1, 0, b"") == 0
    assert [call[0] for call in fs.calls] == ["read_now", "write_now"]


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_waiting_requests_release_the_global_lock(operations: LlfuseOperations, fs: StandIn) -> None:
    with llfuse.lock:
        assert operations.read(1, 0, 10) == b"read"
        assert operations.write(1, 0, b"data") == 4
        operations.fsync(1, True)
    assert [call[0] for call in fs.calls] == ["read_now", "read", "write_now", "write", "fsync"]


@pytest.mark.promise("waiting-never-takes-all-workers")
def test_a_writer_without_a_slot_does_not_wait_in_its_worker(fs: StandIn) -> None:
    operations = make(fs, limiter=BlockingLimiter(0, time.monotonic))
    with llfuse.lock:
        assert operations.write(1, 0, b"data") == 4
    assert [call[0] for call in fs.calls] == ["write_now", "write without waiting"]


def test_the_capability_is_answered_without_the_file_system(operations: LlfuseOperations, fs: StandIn) -> None:
    """Every write is preceded by that request."""
    with refused(errno.ENODATA):
        operations.getxattr(3, b"security.capability", None)
    assert fs.calls == []
    operations.setxattr(3, b"security.capability", b"x", None)
    assert operations.getxattr(3, b"security.capability", None) == b"value"


def test_getxattr_works_without_a_context(operations: LlfuseOperations) -> None:
    """llfuse passes none when it checks the flags of setxattr."""
    assert operations.getxattr(3, b"user.x") == b"value"


def test_an_xattr_of_the_root_names_the_control_socket(operations: LlfuseOperations) -> None:
    assert operations.getxattr(1, b"user.cas3fs.control") == b"/control"
    assert operations.getxattr(2, b"user.cas3fs.control") == b"value"


@pytest.mark.promise("access-lists-can-be-refused")
def test_acls_are_refused_so_that_programs_use_the_mode(operations: LlfuseOperations, fs: StandIn) -> None:
    with refused(errno.EOPNOTSUPP):
        operations.setxattr(3, b"system.posix_acl_access", b"x", None)
    with refused(errno.EOPNOTSUPP):
        operations.getxattr(3, b"system.posix_acl_default", None)
    assert fs.calls == []


def test_readdir_starts_with_the_directory_and_its_parent(operations: LlfuseOperations) -> None:
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
def test_readdir_resumes_at_every_offset(operations: LlfuseOperations, begin: int) -> None:
    handle = operations.opendir(50, None)
    names = [name for name, _, _ in operations.readdir(handle, 0)]
    offsets = [0, *(following for _, _, following in operations.readdir(handle, 0))]
    assert [name for name, _, _ in operations.readdir(handle, offsets[begin])] == names[begin:]


def test_readdir_forgets_the_parent_it_looked_up(operations: LlfuseOperations, fs: StandIn) -> None:
    next(iter(list(operations.readdir(operations.opendir(50, None), 0))))
    assert ("lookup", 50, b"..") in fs.calls
    assert ("forget", (1, 1)) in fs.calls


def test_the_mount_option_uid_replaces_the_owner(fs: StandIn) -> None:
    entry = make(fs, uid=1000).getattr(3, None)
    assert (entry.st_uid, entry.st_gid) == (1000, 8)


def test_flush_is_answered_by_enosys(operations: LlfuseOperations, fs: StandIn) -> None:
    """Closing a file has nothing to wait for."""
    with refused(errno.ENOSYS):
        operations.flush(1)
    assert fs.calls == []


def test_statfs_reports_all_sizes(operations: LlfuseOperations) -> None:
    data = operations.statfs(None)
    assert (data.f_bsize, data.f_frsize, data.f_blocks, data.f_bavail, data.f_ffree) == (4096, 4096, 10, 9, 7)
    assert data.f_namemax == 255


def test_every_llfuse_operation_is_implemented_or_never_called() -> None:
    never = {"access", "destroy", "init", "stacktrace"}
    ours = {name for name in vars(LlfuseOperations) if not name.startswith("_")}
    theirs = {name for name in vars(llfuse.Operations) if not name.startswith("_")}
    assert theirs - ours == never
