# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling the kernel that something changed behind its back.

A notification may wait in the kernel for locks that a request holds which is not answered yet: of the directory, for a
name; of pages under way, for data. So it is sent by a thread that serves no requests, and that holds no lock which a
handler takes.
"""

from cas3fs.fuse.kernel import protocol
from cas3fs.fuse.kernel.channel import Channel
from cas3fs.fuse.kernel.protocol import Notification


class Notifier:
    """Sends notifications by the channel of a session."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def invalidate_inode(self, inode: int, offset: int = 0, length: int = 0) -> bool:
        """Makes the kernel forget the attributes of `inode`, and its cached data from `offset` on, `length` bytes or
        (0) to the end; a negative `offset` leaves the data.

        Returns:
            Whether the kernel knew the inode.
        """
        layout = protocol.INVALIDATE_INODE
        return self._send(layout.pack(layout.size, Notification.INVALIDATE_INODE, 0, inode, offset, length))

    def invalidate_entry(self, parent: int, name: bytes) -> bool:
        """Makes the kernel forget what `name` stands for in the directory `parent`.

        Returns:
            Whether the kernel knew the name.
        """
        layout = protocol.INVALIDATE_ENTRY
        length = layout.size + len(name) + 1
        head = layout.pack(length, Notification.INVALIDATE_ENTRY, 0, parent, len(name), 0)
        return self._send(head + name + b"\0")

    def _send(self, message: bytes) -> bool:
        try:
            self._channel.send(message)
        except FileNotFoundError:
            return False
        return True
