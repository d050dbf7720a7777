# SPDX-License-Identifier: GPL-3.0-or-later
"""A mounted file system in memory, used by programs."""

import ctypes
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cas3fs.fuse.kernel.channel import Channel, ChannelError, MountOptions
from cas3fs.fuse.kernel.dispatch import Deferred
from cas3fs.fuse.kernel.notify import Notifier
from cas3fs.fuse.kernel.pauses import Pauses
from cas3fs.fuse.kernel.protocol import ROOT_INODE, Feature, Opcode
from cas3fs.fuse.kernel.replies import Buffer, ReplyFormat
from cas3fs.fuse.kernel.session import Session, SessionSettings
from tests.fuse.kernel.memory_files import MemoryFiles
from tests.fuse.kernel.serving import Mounted

pytestmark = pytest.mark.skipif(
    os.environ.get("CAS3FS_TEST_NO_FUSE") == "1" or not Path("/dev/fuse").exists(), reason="nobody can mount here"
)
_OPTIONS = MountOptions(source="memory", subtype="memoryfiles")
_LONG = ReplyFormat(entry_timeout_s=3600, file_timeout_s=3600, directory_timeout_s=3600)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted[MemoryFiles]]:
    it = Mounted(tmp_path, SessionSettings(format=_LONG), MemoryFiles())
    yield it
    it.close()


def test_a_file_holds_what_was_written(mounted: Mounted[MemoryFiles]) -> None:
    content = os.urandom(3_000_000)
    (mounted.path / "file").write_bytes(content)
    assert (mounted.path / "file").read_bytes() == content
    assert mounted.session.requests[Opcode.WRITE] < len(content) / (128 * 1024)


def test_names_and_their_kinds(mounted: Mounted[MemoryFiles]) -> None:
    root = mounted.path
    (root / "folder").mkdir(mode=0o750)
    (root / "link").symlink_to("folder")
    os.mkfifo(root / "pipe")
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(300, 70_000))
    (root / "folder" / "file").touch()
    os.link(root / "folder" / "file", root / "again")
    assert (root / "folder").stat().st_mode == stat.S_IFDIR | 0o750
    assert (root / "link").readlink() == Path("folder")
    assert (root / "pipe").is_fifo()
    assert (root / "device").stat().st_rdev == os.makedev(300, 70_000)
    assert (root / "again").stat().st_nlink == 2
    (root / "again").rename(root / "folder" / "moved")
    (root / "folder" / "file").unlink()
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        (root / "folder").rmdir()
    assert sorted(one.name for one in root.iterdir()) == ["device", "folder", "link", "pipe"]


def test_a_listing_of_many_names_comes_with_their_attributes(mounted: Mounted[MemoryFiles]) -> None:
    for number in range(2000):
        (mounted.path / f"name{number}").touch()
    before = list(mounted.session.requests)
    with os.scandir(mounted.path) as listing:
        names = {entry.name: entry.stat().st_size for entry in listing}
    assert len(names) == 2000
    assert mounted.session.requests[Opcode.READDIRPLUS] > before[Opcode.READDIRPLUS]
    assert mounted.session.requests[Opcode.LOOKUP] == before[Opcode.LOOKUP]


def test_times_before_1970_and_far_ones(mounted: Mounted[MemoryFiles]) -> None:
    (mounted.path / "old").touch()
    for time_ns in (-1, -(10**18) - 5, 0, 9 * 10**18):
        os.utime(mounted.path / "old", ns=(time_ns, time_ns))
        assert (mounted.path / "old").stat().st_mtime_ns == time_ns


def test_extended_attributes(mounted: Mounted[MemoryFiles]) -> None:
    (mounted.path / "file").touch()
    os.setxattr(mounted.path / "file", "user.one", b"1" * 1000)
    os.setxattr(mounted.path / "file", "user.empty", b"")
    assert os.getxattr(mounted.path / "file", "user.one") == b"1" * 1000
    assert sorted(os.listxattr(mounted.path / "file")) == ["user.empty", "user.one"]
    os.removexattr(mounted.path / "file", "user.one")
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(mounted.path / "file", "user.one")


def test_what_only_the_kernel_protocol_has(mounted: Mounted[MemoryFiles]) -> None:
    """fallocate, SEEK_HOLE, copy_file_range, O_TMPFILE and the time of birth reach the file system."""
    path = mounted.path / "file"
    path.write_bytes(b"x" * 100)
    with path.open("r+b") as file, (mounted.path / "copy").open("w+b") as copy:
        os.posix_fallocate(file.fileno(), 0, 5000)
        assert os.lseek(file.fileno(), 10, os.SEEK_HOLE) == 5000
        assert os.copy_file_range(file.fileno(), copy.fileno(), 50, 25) == 50
        copy.seek(0)
        assert copy.read() == b"x" * 50
    os.close(os.open(mounted.path, os.O_TMPFILE | os.O_RDWR))
    born = subprocess.run(["stat", "-c", "%W", path], capture_output=True, text=True, check=True).stdout
    assert int(born) == mounted.files.nodes[path.stat().st_ino].birth_ns // 10**9


def test_what_is_not_implemented_is_said_to_be_so(mounted: Mounted[MemoryFiles]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for name in (b"one", b"two"):
        (mounted.path / os.fsdecode(name)).touch()
    assert libc.renameat2(-100, bytes(mounted.path / "one"), -100, bytes(mounted.path / "two"), 2) == -1
    assert ctypes.get_errno() == errno.EINVAL


def test_an_unforeseen_exception_is_an_error_of_that_request_alone(
    mounted: Mounted[MemoryFiles], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (mounted.path / "unforeseen").stat()
    (mounted.path / "file").write_bytes(b"still served")
    assert "LOOKUP of inode 1 failed in an unforeseen way" in caplog.text


def _start(path: Path, code: str) -> subprocess.Popen[bytes]:
    """A program that ignores SIGUSR1, with the file on `path` open as `file`."""
    begin = "import os, signal, sys; signal.signal(signal.SIGUSR1, lambda *_: None); file = open(sys.argv[1], 'r+b')\n"
    return subprocess.Popen([sys.executable, "-c", begin + code, path], stdout=subprocess.PIPE)


_READ, _SYNC = "print(file.read())", "print(os.fsync(file.fileno()))"


@pytest.fixture
def slow(mounted: Mounted[MemoryFiles]) -> Path:
    """A file whose reads and syncs wait; the kernel has none of its pages."""
    path = mounted.path / "slow"
    path.write_bytes(b"late")
    assert Notifier(mounted.channel).invalidate_inode(path.stat().st_ino)
    return path


def test_the_reader_goes_on_while_a_request_waits(mounted: Mounted[MemoryFiles], slow: Path) -> None:
    waiting = _start(slow, _READ)
    assert mounted.files.waiting.wait(10)
    (mounted.path / "file").write_bytes(b"meanwhile")
    mounted.files.gate.set()
    assert waiting.communicate(timeout=10)[0] == b"b'late'\n"


class PromptSyncs(MemoryFiles):
    """Defers syncs as one kind and reads as another; only reads wait."""

    def read(self, handle: int, offset: int, size: int) -> Buffer | list[Buffer] | Deferred:
        found = super().read(handle, offset, size)
        return Deferred(found.run, abandonable=True, kind="read") if isinstance(found, Deferred) else found

    def fsync(self, handle: int, data_only: bool) -> Deferred:
        return Deferred(lambda: None, kind="sync")


def test_what_waits_for_one_thing_holds_up_no_other(tmp_path: Path) -> None:
    """Although one thread is all that each kind of request has."""
    it = Mounted(tmp_path, SessionSettings(format=_LONG, pool_threads=1), PromptSyncs())
    path = it.path / "slow"
    path.write_bytes(b"late")
    assert Notifier(it.channel).invalidate_inode(path.stat().st_ino)
    waiting = _start(path, _READ)
    assert it.files.waiting.wait(10)
    assert _start(path, _SYNC).communicate(timeout=10)[0] == b"None\n"
    it.close()
    assert waiting.communicate(timeout=10)[0] == b"b'late'\n"


@pytest.mark.parametrize("code", [_READ, _SYNC], ids=["read", "fsync"])
def test_a_killed_program_is_gone_at_once(mounted: Mounted[MemoryFiles], slow: Path, code: str) -> None:
    waiting = _start(slow, code)
    assert mounted.files.waiting.wait(10)
    waiting.terminate()
    assert waiting.wait(10) == -signal.SIGTERM
    assert not mounted.files.gate.is_set()


class PausingWrites(MemoryFiles):
    """Writes that wait in a pause before they change anything."""

    def write(self, handle: int, offset: int, data: memoryview, kills_set_ids: bool) -> int | Deferred:
        pauses, kept, write = Pauses(), bytes(data), super().write

        def run() -> int:
            with pauses():
                self._wait()
            return write(handle, offset, memoryview(kept), kills_set_ids)

        return (
            Deferred(run, kind="write", pauses=pauses) if self._is_slow(handle) else write(handle, offset, data, False)
        )


def test_a_killed_program_is_gone_at_once_where_its_write_pauses(tmp_path: Path) -> None:
    """And the write changes nothing later."""
    it = Mounted(tmp_path, SessionSettings(format=_LONG, pool_threads=1), PausingWrites())
    path = it.path / "slow"
    path.touch()
    waiting = _start(path, "file.write(b'late'); file.flush()")
    assert it.files.waiting.wait(10)
    waiting.kill()
    assert waiting.wait(10) == -signal.SIGKILL
    it.files.gate.set()
    assert it.files.nodes[path.stat().st_ino].data == b""
    path.write_bytes(b"by others")
    assert it.files.nodes[path.stat().st_ino].data == b"by others"
    it.close()


def _await_interrupt(mounted: Mounted[MemoryFiles], program: subprocess.Popen[bytes]) -> None:
    while not mounted.session.requests[Opcode.INTERRUPT]:
        assert program.poll() is None


def test_a_program_that_got_a_harmless_signal_first_can_be_killed(mounted: Mounted[MemoryFiles], slow: Path) -> None:
    """The kernel sends one INTERRUPT only, for the first signal."""
    waiting = _start(slow, _SYNC)
    assert mounted.files.waiting.wait(10)
    waiting.send_signal(signal.SIGUSR1)
    _await_interrupt(mounted, waiting)
    waiting.kill()
    assert waiting.wait(10) == -signal.SIGKILL
    assert not mounted.files.gate.is_set()


def test_a_harmless_signal_interrupts_nothing(mounted: Mounted[MemoryFiles], slow: Path) -> None:
    waiting = _start(slow, _SYNC)
    assert mounted.files.waiting.wait(10)
    waiting.send_signal(signal.SIGUSR1)
    _await_interrupt(mounted, waiting)
    mounted.files.gate.set()
    assert waiting.communicate(timeout=10)[0] == b"None\n"


def test_inodes_that_the_kernel_forgets_are_gone(mounted: Mounted[MemoryFiles]) -> None:
    """Lookups that LOOKUP, CREATE and READDIRPLUS gave are all given back when caches are dropped."""
    for number in range(100):
        (mounted.path / f"name{number}").touch()
    list(os.scandir(mounted.path))
    for number in range(100):
        (mounted.path / f"name{number}").stat()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    (mounted.path / "absent").exists()
    lookups = [node.lookups for number, node in mounted.files.nodes.items() if number != ROOT_INODE]
    assert lookups == [0] * 100


def test_a_name_that_is_invalidated_is_looked_up_anew(mounted: Mounted[MemoryFiles]) -> None:
    (mounted.path / "name").write_bytes(b"")
    (mounted.path / "name").stat()
    before = mounted.session.requests[Opcode.LOOKUP]
    assert Notifier(mounted.channel).invalidate_entry(ROOT_INODE, b"name")
    assert not Notifier(mounted.channel).invalidate_entry(ROOT_INODE, b"never seen")
    (mounted.path / "name").stat()
    assert mounted.session.requests[Opcode.LOOKUP] == before + 1


def test_an_unmount_ends_the_session(mounted: Mounted[MemoryFiles]) -> None:
    subprocess.run(["umount", mounted.path], check=True)
    mounted.thread.join(10)
    assert not mounted.thread.is_alive()


@pytest.fixture
def connections() -> Iterator[Path]:
    """Where the kernel lists connections."""
    path = Path("/sys/fs/fuse/connections")
    is_ours = not any(path.iterdir())
    if is_ours:
        subprocess.run(["mount", "-t", "fusectl", "none", path], check=True)
    yield path
    if is_ours:
        subprocess.run(["umount", path], check=True)


def test_an_abort_ends_the_session(mounted: Mounted[MemoryFiles], connections: Path) -> None:
    number = os.minor(mounted.path.stat().st_dev)
    (connections / str(number) / "abort").write_text("1")
    mounted.thread.join(10)
    assert not mounted.thread.is_alive()
    subprocess.run(["umount", mounted.path], check=True)


def test_closing_ends_what_waits(mounted: Mounted[MemoryFiles], slow: Path) -> None:
    """A program whose request is never answered gets an error when the session is closed."""
    waiting = _start(slow, _READ)
    assert mounted.files.waiting.wait(10)
    mounted.session.stop()
    assert waiting.wait(10) == 1
    assert not mounted.files.gate.is_set()


def test_a_kernel_that_grants_less_is_served(tmp_path: Path) -> None:
    it = Mounted(tmp_path, SessionSettings(features=Feature.BIG_WRITES, max_write=64 * 1024), MemoryFiles())
    try:
        (it.path / "file").write_bytes(b"y" * 200_000)
        assert (it.path / "file").read_bytes() == b"y" * 200_000
        assert [one.name for one in it.path.iterdir()] == ["file"]
    finally:
        it.close()


def test_an_unknown_mount_option_is_refused() -> None:
    with pytest.raises(ChannelError, match="unknown mount option 'nonsense'"):
        MountOptions(source="x", subtype="y", flags=("nonsense",))


def test_mount_flags_are_in_force(tmp_path: Path) -> None:
    """The last of those that contradict each other counts."""
    options = MountOptions(source="a, b", subtype="memoryfiles", flags=("ro", "exec", "noexec", "dev", "nodev"))
    channel = Channel.mount(tmp_path, options)
    session = Session(channel, MemoryFiles(), SessionSettings())
    thread = threading.Thread(target=session.serve)
    thread.start()
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            (tmp_path / "file").touch()
        line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(tmp_path) in line)
        assert line.startswith("a,\\040b ")
        assert "fuse.memoryfiles ro,nosuid,nodev,noexec" in line
    finally:
        session.stop()
        thread.join()


@pytest.fixture
def device_for_all() -> Iterator[None]:
    """Lets anybody open the device, as udev does; machines without udev have it for root alone."""
    device = Path("/dev/fuse")
    mode = device.stat().st_mode
    device.chmod(0o666)
    yield
    device.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_is_not_root_mounts_by_the_helper(tmp_path: Path, device_for_all: None) -> None:
    """Another user mounts, uses and unmounts a file system, in a process of its own."""
    code = """
import os, sys, threading
from pathlib import Path
from cas3fs.fuse.kernel.channel import Channel, MountOptions
from cas3fs.fuse.kernel.session import Session, SessionSettings
from tests.fuse.kernel.memory_files import MemoryFiles
from tests.fuse.kernel.serving import Mounted
path = Path(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
files = MemoryFiles()
files.nodes[1].uid = 65534
session = Session(Channel.mount(path, MountOptions(source="a,b", subtype="memoryfiles")), files, SessionSettings())
thread = threading.Thread(target=session.serve)
thread.start()
(path / "file").write_bytes(b"mine")
print((path / "file").read_bytes(), [line.split()[0] for line in open("/proc/self/mounts") if str(path) in line])
session.stop()
thread.join()
"""
    tmp_path.chmod(0o777)
    for folder in list(tmp_path.parents)[:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    os.chown(tmp_path, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("b'mine' ['a,b']\n", "")


def _mounts(action: Callable[[], None]) -> int:
    before = len(Path("/proc/self/mounts").read_text().splitlines())
    action()
    return len(Path("/proc/self/mounts").read_text().splitlines()) - before


def test_closing_leaves_no_mount(tmp_path: Path) -> None:
    def mount_and_close() -> None:
        it = Mounted(tmp_path, SessionSettings(), MemoryFiles())
        it.path.stat()
        it.close()

    assert _mounts(mount_and_close) == 0
