# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions for tests: one whose kernel is the test itself, and one on a real mount."""

import socket
import threading
from pathlib import Path
from typing import Generic, TypeVar

from cas3fs.fuse.kernel import protocol
from cas3fs.fuse.kernel.channel import Channel, ChannelError, MountOptions
from cas3fs.fuse.kernel.dispatch import Handlers
from cas3fs.fuse.kernel.protocol import ROOT_INODE, Feature, Opcode
from cas3fs.fuse.kernel.session import ErrnoOf, Session, SessionSettings, default_errno_of
from tests.fuse.kernel.memory_files import MemoryFiles

Files = TypeVar("Files", bound=MemoryFiles)


class Unmounted(Channel):
    """A connection to the test instead of the kernel: messages of a local socket."""

    def is_mounted(self) -> bool:
        return False


class Kernel:
    """The other end of a session, which has sent INIT. Requests are of `inode` unless they say otherwise."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        channel: type[Channel] = Unmounted,
        errno_of: ErrnoOf = default_errno_of,
        inode: int = ROOT_INODE,
        minor: int = 38,
        features: int = Feature.INIT_EXT,
    ) -> None:
        self.socket, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.channel = channel(served.detach(), Path("/nowhere"))
        self.session = Session(self.channel, handlers, SessionSettings(), errno_of)
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        self.unique = 0
        self.inode = inode
        self.init_reply = self.ask(Opcode.INIT, protocol.INIT_IN.pack(7, minor, 131072, features) + bytes(48))

    def _serve(self) -> None:
        try:
            self.session.serve()
        except ChannelError as error:
            self.errors.append(error)

    def send(self, opcode: int, body: bytes, *, length: int | None = None) -> None:
        self.unique += 2
        announced = protocol.REQUEST_HEADER.size + len(body) if length is None else length
        self.socket.send(protocol.REQUEST_HEADER.pack(announced, opcode, self.unique, self.inode, 0, 0, 0, 0, 0) + body)

    def ask(self, opcode: int, body: bytes, *, length: int | None = None) -> tuple[int, bytes]:
        """The errno, or 0, and what follows it."""
        self.send(opcode, body, length=length)
        reply = self.socket.recv(1 << 20)
        total, error, unique = protocol.REPLY_HEADER.unpack_from(reply)
        assert (total, unique) == (len(reply), self.unique)
        assert -protocol.LARGEST_ERRNO <= error <= 0
        return -error, reply[protocol.REPLY_HEADER.size :]

    def is_served(self) -> bool:
        return self.ask(Opcode.GETATTR, protocol.GETATTR_IN.pack(0, 0, 0))[0] == 0

    def close(self) -> None:
        self.session.stop()
        self.thread.join()
        self.socket.close()


class Mounted(Generic[Files]):
    """Files in memory, mounted."""

    def __init__(self, path: Path, settings: SessionSettings, files: Files) -> None:
        self.path = path
        self.files = files
        self.channel = Channel.mount(path, MountOptions(source="memory", subtype="memoryfiles"))
        self.session = Session(self.channel, files, settings)
        self.thread = threading.Thread(target=self.session.serve)
        self.thread.start()

    def close(self) -> None:
        self.files.gate.set()
        self.session.stop()
        self.thread.join()
