# SPDX-License-Identifier: GPL-3.0-or-later
"""What a front-end hands to the file system: its settings, and on whose behalf it makes a request."""

from typing import Protocol

import attrs

_MIB = 1 << 20


class Caller(Protocol):
    """On whose behalf a request is made; the request context of llfuse is one."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def umask(self) -> int:
        """Permissions that new files do not get; 0 where the kernel has taken them away already."""


@attrs.frozen
class Owner:
    """A plain `Caller`, for use from Python."""

    uid: int = 0
    gid: int = 0
    umask: int = 0


@attrs.frozen
class FileSystemSettings:
    """When the background threads act; the defaults suit a mount.

    Attributes:
        commit_interval_s: the longest time that an operation stays uncommitted on this machine.
        settle_s: how long a closed file has to be unchanged before it is stored.
        batch_wait_s: how long a settled file waits for others, unless they fill a pack before.
        batch_bytes: how much one storing job takes at most, but for its last file.
        pack_bytes: the size of a pack: settled files that fill one are stored at once.
        part_bytes: a file that only grows is stored in parts of this size while it is being written.
        storers: how many threads store files.
        cached_inodes: about how many inodes stay in memory, beside those in use.
        cache_writes: put large blocks in the caches as they are stored, unless programs are busy, and not only as they
            are read.
        read_only: refuse every change, and run no background threads.
    """

    commit_interval_s: float = 5.0
    settle_s: float = 1.0
    batch_wait_s: float = 5.0
    batch_bytes: int = 64 * _MIB
    pack_bytes: int = 16 * _MIB
    part_bytes: int = 64 * _MIB
    storers: int = 2
    cached_inodes: int = 50_000
    cache_writes: bool = False
    read_only: bool = False
