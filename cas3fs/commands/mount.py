# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of a mount: an open volume between the kernel and the control socket, from the first request to the
release.

Its life: open the volume; mount; answer the control socket; serve the kernel until the volume is unmounted or a
signal comes; store, publish, release; tell those who wait; end. The control socket answers until the end:

    status   who serves what
    store    returns when everything written before is in the store
    flush    the same, and a snapshot that names it is published
    stats    figures
    gc       frees what nothing names (module `upkeep`)
    fsck     what is wrong (module `checking`)
    end      returns when the volume is released, with the newest snapshot, or the error that kept it from that

What a program has done in the last seconds is in the memory of this process alone, and stays there while the local disk
cannot be written. So at the end, however it comes, the process goes on trying, and answers `stats` and `end` meanwhile;
only what is on the local disk is left to the next mount.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from typing import Any

import attrs

from cas3fs.commands.snapshot import SnapshotHandlers
from cas3fs.commands.stats import list_unstored, volume_report
from cas3fs.config import MIB, LocalFolders, MountSettings, StoreSettings, WriterSettings
from cas3fs.control import ControlServer, Handler, Message, MountRecord, Progress
from cas3fs.errors import Cas3fsError, ControlError, FilesNotStored, StoreError
from cas3fs.fuse.llfuse_frontend.session import LlfuseSession
from cas3fs.fuse.llfuse_frontend.signals import StopSignals
from cas3fs.fuse.options import parse_options
from cas3fs.maintenance.last_results import load_last_results
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.memory_tuning import TimedGc, limit_malloc_arenas, raise_descriptor_limit
from cas3fs.volume.opening import OpenVolume, open_view, open_writer
from cas3fs.volume.state_folder import StateFolder

_LOG_BYTES = 4 * MIB
_LOG_FILES = 3
_REPORT_INTERVAL_S = 0.2
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 10.0
_FAILED = 1
_UNFENCED = (
    "the store ignores create-if-absent, so it cannot keep two machines apart that mount the volume at the same time"
)

_log = logging.getLogger(__name__)


class EndState:
    """How the volume was left, for those who wait to hear it."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._report: Message = {}
        self.trouble = ""
        """What keeps the process from ending; empty while nothing does."""
        self._result: Message = {}
        self._error: Cas3fsError | None = None

    def report(self, message: Message) -> None:
        """Tells how far it is."""
        self._report = message

    def succeed(self, snapshot: str | None, refused: int) -> None:
        """The volume is published and released; so many files are in the index otherwise than programs left them."""
        self._result = {"snapshot": snapshot, "refused": refused}
        self._over.set()

    def leave(self, error: FilesNotStored) -> None:
        """The volume is published, and stays held as files could not be stored."""
        self._result = {"snapshot": None, "unstored": list(error.files), "told": str(error)}
        self._over.set()

    def fail(self, error: BaseException) -> None:
        """Something kept it from that."""
        self._error = error if isinstance(error, Cas3fsError) else StoreError(f"{type(error).__name__}: {error}")
        self._over.set()

    def wait(self, progress: Progress) -> Message:
        """Returns when it is over; raises what went wrong."""
        while not self._over.wait(_REPORT_INTERVAL_S):
            progress(self._report)
        if self._error is not None:
            raise self._error
        return self._result


class MountProcess:
    """See the module."""

    def __init__(self, volume: OpenVolume, writer: WriterSettings, mount: MountSettings, signals: StopSignals) -> None:
        self._volume = volume
        self._signals = signals
        self._writer = writer
        self._mount = mount
        self._ending = EndState()
        options = parse_options(mount.options, is_root=os.geteuid() == 0)
        self._session = LlfuseSession(
            volume.filesystem,
            mount.mountpoint,
            url=volume.url,
            workers=mount.workers,
            options=options,
            control=volume.state.control,
            last_response_at=lambda: volume.archive.shelf.store.last_response_at_s,
            capabilities=volume.filesystem.xattrs.has_capabilities,
            sync=self._sync(),
        )
        self._gc_scheduler = GcScheduler(volume)
        self._server = ControlServer(volume.state.control, self._handlers())

    def _sync(self) -> Callable[[], None] | None:
        """What fsync waits for; None for this machine's disk."""
        publisher = self._volume.publisher
        return publisher.publish_shared if publisher is not None and self._writer.fsync_remote else None

    def _handlers(self) -> dict[str, Handler]:
        return {
            "status": lambda args, progress: self._status(),
            "store": self._store,
            "flush": self._flush,
            "stats": lambda args, progress: self._stats(),
            "gc": self._gc_scheduler.answer_gc,
            "fsck": self._fsck,
            "end": lambda args, progress: self._ending.wait(progress),
            **SnapshotHandlers(self._volume).handlers(),
        }

    # -- the life

    def run(self, ready: Callable[[], None]) -> int:
        """Serves until the end; gives the exit status. `ready` is called when the mount serves.

        Raises:
            Cas3fsError: it could not begin; the volume is given back.
        """
        try:
            self._begin()
        except BaseException:
            self._session.close()
            self._server.close(0)
            self._volume.release_unserved()
            raise
        ready()
        # now, and not when it is asked for: an upgrade may have replaced it by then, and this process is of one version
        threading.Thread(target=_import_maintenance, name="importer", daemon=True).start()
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
            _log.info("no request comes any more; storing the rest")
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
            with suppress(Exception):  # this error is told
                self._write_out()
                self._volume.close()
            self._ending.leave(error)
            return _FAILED
        except BaseException as error:  # noqa: BLE001 - told to the log and to those who wait
            expected = isinstance(error, Cas3fsError | OSError)
            _log.error("the volume could not be released: %s", error, exc_info=None if expected else error)
            with suppress(Exception):  # the first error is told
                self._write_out()
            self._ending.fail(error)
            return _FAILED
        _log.info("released, with snapshot %s", snapshot)
        self._ending.succeed(snapshot, refused)
        return _FAILED if refused else 0

    def _write_out(self) -> None:
        """Returns when all that programs did is on the local disk, however long that takes.

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

    # -- requests

    def _status(self) -> Message:
        left = self._volume.filesystem.pending()
        return {
            "pid": os.getpid(),
            "url": self._volume.url,
            "mountpoint": str(self._mount.mountpoint),
            "read_only": self._volume.filesystem.read_only,
            "pending": attrs.asdict(left),
        }

    def _store(self, args: Message, progress: Progress) -> Message:
        publisher = self._volume.publisher
        if publisher is not None:
            publisher.store(progress)
            if self._volume.filesystem.unstorable_files():
                publisher.publish(progress)  # which shows whether the store takes anything
        return {}

    def _flush(self, args: Message, progress: Progress) -> Message:
        publisher = self._volume.publisher
        if publisher is None:
            raise ControlError(f"{self._volume.url} is mounted read-only, so there is nothing to flush")
        name = args.get("name")
        if name is not None and not isinstance(name, str):
            raise ControlError("the name of a snapshot must be a text")
        return {"snapshot": publisher.publish(progress, name=name), "unstored": list_unstored(self._volume.filesystem)}

    def _fsck(self, args: Message, progress: Progress) -> Message:
        return _import_checking()(self._volume, args, progress)

    def _stats(self) -> dict[str, Any]:
        filesystem = self._volume.filesystem
        trouble = self._ending.trouble
        try:
            filesystem.commit()
        except (Cas3fsError, OSError) as error:
            trouble = str(error)
        with filesystem.read_index() as reader:
            report = volume_report(self._volume.entry, self._volume.url, reader.counts())
        publisher = self._volume.publisher
        return report | {
            "mountpoint": str(self._mount.mountpoint),
            "read_only": filesystem.read_only,
            "read_only_reason": filesystem.read_only_reason,
            "not_on_disk_reason": trouble,
            "is_view": publisher is None,
            "fenced": publisher is not None and bool(publisher.fenced),
            "snapshot": self._volume.shown if publisher is None else publisher.newest,
            "snapshot_gone": publisher is None and self._volume.shown_snapshot_deleted(),
            "snapshot_bytes": None if publisher is None else publisher.pruner.stored_bytes(),
            "snapshots": {"newest_age_s": None if publisher is None else publisher.newest_age_s()},
            "troubles": {name: trouble._asdict() for name, trouble in self._volume.metrics.last_errors().items()},
            "pending": attrs.asdict(filesystem.pending()),
            "unstored": list_unstored(filesystem),
            "process": filesystem.statistics(),
            "maintenance": load_last_results(self._volume.state.path),
        }


def _import_maintenance() -> None:
    import cas3fs.maintenance.gc.collector  # noqa: F401

    _import_checking()


def _import_checking() -> Callable[[OpenVolume, Message, Progress], Message]:
    """What answers ``fsck``; it is imported here, as no mount needs to wait for it."""
    from cas3fs.commands.fsck import check_mounted

    return check_mounted


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
        if not volume.entry.fenced and not writer.read_only:
            _log.warning("%s", _UNFENCED)
        try:
            return MountProcess(volume, writer, mount, signals).run(ready)
        finally:
            volume.close()


def _log_to_file(verbose: bool) -> Callable[[StateFolder], None]:
    def begin(state: StateFolder) -> None:
        handler = RotatingFileHandler(state.log, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.DEBUG if verbose else logging.INFO)
        for library in ("boto3", "botocore", "urllib3", "s3transfer", "llfuse"):
            logging.getLogger(library).setLevel(logging.WARNING)

    return begin
