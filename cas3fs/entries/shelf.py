# SPDX-License-Identifier: GPL-3.0-or-later
"""The shelf: saves, loads, lists and removes entries in an object store.

Thread-safe, as the store is; it holds no state of its own. What the store raises (`StoreError` and below) passes
through. Removing deletes sub-entries first and their owner last, so that a removal that broke off shows, and can be
repeated.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO, NamedTuple, TypeVar

from blake3 import blake3

from cas3fs.entries.attributes import KIND_METADATA, arguments, construct, from_metadata, to_metadata
from cas3fs.entries.bodies import PREFIX_BYTES, Head, decode_body, decode_head, encode_body, head_length
from cas3fs.entries.entry import SUB_SEPARATOR, Entry
from cas3fs.entries.kinds import PartEntry
from cas3fs.entries.nodes import NodeEntry, Part
from cas3fs.errors import EntryCorrupt, ObjectExists, ObjectMissing, ObjectTooLong, ObjectTooShort
from cas3fs.objectstores.base import ObjectInfo, ObjectStore
from cas3fs.values import Buffer

E = TypeVar("E", bound=Entry)
N = TypeVar("N", bound=NodeEntry)

_FIRST_LOOK_BYTES = 4096
LONGEST_BODY_BYTES = 128 * 1024 * 1024
"""Of an entry that is read whole: its head and its data. More is never taken into memory; larger data is read in
ranges."""


class Listed(NamedTuple):
    """An entry as a listing shows it; `size` is the object's, in bytes, `modified` by the store's clock."""

    id: str
    key: str
    size: int
    modified: datetime


class Shelf:
    """Entries of a store.

    Args:
        store: where they lie; it stays the caller's to close.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def save(self, entry: Entry, data: Buffer = b"") -> None:
        """Create the object of `entry` with `data`.

        Raises:
            ObjectExists: that key is taken: entries are immutable.
        """
        body = encode_body(entry, data) if entry.framed else data
        self.store.put_if_absent(entry.key, body, _metadata_of(entry))

    def save_file(self, entry: Entry, body: BinaryIO) -> None:
        """Create the object of `entry` from a file that holds its whole body: what `BodyWriter.finish` gave.

        Raises:
            ObjectExists: that key is taken.
        """
        self.store.put_if_absent(entry.key, body, _metadata_of(entry))

    def load(self, kind: type[E], entry_id: str, owner: str = "") -> E:
        """The entry, its whole body verified.

        Raises:
            ObjectMissing: there is none.
            EntryCorrupt: damaged, or of another kind.
            MissingAttribute: a required attribute is absent.
            InvalidAttribute: one cannot be coerced.
        """
        return self.load_with_data(kind, entry_id, owner)[0]

    def load_with_digest(self, kind: type[E], entry_id: str) -> tuple[E, str]:
        """The entry of a framed kind, and the BLAKE3 of its object's bytes in hex digits; raises as `load`."""
        key = kind.key_of(entry_id)
        body = self._read_body(key)
        head, _ = decode_body(body, key)
        return _from_head(kind, entry_id, "", head), digest_of(body)

    def load_with_data(self, kind: type[E], entry_id: str, owner: str = "") -> tuple[E, memoryview]:
        """The entry and its data; raises as `load`. The data of a kind that is not framed is unverified."""
        key = kind.key_of(entry_id, owner)
        if not kind.framed:
            return self.peek(kind, entry_id, owner), memoryview(self._read_body(key))
        head, data = decode_body(self._read_body(key), key)
        return _from_head(kind, entry_id, owner, head), data

    def peek(self, kind: type[E], entry_id: str, owner: str = "") -> E:
        """The entry without its data, which may be large: only the head of the object is read. Raises as `load`."""
        key = kind.key_of(entry_id, owner)
        info = self.store.head(key)
        if not kind.framed:
            return _build(kind, entry_id, owner, from_metadata(kind, info.metadata))
        return _from_head(kind, entry_id, owner, self._read_head(info))

    def has(self, kind: type[Entry], entry_id: str, owner: str = "") -> bool:
        """Whether the entry is there, damaged or not. It is asked for by its name: a listing may lack what is there."""
        try:
            self.store.get_range(kind.key_of(entry_id, owner), 0, 1)
        except ObjectMissing:
            return False
        except ObjectTooShort:  # of no bytes: that is damage, and it is there
            return True
        return True

    def listed(self, kind: type[Entry], start_after: str = "") -> Iterator[Listed]:
        """The entries of a kind that stand alone, ascending by id; sub-entries are left out.

        Args:
            start_after: an id, or its beginning: what sorts after it is listed.

        Raises:
            ValueError: the kind has no folder, so there is nothing to list.
        """
        if not kind.folder:
            raise ValueError(f"entries of kind {kind.kind!r} have no folder to list")
        start = kind.prefix() + start_after if start_after else ""
        for info in self.store.list(kind.prefix(), start):
            name = info.key.removeprefix(kind.prefix())
            if SUB_SEPARATOR not in name:
                yield Listed(name, info.key, info.size, info.modified)

    def load_all(self, kind: type[E]) -> Iterator[E]:
        """Every entry of a kind that stands alone, ascending by id; raises as `load`."""
        for one in self.listed(kind):
            yield self.load(kind, one.id)

    def children(self, owner: Entry) -> Iterator[Listed]:
        """The sub-entries of `owner`, and theirs, ascending; the id is what follows the owner's key and a dot."""
        start = owner.key + SUB_SEPARATOR
        for info in self.store.list(start):
            yield Listed(info.key.removeprefix(start), info.key, info.size, info.modified)

    def remove(self, entry: Entry) -> None:
        """Delete the entry and all its sub-entries; none there is fine.

        Raises:
            DeleteFailed: some are left; removing again is safe.
        """
        keys = [child.key for child in self.children(entry)]
        if keys:
            self.store.delete_many(keys)
        self.store.delete_many([entry.key])

    def add_part(self, data: Buffer) -> Part:
        """Keep `data` as a part that nodes can name; the same data is kept once."""
        entry = PartEntry(id=PartEntry.new_id(data))
        # It is named by its content: what is there is the same.
        with contextlib.suppress(ObjectExists):
            self.save(entry, data)
        return Part(entry.key, 0, len(data), bytes.fromhex(entry.id))

    def read(self, node: NodeEntry, start: int = 0, length: int | None = None) -> bytes:
        """A range of a node's data (all, without `length`), from the parts that it touches; each is verified.

        Raises:
            ObjectMissing: a part's object is gone.
            EntryCorrupt: a part's bytes are not those that the node names.
        """
        length = node.data_size if length is None else length
        return b"".join(
            self.read_part(node.parts[one.number])[one.start : one.end] for one in node.slices(start, length)
        )

    def read_part(self, one: Part) -> bytes:
        """The bytes of a part, verified; raises as `read`."""
        data = self.store.get_range(one.key, one.offset, one.length)
        one.verify(data)
        return data

    def replace(self, node: N, number: int, data: Buffer, *, node_id: str) -> N:
        """Save a node `node_id` that is like `node` but for part `number`, which is `data`, of any length.

        Raises:
            IndexError: there is no such part.
            ObjectExists: there is a node of that id.
        """
        parts = list(node.parts)
        parts[number] = self.add_part(data)
        replaced = node.changed(id=node_id, parts=tuple(parts))
        self.save(replaced)
        return replaced

    def _read_body(self, key: str) -> bytes:
        try:
            return self.store.get_within(key, LONGEST_BODY_BYTES)
        except ObjectTooLong as error:
            raise EntryCorrupt(f"{key} is no entry: it has more than {LONGEST_BODY_BYTES} bytes") from error

    def _read_head(self, info: ObjectInfo) -> Head:
        start = self.store.get_range(info.key, 0, min(info.size, _FIRST_LOOK_BYTES))
        needed = head_length(start[:PREFIX_BYTES], info.key)
        if len(start) < needed <= info.size:
            start = self.store.get_range(info.key, 0, needed)
        return decode_head(start, info.key)


def digest_of(body: Buffer) -> str:
    """BLAKE3 of the bytes of an object, in hex digits."""
    return blake3(body).hexdigest()


def _metadata_of(entry: Entry) -> dict[str, str]:
    return {KIND_METADATA: entry.kind, **to_metadata(entry)}


def _from_head(kind: type[E], entry_id: str, owner: str, head: Head) -> E:
    if head.kind != kind.kind:
        raise EntryCorrupt(f"{head.key} is of kind {head.kind!r}, not {kind.kind!r}")
    return _build(kind, entry_id, owner, head.attributes)


def _build(kind: type[E], entry_id: str, owner: str, values: dict[str, object]) -> E:
    key = kind.key_of(entry_id, owner)
    known, unknown = arguments(kind, key, values)
    return construct(kind, key, id=entry_id, owner=owner, unknown=unknown, **known)
