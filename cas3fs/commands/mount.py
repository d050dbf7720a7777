# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of a mount: everything between the kernel and the control socket, from the first request to the release.

Its life: open the volume; mount it; answer the control socket; serve the kernel until the volume is unmounted or a
signal comes; store, publish, release; answer the requests that wait for the end; exit. The control socket answers until
then, by the table in `cas3fs.commands.requests`.

What a program has done in the last seconds is in the memory of this process alone, and stays there while the local disk
cannot be written. So at the end, however it comes, the process keeps trying, and answers ``stats`` and ``end``
meanwhile. Only what is on the local disk is left to the next mount.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import RotatingFileHandler

from cas3fs.commands.mount_service import EndState, MountService
from cas3fs.commands.requests import import_all, mount_handlers
from cas3fs.config import LocalFolders, MountSettings, StoreSettings, WriterSettings
from cas3fs.control import ControlServer, MountRecord, Progress
from cas3fs.errors import Cas3fsError, FilesNotStored
from cas3fs.fuse.frontends import FrontendSession, choose_frontend
from cas3fs.fuse.options import parse_options
from cas3fs.fuse.signals import StopSignals
from cas3fs.units import MIB
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.memory_tuning import TimedGc, limit_malloc_arenas, raise_descriptor_limit
from cas3fs.volume.opening import OpenVolume, open_view, open_writer
from cas3fs.volume.state_directory import StateDirectory

_LOG_BYTES = 4 * MIB
_LOG_FILES = 3
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 10.0
_FAILED = 1
_UNCONDITIONAL = (
    "the store ignores conditional writes, so it cannot keep two machines apart that mount the volume at the same time"
)
_IMPORT_DELAY_S = 10.0
"""Programs often begin to work as soon as the mount is there; imports at that moment would hold them up."""

_log = logging.getLogger(__name__)


class MountProcess:
    """The process of one mount, from opening the session to the release of the volume."""

    def __init__(
        self,
        volume: OpenVolume,
        writer: WriterSettings,
        mount: MountSettings,
        signals: StopSignals,
        make_session: Callable[..., FrontendSession],
    ) -> None:
        self._volume = volume
        self._signals = signals
        self._writer = writer
        self._mount = mount
        self._ending = EndState()
        self._session = make_session(
            volume.filesystem,
            mount.mountpoint,
            url=volume.url,
            workers=mount.workers,
            control=volume.state.control,
            last_response_at=lambda: volume.archive.shelf.store.last_response_at_s,
            capabilities=volume.filesystem.xattrs.has_capabilities,
            sync=self._sync(),
        )
        self._gc_scheduler = GcScheduler(volume)
        service = MountService(volume, mount.mountpoint, self._gc_scheduler, self._ending, self._session)
        self._server = ControlServer(volume.state.control, mount_handlers(service))

    def _sync(self) -> Callable[[], None] | None:
        """What fsync waits for; None for this machine's disk."""
        publisher = self._volume.publisher
        return publisher.publish_shared if publisher is not None and self._writer.fsync_remote else None

    # -- the life

    def run(self, ready: Callable[[], None]) -> int:
        """Serve until the end, and return the exit status; call `ready` when the mount serves.

        Raises:
            Cas3fsError: it could not begin; the volume is released.
        """
        try:
            self._begin()
        except BaseException:
            self._session.close()
            self._server.close(0)
            self._volume.release_unserved()
            raise
        ready()
        importer = threading.Timer(_IMPORT_DELAY_S, import_all)
        importer.daemon = True
        importer.start()
        status = self._serve()
        self._server.close()
        return status

    def _begin(self) -> None:
        self._session.open()
        self._volume.start(self._writer.snapshot_interval_s)
        self._gc_scheduler.start(self._writer.gc_interval_s)
        record = MountRecord(self._volume.url, str(self._volume.entry.uuid), str(self._mount.mountpoint), os.getpid())
        record.save(self._volume.state.path)
        self._server.start()
        _log.info("%s is mounted on %s", self._volume.url, self._mount.mountpoint)

    def _serve(self) -> int:
        try:
            self._session.serve(self._signals)
            _log.info("no more requests; storing the rest")
            self._session.close()
            self._gc_scheduler.stop()
            self._write_out()
            snapshot = self._volume.finish(self._ending.report)
            self._write_out()
            refused = self._volume.filesystem.refused_inodes
            self._volume.close()
        except FilesNotStored as error:
            for file in error.files:
                _log.error("%s is not in the store: %s", file["path"], file["reason"])
            _log.error("the volume is not released: %s", error)
            with suppress(Exception):  # this error is reported
                self._write_out()
                self._volume.close()
            self._ending.keep_held(error)
            return _FAILED
        except BaseException as error:  # noqa: BLE001 - goes to the log and to waiting requests
            expected = isinstance(error, Cas3fsError | OSError)
            _log.error("the volume could not be released: %s", error, exc_info=None if expected else error)
            with suppress(Exception):  # the first error is reported
                self._write_out()
            self._ending.fail(error)
            return _FAILED
        _log.info("released, with snapshot %s", snapshot)
        self._ending.succeed(snapshot, refused)
        return _FAILED if refused else 0

    def _write_out(self) -> None:
        """Return when all that programs did is on the local disk, however long that takes.

        Raises:
            IndexDatabaseError: that disk has lost what was written before, so no later try can prove anything.
        """
        pause_s = _FIRST_RETRY_S
        while True:
            try:
                self._volume.filesystem.commit()
            except (Cas3fsError, OSError) as error:
                if getattr(error, "is_final", False):
                    raise
                self._ending.trouble = str(error)
            else:
                self._ending.trouble = ""
                return
            _log.error(
                "the local disk cannot be written, next try in %.0f s: %s; kill -9 %d gives up what is not written",
                pause_s,
                self._ending.trouble,
                os.getpid(),
            )
            self._ending.report({"what": f"not on the local disk yet, trying again: {self._ending.trouble}"})
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)


def serve_mount(
    store: StoreSettings,
    writer: WriterSettings,
    mount: MountSettings,
    folders: LocalFolders,
    ready: Callable[[], None],
    *,
    verbose: bool,
    log_to_file: bool,
    progress: Progress = lambda _: None,
) -> int:
    """Opens a volume, mounts it, and serves it until it is unmounted; gives the exit status.

    Raises:
        Cas3fsError: it could not be mounted.
    """
    options = parse_options(mount.options, is_root=os.geteuid() == 0)
    make_session = choose_frontend(mount.frontend, options, writeback=mount.writeback)
    limit_malloc_arenas()
    raise_descriptor_limit()
    opener = open_view if writer.read_only else open_writer
    with StopSignals() as signals, TimedGc():
        volume = opener(
            store,
            writer,
            folders,
            _log_to_file(verbose) if log_to_file else lambda _: None,
            lambda done, total: progress({"what": "restoring the index", "done": done, "total": total}),
        )
        if not volume.entry.conditional_writes and not writer.read_only:
            _log.warning("%s", _UNCONDITIONAL)
        try:
            return MountProcess(volume, writer, mount, signals, make_session).run(ready)
        finally:
            volume.close()


def _log_to_file(verbose: bool) -> Callable[[StateDirectory], None]:
    def begin(state: StateDirectory) -> None:
        handler = RotatingFileHandler(state.log, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.DEBUG if verbose else logging.INFO)
        for library in ("boto3", "botocore", "urllib3", "s3transfer", "llfuse"):
            logging.getLogger(library).setLevel(logging.WARNING)

    return begin
