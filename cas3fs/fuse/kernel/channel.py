# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to the kernel: mounting, reading requests, writing replies, unmounting.

Root mounts with mount(2). Anybody else runs ``fusermount3``, which is set-user-id root: it opens ``/dev/fuse``, mounts,
and passes the descriptor back through the socket whose number is in ``_FUSE_COMMFD`` (fusermount.c of libfuse). With
the option ``auto_unmount`` root does so, too: ``fusermount3`` then stays until the other end of the socket is closed,
which the end of this process does, however it comes, and removes the mount.

Closing the descriptor aborts the connection, even while files on it are open: every request under way, and every later
one, fails with ENOTCONN. Threads may still be writing replies at that moment, and the number of a closed descriptor is
given to the next file that is opened. So `close` puts ``/dev/null`` in its place, which drops the connection just as
well, and gives the number back only when the channel goes away.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, NamedTuple

from cas3fs.fuse.kernel.mount_table import read_mount_table

DEVICE: Final = "/dev/fuse"
_HELPER = "fusermount3"
_HELPER_TIMEOUT_S = 60
_READ_AHEAD = "/sys/class/bdi/{}:{}/read_ahead_kb"
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_FLAGS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "ro": 1,
        "nosuid": 2,
        "nodev": 4,
        "noexec": 8,
        "sync": 16,
        "dirsync": 128,
        "noatime": 1024,
        "nodiratime": 2048,
        "relatime": 1 << 21,
        "strictatime": 1 << 24,
    }
)
"""Mount options that are flags of mount(2), by their names."""
_CLEARED: Final[Mapping[str, int]] = MappingProxyType(
    {"rw": 1, "suid": 2, "dev": 4, "exec": 8, "async": 16, "atime": 1024, "diratime": 2048}
)
_DEFAULT_FLAGS = ("nosuid", "nodev")
_DEFAULT_TIMES = frozenset({"diratime", "relatime"})
"""The kernel does these by default, and fusermount3 of libfuse 3.14 does not know them."""
SECURITY_NAMES: Final = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
"""Mount options that SELinux reads."""


class ChannelError(Exception):
    """Mounting or unmounting failed; the text says why."""


class ConnectionEnded(Exception):
    """The mount is gone: it was unmounted, or the connection was aborted."""


@dataclass(frozen=True)
class MountOptions:
    """How to mount.

    Args:
        source: what stands in the first column of the mount table.
        subtype: the file system's type is shown as ``fuse.<subtype>``.
        allow_other: users other than the one who mounts may use it.
        default_permissions: the kernel checks permissions, by mode, owner and access list.
        max_read: the most bytes that one READ asks for.
        flags: options as mount(8) takes them (`FLAG_NAMES`); the last one counts of those that contradict each other.
        security: options of the form ``context=LABEL`` (`SECURITY_NAMES`); double quotes hold commas together.
        auto_unmount: the mount is removed when this process is killed.
    """

    source: str
    subtype: str
    allow_other: bool = False
    default_permissions: bool = True
    max_read: int = 128 * 1024
    flags: tuple[str, ...] = ()
    security: tuple[str, ...] = ()
    auto_unmount: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.flags if name not in FLAG_NAMES]
        unknown += [option for option in self.security if option.partition("=")[0] not in SECURITY_NAMES]
        if unknown:
            raise ChannelError(f"unknown mount option {unknown[0]!r}")


FLAG_NAMES: Final = frozenset(_FLAGS) | frozenset(_CLEARED)


class Channel:
    """The descriptor of one mount. `receive` is for one thread; everything else for any."""

    def __init__(self, descriptor: int, mountpoint: Path, guard: "_Guard | None" = None) -> None:
        """Takes over `descriptor`, an open ``/dev/fuse`` that belongs to the mount on `mountpoint`."""
        self._descriptor = descriptor
        self._guard = guard
        self._mountpoint = mountpoint
        self.device = device_mounted_on(mountpoint)
        """The number of the mounted file system, as stat(2) has it; None where nothing is mounted."""

    @classmethod
    def mount(cls, mountpoint: Path, options: MountOptions) -> "Channel":
        """Mounts on `mountpoint`, which exists. Requests wait in the kernel from then on, the first one being INIT.

        Raises:
            ChannelError: with the reason.
        """
        mountpoint = Path(os.path.realpath(mountpoint))  # as the mount table has it
        if os.geteuid() == 0 and not options.auto_unmount:
            return cls(_mount_as_root(mountpoint, options), mountpoint)
        return cls(*_mount_by_helper(mountpoint, options))

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def receive(self, buffers: list[memoryview]) -> int:
        """Waits for a request and reads it into `buffers`.

        Returns:
            Its length in bytes.

        Raises:
            ConnectionEnded: there will be none.
        """
        while True:
            length = self.receive_now(buffers)
            if length is not None:
                return length

    def receive_now(self, buffers: list[memoryview]) -> int | None:
        """One attempt of `receive`: it waits unless `set_blocking` says otherwise; None where nothing came of it.

        Raises:
            ConnectionEnded: there will be no more requests.
        """
        try:
            length = os.readv(self._descriptor, buffers)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ECONNABORTED, errno.EBADF):
                raise ConnectionEnded from None
            if error.errno not in (errno.ENOENT, errno.EINTR):
                raise
            return None  # ENOENT: the request was given up between its arrival and now
        if not length:
            raise ConnectionEnded
        return length

    def set_blocking(self, blocking: bool) -> None:
        """Sets whether reads wait for a request."""
        os.set_blocking(self._descriptor, blocking)

    def send(self, reply: bytes | list[bytes | bytearray | memoryview]) -> None:
        """Writes one message.

        Raises:
            FileNotFoundError: the kernel does not wait for that reply any more.
            OSError: EINVAL, for a message that it cannot make sense of.
        """
        if reply.__class__ is list:
            os.writev(self._descriptor, reply)
        else:
            os.write(self._descriptor, reply)  # type: ignore[arg-type]

    def set_read_ahead(self, size_bytes: int) -> bool:
        """Has the kernel read that much ahead of sequential reads (128 KiB by default); call it after INIT.

        Returns:
            Whether that was possible: root may do it, where ``/sys`` is writable.
        """
        if self.device is None:
            return False
        setting = _READ_AHEAD.format(os.major(self.device), os.minor(self.device))
        try:
            Path(setting).write_text(str(size_bytes // 1024))
        except OSError:
            return False
        return True

    def is_mounted(self) -> bool:
        """Whether the mount is still in the tree; asks nothing of the file system that is mounted."""
        return self.device is not None and device_mounted_on(self._mountpoint) == self.device

    def unmount(self) -> None:
        """Takes the mount out of the tree, at once; files that are open stay usable until `close`.

        Raises:
            ChannelError: with the reason.
        """
        detach(self._mountpoint)

    def close(self) -> None:
        """Drops the connection; whatever is written later goes nowhere."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.dup2(null, self._descriptor, inheritable=False)
        finally:
            os.close(null)
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def __del__(self) -> None:
        os.close(self._descriptor)


def device_mounted_on(mountpoint: Path) -> int | None:
    """The number of the file system that is mounted on that very directory, as stat(2) has it; None where none is."""
    wanted, found = os.fsencode(mountpoint), None
    for mounted in read_mount_table():
        if mounted.path == wanted:
            found = mounted.device  # the last one covers those before
    return found


def detach(mountpoint: Path) -> None:
    """Takes what is mounted on that directory out of the tree, at once; open files stay usable while its process runs.

    Raises:
        ChannelError: with the reason.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH | _UMOUNT_NOFOLLOW):
            raise ChannelError(f"{mountpoint} cannot be unmounted: {os.strerror(ctypes.get_errno())}")
        return
    _run_helper(["-u", "-z", "--", str(mountpoint)])


def _mount_as_root(mountpoint: Path, options: MountOptions) -> int:
    descriptor = _open_device()
    mode = mountpoint.stat().st_mode
    flags = 0
    for name in (*_DEFAULT_FLAGS, *options.flags):
        flags = (flags | _FLAGS.get(name, 0)) & ~_CLEARED.get(name, 0)
    data = f"fd={descriptor},rootmode={mode & 0o170000:o},user_id=0,group_id=0,{','.join(_data_options(options))}"
    libc = ctypes.CDLL(None, use_errno=True)
    kind = f"fuse.{options.subtype}".encode()
    if libc.mount(os.fsencode(options.source), os.fsencode(mountpoint), kind, flags, data.encode()):
        number = ctypes.get_errno()
        os.close(descriptor)
        raise ChannelError(f"{mountpoint} cannot be mounted: {_why(number, options)}")
    return descriptor


def _why(number: int, options: MountOptions) -> str:
    if number == errno.EINVAL and options.security:
        return f"the kernel refuses {', '.join(options.security)}, for which it needs SELinux"
    if number == errno.EPERM:
        return "this process may not mount (a container needs the capability SYS_ADMIN)"
    if number == errno.ENODEV:
        return "this kernel has no FUSE; load the module fuse"
    return os.strerror(number)


def _data_options(options: MountOptions) -> list[str]:
    words = [f"max_read={options.max_read}"]
    if options.default_permissions:
        words.append("default_permissions")
    if options.allow_other:
        words.append("allow_other")
    return [*words, *options.security]


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ChannelError(
            f"{DEVICE} cannot be opened ({error.strerror}):"
            " load the kernel module fuse, or give the container the device"
        ) from error


class _Guard(NamedTuple):
    """The fusermount3 that waits for the end of this process, and our end of its socket."""

    helper: "subprocess.Popen[bytes]"
    socket: socket.socket

    def dismiss(self) -> None:
        """Have it end now; it removes the mount where that is left over."""
        self.socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.helper.wait(_HELPER_TIMEOUT_S)


def _mount_by_helper(mountpoint: Path, options: MountOptions) -> tuple[int, Path, _Guard | None]:
    words = [*_data_options(options), f"subtype={options.subtype}", f"fsname={_escaped(options.source)}"]
    words += [name for name in options.flags if name not in _DEFAULT_TIMES]
    words += ["auto_unmount"] if options.auto_unmount else []
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as unless_kept, tempfile.TemporaryFile() as errors:
        unless_kept.callback(ours.close)
        with its:
            helper = _start_helper(["-o", ",".join(words), "--", str(mountpoint)], errors, its)
        ours.settimeout(_HELPER_TIMEOUT_S)
        try:
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        except OSError as error:
            raise ChannelError(f"{mountpoint} cannot be mounted: {_HELPER} does not reply: {error}") from error
        if not descriptors:
            raise ChannelError(f"{mountpoint} cannot be mounted: {_reason(helper, errors)}")
        os.set_inheritable(descriptors[0], False)
        if not options.auto_unmount:
            with contextlib.suppress(ChannelError):  # it has mounted, whatever it does now
                _status_of(helper)
            return descriptors[0], mountpoint, None
        unless_kept.pop_all()
    return descriptors[0], mountpoint, _Guard(helper, ours)


def _escaped(source: str) -> str:
    return source.replace("\\", "\\\\").replace(",", "\\,")


def _run_helper(arguments: Iterable[str]) -> None:
    """Runs fusermount3 to its end."""
    with tempfile.TemporaryFile() as errors:
        helper = _start_helper(arguments, errors)
        if _status_of(helper):
            raise ChannelError(_reason(helper, errors))


def _start_helper(
    arguments: Iterable[str], errors: IO[bytes], passed: socket.socket | None = None
) -> "subprocess.Popen[bytes]":
    """Starts fusermount3; `passed` is the socket through which it hands back a descriptor."""
    program = shutil.which(_HELPER)
    if program is None:
        raise ChannelError(f"there is no {_HELPER}; install the package fuse3")
    environment = dict(os.environ)
    handed_on: tuple[int, ...] = ()
    if passed is not None:
        handed_on = (passed.fileno(),)
        environment["_FUSE_COMMFD"] = str(passed.fileno())
    try:
        return subprocess.Popen(
            [_HELPER, *arguments],
            executable=program,
            env=environment,
            pass_fds=handed_on,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    except OSError as error:
        raise ChannelError(f"{_HELPER} failed: {error}") from error


def _status_of(helper: "subprocess.Popen[bytes]") -> int:
    try:
        return helper.wait(_HELPER_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        helper.kill()
        raise ChannelError(f"{_HELPER} does not end") from error


def _reason(helper: "subprocess.Popen[bytes]", errors: IO[bytes]) -> str:
    """The reason that fusermount3 gave for its failure; waits for its end."""
    status = _status_of(helper)
    errors.seek(0)
    said = errors.read().decode(errors="replace").split()
    return " ".join(said) or f"{_HELPER} ended with status {status}"
