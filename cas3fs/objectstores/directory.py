# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as files of a directory: the key is the path below it, the file's bytes are the object's, and no more.

So a volume's directory can be copied to a bucket, and back, by any tool. How a file comes to be::

    .partial/<random>        written and fsynced here, on the same file system,
    packs/00000007/3f9c...   then linked to its name: link(2) fails where the name is taken, and shows all or nothing;
                             then the folder is fsynced, and those above it unless this process has done so before

Names that begin with a dot are no keys, so listings never show what a crash left in ``.partial``; leftovers of more
than a day are removed at the first put. Metadata lies in one extended attribute, ``user.cas3fs.metadata`` (JSON), where
the file system has those, and is dropped where it has not: whoever needs it keeps it in the body. Emptied folders stay.
Only their owner may read files and folders, unless `sharing` says otherwise.

All paths are relative to a descriptor of the directory that is held open, so a disk that is unmounted or a directory
that is replaced meanwhile is never confused with another. No symbolic link is followed, be it of a file or of a folder
on the way: whatever somebody else puts into the directory, nothing outside of it is written, deleted or read.

Locks: one, around the set of folders already synced; no I/O is done under it.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, NoReturn, Self

from cas3fs.errors import (
    AccessDenied,
    DeleteFailed,
    InvalidKey,
    ObjectExists,
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
    too_long,
    too_short,
)
from cas3fs.objectstores.directory_permissions import Modes, permission_warning_of
from cas3fs.objectstores.directory_walk import walk

PARTIAL: Final = ".partial"
_METADATA_ATTRIBUTE: Final = "user.cas3fs.metadata"
_LEFTOVER_AGE_S: Final = 24 * 3600
_COPY_BYTES: Final = 1 << 20
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SUCH: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_XATTRS: Final = (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.ENODATA, errno.E2BIG, errno.ENOSPC)


class _Cursor(str):
    """Where a listing goes on: a key, and the walk that came to it, so that no folder is read again for each page.

    The walk goes on once; who comes back to the same place later, as after a failure, walks anew from the key.
    """

    __slots__ = ("_of", "_walker")

    def at(self, walker: Iterator[tuple[str, os.stat_result]], store: ObjectStore, prefix: str) -> Self:
        """This cursor, for a walk of `store`."""
        self._walker: Iterator[tuple[str, os.stat_result]] | None = walker
        self._of = (store, prefix)
        return self

    def take(self, store: ObjectStore, prefix: str) -> Iterator[tuple[str, os.stat_result]] | None:
        """The walk, where it is of this store and prefix and nobody has taken it."""
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
        self._swept = False
        self._root = self._open_root()
        self._modes = Modes.of(self._root, PARTIAL)

    def _open_root(self) -> int:
        try:
            return os.open(self._root_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StoreMissing(
                f"no such directory: {self._root_path} (make it first, or mount the disk that it is on)"
            ) from error
        except NotADirectoryError as error:
            raise StoreMissing(f"not a directory: {self._root_path}") from error
        except OSError as error:
            self._raise(error, "open it")

    def close(self) -> None:
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def share_with_group(self) -> None:
        modes = Modes(is_shared=True)
        try:
            modes.make_folder(PARTIAL, self._root)
        except FileExistsError:
            raise UsageError(f"{self._root_path} has been a store before: change its modes by hand") from None
        except OSError as error:
            self._raise(error, "make a folder in it")
        self._modes = modes

    def permission_warning(self) -> str:
        try:
            who = permission_warning_of(self._root, self._modes)
        except OSError as error:
            self._raise(error, "look at it")
        if not who:
            return ""
        return (
            f"{self._root_path} can be read by {who}, with all files of the volume, whatever their modes: "
            f"`chmod -R {'go' if who == 'everybody' else 'g'}-rwx {self._root_path}` closes it"
        )

    # Putting

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        check_key(key)
        check_metadata(metadata)
        name = secrets.token_hex(12)
        try:
            self._prepare_partial()
            with self._folder(PARTIAL) as partial:
                _write_partial(partial, name, body, metadata, self._modes.file_bits)
                try:
                    self._place(partial, name, key)
                finally:
                    os.unlink(name, dir_fd=partial)
        except OSError as error:
            self._raise(error, f"put {key}")

    def _prepare_partial(self) -> None:
        if self._swept:
            return
        with contextlib.suppress(FileExistsError):
            self._modes.make_folder(PARTIAL, self._root)
        self._swept = True
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove what writers that died left behind more than a day ago; a name that is gone already is fine."""
        oldest = time.time() - _LEFTOVER_AGE_S
        with self._folder(PARTIAL) as folder, os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.name, dir_fd=folder)

    def _place(self, partial: int, name: str, key: str) -> None:
        folder = _folder_of(key)
        try:
            self._make_folders(folder)
            self._link(partial, name, key)
        except FileNotFoundError:  # somebody tidied empty folders away
            with self._lock:
                self._synced.clear()
            self._make_folders(folder)
            self._link(partial, name, key)

    def _make_folders(self, folder: str) -> None:
        """Make `folder` and those above it, durably, unless this process has seen to it before."""
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
                self._modes.make_folder(name, above)
            except FileExistsError:
                mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
                if stat.S_ISREG(mode):
                    raise InvalidKey(f"an object cannot lie under the object {path} in {self.url}") from None
            # Also when it existed: who made it may not have come to this line.
            os.fsync(above)

    def _link(self, partial: int, name: str, key: str) -> None:
        with self._folder(_folder_of(key)) as folder:
            try:
                os.link(name, _name_of(key), src_dir_fd=partial, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                if stat.S_ISDIR(os.stat(_name_of(key), dir_fd=folder, follow_symlinks=False).st_mode):
                    raise InvalidKey(f"objects lie under {key} in {self.url}, so it cannot be one itself") from None
                # The caller may take the object for stored, but who linked it may not have come to the sync.
                os.fsync(folder)
                raise ObjectExists(f"{self.url} already has an object {key}") from None
            except OSError as error:
                if error.errno in _NO_LINKS:
                    told = (
                        f"{self._root_path}: cannot make a hard link: {error.strerror}; a folder there is immutable "
                        "(lsattr shows it), or its file system has no hard links, and the store needs another"
                    )
                    raise StoreRefused(told) from error
                raise
            try:
                os.fsync(folder)
            except OSError:
                # A disk tells of a lost write once: the next sync would succeed without the name. So whoever puts
                # again has to link it again.
                with contextlib.suppress(OSError):
                    os.unlink(_name_of(key), dir_fd=folder)
                raise

    @contextlib.contextmanager
    def _folder(self, path: str) -> Iterator[int]:
        """A descriptor of the folder `path`, reached without following a symbolic link.

        Raises:
            StoreRefused: there is one on the way.
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
                raise StoreRefused(f"{self._root_path} has a symbolic link {part}, which may lead anywhere") from None
            raise

    # Reading

    def get(self, key: str) -> bytes:
        with self._opened(key) as (descriptor, status):
            return self._read(key, descriptor, 0, status.st_size)

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        with self._opened(key) as (descriptor, status):
            if status.st_size > limit_bytes:
                raise too_long(key, limit_bytes)
            return self._read(key, descriptor, 0, status.st_size)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        if length == 0:
            return b""
        with self._opened(key) as (descriptor, status):
            if start + length > status.st_size:
                raise too_short(key, start, length, status.st_size)
            return self._read(key, descriptor, start, length)

    def get_suffix(self, key: str, length: int) -> bytes:
        check_range(0, length)
        with self._opened(key) as (descriptor, status):
            start = max(0, status.st_size - length)
            return self._read(key, descriptor, start, status.st_size - start)

    def head(self, key: str) -> ObjectInfo:
        with self._opened(key) as (descriptor, status):
            return ObjectInfo(key, status.st_size, _modified(status), _get_metadata(descriptor))

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
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
            if error.errno in _NO_SUCH:
                self._check_root()
                raise ObjectMissing(f"{self.url} has no object {key}") from error
            self._raise(error, f"read {key}")

    def _read(self, key: str, descriptor: int, start: int, length: int) -> bytes:
        """One read where the system gives all at once, as it does for regular files up to 2 GiB."""
        pieces = [os.pread(descriptor, length, start)]
        done = len(pieces[0])
        while done < length and pieces[-1]:
            pieces.append(os.pread(descriptor, length - done, start + done))
            done += len(pieces[-1])
        if done < length:
            raise TruncatedBody(f"object {key} in {self.url} gave {done} bytes instead of {length}")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # Listing and deleting

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        check_prefix(prefix)
        walker = start_after.take(self, prefix) if isinstance(start_after, _Cursor) else None
        try:
            self._check_root()
            if walker is None:
                walker = walk(self._root, prefix, str(start_after))
            found = list(islice(walker, self._page_size))
        except OSError as error:
            self._raise(error, "list it")
        page = [ObjectInfo(key, status.st_size, _modified(status)) for key, status in found]
        more = len(page) == self._page_size
        return ListPage(page, _Cursor(page[-1].key).at(walker, self, prefix) if more else None)

    def delete_many(self, keys: Iterable[str]) -> None:
        refused: list[tuple[str, OSError]] = []
        folders: set[str] = set()
        for key in keys:
            try:
                with self._folder(_folder_of(check_key(key))) as folder:
                    os.unlink(_name_of(key), dir_fd=folder)
                folders.add(_folder_of(key))
            except OSError as error:
                if error.errno not in (*_NO_SUCH, errno.EISDIR):
                    refused.append((key, error))
        try:
            for path in folders:
                with self._folder(path) as folder:
                    os.fsync(folder)
        except OSError as error:
            self._raise(error, "delete")
        if refused:
            key, reason = refused[0]
            text = f"{len(refused)} objects of {self.url} could not be deleted, such as {key}: {reason.strerror}"
            raise DeleteFailed(text, tuple(name for name, _ in refused)) from reason

    # Errors

    def _check_root(self) -> None:
        """Raise StoreMissing when the directory was removed: then nothing in it says so by itself."""
        if os.fstat(self._root).st_nlink == 0:
            raise StoreMissing(f"the directory {self._root_path} was removed")

    def _raise(self, error: OSError, action: str) -> NoReturn:
        raise _translate(error, f"{self._root_path}: cannot {action}: {error.strerror}") from error


def _translate(error: OSError, text: str) -> StoreError:
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
    """The whole file, synced, or none."""
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
        if error.errno not in _NO_XATTRS:
            raise


def _get_metadata(descriptor: int) -> dict[str, str]:
    """What was put, or nothing where it was dropped or is not ours."""
    try:
        values = json.loads(os.getxattr(descriptor, _METADATA_ATTRIBUTE))
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise
        return {}
    except (ValueError, RecursionError):
        return {}
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}
