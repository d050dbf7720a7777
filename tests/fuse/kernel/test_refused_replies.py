# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel gives a request up while it is carried out: what its reply would have given is taken back."""

import os
import stat
from collections.abc import Iterator

import pytest

from cas3fs.fuse.kernel import protocol
from cas3fs.fuse.kernel.dispatch import Caller
from cas3fs.fuse.kernel.protocol import ROOT_INODE, Opcode
from cas3fs.fuse.kernel.replies import Attributes, Opened, Reply
from tests.fuse.kernel.memory_files import MemoryFiles
from tests.fuse.kernel.serving import Kernel, Unmounted

NAMES = 20
_ROOT_ONLY = {ROOT_INODE: 1}


class GivenUp(Unmounted):
    """A connection to the test, whose other end refuses every reply as if the request had been given up."""

    refuses = False

    def send(self, reply: Reply) -> None:
        if self.refuses:
            super().send(b"refused")
            raise FileNotFoundError
        super().send(reply)


class CountedFiles(MemoryFiles):
    """Knows which handles are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open_handles: set[tuple[str, int]] = set()

    def open(self, inode: int, flags: int, caller: Caller, *, kills_set_ids: bool) -> Opened:
        self.open_handles.add(("file", inode))
        return super().open(inode, flags, caller, kills_set_ids=kills_set_ids)

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attributes, Opened]:
        made, opened = super().create(parent, name, mode, flags, caller)
        self.open_handles.add(("file", opened.handle))
        return made, opened

    def release(self, handle: int) -> None:
        self.open_handles.remove(("file", handle))

    def opendir(self, inode: int, flags: int, caller: Caller) -> Opened:
        self.open_handles.add(("directory", inode))
        return super().opendir(inode, flags, caller)

    def releasedir(self, handle: int) -> None:
        self.open_handles.remove(("directory", handle))

    def known(self) -> dict[int, int]:
        return {number: node.lookups for number, node in self.nodes.items() if node.lookups}


class RefusingKernel(Kernel):
    """One that can give requests up."""

    channel: GivenUp

    def __init__(self) -> None:
        self.files = CountedFiles()
        super().__init__(self.files, channel=GivenUp)

    def ask_in_vain(self, opcode: int, body: bytes) -> None:
        """The reply is refused; returns when the session has taken it back, as it answers the next request then."""
        self.channel.refuses = True
        self.send(opcode, body)
        assert self.socket.recv(1 << 20) == b"refused"
        self.channel.refuses = False
        self.ask(Opcode.STATFS, b"")


@pytest.fixture
def kernel() -> Iterator[RefusingKernel]:
    it = RefusingKernel()
    yield it
    it.close()


def _make_names(kernel: RefusingKernel) -> None:
    for number in range(NAMES):
        made = kernel.files.mknod(ROOT_INODE, b"%d" % number, stat.S_IFREG | 0o644, 0, Caller(0, 0, 0))
        kernel.files.forget([(made.number, 1)])


_CREATE = protocol.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"new\0"
_MKNOD = protocol.MKNOD_IN.pack(stat.S_IFREG | 0o644, 0, 0, 0) + b"new\0"
_MKDIR = protocol.MKDIR_IN.pack(0o755, 0) + b"new\0"
_PAGE = protocol.READ_IN.pack(ROOT_INODE, 0, 4096, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.LOOKUP, b"1\0"),
        (Opcode.LOOKUP, b"absent\0"),
        (Opcode.MKNOD, _MKNOD),
        (Opcode.MKDIR, _MKDIR),
        (Opcode.SYMLINK, b"new\0target\0"),
        (Opcode.LINK, protocol.LINK_IN.pack(2) + b"new\0"),
        (Opcode.CREATE, _CREATE),
        (Opcode.OPEN, protocol.OPEN_IN.pack(os.O_RDONLY, 0)),
        (Opcode.OPENDIR, protocol.OPEN_IN.pack(os.O_RDONLY, 0)),
        (Opcode.READDIRPLUS, _PAGE),
        (Opcode.READDIR, _PAGE),
    ],
    ids=lambda one: one.name if isinstance(one, Opcode) else "",
)
def test_a_refused_reply_leaves_no_lookup_and_no_handle(kernel: RefusingKernel, opcode: Opcode, body: bytes) -> None:
    _make_names(kernel)
    kernel.ask_in_vain(opcode, body)
    assert kernel.files.known() == _ROOT_ONLY
    assert not kernel.files.open_handles


@pytest.mark.parametrize(("opcode", "count"), [(Opcode.READDIRPLUS, NAMES), (Opcode.READDIR, 0)], ids=["plus", "plain"])
def test_an_accepted_page_counts_each_inode_once(kernel: RefusingKernel, opcode: Opcode, count: int) -> None:
    _make_names(kernel)
    kernel.ask(opcode, _PAGE)
    assert len(kernel.files.known()) == len(_ROOT_ONLY) + count
