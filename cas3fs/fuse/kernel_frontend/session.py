# SPDX-License-Identifier: GPL-3.0-or-later
"""One mount by the kernel's protocol: how it is mounted, served and ended."""

from pathlib import Path

from cas3fs.errors import MountError
from cas3fs.filesystem import FileSystem
from cas3fs.fuse.attribute_view import AttributeView
from cas3fs.fuse.handlers import RequestHandlers, errno_of_failure
from cas3fs.fuse.kernel.channel import FLAG_NAMES, SECURITY_NAMES, Channel, ChannelError
from cas3fs.fuse.kernel.channel import MountOptions as ChannelOptions
from cas3fs.fuse.kernel.notify import Notifier
from cas3fs.fuse.kernel.protocol import Feature, Opcode
from cas3fs.fuse.kernel.replies import ReplyFormat
from cas3fs.fuse.kernel.session import DEFAULT_FEATURES, Session, SessionSettings, name_of
from cas3fs.fuse.kernel_frontend.operations import KernelHandlers
from cas3fs.fuse.kernel_frontend.page_cache import PageCache
from cas3fs.fuse.mountpoints import SUBTYPE, source_of
from cas3fs.fuse.options import MountOptions
from cas3fs.fuse.signals import StopSignals

_REQUEST_BYTES = 256 * 1024
"""The largest read and write: measured, larger ones are slower."""
_FEATURES = Feature.HANDLE_KILLPRIV_V2 | Feature.ATOMIC_O_TRUNC
"""Set-id bits are cleared here, where the kernel says so; an open may cut the file."""
_ACCESS_LISTS = Feature.POSIX_ACL | Feature.DONT_MASK
"""The kernel enforces access lists, and leaves the umask to us: a default list stands in its place."""
_ACCEPTED = frozenset({"default_permissions", "allow_other", "auto_unmount"})
_SET_BY_US = frozenset({"fsname", "subtype", "fd", "rootmode", "user_id", "group_id"})
_LAST_WRITE_BACK_S = 60.0
"""How long SIGTERM waits for what the kernel's page cache has collected."""


class KernelSession:
    """One mount; `open`, `serve` and `close` are called in that order."""

    def __init__(
        self,
        filesystem: FileSystem,
        mountpoint: Path,
        handlers: RequestHandlers,
        *,
        url: str,
        workers: int,
        options: MountOptions,
        writeback: bool = False,
    ) -> None:
        """Prepare the mount of `filesystem` on `mountpoint`; the arguments are those of `LlfuseSession`, and one more.

        With `writeback` the kernel's page cache collects what programs write.
        """
        self._mountpoint = mountpoint
        self._options = channel_options(options, url, read_only=filesystem.read_only)
        view = AttributeView.of_options(options)
        self._page_cache: PageCache | None = None
        if writeback and not filesystem.read_only:
            self._page_cache = PageCache(mountpoint, filesystem.files.has_writers, self._wait_for_writes)
            filesystem.files.has_cache_above = True
        self._files = filesystem.files
        self._request_handlers = handlers
        self._handlers = KernelHandlers(handlers, self._page_cache, view.file_timeout_s)
        self._settings = SessionSettings(
            features=DEFAULT_FEATURES
            | _FEATURES
            | (Feature.WRITEBACK_CACHE if self._page_cache is not None else 0)
            | (_ACCESS_LISTS if options.access_lists else 0),
            format=ReplyFormat(
                entry_timeout_s=view.entry_timeout_s,
                file_timeout_s=view.file_timeout_s,
                directory_timeout_s=view.directory_timeout_s,
                uid=options.uid,
                gid=options.gid,
                block_size=128 * 1024,
            ),
            max_write=_REQUEST_BYTES,
            pool_threads=workers,
        )
        self._session: Session | None = None

    def open(self) -> None:
        """Mount.

        Raises:
            MountError: FUSE is missing, the mount point is unusable, or an option is unknown.
        """
        try:
            channel = Channel.mount(self._mountpoint, self._options)
        except ChannelError as error:
            raise MountError(str(error)) from error
        self._handlers.notifier = Notifier(channel)
        self._files.on_set_ids_cleared = self._handlers.forget_attributes
        self._session = Session(channel, self._handlers, self._settings, errno_of_request)
        try:
            agreement = self._session.begin()
        except ChannelError as error:
            raise MountError(f"{self._mountpoint} cannot be mounted: {error}") from error
        channel.set_read_ahead(_REQUEST_BYTES)  # where it is not allowed, reads come in requests of 128 KiB
        if self._page_cache is not None and not agreement.features & Feature.WRITEBACK_CACHE:
            raise MountError("this kernel cannot collect writes; mount without --writeback")
        if agreement.features & _ACCESS_LISTS == _ACCESS_LISTS:
            self._request_handlers.follow_access_lists()

    def serve(self, signals: StopSignals) -> None:
        """Handle requests until the volume is unmounted or `signals` receives one."""
        assert self._session is not None
        try:
            signals.run_loop(self._session.serve, self._end_early)
        finally:
            if self._page_cache is not None:
                self._page_cache.end()

    def _end_early(self) -> None:
        """End `serve`, once what programs have written is there; called by the thread that waits for signals."""
        assert self._session is not None
        if self._page_cache is not None:
            self._page_cache.write_back_within(_LAST_WRITE_BACK_S)
        self._session.stop()

    def _wait_for_writes(self) -> None:
        if self._session is not None:
            self._session.wait_for_deferred(Opcode.WRITE)

    def write_back(self) -> None:
        """Return when the file system has all that programs wrote before the call.

        Raises:
            OSError: the kernel could not write a file.
        """
        if self._page_cache is not None:
            self._page_cache.write_back()

    def requests(self) -> dict[str, int]:
        """How many requests of each kind came from the kernel, by the lower-case name of the opcode."""
        counts = [] if self._session is None else self._session.requests
        return {name_of(opcode).lower(): count for opcode, count in enumerate(counts) if count}

    def close(self) -> None:
        """Remove the mount if it still exists; the second call does nothing."""
        if self._session is not None:
            self._session.stop()
            self._session = None


def refuse_unknown(options: MountOptions) -> None:
    """Check the options that are left to the front-end.

    Raises:
        MountError: there is one that this front-end does not know.
    """
    for option in sorted(options.passed_on - FLAG_NAMES - _ACCEPTED):
        name = option.partition("=")[0]
        if name in _SET_BY_US:
            raise MountError(f"the mount option {name} cannot be given, as cas3fs sets it")
        if name == "max_read" and option.removeprefix("max_read=").isdecimal():
            continue
        if name not in SECURITY_NAMES:
            raise MountError(
                f"unknown mount option {option!r}; --frontend llfuse passes what cas3fs does not know on to libfuse"
            )


def channel_options(options: MountOptions, url: str, *, read_only: bool) -> ChannelOptions:
    """The options that the channel gets, of which none is unknown."""
    given = sorted(options.passed_on)
    flags = [option for option in given if option in FLAG_NAMES]
    limits = [int(option.removeprefix("max_read=")) for option in given if option.startswith("max_read=")]
    return ChannelOptions(
        source=source_of(url),
        subtype=SUBTYPE,
        allow_other=options.allow_other or "allow_other" in options.passed_on,
        max_read=min([_REQUEST_BYTES, *limits]),
        flags=(*flags, "ro") if read_only else tuple(flags),
        auto_unmount="auto_unmount" in options.passed_on,
        security=tuple(option for option in given if option.partition("=")[0] in SECURITY_NAMES),
    )


def errno_of_request(error: BaseException, opcode: int, inode: int) -> int:
    """The errno with which a request is answered that raised `error`; logs what no program has caused."""
    return errno_of_failure(name_of(opcode).lower(), (inode,), error)
