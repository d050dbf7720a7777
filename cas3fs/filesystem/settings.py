# SPDX-License-Identifier: GPL-3.0-or-later
"""What a front-end hands to the file system: its settings, and on whose behalf a request is made."""

from typing import Protocol

import attrs

_MIB = 1 << 20


class Caller(Protocol):
    """Who asks: llfuse's request context fits.

    uid, gid: the user and group on whose behalf it happens.
    """

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...


@attrs.frozen
class Owner:
    """A plain `Caller`, for use from Python."""

    uid: int = 0
    gid: int = 0


@attrs.frozen
class FileSystemSettings:
    """How eager the background is; the defaults suit a mount.

    commit_interval_s: the longest time that an operation stays uncommitted on this machine.
    settle_s: a file is stored when it is closed and has been quiet for so long ...
    batch_wait_s: ... together with others that settle within this time, or as soon as they fill a pack.
    part_bytes: a file that only grows is stored in parts of this size while it is being written.
    storers: threads that store.
    cached_inodes: about so many inodes are kept in memory, beside those that are in use.
    cache_writes: large blocks go to the caches as they are stored, unless programs are busy; not only as they are read.
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
