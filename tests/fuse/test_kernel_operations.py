# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests through the kernel front-end and the handlers, without a mount: calls, results, and what is deferred."""

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cas3fs.errors import BlockMissing, FileSystemError, IndexFull
from cas3fs.fuse.handlers import RequestHandlers
from cas3fs.fuse.kernel import protocol
from cas3fs.fuse.kernel.dispatch import Caller, Changes, Deferred, Handlers
from cas3fs.fuse.kernel.protocol import Opcode
from cas3fs.fuse.kernel.replies import DirectoryPage, Encoder, ReplyFormat
from cas3fs.fuse.kernel_frontend.operations import KernelHandlers
from cas3fs.fuse.kernel_frontend.session import errno_of_request
from cas3fs.fuse.limiter import BlockingLimiter
from tests.fuse.kernel.serving import Kernel
from tests.fuse.stand_in import StandIn

CALLER = Caller(1, 2, 3)
READER = threading.get_ident()


@pytest.fixture
def fs() -> StandIn:
    """The thread of the test is the reader, in which nothing may wait."""
    return StandIn(lambda: threading.get_ident() != READER)


@pytest.fixture
def handlers(fs: StandIn) -> KernelHandlers:
    return make(fs)


def make(fs: StandIn) -> KernelHandlers:
    return KernelHandlers(
        RequestHandlers(
            fs,  # type: ignore[arg-type]
            limiter=BlockingLimiter(1, time.monotonic),
            control=b"/control",
            capabilities=False,
        )
    )


def in_pool(deferred: object) -> Any:
    """The result of a deferred request, which another thread carries out."""
    assert isinstance(deferred, Deferred)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(deferred.run()))
    thread.start()
    thread.join(10)
    (result,) = results
    return result


def names(fs: StandIn) -> list[str]:
    return [call[0] for call in fs.calls]


WAITING: dict[str, Callable[[KernelHandlers], object]] = {
    "read": lambda handlers: handlers.read(1, 0, 10),
    "write": lambda handlers: handlers.write(1, 0, memoryview(b"data"), False),
    "seek": lambda handlers: handlers.lseek(1, 0, os.SEEK_DATA),
    "copy_range": lambda handlers: handlers.copy_file_range(1, 0, 2, 0, 10, flags=0),
    "fsync": lambda handlers: handlers.fsync(1, True),
    "fsyncdir": lambda handlers: handlers.fsyncdir(1, False),
}
"""By what the file system is asked that waits: the request."""
RESULTS = {"read": b"read", "write": 4, "seek": 77, "copy_range": 78, "fsync": None, "fsyncdir": None}
CHANGES_NOTHING = {"read", "seek", "fsync", "fsyncdir"}
POOLS = {
    "read": "read",
    "write": "write",
    "seek": "seek",
    "copy_range": "copy",
    "fsync": "sync",
    "fsyncdir": "sync",
}


@pytest.mark.promise("waiting-never-takes-all-workers")
@pytest.mark.parametrize("request_name", WAITING)
def test_what_would_wait_is_left_to_the_pool(handlers: KernelHandlers, fs: StandIn, request_name: str) -> None:
    """To one that writers, readers and syncs do not share. The caller may be let go early if nothing is changed."""
    deferred = WAITING[request_name](handlers)
    assert isinstance(deferred, Deferred)
    assert request_name not in names(fs)
    assert deferred.abandonable == (request_name in CHANGES_NOTHING)
    assert deferred.kind == POOLS.get(request_name, Deferred(lambda: None).kind)
    assert in_pool(deferred) == RESULTS[request_name]
    assert names(fs)[-1] == request_name


@pytest.mark.parametrize("request_name", ["read", "write", "seek", "copy_range"])
def test_what_is_at_hand_is_answered_by_the_reader(handlers: KernelHandlers, fs: StandIn, request_name: str) -> None:
    fs.now = b"" if request_name == "read" else 0
    assert WAITING[request_name](handlers) == fs.now
    assert names(fs) == [f"{request_name}_now"]


def test_a_write_keeps_its_data_when_the_buffer_is_used_again(handlers: KernelHandlers, fs: StandIn) -> None:
    buffer = bytearray(b"first")
    deferred = handlers.write(1, 0, memoryview(buffer), False)
    buffer[:] = b"other"
    in_pool(deferred)
    assert fs.calls[-1] == ("write", 1, 0, b"first")


def test_lookup_of_an_absent_name_is_none(handlers: KernelHandlers, fs: StandIn) -> None:
    """The kernel then remembers the name as absent."""
    fs.is_absent = True
    assert handlers.lookup(1, b"name") is None


def test_setattr_passes_on_only_changed_fields(handlers: KernelHandlers, fs: StandIn) -> None:
    handlers.setattr(3, Changes(mode=0o4711, uid=5, mtime_ns=77), CALLER)
    assert fs.calls == [("setattr", 3, {"mode": 0o4711, "uid": 5, "mtime_ns": 77})]


def test_times_set_to_now_are_one_moment(handlers: KernelHandlers, fs: StandIn) -> None:
    before = time.time_ns()
    handlers.setattr(3, Changes(atime_now=True, mtime_now=True), CALLER)
    ((_, _, changes),) = fs.calls
    assert changes["atime_ns"] == changes["mtime_ns"]
    assert before <= changes["atime_ns"] <= time.time_ns()


def test_statx_has_the_time_of_birth(handlers: KernelHandlers) -> None:
    found, more = handlers.statx(3, None)
    assert (found.number, more.birth_ns) == (3, found.crtime_ns)  # type: ignore[attr-defined]


def test_names_of_attributes_end_with_zeros(handlers: KernelHandlers) -> None:
    assert handlers.listxattr(3) == b"user.a\0user.b\0"


def test_the_capability_is_answered_without_the_file_system(handlers: KernelHandlers, fs: StandIn) -> None:
    """Every write may be preceded by that request."""
    with pytest.raises(FileSystemError, match=os.strerror(errno.ENODATA)):
        handlers.getxattr(3, b"security.capability")
    assert fs.calls == []
    handlers.setxattr(3, b"security.capability", b"x", 0, False)
    assert handlers.getxattr(3, b"security.capability") == b"value"


def test_an_xattr_of_the_root_names_the_control_socket(handlers: KernelHandlers) -> None:
    assert handlers.getxattr(1, b"user.cas3fs.control") == b"/control"
    assert handlers.getxattr(2, b"user.cas3fs.control") == b"value"


def test_opening_and_creating_return_the_handle(handlers: KernelHandlers) -> None:
    assert handlers.open(3, os.O_RDONLY, CALLER, kills_set_ids=False).handle == 6  # type: ignore[union-attr]
    made, opened = handlers.create(1, b"name", stat.S_IFREG | 0o644, os.O_RDWR, CALLER)
    assert (made.number, opened.handle) == (43, 5)


def test_statfs_reports_all_sizes(handlers: KernelHandlers) -> None:
    found = handlers.statfs()
    assert (found.block_size, found.blocks, found.free_blocks, found.available_blocks) == (4096, 10, 9, 9)
    assert (found.files, found.free_files, found.name_max) == (8, 7, 255)


def test_only_what_has_no_meaning_here_is_left_out() -> None:
    """The kernel gets ENOSYS for it."""
    protocols = {name for name in vars(Handlers) if not name.startswith("_")}
    instance = make(StandIn(lambda: True))
    ours = {name for name in protocols if name in vars(KernelHandlers) or name in vars(instance)}
    assert protocols - ours <= {"ioctl", "syncfs"}


# --- listings


def listed(page: DirectoryPage) -> list[tuple[int, bytes, int]]:
    """Inode, name, and where a reader goes on, of each entry of a page."""
    reply = page.reply(0)
    message = reply if isinstance(reply, bytes) else b"".join(reply)
    layout = protocol.DIRECTORY_ENTRY_PLUS if page.with_attributes else protocol.DIRECTORY_ENTRY
    found, position = [], protocol.REPLY_HEADER.size
    while position < len(message):
        *_, number, cookie, length, _kind = layout.unpack_from(message, position)
        begin = position + layout.size
        found.append((number, message[begin : begin + length], cookie))
        position = begin + length + (-length & 7)
    return found


def page_of(handlers: KernelHandlers, cookie: int, size: int = 4096, *, plus: bool = True) -> list[Any]:
    handle = handlers.opendir(50, os.O_RDONLY, CALLER).handle
    page = Encoder(ReplyFormat()).page(size, with_attributes=plus)
    handlers.readdir(handle, cookie, page)
    return listed(page)


@pytest.mark.parametrize("plus", [True, False])
def test_readdir_starts_with_the_directory_and_its_parent(handlers: KernelHandlers, fs: StandIn, plus: bool) -> None:
    found = page_of(handlers, 0, plus=plus)
    assert [(name, number) for number, name, _ in found] == [
        (b".", 50),
        (b"..", 1),
        (b"n0", 100),
        (b"n1", 101),
        (b"n2", 102),
    ]
    assert ("forget", (1, 1)) in fs.calls  # of the parent, which was looked up


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("begin", range(6))
def test_readdir_resumes_at_every_cookie(handlers: KernelHandlers, begin: int, plus: bool) -> None:
    everything = page_of(handlers, 0, plus=plus)
    cookies = [0, *(cookie for _, _, cookie in everything)]
    assert page_of(handlers, cookies[begin], plus=plus) == everything[begin:]


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("size", [200, 340, 600])
def test_pages_of_any_size_make_up_the_listing(handlers: KernelHandlers, size: int, plus: bool) -> None:
    found: list[Any] = []
    while page := page_of(handlers, found[-1][2] if found else 0, size, plus=plus):
        found += page
    assert found == page_of(handlers, 0, plus=plus)


# --- errnos


@pytest.fixture
def kernel(fs: StandIn) -> Iterator[Kernel]:
    it = Kernel(make(fs), errno_of=errno_of_request, inode=9)
    yield it
    it.close()


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (FileSystemError(errno.EPERM), errno.EPERM),
        (BlockMissing("gone"), errno.EIO),
        (IndexFull("full"), errno.ENOSPC),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (KeyError("defect"), errno.EIO),
    ],
    ids=repr,
)
def test_every_exception_becomes_an_errno(
    kernel: Kernel, fs: StandIn, error: BaseException, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a request that the reader answers, of one that the pool does, and of a listing."""
    kernel.ask(Opcode.OPENDIR, protocol.OPEN_IN.pack(0, 0))
    fs.raises = error
    assert kernel.ask(Opcode.GETATTR, protocol.GETATTR_IN.pack(0, 0, 0))[0] == number
    assert kernel.ask(Opcode.FSYNC, protocol.FSYNC_IN.pack(9, 0, 0))[0] == number
    assert kernel.ask(Opcode.READDIR, protocol.READ_IN.pack(9, 2, 4096, 0, 0, 0, 0))[0] == number
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert bool(logged) == (number == errno.EIO)
    assert all("9" in line for line in logged)


def test_a_failed_forget_ends_nothing(kernel: Kernel, fs: StandIn) -> None:
    fs.raises = FileSystemError(errno.EIO)
    kernel.send(Opcode.FORGET, protocol.FORGET_IN.pack(2))
    assert kernel.ask(Opcode.GETATTR, protocol.GETATTR_IN.pack(0, 0, 0))[0] == errno.EIO
    assert fs.calls[0] == ("forget", (9, 2))
    fs.raises = None
    assert kernel.ask(Opcode.GETATTR, protocol.GETATTR_IN.pack(0, 0, 0))[0] == 0
