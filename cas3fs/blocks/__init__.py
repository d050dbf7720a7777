# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks: how file content becomes stored bytes and back, as pure functions over bytes.

Vocabulary:

- *chunker*: decides where a file's content is cut (`chunkers`).
- *block*: the plain bytes between two cuts, named by their BLAKE3 hash.
- *codec*: a way to encode a block; *encoded block*: the codec's tag, one byte, and a payload (`codec`).
- *pack*: many encoded blocks in one object, with a table of contents (`packs`).

Every length, offset and tag that is read from stored bytes is checked before it is used, and decoding never yields more
than the plain length that the caller expects. Anything else raises `BlockCorrupt` or `PackCorrupt`.

The subpackage does not know of object stores, files, the index or caches.
"""
