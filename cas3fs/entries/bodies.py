# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes of an entry's object.

All numbers are big-endian and unsigned::

    0           8   magic ``CAS3ENTR``
    8           2   format version, 1
    10          2   zero
    12          4   length of the head, H
    16          H   head: JSON in UTF-8: {"kind": ..., "key": ..., "attributes": {...}}
    16 + H      32  BLAKE3 of all before
    48 + H      D   data, as it is
    48 + H + D  32  BLAKE3 of the data

The head comes first and has its own checksum, so that it can be read without the data, and the offset of data is known
while more data follows: `BodyWriter` streams into a file of any size.
"""

import json
import struct
from typing import Any, BinaryIO, Final, NamedTuple

from blake3 import blake3

from cas3fs.encryption.padding import pad_text, padded_length
from cas3fs.entries.attributes import to_attributes
from cas3fs.entries.entry import Entry
from cas3fs.errors import EntryCorrupt
from cas3fs.values import Buffer

FORMAT_VERSION: Final = 1
MAX_HEAD_BYTES: Final = 64 * 1024 * 1024
"""A longer one is taken for damage."""
CHECKSUM_BYTES: Final = 32

_MAGIC: Final = b"CAS3ENTR"
_PREFIX: Final = struct.Struct(">8sH2xI")
PREFIX_BYTES: Final = _PREFIX.size


class Head(NamedTuple):
    """The part of a body before the data."""

    kind: str
    key: str
    attributes: dict[str, Any]
    data_start: int
    """Offset of the data in the object."""


def encode_head(entry: Entry, *, pads: bool = False) -> bytes:
    """Everything before the data; with `pads`, spaces after the JSON hide how long it is."""
    attributes = {**entry.unknown, **to_attributes(entry)}
    content = {"kind": entry.kind, "key": entry.key, "attributes": attributes}
    head = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    if pads:
        head = pad_text(head)
    start = _PREFIX.pack(_MAGIC, FORMAT_VERSION, len(head)) + head
    return start + blake3(start).digest()


def encode_body(entry: Entry, data: Buffer, *, pads: bool = False) -> bytes:
    """The whole body."""
    return b"".join((encode_head(entry, pads=pads), data, blake3(data).digest()))


def head_length(prefix: Buffer, key: str) -> int:
    """Bytes before the data, from the first `PREFIX_BYTES` of a body.

    Raises:
        EntryCorrupt: this is not the body of an entry, or one of a newer format.
    """
    if len(prefix) < PREFIX_BYTES or bytes(prefix[:8]) != _MAGIC:
        raise EntryCorrupt(f"{key} is not an entry: it does not begin with the magic bytes of an entry")
    _, version, length = _PREFIX.unpack_from(prefix)
    if version != FORMAT_VERSION:
        raise EntryCorrupt(f"{key} has format {version}, and this version of cas3fs reads format {FORMAT_VERSION}")
    if length > MAX_HEAD_BYTES:
        raise EntryCorrupt(f"{key} declares a head of {length} bytes")
    return PREFIX_BYTES + int(length) + CHECKSUM_BYTES


def decode_head(body: Buffer, key: str) -> Head:
    """The head of the entry `key`, from the beginning of its body, at least `head_length` bytes.

    Raises:
        EntryCorrupt: it is truncated, damaged, or the body of another entry.
    """
    end = head_length(body, key)
    checked = bytes(memoryview(body)[: end - CHECKSUM_BYTES])
    if len(body) < end or blake3(checked).digest() != bytes(memoryview(body)[end - CHECKSUM_BYTES : end]):
        raise EntryCorrupt(f"{key} is damaged: its head is truncated or does not match its checksum")
    head = _read_json(checked[PREFIX_BYTES:], key, end)
    if head.key != key:
        raise EntryCorrupt(f"{key} contains the entry {head.key!r}")
    return head


def decode_body(body: Buffer, key: str) -> tuple[Head, memoryview]:
    """The head and the data of the entry `key`.

    Raises:
        EntryCorrupt: it is truncated, damaged, or the body of another entry.
    """
    head = decode_head(body, key)
    view = memoryview(body)
    data = view[head.data_start : max(head.data_start, len(view) - CHECKSUM_BYTES)]
    if blake3(data).digest() != bytes(view[head.data_start + len(data) :]):
        raise EntryCorrupt(f"{key} is damaged: its data is truncated or does not match its checksum")
    return head, data


class BodyWriter:
    """Streams a body into a file; not thread-safe.

    Args:
        file: empty, open for binary reading and writing.
        pads: hide how long head and data are; for data of which a reader knows the offsets.
    """

    def __init__(self, file: BinaryIO, entry: Entry, *, pads: bool = False) -> None:
        self._file = file
        self._pads = pads
        self._hash = blake3()
        self.position = file.write(encode_head(entry, pads=pads))
        """The offset in the object of the data that is written next."""
        self.data_start = self.position

    def write(self, data: Buffer) -> int:
        """Append data; returns its offset in the object."""
        offset = self.position
        self._hash.update(data)
        self._file.write(data)
        self.position += len(data)
        return offset

    def finish(self) -> BinaryIO:
        """Write the checksum; returns the file at its start, ready for `Shelf.save_file`."""
        if self._pads:
            length = self.position + CHECKSUM_BYTES
            self.write(bytes(padded_length(length) - length))
        self._file.write(self._hash.digest())
        self._file.flush()
        self._file.seek(0)
        return self._file


def _read_json(content: bytes, key: str, data_start: int) -> Head:
    try:
        head = json.loads(content)
        kind, own_key, attributes = head["kind"], head["key"], head["attributes"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EntryCorrupt(f"{key} has a head that cannot be decoded: {error!r}") from error
    if not isinstance(kind, str) or not isinstance(own_key, str) or not isinstance(attributes, dict):
        raise EntryCorrupt(f"{key} has a head with fields of the wrong types")
    return Head(kind, own_key, attributes, data_start)
