# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface of all object stores, and the rules of keys and metadata that hold in each.

Keys are paths: parts joined by slashes, each of ASCII letters, digits and ``_ . = @ -``, beginning with a letter, a
digit or ``_``. So no key can lead out of the volume, hidden names are free for a store's own files, and the order of
characters is the order of bytes. No key may lie below the key of another object (``a`` and ``a/b`` together): S3
accepts that, but no store that keeps objects as files does.

Implementations are thread-safe. They raise exceptions of `cas3fs.errors`: `TransientStoreError` where trying again may
help, otherwise another `StoreError`.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import BinaryIO, Final, NamedTuple

from blake3 import blake3

from cas3fs.errors import (
    DeleteFailed,
    InvalidKey,
    ObjectExists,
    ObjectTooLong,
    ObjectTooShort,
    StoreRefused,
    UsageError,
)
from cas3fs.values import Buffer

Body = bytes | bytearray | memoryview | BinaryIO
"""The body of a put: bytes, or a seekable binary file, which is read from its position to its end."""

MAX_KEY_LENGTH: Final = 512
"""In bytes; S3 allows 1024, of which a volume's prefix needs some."""
MAX_PART_LENGTH: Final = 200
"""In bytes; directories allow 255."""
MAX_METADATA_LENGTH: Final = 2048
"""In bytes, names and values together, as S3 counts."""
DELETE_BATCH: Final = 1000
"""Keys in one request to delete, as S3 allows."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=@-]*\Z")
_METADATA_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
_METADATA_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?\Z")
_NO_METADATA: Final[Mapping[str, str]] = {}


class ObjectInfo(NamedTuple):
    """What a store shows of an object without its bytes."""

    key: str
    size: int
    """In bytes."""
    modified: datetime
    """By the store's own clock, with its time zone."""
    metadata: Mapping[str, str] = _NO_METADATA
    """Names are in lower case. Empty in listings; may be empty anywhere, as some stores drop metadata."""


class ListPage(NamedTuple):
    """One page of a listing, ascending by key."""

    objects: list[ObjectInfo]
    next_start: str | None
    """The next page starts after this key; None after the last page."""


class ObjectStore(ABC):
    """Immutable objects by key: an object is put once, read, and perhaps deleted, but never overwritten."""

    url: str
    """As the user writes it, without secrets."""

    pads: bool = False
    """Whether what is put here is to be padded, as its length would tell something."""

    lists_side_by_side: bool = False
    """Whether several requests to list at once are faster than one after the other."""

    def hash_content(self, data: Buffer) -> bytes:
        """The name of content, 32 bytes: BLAKE3, keyed in a store that is encrypted."""
        return hash_plainly(data)

    def name_content(self, data: Buffer) -> str:
        """The last part of the key of an object that is named by its content, 64 hex digits."""
        return self.hash_content(data).hex()

    @property
    def stored(self) -> "ObjectStore":
        """The same objects as the bytes that are stored; another store than this one only where it is encrypted."""
        return self

    def seal_of(self, key: str) -> str:
        """What a reader needs to know to read a part of an object with a single request, after it was put or read.

        Empty where nothing is needed, or it is not known.
        """
        return ""

    def learn_seal(self, key: str, seal: str) -> None:  # noqa: B027 - most stores need not know
        """Remember what `seal_of` gave to whoever put the object."""

    @property
    def generation(self) -> int:
        """The generation of the keys that new objects are sealed with; 0 where none are."""
        return 0

    def generation_of(self, key: str) -> int:
        """The generation that an object is sealed with, even if the keys lack it; 0 where it is missing or not sealed.

        May make a request.
        """
        return 0

    def sealing_key_of(self, key: str) -> bytes:
        """The key that an object is sealed with, and nothing else is; empty where it is not sealed."""
        return b""

    def renew_keys(self) -> None:  # noqa: B027 - most stores have none
        """Seal what is put from now on with the newest generation of the keys, if another process has added one.

        Raises:
            KeysError: the keys in the store are damaged.
        """

    @property
    def last_response_at_s(self) -> float:
        """When the store last responded, in seconds of the monotonic clock; now for a store on this machine."""
        return time.monotonic()

    def require_conditional_puts(self) -> None:  # noqa: B027 - most stores always do
        """From now on never put without a condition.

        The store honoured conditions when its volume was made, so a response that it does not support them comes from a
        fault of the store, or of something in between.
        """

    def share_with_group(self) -> None:
        """Let the group of the directory read all objects.

        Raises:
            UsageError: the store is not a directory, or it has objects already.
        """
        raise UsageError(f"{self.url} is not a directory, so it has no group that could read it")

    def permission_warning(self) -> str:
        """A warning where others can read the objects of a store in a directory; otherwise an empty text.

        Raises:
            StoreError: the directory cannot be read.
        """
        return ""

    @abstractmethod
    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = _NO_METADATA) -> None:
        """Create the object, durably, or fail; readers see all of it or none.

        Some S3 servers ignore the condition and overwrite: `probe_create_if_absent` finds that out.

        Args:
            key: the name of the object.
            body: its bytes; a file may be left at any position.
            metadata: as `check_metadata` allows.

        Raises:
            ObjectExists: there is an object of that key; it is unchanged.
            InvalidKey: the key breaks the rules, or lies below another object's key, where the store notices that.
            StoreError: any other failure; after a `TransientStoreError` the object may exist or not.
        """

    @abstractmethod
    def get(self, key: str) -> bytes:
        """All bytes of the object.

        Raises:
            ObjectMissing: there is no such object.
            TruncatedBody: the response ended early.
        """

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        """As `get`, but at most `limit_bytes` are read into memory.

        Raises:
            ObjectTooLong: the object is longer.
        """
        return check_length(key, self.get(key), limit_bytes)

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start` on; a length of 0 needs no request.

        Raises:
            ObjectMissing: there is no such object.
            ObjectTooShort: the object ends before the range does.
            TruncatedBody: the response ended early.
        """

    def get_pieces(
        self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None], *, may_end: bool = False
    ) -> None:
        """One range, delivered in pieces as they arrive.

        Args:
            key: the name of the object.
            start: where the range begins.
            lengths: of the pieces; together they are the length of the range.
            take: called by this thread with one piece after the other, once with each; a failure after that does not
                take the piece back.
            may_end: the object may end within the last piece, which is shorter then.

        Raises:
            ObjectMissing, TruncatedBody: as `get_range` does.
            ObjectTooShort: as `get_range` does; with `may_end`, where the object ends before the last piece begins, or
                where it does.
        """
        check_range(start, min((0, *lengths)))
        if may_end and any(lengths):
            lengths = shorten_last(key, start, lengths, self.head(key).size)
        deliver_pieces(self.get_range(key, start, sum(lengths)), lengths, take)

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Size, time and metadata.

        Raises:
            ObjectMissing: there is no such object.
        """

    @abstractmethod
    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        """One page of the objects whose key begins with `prefix` and is greater than `start_after`."""

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix` and is greater than `start_after`, ascending.

        Objects that are put or deleted meanwhile may or may not appear. A listing that ends without an exception is
        complete.
        """
        position: str | None = start_after
        while position is not None:
            page = self.list_page(prefix, position)
            yield from page.objects
            position = page.next_start

    @abstractmethod
    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete these objects; keys without an object are ignored.

        Raises:
            DeleteFailed: the store refused to delete some; the exception has their `keys`. The others are deleted.
        """

    @abstractmethod
    def close(self) -> None:
        """Close connections and files; waiting retries raise their last error. Closing twice is harmless."""


def hash_plainly(data: Buffer) -> bytes:
    """The name of content where nothing is encrypted: BLAKE3, 32 bytes."""
    return blake3(data).digest()


def check_key(key: str) -> str:
    """Return `key`.

    Raises:
        InvalidKey: it breaks the rules for keys (above).
    """
    if len(key) > MAX_KEY_LENGTH or not all(_is_part(part) for part in key.split("/")):
        raise InvalidKey(f"{key!r} is not a valid key")
    return key


def is_key(key: str) -> bool:
    """Whether `key` may be the key of an object: listings skip other files of the store."""
    return len(key) <= MAX_KEY_LENGTH and all(_is_part(part) for part in key.split("/"))


def check_prefix(prefix: str) -> str:
    """Return `prefix`: the beginning of a key, which may end anywhere.

    Raises:
        InvalidKey: no key begins like this.
    """
    *folders, last = prefix.split("/")
    if not all(_is_part(part) for part in folders) or not (last == "" or _is_part(last)):
        raise InvalidKey(f"no key begins with {prefix!r}")
    return prefix


def check_range(start: int, length: int) -> None:
    """Raise ValueError for a negative start or length."""
    if start < 0 or length < 0:
        raise ValueError(f"no such range: {length} bytes from {start}")


def check_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return `metadata`, which has to fit in HTTP headers.

    Raises:
        StoreRefused: a name has other characters than ``a-z 0-9 -``, a value is not printable ASCII or has spaces
            around it, or all together exceed `MAX_METADATA_LENGTH`.
    """
    for name, value in metadata.items():
        if not _METADATA_NAME.match(name) or not _METADATA_VALUE.match(value):
            raise StoreRefused(f"metadata {name!r}: {value!r} cannot be stored with an object")
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA_LENGTH:
        raise StoreRefused(f"metadata of more than {MAX_METADATA_LENGTH} bytes cannot be stored with an object")
    return metadata


def body_size(body: Body) -> int:
    """The size of `body` in bytes; a file keeps its position."""
    if isinstance(body, memoryview):
        return body.nbytes
    if isinstance(body, bytes | bytearray):
        return len(body)
    position = body.tell()
    end = body.seek(0, 2)
    body.seek(position)
    return end - position


def batches(keys: Iterable[str], size: int = DELETE_BATCH) -> Iterator[list[str]]:
    """`keys` in lists of `size`; the last one may be shorter."""
    rest = iter(keys)
    while batch := list(islice(rest, size)):
        yield batch


def deliver_pieces(body: bytes, lengths: Iterable[int], take: Callable[[bytes], None]) -> None:
    """Pass `body` to `take` in pieces of these lengths."""
    position = 0
    for length in lengths:
        take(body[position : position + length])
        position += length


def shorten_last(key: str, start: int, lengths: Sequence[int], size: int) -> Sequence[int]:
    """`lengths` of pieces from `start` on, the last one as long as an object of `size` bytes has it.

    Raises:
        ObjectTooShort: the object ends before the last piece begins, or where it does.
    """
    before = sum(lengths[:-1])
    last = min(lengths[-1], size - start - before)
    if last <= 0:
        raise object_too_short(key, start, before + 1, size)
    return (*lengths[:-1], last)


def object_too_short(key: str, start: int, length: int, size: int | None = None) -> ObjectTooShort:
    """The error for a range that exceeds the object; `size` is the object's, where known."""
    known = "" if size is None else f", which has {size} bytes"
    return ObjectTooShort(f"object {key}{known}, is too short for a range of {length} bytes from {start} on")


def check_length(key: str, data: bytes, limit_bytes: int) -> bytes:
    """Return `data`; raise ObjectTooLong where it is longer than the limit."""
    if len(data) > limit_bytes:
        raise object_too_long(key, limit_bytes)
    return data


def object_too_long(key: str, limit_bytes: int) -> ObjectTooLong:
    """The error for an object that exceeds the limit of its reader."""
    return ObjectTooLong(f"object {key} has more than {limit_bytes} bytes, the limit for objects of its kind")


def object_exists(url: str, key: str) -> ObjectExists:
    """The error for a put of a key that has an object."""
    return ObjectExists(f"{url} already has an object {key}")


def object_above(url: str, key: str) -> InvalidKey:
    """The error for a put below the key of an object."""
    return InvalidKey(f"{url} has an object {key}, so there cannot be objects below it")


def objects_below(url: str, key: str) -> InvalidKey:
    """The error for a put of a key that has objects below it."""
    return InvalidKey(f"{url} has objects below {key}, so there cannot be an object of that name")


def deletion_failed(url: str, refused: Mapping[str, object]) -> DeleteFailed:
    """The error for keys that a store refused to delete; `refused` gives the reason for each."""
    key, reason = next(iter(refused.items()))
    text = f"{len(refused)} objects of {url} could not be deleted, such as {key}: {reason}"
    return DeleteFailed(text, tuple(refused))


def _is_part(part: str) -> bool:
    return len(part) <= MAX_PART_LENGTH and _PART.match(part) is not None
