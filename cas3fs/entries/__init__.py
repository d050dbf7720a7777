# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries: typed, immutable objects in an object store.

Vocabulary:

- *kind*: a class for one sort of stored object, with declared attributes (`attributes`, `entry`).
- *attribute*: a named value with a type, a coercer (`coercers`) and perhaps a default; those that are small and useful
  in a HEAD are also stored as the object's user metadata.
- *id*: unique within a kind: chosen by the caller, random, or the hash of the entry's data. *Key*: the kind's folder, a
  slash, and the id.
- *sub-entry*: an entry that another owns. Its key is that of its owner, a dot and its own id: it is listed and removed
  with its owner.
- *node entry*: an entry whose data consists of parts of other objects (`nodes`): a range can be read, or a part
  replaced, without reading the rest.
- *body*: the bytes of the object: attributes, data and checksums (`bodies`), or only data for kinds with their own
  format.
- *shelf*: saves, loads, lists and removes entries (`shelf`).

An entry never changes once it is saved; replacing it means new objects. Attributes of a newer version are kept as they
are. The kinds of a volume are in `kinds`.

The subpackage is also a library for programs that keep their own entries beside a volume, or in another store. They
declare their own kinds, with random ids if they like, and have all operations of node entries, of which the volume
itself needs only some::

    >>> from cas3fs.entries.attributes import attribute, entry_kind
    >>> from cas3fs.entries.coercers import to_string
    >>> from cas3fs.entries.entry import IdSource
    >>> from cas3fs.entries.nodes import NodeEntry
    >>> from cas3fs.entries.shelf import Shelf
    >>> from cas3fs.objectstores.memory import MemoryStore

    >>> @entry_kind
    ... class Recording(NodeEntry):
    ...     kind = "recording"
    ...     folder = "recordings"
    ...     ids = IdSource.RANDOM
    ...     title: str = attribute(to_string, metadata=True)

    >>> shelf = Shelf(MemoryStore())
    >>> parts = tuple(shelf.add_part(data) for data in (b"first, ", b"second, ", b"third"))
    >>> recording = Recording(id=Recording.new_id(), title="Numbers", parts=parts)
    >>> shelf.save(recording)

    >>> shelf.read_node(recording, start=7, length=6)
    b'second'
    >>> corrected = shelf.replace_part(recording, 1, b"2nd, ", node_id=Recording.new_id())
    >>> shelf.read_node(shelf.load(Recording, corrected.id))
    b'first, 2nd, third'
    >>> [shelf.load_head(Recording, one.id).title for one in shelf.list_entries(Recording)]
    ['Numbers', 'Numbers']

The subpackage does not know of files, blocks or the index, nor what the kinds are used for.
"""
