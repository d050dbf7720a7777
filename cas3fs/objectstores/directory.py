# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as files of a directory: the key is the path below it, the file's bytes are the object's, and no more.

So a volume's directory can be copied to a bucket, and back, by any tool. How a file is made::

    .partial/<random>        written and fsynced here, on the same file system,
    packs/00000007/3f9c...   then linked to its name: link(2) is atomic, and fails where the name is taken;
                             then the folder is fsynced, and those above it unless this process has done so before

No key begins with a dot, so listings never show what a crash left in ``.partial``; leftovers of more than a day are
removed at the first put. Metadata is kept in one extended attribute, ``user.cas3fs.metadata`` (JSON), and is dropped
where the file system has none: what must not be lost belongs in the body. Empty folders are not removed. Only their
owner may read files and folders, unless `directory_permissions` records otherwise.

All paths are relative to a descriptor of the directory that is held open, so an unmounted disk or a directory that was
replaced is never mistaken for the store. No symbolic link is followed, whether of a file or of a folder: whatever
others put into the directory, nothing outside of it is written, deleted or read.

Locks: one, around the set of folders already synced; it is not held during I/O.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, NoReturn, Self

from cas3fs.errors import (
    AccessDenied,
    ObjectMissing,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreRefused,
    TruncatedBody,
    UsageError,
)
from cas3fs.objectstores.base import (
    Body,
    ListPage,
    ObjectInfo,
    ObjectStore,
    check_key,
    check_metadata,
    check_prefix,
    check_range,
    deletion_failed,
    deliver_pieces,
    object_above,
    object_exists,
    object_too_long,
    object_too_short,
    objects_below,
    shorten_last,
)
from cas3fs.objectstores.directory_permissions import PermissionBits, unexpected_readers
from cas3fs.objectstores.directory_walk import walk

PARTIAL: Final = ".partial"
_METADATA_ATTRIBUTE: Final = "user.cas3fs.metadata"
_LEFTOVER_AGE_S: Final = 24 * 3600
_COPY_BYTES: Final = 1 << 20
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MISSING_ERRNOS: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NO_LINK_ERRNOS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_XATTR_ERRNOS: Final = (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.ENODATA, errno.E2BIG, errno.ENOSPC)


class _ListingPosition(str):
    """Where the next page of a listing starts: a key, and the walk that has reached it.

    The walk saves reading the same folders for each page. It can be resumed once; a caller that asks for the same page
    again, as after a failure, starts a new walk at the key.
    """

    __slots__ = ("_of", "_walker")

    def at(self, walker: Iterator[tuple[str, os.stat_result]], store: ObjectStore, prefix: str) -> Self:
        """This position, with a walk of `store`."""
        self._walker: Iterator[tuple[str, os.stat_result]] | None = walker
        self._of = (store, prefix)
        return self

    def take(self, store: ObjectStore, prefix: str) -> Iterator[tuple[str, os.stat_result]] | None:
        """The walk, where it is of this store and prefix and was not taken before."""
        if self._of[0] is not store or self._of[1] != prefix:
            return None
        walker, self._walker = self._walker, None
        return walker


class DirectoryStore(ObjectStore):
    """An existing directory."""

    def __init__(self, root: Path, *, page_size: int = 10_000) -> None:
        """Open `root`.

        Raises:
            StoreMissing: there is no such directory.
            AccessDenied: it may not be read or searched.
        """
        self.url = root.absolute().as_uri()
        self._root_path = root
        self._page_size = page_size
        self._lock = threading.Lock()
        self._synced: set[str] = set()
        self._is_prepared = False
        self._root = self._open_root()
        self._permission_bits = PermissionBits.of(self._root, PARTIAL)

    def _open_root(self) -> int:
        try:
            return os.open(self._root_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StoreMissing(
                f"no such directory: {self._root_path} (create it first, or mount the disk that it is on)"
            ) from error
        except NotADirectoryError as error:
            raise StoreMissing(f"not a directory: {self._root_path}") from error
        except OSError as error:
            self._raise_store_error(error, "open it")

    def close(self) -> None:
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def share_with_group(self) -> None:
        permission_bits = PermissionBits(is_shared=True)
        try:
            permission_bits.make_folder(PARTIAL, self._root)
        except FileExistsError:
            raise UsageError(f"{self._root_path} has been a store before: change its modes by hand") from None
        except OSError as error:
            self._raise_store_error(error, "make a folder in it")
        self._permission_bits = permission_bits

    def permission_warning(self) -> str:
        try:
            who = unexpected_readers(self._root, self._permission_bits)
        except OSError as error:
            self._raise_store_error(error, "look at it")
        if not who:
            return ""
        return (
            f"{self._root_path} can be read by {who}, with all files of the volume, whatever their modes: "
            f"`chmod -R {'go' if who == 'everybody' else 'g'}-rwx {self._root_path}` ends that"
        )

    # Putting

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        check_key(key)
        check_metadata(metadata)
        name = secrets.token_hex(12)
        try:
            self._prepare_partial()
            with self._folder(PARTIAL) as partial:
                _write_partial(partial, name, body, metadata, self._permission_bits.file_bits)
                try:
                    self._link_into_place(partial, name, key)
                finally:
                    os.unlink(name, dir_fd=partial)
        except OSError as error:
            self._raise_store_error(error, f"put {key}")

    def _prepare_partial(self) -> None:
        if self._is_prepared:
            return
        with contextlib.suppress(FileExistsError):
            self._permission_bits.make_folder(PARTIAL, self._root)
        self._is_prepared = True
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove what crashed writers left behind more than a day ago."""
        oldest = time.time() - _LEFTOVER_AGE_S
        with self._folder(PARTIAL) as folder, os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.name, dir_fd=folder)

    def _link_into_place(self, partial: int, name: str, key: str) -> None:
        folder = _folder_of(key)
        try:
            self._make_folders(folder)
            self._link(partial, name, key)
        except FileNotFoundError:  # somebody removed empty folders
            with self._lock:
                self._synced.clear()
            self._make_folders(folder)
            self._link(partial, name, key)

    def _make_folders(self, folder: str) -> None:
        """Make `folder` and those above it, durably, unless this process has done so before."""
        parts = folder.split("/") if folder else []
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            with self._lock:
                known = path in self._synced
            if not known:
                self._make_folder(path)
                with self._lock:
                    self._synced.add(path)

    def _make_folder(self, path: str) -> None:
        name = _name_of(path)
        with self._folder(_folder_of(path)) as above:
            try:
                self._permission_bits.make_folder(name, above)
            except FileExistsError:
                mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
                if stat.S_ISREG(mode):
                    raise object_above(self.url, path) from None
            # Also where it existed: the process that made it may have crashed before this line.
            os.fsync(above)

    def _link(self, partial: int, name: str, key: str) -> None:
        with self._folder(_folder_of(key)) as folder:
            try:
                os.link(name, _name_of(key), src_dir_fd=partial, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                if stat.S_ISDIR(os.stat(_name_of(key), dir_fd=folder, follow_symlinks=False).st_mode):
                    raise objects_below(self.url, key) from None
                # The caller takes the object for stored, but the process that linked it may not have synced it yet.
                os.fsync(folder)
                raise object_exists(self.url, key) from None
            except OSError as error:
                if error.errno in _NO_LINK_ERRNOS:
                    text = (
                        f"{self._root_path}: cannot make a hard link: {error.strerror}; a folder there is immutable "
                        "(lsattr shows it), or its file system has no hard links, and the store needs another"
                    )
                    raise StoreRefused(text) from error
                raise
            try:
                os.fsync(folder)
            except OSError:
                # A disk reports a lost write once: the next sync would succeed although the name is not durable. So a
                # further put has to link it again.
                with contextlib.suppress(OSError):
                    os.unlink(_name_of(key), dir_fd=folder)
                raise

    @contextlib.contextmanager
    def _folder(self, path: str) -> Iterator[int]:
        """A descriptor of the folder `path`, opened without following a symbolic link.

        Raises:
            StoreRefused: a part of the path is a symbolic link.
            OSError: the folder cannot be opened.
        """
        descriptor = os.dup(self._root)
        try:
            for part in path.split("/") if path else ():
                inner = self._open_inner(part, descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_inner(self, part: str, above: int) -> int:
        try:
            return os.open(part, _FOLDER_FLAGS, dir_fd=above)
        except NotADirectoryError:
            if stat.S_ISLNK(os.stat(part, dir_fd=above, follow_symlinks=False).st_mode):
                text = f"{self._root_path} contains the symbolic link {part}, which is not followed: make it a folder"
                raise StoreRefused(text) from None
            raise

    # Reading

    def get(self, key: str) -> bytes:
        with self._open_object(key) as (descriptor, status):
            return self._read(key, descriptor, 0, status.st_size)

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        with self._open_object(key) as (descriptor, status):
            if status.st_size > limit_bytes:
                raise object_too_long(key, limit_bytes)
            return self._read(key, descriptor, 0, status.st_size)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        if length == 0:
            return b""
        with self._open_object(key) as (descriptor, status):
            if start + length > status.st_size:
                raise object_too_short(key, start, length, status.st_size)
            return self._read(key, descriptor, start, length)

    def get_pieces(
        self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None], *, may_end: bool = False
    ) -> None:
        check_range(start, min((0, *lengths)))
        if not sum(lengths):
            deliver_pieces(b"", lengths, take)
            return
        with self._open_object(key) as (descriptor, status):
            if may_end:
                lengths = shorten_last(key, start, lengths, status.st_size)
            if start + sum(lengths) > status.st_size:
                raise object_too_short(key, start, sum(lengths), status.st_size)
            for length in lengths:
                take(self._read(key, descriptor, start, length))
                start += length

    def head(self, key: str) -> ObjectInfo:
        with self._open_object(key) as (descriptor, status):
            return ObjectInfo(key, status.st_size, _modified(status), _get_metadata(descriptor))

    @contextlib.contextmanager
    def _open_object(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        check_key(key)
        try:
            with self._folder(_folder_of(key)) as folder:
                descriptor = os.open(_name_of(key), _READ_FLAGS, dir_fd=folder)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ObjectMissing(f"{self.url} has no object {key}")
                yield descriptor, status
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _MISSING_ERRNOS:
                self._check_root()
                raise ObjectMissing(f"{self.url} has no object {key}") from error
            self._raise_store_error(error, f"read {key}")

    def _read(self, key: str, descriptor: int, start: int, length: int) -> bytes:
        """Usually a single read: the system returns up to 2 GiB of a regular file at once."""
        pieces = [os.pread(descriptor, length, start)]
        done = len(pieces[0])
        while done < length and pieces[-1]:
            pieces.append(os.pread(descriptor, length - done, start + done))
            done += len(pieces[-1])
        if done < length:
            raise TruncatedBody(f"object {key} in {self.url} ended after {done} of {length} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # Listing and deleting

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        check_prefix(prefix)
        walker = start_after.take(self, prefix) if isinstance(start_after, _ListingPosition) else None
        try:
            self._check_root()
            if walker is None:
                walker = walk(self._root, prefix, str(start_after))
            found = list(islice(walker, self._page_size))
        except OSError as error:
            self._raise_store_error(error, "list it")
        page = [ObjectInfo(key, status.st_size, _modified(status)) for key, status in found]
        more = len(page) == self._page_size
        return ListPage(page, _ListingPosition(page[-1].key).at(walker, self, prefix) if more else None)

    def delete_many(self, keys: Iterable[str]) -> None:
        refused: dict[str, OSError] = {}
        folders: set[str] = set()
        for key in keys:
            try:
                with self._folder(_folder_of(check_key(key))) as folder:
                    os.unlink(_name_of(key), dir_fd=folder)
                folders.add(_folder_of(key))
            except OSError as error:
                if error.errno not in (*_MISSING_ERRNOS, errno.EISDIR):
                    refused[key] = error
        try:
            for path in folders:
                with self._folder(path) as folder:
                    os.fsync(folder)
        except OSError as error:
            self._raise_store_error(error, "delete")
        if refused:
            reasons = {key: error.strerror for key, error in refused.items()}
            raise deletion_failed(self.url, reasons) from next(iter(refused.values()))

    # Errors

    def _check_root(self) -> None:
        """Raise StoreMissing where the directory was removed: the errors of its files do not show it."""
        if os.fstat(self._root).st_nlink == 0:
            raise StoreMissing(f"the directory {self._root_path} was removed")

    def _raise_store_error(self, error: OSError, action: str) -> NoReturn:
        raise _store_error(error, f"{self._root_path}: cannot {action}: {error.strerror}") from error


def _store_error(error: OSError, text: str) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(text)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(text)
    if error.errno in (errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT):
        return StoreBusy(text)
    if error.errno in (errno.ENOENT, errno.EBADF, errno.ENOTDIR):
        return StoreMissing(f"{text} (the directory was removed, or the store is closed)")
    return StoreRefused(text)


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]


def _name_of(key: str) -> str:
    return key.rpartition("/")[2]


def _write_partial(folder: int, name: str, body: Body, metadata: Mapping[str, str], more_bits: int) -> None:
    """Write and sync a whole file; nothing is left of it where that fails."""
    descriptor = os.open(name, _WRITE_FLAGS, 0o600, dir_fd=folder)
    try:
        if more_bits:
            os.fchmod(descriptor, 0o600 | more_bits)
        for piece in _pieces(body):
            _write_all(descriptor, piece)
        if metadata:
            _set_metadata(descriptor, metadata)
        os.fsync(descriptor)
    except BaseException:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)


def _pieces(body: Body) -> Iterator[memoryview]:
    if isinstance(body, bytes | bytearray | memoryview):
        yield memoryview(body).cast("B")
        return
    while piece := body.read(_COPY_BYTES):
        yield memoryview(piece)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _modified(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC)


def _set_metadata(descriptor: int, metadata: Mapping[str, str]) -> None:
    try:
        os.setxattr(descriptor, _METADATA_ATTRIBUTE, json.dumps(dict(metadata)).encode())
    except OSError as error:
        if error.errno not in _NO_XATTR_ERRNOS:
            raise


def _get_metadata(descriptor: int) -> dict[str, str]:
    """The metadata that was put; empty where it was dropped or is not of cas3fs."""
    try:
        values = json.loads(os.getxattr(descriptor, _METADATA_ATTRIBUTE))
    except OSError as error:
        if error.errno not in _NO_XATTR_ERRNOS:
            raise
        return {}
    except (ValueError, RecursionError):
        return {}
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}
