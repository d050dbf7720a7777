# SPDX-License-Identifier: GPL-3.0-or-later
"""How inodes appear to the kernel: their owner, and how long names and attributes stay valid.

This mount is the only writer, so the kernel sees every change itself, and names may stay valid for long. Attributes may
not: the kernel may keep an answer that a change has overtaken on its way. It numbers what it learns by write and
setattr, but after mkdir, unlink, rename or setxattr it only forgets (Linux, commit 1fb69e7817, "fuse: fix race between
getattr and write"). So the times of a directory that several programs change and list at once may be out of date until
the timeout, and so may the ctime of a file.
"""

from cas3fs.filesystem.state.inodes import Inode
from cas3fs.fuse.options import MountOptions

DEFAULT_TIMEOUT_S = 3600.0
BLOCK_SIZE = 128 * 1024
"""The preferred size of reads and writes (st_blksize): the largest request."""
_DIRECTORY_TIMEOUT_S, _FILE_TIMEOUT_S = 1.0, 60.0


class AttributeView:
    """Owner and lifetimes of attributes in the kernel."""

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S, uid: int | None = None, gid: int | None = None) -> None:
        """Set the rules of one mount.

        Args:
            timeout_s: how long names stay valid, and attributes at most.
            uid: replaces the owner of every file.
            gid: replaces the group of every file.
        """
        self.entry_timeout_s = timeout_s
        self.directory_timeout_s = min(timeout_s, _DIRECTORY_TIMEOUT_S)
        self.file_timeout_s = min(timeout_s, _FILE_TIMEOUT_S)
        self._uid = uid
        self._gid = gid

    @classmethod
    def of_options(cls, options: MountOptions) -> "AttributeView":
        """The rules that mount options set."""
        timeout_s = DEFAULT_TIMEOUT_S if options.timeout_s is None else options.timeout_s
        return cls(timeout_s, options.uid, options.gid)

    def attr_timeout_s(self, inode: Inode) -> float:
        """How long the kernel may use the attributes of `inode` without a request."""
        return self.directory_timeout_s if inode.is_directory else self.file_timeout_s

    def owner(self, inode: Inode) -> tuple[int, int]:
        """The user and group that `inode` shows."""
        return (
            inode.uid if self._uid is None else self._uid,
            inode.gid if self._gid is None else self._gid,
        )
