# SPDX-License-Identifier: GPL-3.0-or-later
"""A mounted file system returns results that make no sense: programs get errors, and the mount goes on.

What the kernel refuses is different from what the session does: lengths and numbers that are well formed and wrong.
"""

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas3fs.fuse.kernel.dispatch import Deferred
from cas3fs.fuse.kernel.replies import DirectoryPage, FileSystemStatistics, Opened, ReplyFormat
from cas3fs.fuse.kernel.session import SessionSettings
from tests.fuse.kernel.memory_files import MemoryFiles, Node
from tests.fuse.kernel.serving import Mounted

pytestmark = pytest.mark.usefixtures("need_fuse")

LATEST = ReplyFormat(entry_timeout_s=0, file_timeout_s=0, directory_timeout_s=0)
"""The kernel asks each time."""


class Misbehaving(MemoryFiles):
    """Returns from the methods in `results` what stands there; the others are right."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, Any] = {}

    def __getattribute__(self, name: str) -> Any:
        results = super().__getattribute__("__dict__").get("results", {})
        if name not in results:
            return super().__getattribute__(name)
        return lambda *_args, **_kwargs: results[name]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted[Misbehaving]]:
    it = Mounted(tmp_path, SessionSettings(format=LATEST), Misbehaving())
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    yield it
    it.close()


def use(path: Path) -> None:
    """Make every kind of request; each may fail, but returns within a minute."""

    def rewrite() -> None:
        with open(path / "file", "r+b", buffering=0) as file:
            file.write(b"other")
            os.fsync(file.fileno())
            os.lseek(file.fileno(), 0, os.SEEK_DATA)
            os.posix_fallocate(file.fileno(), 0, 10)

    actions: list[Callable[[], object]] = [
        (path / "file").stat,
        (path / "absent").stat,
        (path / "link").readlink,
        (path / "file").read_bytes,
        rewrite,
        lambda: os.truncate(path / "file", 3),
        lambda: [entry.stat() for entry in os.scandir(path)],
        lambda: os.statvfs(path),
        lambda: os.getxattr(path / "file", "user.a"),
        lambda: os.listxattr(path / "file"),
        (path / "new").touch,
        (path / "new").unlink,
        (path / "made").mkdir,
        (path / "made").rmdir,
        lambda: os.link(path / "file", path / "hard"),
        lambda: (path / "hard").rename(path / "harder"),
        (path / "harder").unlink,
    ]
    for action in actions:
        with contextlib.suppress(OSError, ValueError):  # ValueError: a name with a zero byte, from a listing
            action()


def is_whole(mount: Mounted[Misbehaving]) -> bool:
    """Whether a new file can be written and read, and is listed."""
    path = mount.path / f"whole{len(mount.files.nodes)}"
    path.write_bytes(b"whole")
    return path.read_bytes() == b"whole" and path in mount.path.iterdir()


METHODS = [
    "lookup", "getattr", "statx", "setattr", "readlink", "symlink", "mknod", "mkdir", "unlink", "rmdir", "rename",
    "link", "open", "create", "read", "write", "flush", "release", "fsync", "opendir", "readdir", "releasedir",
    "statfs", "getxattr", "listxattr", "setxattr", "fallocate", "lseek",
]  # fmt: skip
NUMBERS = st.sampled_from([0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70])
NODES = st.builds(
    replace,
    st.just(Node(77, stat.S_IFREG | 0o644)),
    number=NUMBERS,
    mode=NUMBERS | st.sampled_from([stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFCHR]),
    nlink=NUMBERS,
    uid=NUMBERS,
    rdev=st.sampled_from([0, os.makedev(4095, 2**20 - 1), 2**64 - 1]),
    atime_ns=NUMBERS,
    mtime_ns=st.sampled_from([-1, 2**64 * 10**9, -(2**64) * 10**9]),
)
OPENED = st.builds(Opened, NUMBERS, NUMBERS)
DATA = st.sampled_from([b"", b"x" * 5, b"\0" * 300, b"x" * 4096, b"x" * 300_000, memoryview(b"x" * 5000), bytearray(9)])
RESULTS = st.one_of(
    st.sampled_from([None, "text", 1.5, (), [], object(), [None], ("a", "b"), [b"x", "y"]]),
    NUMBERS,
    NODES,
    OPENED,
    st.tuples(NODES, OPENED),
    st.tuples(NODES, NUMBERS),
    DATA,
    st.lists(DATA, min_size=1, max_size=3),
    st.builds(FileSystemStatistics, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
)


@pytest.mark.lasts(240, long_s=2400)
@settings(max_examples=settings.default.max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(METHODS), RESULTS, min_size=1, max_size=4), st.booleans())
def test_a_mount_survives_results_without_sense(
    mount: Mounted[Misbehaving], results: dict[str, Any], deferred: bool
) -> None:
    for name, result in results.items():
        mount.files.results[name] = Deferred(lambda result=result: result) if deferred else result
    with time_limit():
        use(mount.path)
    mount.files.results.clear()
    assert is_whole(mount)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Fail if the kernel waits for a reply that never comes."""

    def too_late(*_: object) -> None:
        raise AssertionError("a request is not answered")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "entry",
    [(b"a/b", 5), (b"", 5), (b"\0", 5), (b"n" * 300, 5), (b"name", 0), (b"name", 2**64 - 1)],
    ids=["slash", "empty", "zero", "long", "no inode", "last inode"],
)
def test_a_mount_survives_a_listing_of_impossible_names(mount: Mounted[Misbehaving], entry: tuple[bytes, int]) -> None:
    def readdir(handle: int, cookie: int, page: DirectoryPage) -> None:
        if not cookie:
            page.add(entry[0], Node(entry[1], stat.S_IFREG | 0o644), 1)

    mount.files.__dict__["readdir"] = readdir
    with time_limit(), contextlib.suppress(OSError, ValueError):
        list(mount.path.iterdir())
    del mount.files.__dict__["readdir"]
    assert is_whole(mount)
