# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of all object stores, and the rules of keys and metadata that hold in each.

Keys are paths: parts joined by slashes, each of ASCII letters, digits and ``_ . = @ -``, beginning with a letter, a
digit or ``_``. So no key can leave the volume, hidden names are free for a store's own files, and order by
characters is order by bytes. A key must not lie under the key of another object (``a`` and ``a/b`` together): S3 itself
would take it, but no store that keeps objects as files does.

An implementation is thread-safe. What it raises is of `cas3fs.errors`: `TransientStoreError` when asking again may
help, otherwise another `StoreError`.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import BinaryIO, Final, NamedTuple

from cas3fs.errors import InvalidKey, ObjectTooLong, ObjectTooShort, StoreRefused, UsageError

Body = bytes | bytearray | memoryview | BinaryIO
"""What is put: bytes, or a seekable binary file, which is put from its position to its end."""

MAX_KEY_LENGTH: Final = 512
"""In bytes; S3 takes 1024, of which a volume's prefix needs some."""
MAX_PART_LENGTH: Final = 200
"""In bytes; directories take 255."""
MAX_METADATA_LENGTH: Final = 2048
"""In bytes, names and values together, as S3 counts."""
DELETE_BATCH: Final = 1000
"""Keys in one request to delete, as S3 allows."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=@-]*\Z")
_METADATA_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
_METADATA_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?\Z")
_NO_METADATA: Final[Mapping[str, str]] = {}


class ObjectInfo(NamedTuple):
    """What a store tells of an object without giving its bytes."""

    key: str
    size: int
    """In bytes."""
    modified: datetime
    """By the store's own clock, with its time zone."""
    metadata: Mapping[str, str] = _NO_METADATA
    """Names in lower case. Empty in listings; may be empty anywhere, as some stores drop metadata."""


class ListPage(NamedTuple):
    """One answer of a listing: ascending by key."""

    objects: list[ObjectInfo]
    next_start: str | None
    """Where the next page starts: after this key; None when this page is the last."""


class ObjectStore(ABC):
    """Immutable objects by key. Nothing is ever overwritten: an object is put once, read, and perhaps deleted."""

    url: str
    """What the user calls it, without secrets."""

    @property
    def last_response_at_s(self) -> float:
        """When it last gave a sign of life, by the monotonic clock, in seconds; a store on this machine always does."""
        return time.monotonic()

    def require_conditions(self) -> None:  # noqa: B027 - most stores never do without
        """From now on never put without a condition: the store was found to heed it when its volume was made, so an
        answer that it does not know one is a failure of the store, or of something on the way to it."""

    def share_with_group(self) -> None:
        """Let the group of a store in a directory read it, from the first object on.

        Raises:
            UsageError: this is no directory, or it has objects already.
        """
        raise UsageError(f"{self.url} is no directory, so it has no group that could read it")

    def permission_warning(self) -> str:
        """Who may read the objects of a store in a directory beside those who should: a warning, or nothing.

        Raises:
            StoreError: the directory cannot be looked at.
        """
        return ""

    @abstractmethod
    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = _NO_METADATA) -> None:
        """Create the object, durably, or fail; readers see all of it or none.

        A file is left at any position. Some S3 servers ignore the condition and overwrite: `probe_create_if_absent`
        tells.

        Raises:
            ObjectExists: the key is taken; what is there is untouched.
            InvalidKey: the key breaks the rules, or lies under another object's key, where the store can tell.
            StoreError: anything else; after a `TransientStoreError` the object may exist or not.
        """

    @abstractmethod
    def get(self, key: str) -> bytes:
        """All bytes of the object.

        Raises:
            ObjectMissing: there is none.
            TruncatedBody: the answer broke off.
        """

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        """As `get`, for a reader that knows how much to expect, and takes no more into memory.

        Raises:
            ObjectTooLong: the object is longer.
        """
        return check_length(key, self.get(key), limit_bytes)

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start` on; nothing is asked of the store for a length of 0.

        Raises:
            ObjectMissing: there is none.
            ObjectTooShort: the object ends before the range does.
            TruncatedBody: the answer broke off.
        """

    def get_pieces(self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        """The range from `start` on that is as long as all `lengths` together, cut into pieces of these lengths.

        `take` is called with one after the other, by the thread that asks, from when it has arrived; what fails
        afterwards does not undo that. No piece comes twice.

        Raises:
            ObjectMissing, ObjectTooShort, TruncatedBody: as `get_range` does.
        """
        check_range(start, min((0, *lengths)))
        cut_up(self.get_range(key, start, sum(lengths)), lengths, take)

    @abstractmethod
    def get_suffix(self, key: str, length: int) -> bytes:
        """The last `length` bytes; all of them where the object is shorter.

        Raises:
            ObjectMissing: there is none.
            TruncatedBody: the answer broke off.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Size, time and metadata.

        Raises:
            ObjectMissing: there is none.
        """

    @abstractmethod
    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        """The next objects whose key begins with `prefix` and is greater than `start_after`, some at a time."""

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix` and is greater than `start_after`, ascending.

        Objects that are put or deleted meanwhile may or may not appear. A failure raises: a listing that ends without
        an exception is complete.
        """
        position: str | None = start_after
        while position is not None:
            page = self.list_page(prefix, position)
            yield from page.objects
            position = page.next_start

    @abstractmethod
    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete these objects; those that do not exist are fine.

        Raises:
            DeleteFailed: some were refused: its `keys`. The others are deleted.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back connections and files. Waiting retries end with the error that they met; closing twice is fine."""


def check_key(key: str) -> str:
    """`key` itself.

    Raises:
        InvalidKey: it breaks the rules that the module's docstring gives.
    """
    if len(key) > MAX_KEY_LENGTH or not all(_is_part(part) for part in key.split("/")):
        raise InvalidKey(f"{key!r} cannot be the key of an object")
    return key


def is_key(key: str) -> bool:
    """Whether `key` may name an object: listings leave out what else lies in the store."""
    return len(key) <= MAX_KEY_LENGTH and all(_is_part(part) for part in key.split("/"))


def check_prefix(prefix: str) -> str:
    """`prefix` itself: the beginning of a key, which may end anywhere.

    Raises:
        InvalidKey: no key begins like this.
    """
    *folders, last = prefix.split("/")
    if not all(_is_part(part) for part in folders) or not (last == "" or _is_part(last)):
        raise InvalidKey(f"no object's key begins with {prefix!r}")
    return prefix


def check_range(start: int, length: int) -> None:
    """Raise ValueError where a range of bytes makes no sense."""
    if start < 0 or length < 0:
        raise ValueError(f"no such range: {length} bytes from {start}")


def check_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """`metadata` itself: it has to survive as HTTP headers.

    Raises:
        StoreRefused: a name is not of ``a-z 0-9 -``, a value is not printable ASCII or has spaces around it, or it is
            more than `MAX_METADATA_LENGTH`.
    """
    for name, value in metadata.items():
        if not _METADATA_NAME.match(name) or not _METADATA_VALUE.match(value):
            raise StoreRefused(f"metadata {name!r}: {value!r} cannot travel with an object")
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA_LENGTH:
        raise StoreRefused(f"metadata of more than {MAX_METADATA_LENGTH} bytes cannot travel with an object")
    return metadata


def body_size(body: Body) -> int:
    """Bytes that putting `body` would store; a file keeps its position."""
    if isinstance(body, memoryview):
        return body.nbytes
    if isinstance(body, bytes | bytearray):
        return len(body)
    position = body.tell()
    end = body.seek(0, 2)
    body.seek(position)
    return end - position


def batches(keys: Iterable[str], size: int = DELETE_BATCH) -> Iterator[list[str]]:
    """`keys` in lists of `size`; the last may be shorter."""
    rest = iter(keys)
    while batch := list(islice(rest, size)):
        yield batch


def cut_up(body: bytes, lengths: Iterable[int], take: Callable[[bytes], None]) -> None:
    """Hand `body` to `take` in pieces of these lengths."""
    position = 0
    for length in lengths:
        take(body[position : position + length])
        position += length


def too_short(key: str, start: int, length: int, size: int | None = None) -> ObjectTooShort:
    """The error for a range that passes the object's end; `size` is the object's, where known."""
    known = "" if size is None else f", which has {size} bytes"
    return ObjectTooShort(f"object {key}{known}, ends before the {length} bytes from {start} on that were asked of it")


def check_length(key: str, data: bytes, limit_bytes: int) -> bytes:
    """`data` itself; raises ObjectTooLong where it is longer."""
    if len(data) > limit_bytes:
        raise too_long(key, limit_bytes)
    return data


def too_long(key: str, limit_bytes: int) -> ObjectTooLong:
    """The error for an object that its reader does not take into memory."""
    return ObjectTooLong(f"object {key} has more than {limit_bytes} bytes, which nothing of its kind has")


def _is_part(part: str) -> bool:
    return len(part) <= MAX_PART_LENGTH and _PART.match(part) is not None
