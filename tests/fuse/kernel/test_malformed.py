# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests as no kernel sends them, and results as no file system returns them: the session goes on."""

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas3fs.fuse.kernel import protocol
from cas3fs.fuse.kernel.dispatch import Deferred
from cas3fs.fuse.kernel.protocol import Feature, Opcode
from tests.fuse.kernel.memory_files import MemoryFiles
from tests.fuse.kernel.serving import Kernel

_NEVER_ANSWERED = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY}
_HEADER = protocol.REQUEST_HEADER


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    it = Kernel(MemoryFiles())
    yield it
    it.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1) | st.integers(0, 70), st.binary(max_size=200), st.none() | st.integers(0, 2**32 - 1))
def test_any_bytes_are_answered_once_and_the_session_goes_on(
    kernel: Kernel, opcode: int, body: bytes, length: int | None
) -> None:
    if opcode in _NEVER_ANSWERED:
        kernel.send(opcode, body, length=length)
    else:
        kernel.ask(opcode, body, length=length)
    assert kernel.is_served()


def _layouts() -> dict[int, struct.Struct]:
    from cas3fs.fuse.kernel.dispatch import Dispatcher
    from cas3fs.fuse.kernel.replies import Encoder, ReplyFormat

    dispatcher = Dispatcher(MemoryFiles(), Encoder(ReplyFormat()), long_setxattr=True)
    return {
        opcode: struct.Struct(f"{size - _HEADER.size}s")
        for opcode, size in enumerate(dispatcher.least_bytes)
        if dispatcher.operations[opcode] is not None and size > _HEADER.size
    }


@pytest.mark.parametrize("opcode", sorted(_layouts()), ids=lambda one: Opcode(one).name)
def test_a_request_that_is_too_short_is_answered_by_an_error(kernel: Kernel, opcode: int) -> None:
    size = _layouts()[opcode].size
    if opcode in _NEVER_ANSWERED:
        kernel.send(opcode, bytes(size - 1))
    else:
        assert kernel.ask(opcode, bytes(size - 1))[0] == errno.EIO
    assert kernel.is_served()


@pytest.mark.parametrize("names", [b"", b"\0", b"no end", b"one\0", b"\0two\0", b"one\0\0", b"a\0b\0c\0"])
def test_names_that_are_none_are_refused(kernel: Kernel, names: bytes) -> None:
    assert kernel.ask(Opcode.RENAME, protocol.RENAME_IN.pack(1) + names)[0] == errno.EIO


def test_a_write_of_more_bytes_than_came_is_refused(kernel: Kernel) -> None:
    body = protocol.WRITE_IN.pack(1, 0, 1000, 0, 0, 0, 0) + bytes(999)
    assert kernel.ask(Opcode.WRITE, body)[0] == errno.EIO


def test_a_request_that_nobody_knows_is_unsupported(kernel: Kernel) -> None:
    assert kernel.ask(63, b"")[0] == errno.ENOSYS
    assert kernel.ask(4711, b"")[0] == errno.ENOSYS


class Senseless(MemoryFiles):
    """Returns from everything what it is told to."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def _any(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.result

    lookup = readlink = read = write = statfs = open = getxattr = lseek = fsync = create = setattr = _any


_SENSELESS = st.sampled_from([None, -1, 2**70, "text", [], (), object(), b"x" * 5, 1.5, [None], ("a", "b")])


@settings(max_examples=60, deadline=None)
@given(_SENSELESS, st.booleans())
def test_results_without_sense_are_errors_of_their_requests(result: Any, deferred: bool) -> None:
    kernel = Kernel(Senseless(Deferred(lambda: result) if deferred else result))
    try:
        kernel.ask(Opcode.LOOKUP, b"name\0")
        kernel.ask(Opcode.READLINK, b"")
        kernel.ask(Opcode.READ, protocol.READ_IN.pack(1, 0, 10, 0, 0, 0, 0))
        kernel.ask(Opcode.WRITE, protocol.WRITE_IN.pack(1, 0, 1, 0, 0, 0, 0) + b"x")
        kernel.ask(Opcode.STATFS, b"")
        kernel.ask(Opcode.OPEN, protocol.OPEN_IN.pack(0, 0))
        kernel.ask(Opcode.GETXATTR, protocol.GETXATTR_IN.pack(100, 0) + b"user.name\0")
        kernel.ask(Opcode.LSEEK, protocol.LSEEK_IN.pack(1, 0, 3, 0))
        kernel.ask(Opcode.FSYNC, protocol.FSYNC_IN.pack(1, 0, 0))
        kernel.ask(Opcode.CREATE, protocol.CREATE_IN.pack(0, 0o644, 0, 0) + b"new\0")
        kernel.ask(Opcode.SETATTR, bytes(protocol.SETATTR_IN.size))
        assert kernel.is_served()
    finally:
        kernel.close()


def test_an_errno_that_the_protocol_has_not_becomes_eio() -> None:
    files = MemoryFiles()
    kernel = Kernel(files)
    files.readlink = lambda inode: (_ for _ in ()).throw(OSError(9999, "none"))  # type: ignore[method-assign]
    try:
        assert kernel.ask(Opcode.READLINK, b"")[0] == errno.EIO
    finally:
        kernel.close()


def test_a_kernel_that_is_too_old_is_refused_with_its_version() -> None:
    kernel = Kernel(MemoryFiles(), minor=12)
    kernel.thread.join(10)
    assert kernel.init_reply[0] == errno.EPROTO
    assert "version 7.12 of the FUSE protocol" in str(kernel.errors[0])
    kernel.close()


def test_a_newer_kernel_is_told_the_newest_version_known_here() -> None:
    kernel = Kernel(MemoryFiles(), minor=99)
    assert struct.unpack_from("=II", kernel.init_reply[1]) == (7, protocol.NEWEST_MINOR)
    kernel.close()


def test_features_beyond_the_first_32_are_agreed_upon() -> None:
    kernel = Kernel(MemoryFiles(), features=Feature.INIT_EXT | Feature.BIG_WRITES)
    assert kernel.session.agreement is not None
    assert kernel.session.agreement.features == Feature.INIT_EXT | Feature.BIG_WRITES
    assert len(kernel.init_reply[1]) == 64
    kernel.close()


def test_stopping_a_session_that_nobody_serves_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    kernel = Kernel(MemoryFiles())
    kernel.close()
    del kernel
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
