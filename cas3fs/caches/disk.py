# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks in a folder of the local disk, a file each, bounded by what the files really take.

The folder is the truth, the ledger only what is believed of it: a file may vanish at any time (another process, an
administrator), and one that the ledger does not know is used if it is there. At start a thread walks the folder and
enters names and sizes in the ledger without opening a file; until it is done, blocks are read but none is added, so
that the bound holds from the first moment.

Trouble is a miss. A rotten or half-written file is removed when it is met. A folder that somebody removed is made
again by the next write; one that cannot be written is logged once, and tried again by each write. The cache gives way
to others: where the disk has less than `keep_free_bytes` left, or is full, files are removed instead of added.

Locks: one, `_lock`, around the ledger alone; no system call is made under it. Room for a file is booked in the
ledger, and the files that must go for it are removed, before it is written; so the folder takes no more than the
limit however many write at once. (A file being read while it is removed takes its room until it is closed. The
folders themselves, 1 MiB or so, are not counted.)
"""

import errno
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cas3fs.caches.base import BlockCache
from cas3fs.caches.block_files import BlockFolder, CorruptBlockFile, file_header, file_length, read_part, read_whole
from cas3fs.caches.segmented_lru import SegmentedLru
from cas3fs.errors import UsageError
from cas3fs.localdisk import LocalDisk
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, Buffer

DEFAULT_KEEP_FREE_BYTES = 256 * 1024 * 1024
DEFAULT_LIMIT_FILES = 400_000
"""Each file known costs about 200 bytes of memory."""

_log = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)

Part = TypeVar("Part", bytes, Buffer)


class DiskCache(BlockCache):
    """At most `limit_bytes` of files under `directory`, which is made if it is missing.

    Raises:
        UsageError: the directory cannot be made or read.
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
    ) -> None:
        self._ledger = SegmentedLru(limit_bytes, limit_files)
        self._lock = threading.Lock()
        self._keep_free_bytes = keep_free_bytes
        self._disk = disk or LocalDisk()
        self._rotten = metrics.counter("cache.disk.rotten")
        self._failed_writes = metrics.counter("cache.disk.failed_writes")
        self._removed = metrics.counter("cache.disk.removed")
        self._is_failing = False
        """Whether writes fail, and the log says so."""
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._scanner: threading.Thread | None = None
        try:
            self._folder = BlockFolder(str(directory), self._disk)
            self._begin()
        except OSError as error:
            raise UsageError(f"cache directory {directory}: {error.strerror}") from error
        metrics.watch("cache.disk.size_bytes", lambda: self.size_bytes)

    def get(self, block: BlockHash) -> bytes | None:
        """All of the block, checked against its hash."""
        return self._read(block, lambda file: read_whole(self._disk, file, block))

    def get_part(self, block: BlockHash, skip: int, length: int) -> Buffer | None:
        """A part of the block, read with no more than the 32 KiB pieces it touches, each checked."""
        if length <= 0:
            return b""
        return self._read(block, lambda file: read_part(self._disk, file, block, skip, length))

    def put(self, block: BlockHash, plain: Buffer) -> None:
        """Write the block's file, after those that must go for it are removed."""
        if not self._ready.is_set() or self._closing.is_set():
            return
        unit_bytes = self._folder.unit_bytes
        with self._lock:
            victims = self._ledger.book(block, -(-file_length(len(plain)) // unit_bytes) * unit_bytes)
        if victims is None:
            return
        taken_bytes = None
        try:
            self._remove(victims)
            taken_bytes = self._write(block, plain)
        except OSError as error:
            self._failed_writes.add()
            if error.errno in _FULL:
                self._release(len(plain))
            elif not self._is_failing:
                self._is_failing = True
                _log.warning("the cache in %s cannot be written, so nothing is added: %s", self._folder.root, error)
        finally:
            self._settle(block, taken_bytes)

    def contains(self, block: BlockHash) -> bool:
        """Known, or at least there."""
        with self._lock:
            if block in self._ledger:
                return True
        with suppress(OSError):
            return self._folder.taken_by(block) > 0
        return False

    def evict(self, block: BlockHash) -> None:
        """Remove the block's file."""
        with self._lock:
            self._ledger.forget(block)
        with suppress(OSError):
            self._folder.remove(block)

    @property
    def size_bytes(self) -> int:
        """What the known files take on the disk."""
        with self._lock:
            return self._ledger.size_bytes

    def free_disk_space(self) -> None:
        """Remove files until the disk has `keep_free_bytes` left, or there are none."""
        with suppress(OSError):
            lacking_bytes = self._keep_free_bytes - self._folder.free_bytes()
            if lacking_bytes > 0:
                self._release(lacking_bytes)

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait until the folder was walked, and blocks are added; False if that takes longer."""
        return self._ready.wait(timeout_s)

    def close(self) -> None:
        """End the walk through the folder if it is still under way; nothing is added any more."""
        self._closing.set()
        if self._scanner is not None:
            self._scanner.join()

    def _read(self, block: BlockHash, read: Callable[[int], Part]) -> Part | None:
        """What `read` makes of the block's file; None, and no file any more, if it is not what it should be."""
        try:
            file = self._folder.open(block)
        except FileNotFoundError:
            with self._lock:
                self._ledger.forget(block)
            return None
        except OSError:
            return None
        try:
            part = read(file)
        except (CorruptBlockFile, OSError):
            self._rotten.add()
            self.evict(block)
            return None
        finally:
            self._disk.close(file)
        self._note_use(block)
        return part

    def _note_use(self, block: BlockHash) -> None:
        with self._lock:
            if self._ledger.used(block):
                return
        with suppress(OSError):
            taken_bytes = self._folder.taken_by(block)
            with self._lock:
                victims = self._ledger.meet(block, taken_bytes)
            self._remove(victims)

    def _write(self, block: BlockHash, plain: Buffer) -> int | None:
        """Write the file unless the disk is too full: then remove as much instead. What it takes, or None."""
        try:
            taken_bytes = self._write_in_place(block, plain)
        except FileNotFoundError:
            self._folder.make()
            _log.warning("the cache's folder %s was removed, and is made again", self._folder.root)
            taken_bytes = self._write_in_place(block, plain)
        if self._is_failing and taken_bytes is not None:
            self._is_failing = False
            _log.warning("the cache in %s can be written again", self._folder.root)
        return taken_bytes

    def _write_in_place(self, block: BlockHash, plain: Buffer) -> int | None:
        lacking_bytes = self._keep_free_bytes + len(plain) - self._folder.free_bytes()
        if lacking_bytes > 0:
            self._release(lacking_bytes)
            return None
        return self._folder.write(block, (file_header(block, plain), plain))

    def _settle(self, block: BlockHash, taken_bytes: int | None) -> None:
        """Enter in the ledger how a booked write ended."""
        with self._lock:
            if taken_bytes is None:
                self._ledger.cancel(block)
            else:
                self._ledger.enter(block, taken_bytes)

    def _release(self, size_bytes: int) -> None:
        with self._lock:
            victims = self._ledger.release(size_bytes)
        self._remove(victims)

    def _remove(self, victims: list[BlockHash]) -> None:
        for victim in victims:
            self._folder.remove(victim)
        if victims:
            self._removed.add(len(victims))

    def _begin(self) -> None:
        self._folder.remove_abandoned()
        if self._folder.is_fresh():
            self._ready.set()
            return
        self._scanner = threading.Thread(target=self._scan, name="cas3fs-cache-scan", daemon=True)
        self._scanner.start()

    def _scan(self) -> None:
        """Enter in the ledger what an earlier run left, the longest unused first."""
        try:
            with suppress(OSError):
                found = sorted(self._folder.walk(self._closing.is_set))
                with self._lock:
                    victims = self._ledger.adopt((file.block, file.taken_bytes) for file in found)
                self._remove(victims)
        except Exception:  # noqa: BLE001 - a cache that was not looked through serves all the same
            _log.exception("what an earlier run left in the cache could not be looked through")
        finally:
            self._ready.set()
