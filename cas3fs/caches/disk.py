# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks in a folder on the local disk, one file each, bounded by the disk space that the files use.

The folder is authoritative; the LRU (`segmented_lru`) only records what is believed to be in it. A file may vanish at
any time (another process, an administrator), and a file that the LRU does not know is used if it is there. At start a
thread walks the folder and adds names and sizes to the LRU without opening a file. Until it is done, blocks are read
but none is added, so the limit holds from the start.

Every failure is a miss. A corrupt or half-written file is deleted when it is read. If the folder was deleted, the next
write creates it again; if it cannot be written, that is logged once, and each write tries again. Other users of the
disk come first: where less than `keep_free_bytes` are free, or the disk is full, files are deleted instead of added.

Locks: one, `_lock`, around the LRU alone; no system call is made under it. The LRU reserves the space of a file, and
the evicted files are deleted, before the file is written; so the limit holds however many threads write at once. (A
file that is deleted while it is read uses its space until it is closed. The folders themselves, about 1 MiB, are not
counted.)
"""

import errno
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cas3fs.caches.base import BlockCache, BlockCheck, check_plainly
from cas3fs.caches.block_files import BlockFolder
from cas3fs.caches.block_formats import BlockFormat, CorruptBlockFile, PlainFormat
from cas3fs.caches.sealed_format import SealedFormat
from cas3fs.caches.segmented_lru import SegmentedLru
from cas3fs.encryption.disk_cache import DiskCacheSeal
from cas3fs.errors import UsageError
from cas3fs.localdisk import LocalDisk
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, Buffer

DEFAULT_KEEP_FREE_BYTES = 256 * 1024 * 1024
DEFAULT_LIMIT_FILES = 400_000
"""Each known file costs about 200 bytes of memory."""

_log = logging.getLogger(__name__)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

Part = TypeVar("Part", bytes, Buffer)


class DiskCache(BlockCache):
    """At most `limit_bytes` of files under `directory`, which is created if it is missing.

    Args:
        directory: of one volume's blocks.
        limit_bytes: the most disk space that the files use.
        metrics: for counters.
        keep_free_bytes: how much of the disk is left to others.
        limit_files: the most files.
        disk: makes the system calls.
        check: whether bytes are those of a block.
        seal: seals the files; None leaves them plain.
        removes_others: delete the files that an earlier run wrote in another form, plain or with another key.

    Raises:
        UsageError: the directory cannot be created or read.
    """

    name = "disk"
    verifies = True

    def __init__(
        self,
        directory: Path,
        limit_bytes: int,
        *,
        metrics: Metrics,
        keep_free_bytes: int = DEFAULT_KEEP_FREE_BYTES,
        limit_files: int = DEFAULT_LIMIT_FILES,
        disk: LocalDisk | None = None,
        check: BlockCheck = check_plainly,
        seal: DiskCacheSeal | None = None,
        removes_others: bool = False,
    ) -> None:
        self._format: BlockFormat = PlainFormat(check) if seal is None else SealedFormat(seal, check)
        self._lru = SegmentedLru(limit_bytes, limit_files)
        self._lock = threading.Lock()
        self._keep_free_bytes = keep_free_bytes
        self._disk = disk or LocalDisk()
        self._corrupt = metrics.counter("cache.disk.rotten")
        self._failed_writes = metrics.counter("cache.disk.failed_writes")
        self._removed = metrics.counter("cache.disk.removed")
        self._is_failing = False
        """Whether writes fail, which was logged."""
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._scanner: threading.Thread | None = None
        try:
            self._folder = BlockFolder(str(directory), self._disk, "" if seal is None else seal.folder)
            self._start_scan(removes_others)
        except OSError as error:
            raise UsageError(f"cache directory {directory}: {error.strerror}") from error
        metrics.watch("cache.disk.size_bytes", lambda: self.size_bytes)

    def get(self, block: BlockHash) -> bytes | None:
        """Return all of the block, checked against its hash."""
        return self._read(block, lambda file: self._format.read_whole(self._disk, file, block))

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """Return a part of the block; reads and checks only the 32 KiB pieces that contain it."""
        if length <= 0:
            return b""
        return self._read(block, lambda file: self._format.read_part(self._disk, file, block, skip, length))

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Write the block's file, after the evicted files are deleted."""
        if not self._ready.is_set() or self._closing.is_set():
            return
        unit_bytes = self._folder.allocation_unit_bytes
        with self._lock:
            evicted = self._lru.reserve(block, -(-self._format.file_length(len(plain)) // unit_bytes) * unit_bytes)
        if evicted is None:
            return
        disk_bytes = None
        try:
            self._remove(evicted)
            disk_bytes = self._write(block, plain)
        except OSError as error:
            self._failed_writes.add()
            if error.errno in _DISK_FULL:
                self._shrink_by(len(plain))
            elif not self._is_failing:
                self._is_failing = True
                _log.warning("cannot write to the cache directory %s, so no blocks are added: %s", self._root, error)
        finally:
            self._end_reservation(block, disk_bytes)

    def contains(self, block: BlockHash) -> bool:
        """Return whether the LRU knows the block, or else whether its file exists."""
        with self._lock:
            if block in self._lru:
                return True
        with suppress(OSError):
            return self._folder.disk_bytes_of(block) > 0
        return False

    def evict(self, block: BlockHash) -> None:
        """Delete the block's file."""
        with self._lock:
            self._lru.discard(block)
        with suppress(OSError):
            self._folder.remove(block)

    @property
    def size_bytes(self) -> int:
        """The disk space that the known files use."""
        with self._lock:
            return self._lru.size_bytes

    def free_disk_space(self) -> None:
        """Delete files until the disk has `keep_free_bytes` free, or none are left."""
        with suppress(OSError):
            lacking_bytes = self._keep_free_bytes - self._folder.free_bytes()
            if lacking_bytes > 0:
                self._shrink_by(lacking_bytes)

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until the folder was walked and blocks can be added; return False on timeout."""
        return self._ready.wait(timeout_s)

    def close(self) -> None:
        """End the walk through the folder if it is still running; no more blocks are added."""
        self._closing.set()
        if self._scanner is not None:
            self._scanner.join()

    @property
    def _root(self) -> str:
        return self._folder.root

    def _read(self, block: BlockHash, read: Callable[[int], Part]) -> Part | None:
        """Return the result of `read` for the block's open file; None, and no file any more, if it is corrupt."""
        try:
            file = self._folder.open(block)
        except FileNotFoundError:
            with self._lock:
                self._lru.discard(block)
            return None
        except OSError:
            return None
        try:
            part = read(file)
        except (CorruptBlockFile, OSError):
            self._corrupt.add()
            self.evict(block)
            return None
        finally:
            self._disk.close(file)
        self._record_hit(block)
        return part

    def _record_hit(self, block: BlockHash) -> None:
        with self._lock:
            if self._lru.record_hit(block):
                return
        with suppress(OSError):
            disk_bytes = self._folder.disk_bytes_of(block)
            with self._lock:
                evicted = self._lru.add_found(block, disk_bytes)
            self._remove(evicted)

    def _write(self, block: BlockHash, plain: Buffer) -> int | None:
        """Write the file unless the disk is too full; then delete as much instead.

        Returns:
            The disk space that the file uses, or None if it was not written.
        """
        try:
            disk_bytes = self._write_if_space(block, plain)
        except FileNotFoundError:
            self._folder.make()
            _log.warning("the cache directory %s was deleted and is created again", self._root)
            disk_bytes = self._write_if_space(block, plain)
        if self._is_failing and disk_bytes is not None:
            self._is_failing = False
            _log.warning("the cache directory %s can be written again", self._root)
        return disk_bytes

    def _write_if_space(self, block: BlockHash, plain: Buffer) -> int | None:
        lacking_bytes = self._keep_free_bytes + len(plain) - self._folder.free_bytes()
        if lacking_bytes > 0:
            self._shrink_by(lacking_bytes)
            return None
        return self._folder.write(block, self._format.content(block, plain))

    def _end_reservation(self, block: BlockHash, disk_bytes: int | None) -> None:
        with self._lock:
            if disk_bytes is None:
                self._lru.cancel(block)
            else:
                self._lru.commit(block, disk_bytes)

    def _shrink_by(self, size_bytes: int) -> None:
        with self._lock:
            evicted = self._lru.shrink_by(size_bytes)
        self._remove(evicted)

    def _remove(self, evicted: list[BlockHash]) -> None:
        for block in evicted:
            self._folder.remove(block)
        if evicted:
            self._removed.add(len(evicted))

    def _start_scan(self, removes_others: bool) -> None:
        self._folder.remove_abandoned()
        removes_others = removes_others and bool(self._folder.others())
        if self._folder.is_new() and not removes_others:
            self._ready.set()
            return
        self._scanner = threading.Thread(
            target=self._scan, args=(removes_others,), name="cas3fs-cache-scan", daemon=True
        )
        self._scanner.start()

    def _scan(self, removes_others: bool) -> None:
        """Add the files of an earlier run to the LRU, least recently used first."""
        try:
            if removes_others:
                with suppress(OSError):
                    self._folder.remove_others(self._closing.is_set)
            with suppress(OSError):
                found = sorted(self._folder.walk(self._closing.is_set))
                with self._lock:
                    evicted = self._lru.add_existing((file.block, file.disk_bytes) for file in found)
                self._remove(evicted)
        except Exception:  # noqa: BLE001 - the cache works without the blocks of an earlier run
            _log.exception("cannot list the blocks of an earlier run in the cache directory %s", self._root)
        finally:
            self._ready.set()
