# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries: typed, immutable objects in an object store.

- *kind*: a class that represents a sort of stored object, with declared attributes (`attributes`, `entry`).
- *attribute*: a named value with a type, a coercer and perhaps a default; those that are small and useful in a HEAD
  travel as the object's user metadata too.
- *id*: unique within a kind: given, random, or the hash of the entry's data. *Key*: the kind's folder, a slash, the id.
- *sub-entry*: an entry that another owns. Its key is the owner's, a dot and its own id: listed and removed with it.
- *node entry*: an entry whose data is spread over parts of other objects (`nodes`): a range is read, or a part
  replaced, without touching the rest.
- *body*: the bytes of the object: attributes, data and checksums (`bodies`), or data alone for kinds with a format of
  their own.
- *shelf*: where entries are saved, loaded, listed and removed (`shelf`).

An entry never changes once it is saved; replacing something means new objects. Attributes that a newer version wrote
are kept as they are. The kinds of the volume stand on one page, `kinds`; anyone else can declare others.

This room knows nothing of files, blocks, the index, or of what the kinds are used for.
"""
