# SPDX-License-Identifier: GPL-3.0-or-later
"""The shelf: saves, loads, lists and removes entries in an object store.

It is thread-safe, as the store is, and has no state of its own. Every method may raise `StoreError`. Removing deletes
sub-entries first and their owner last, so that an interrupted removal can be seen and repeated.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO, NamedTuple, TypeVar

from blake3 import blake3

from cas3fs.entries.attributes import KIND_METADATA, build_entry, from_metadata, split_values, to_metadata
from cas3fs.entries.bodies import PREFIX_BYTES, Head, decode_body, decode_head, encode_body, head_length
from cas3fs.entries.entry import SUB_SEPARATOR, Entry
from cas3fs.entries.kinds import PartEntry
from cas3fs.entries.nodes import NodeEntry, Part
from cas3fs.errors import EntryCorrupt, ObjectDamaged, ObjectExists, ObjectMissing, ObjectTooLong, ObjectTooShort
from cas3fs.objectstores.base import ObjectInfo, ObjectStore
from cas3fs.values import Buffer

E = TypeVar("E", bound=Entry)
N = TypeVar("N", bound=NodeEntry)

_FIRST_READ_BYTES = 4096
MAX_BODY_BYTES = 128 * 1024 * 1024
"""The limit for entries that are read whole, with their data; larger data is read in ranges."""


class ListedEntry(NamedTuple):
    """An entry in a listing; `size` is that of the object in bytes, `modified` is by the store's clock."""

    id: str
    key: str
    size: int
    modified: datetime


class Shelf:
    """The entries in a store.

    Args:
        store: where the entries are; the caller closes it.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def save(self, entry: Entry, data: Buffer = b"") -> None:
        """Create the object of `entry` with `data`.

        Raises:
            ObjectExists: there is an entry of that key; entries are immutable.
        """
        body = encode_body(entry, data, pads=self.store.pads) if entry.framed else data
        self.store.put_if_absent(entry.key, body, _metadata_of(entry))

    def save_file(self, entry: Entry, body: BinaryIO) -> None:
        """Create the object of `entry` from a file with its whole body, as `BodyWriter.finish` returns it.

        Raises:
            ObjectExists: there is an entry of that key.
        """
        self.store.put_if_absent(entry.key, body, _metadata_of(entry))

    def load(self, kind: type[E], entry_id: str, owner: str = "") -> E:
        """The entry; its whole body is verified.

        Raises:
            ObjectMissing: there is no such entry.
            EntryCorrupt: it is damaged, or of another kind.
            MissingAttribute: a required attribute is missing.
            InvalidAttribute: the value of an attribute cannot be coerced.
        """
        return self.load_with_data(kind, entry_id, owner)[0]

    def load_with_digest(self, kind: type[E], entry_id: str) -> tuple[E, str]:
        """The entry of a framed kind, and the BLAKE3 of its object's bytes in hex digits; raises as `load`."""
        key = kind.key_of(entry_id)
        body = self._read_body(key)
        head, _ = decode_body(body, key)
        return _from_head(kind, entry_id, "", head), digest_of(body)

    def load_with_data(self, kind: type[E], entry_id: str, owner: str = "") -> tuple[E, memoryview]:
        """The entry and its data; raises as `load`. The data of a kind that is not framed is not verified."""
        key = kind.key_of(entry_id, owner)
        if not kind.framed:
            return self.load_head(kind, entry_id, owner), memoryview(self._read_body(key))
        head, data = decode_body(self._read_body(key), key)
        return _from_head(kind, entry_id, owner, head), data

    def load_head(self, kind: type[E], entry_id: str, owner: str = "") -> E:
        """The entry without its data, which may be large: only the head of the body is read. Raises as `load`."""
        key = kind.key_of(entry_id, owner)
        info = self.store.head(key)
        if not kind.framed:
            return _build(kind, entry_id, owner, from_metadata(kind, info.metadata))
        return _from_head(kind, entry_id, owner, self._read_head(info))

    def exists(self, kind: type[Entry], entry_id: str, owner: str = "") -> bool:
        """Whether the entry exists, damaged or not. The object itself is read, as a listing may lack it."""
        try:
            self.store.get_range(kind.key_of(entry_id, owner), 0, 1)
        except ObjectMissing:
            return False
        except (ObjectTooShort, ObjectDamaged):  # it is empty, or forged: it is damaged, but exists
            return True
        return True

    def list_entries(self, kind: type[Entry], start_after: str = "") -> Iterator[ListedEntry]:
        """The entries of a kind, ascending by id, without sub-entries.

        Args:
            kind: the kind, which has a folder.
            start_after: an id, or the beginning of one: only ids that sort after it are listed.

        Raises:
            ValueError: the kind has no folder.
        """
        if not kind.folder:
            raise ValueError(f"entries of kind {kind.kind!r} have no folder to list")
        start = kind.prefix() + start_after if start_after else ""
        for info in self.store.list(kind.prefix(), start):
            name = info.key.removeprefix(kind.prefix())
            if SUB_SEPARATOR not in name:
                yield ListedEntry(name, info.key, info.size, info.modified)

    def load_all(self, kind: type[E]) -> Iterator[E]:
        """Every entry of a kind but sub-entries, ascending by id; raises as `load`."""
        for one in self.list_entries(kind):
            yield self.load(kind, one.id)

    def sub_entries(self, owner: Entry) -> Iterator[ListedEntry]:
        """The sub-entries of `owner`, and theirs, ascending; their ids are what follows the key of `owner`."""
        start = owner.key + SUB_SEPARATOR
        for info in self.store.list(start):
            yield ListedEntry(info.key.removeprefix(start), info.key, info.size, info.modified)

    def remove(self, entry: Entry) -> None:
        """Delete the entry and all its sub-entries; a missing entry is ignored.

        Raises:
            DeleteFailed: some are left; removing can be repeated.
        """
        keys = [child.key for child in self.sub_entries(entry)]
        if keys:
            self.store.delete_many(keys)
        self.store.delete_many([entry.key])

    def add_part(self, data: Buffer) -> Part:
        """Store `data` as a part for nodes; the same data is stored once."""
        entry = PartEntry(id=self.store.hash_content(data).hex())
        # The hash of the data is the name: an existing object has the same data.
        with contextlib.suppress(ObjectExists):
            self.save(entry, data)
        return Part(entry.key, 0, len(data), blake3(data).digest())

    def read_node(self, node: NodeEntry, start: int = 0, length: int | None = None) -> bytes:
        """A range of a node's data; only the parts in that range are read, and verified.

        Args:
            node: the node.
            start: where the range begins.
            length: of the range; None for all that follows.


        Raises:
            ObjectMissing: a part's object is gone.
            EntryCorrupt: the bytes of a part do not match its hash.
        """
        length = node.data_size if length is None else length
        return b"".join(
            self.read_part(node.parts[one.number])[one.start : one.end] for one in node.slices(start, length)
        )

    def read_part(self, one: Part) -> bytes:
        """The bytes of a part, verified; raises as `read_node`."""
        try:
            data = self.store.get_range(one.key, one.offset, one.length)
        except ObjectDamaged as error:
            raise EntryCorrupt(str(error)) from error
        one.verify(data)
        return data

    def replace_part(self, node: N, number: int, data: Buffer, *, node_id: str) -> N:
        """Save a copy of a node, with the id `node_id`, in which `data` of any length replaces part `number`.

        Raises:
            IndexError: there is no such part.
            ObjectExists: there is a node with that id.
        """
        parts = list(node.parts)
        parts[number] = self.add_part(data)
        replaced = node.changed(id=node_id, parts=tuple(parts))
        self.save(replaced)
        return replaced

    def _read_body(self, key: str) -> bytes:
        try:
            return self.store.get_within(key, MAX_BODY_BYTES)
        except ObjectTooLong as error:
            raise EntryCorrupt(f"{key} is not an entry: it has more than {MAX_BODY_BYTES} bytes") from error
        except ObjectDamaged as error:
            raise EntryCorrupt(str(error)) from error

    def _read_head(self, info: ObjectInfo) -> Head:
        try:
            start = self.store.get_range(info.key, 0, min(info.size, _FIRST_READ_BYTES))
            needed = head_length(start[:PREFIX_BYTES], info.key)
            if len(start) < needed <= info.size:
                start = self.store.get_range(info.key, 0, needed)
        except ObjectDamaged as error:
            raise EntryCorrupt(str(error)) from error
        return decode_head(start, info.key)


def digest_of(body: Buffer) -> str:
    """The BLAKE3 of an object's bytes, in hex digits."""
    return blake3(body).hexdigest()


def _metadata_of(entry: Entry) -> dict[str, str]:
    return {KIND_METADATA: entry.kind, **to_metadata(entry)}


def _from_head(kind: type[E], entry_id: str, owner: str, head: Head) -> E:
    if head.kind != kind.kind:
        raise EntryCorrupt(f"{head.key} is of kind {head.kind!r}, not {kind.kind!r}")
    return _build(kind, entry_id, owner, head.attributes)


def _build(kind: type[E], entry_id: str, owner: str, values: dict[str, object]) -> E:
    key = kind.key_of(entry_id, owner)
    known, unknown = split_values(kind, key, values)
    return build_entry(kind, key, id=entry_id, owner=owner, unknown=unknown, **known)
