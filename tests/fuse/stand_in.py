# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the file system behind the handlers, which records how it is called."""

import stat
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from cas3fs.filesystem import Entry, EntryWithInode, Inode, VolumeStatistics


def inode(number: int, mode: int = stat.S_IFREG | 0o640) -> Inode:
    return Inode(number, mode, 7, 8, 3, 0, 0, 1000, 1_500_000_001, 2_000_000_002, -1, 0, 0, 600)


class StandIn:
    """Replies as a FileSystem does; every call raises `raises` if it is set, and is recorded in `calls`.

    What may wait checks by `may_wait` whether it may do so where it is called.
    """

    read_only = False

    def __init__(self, may_wait: Callable[[], bool]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.raises: BaseException | None = None
        self.now: bytes | int | None = None
        self.is_directory = False
        self.is_absent = False
        self.access_lists = SimpleNamespace(enabled=False)
        self._may_wait = may_wait

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.raises is not None:
            raise self.raises

    def _waits(self, *call: Any) -> None:
        assert self._may_wait(), f"{call[0]} must not wait here"
        self._called(*call)

    def find(self, parent: int, name: bytes) -> Inode | None:
        self._called("find", parent, name)
        return None if self.is_absent else self.lookup(parent, name)

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
        self._called(
            "setattr", number, {name: value for name, value in changes.items() if not (value is None or value is False)}
        )
        return inode(number)

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: object) -> tuple[Inode, int]:
        self._called("create", parent, name, mode, flags)
        return inode(43), 5

    def open(self, number: int, flags: int, caller: object, *, kills_set_ids: bool = False) -> int:
        self._called("open", number, flags)
        return 6

    def read_now(self, handle: int, offset: int, size: int) -> bytes | None:
        self._called("read_now", handle, offset, size)
        return self.now  # type: ignore[return-value]

    def read(self, handle: int, offset: int, size: int, wait_guard: object) -> bytes:
        self._waits("read", handle, offset, size)
        return b"read"

    def write_now(self, handle: int, offset: int, data: bytes, *, kills_set_ids: bool | None = None) -> int | None:
        self._called("write_now", handle, offset, data)
        return self.now  # type: ignore[return-value]

    def write(
        self,
        handle: int,
        offset: int,
        data: bytes,
        *,
        wait: bool = True,
        since_s: float | None = None,
        kills_set_ids: bool | None = None,
        pause: object = None,
    ) -> int:
        self._waits("write" if wait else "write without waiting", handle, offset, data)
        return len(data)

    def seek_now(self, handle: int, offset: int, whence: int) -> int | None:
        self._called("seek_now", handle, offset, whence)
        return self.now  # type: ignore[return-value]

    def seek(self, handle: int, offset: int, whence: int, write_back: object) -> int:
        self._waits("seek", handle, offset, whence)
        return 77

    def copy_range_now(self, *places: int, flags: int) -> int | None:
        self._called("copy_range_now", *places)
        return self.now  # type: ignore[return-value]

    def copy_range(self, *places: int, flags: int, wait_guard: object, pause: object) -> int:
        self._waits("copy_range", *places)
        return 78

    def fsync(self, handle: int, datasync: bool) -> None:
        self._waits("fsync", handle, datasync)

    def fsyncdir(self, handle: int) -> None:
        self._waits("fsyncdir", handle)

    def opendir(self, number: int) -> int:
        self._called("opendir", number)
        return number

    def list_names(self, handle: int, cookie: int, limit: int) -> list[Entry]:
        self._called("list_names", handle, cookie)
        return [(number + 1, b"n%d" % number, 100 + number, stat.S_IFREG) for number in range(cookie, 3)][:limit]

    def list_into(
        self, handle: int, cookie: int, limit: int, add: Callable[[list[EntryWithInode]], int]
    ) -> list[EntryWithInode]:
        self._called("list_into", handle, cookie)
        listed = [(number + 1, b"n%d" % number, inode(100 + number)) for number in range(cookie, 3)][:limit]
        return listed[: add(listed)]

    def listxattr(self, number: int) -> list[bytes]:
        self._called("listxattr", number)
        return [b"user.a", b"user.b"]

    def getxattr(self, number: int, name: bytes) -> bytes:
        self._called("getxattr", number, name)
        return b"value"

    def setxattr(self, number: int, name: bytes, value: bytes, flags: int, *, kills_set_gid: bool = False) -> None:
        self._called("setxattr", number, name, value, flags)

    def statfs(self) -> VolumeStatistics:
        self._called("statfs")
        return VolumeStatistics(4096, 10, 9, 8, 7, 255)
