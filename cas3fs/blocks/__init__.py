# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks: how file content becomes stored bytes and back, as pure functions over bytes.

- *chunker*: says where a file's content is cut (`chunkers`).
- *block*: the plain bytes between two cuts, named by their BLAKE3 hash.
- *encoded block*: a codec byte and a payload (`codec`).
- *pack*: many encoded blocks in one object, with a table of contents (`packs`).

Every length, offset and codec that is read from stored bytes is checked before it is used, and no decoding yields
more than the plain length that was asked for. What does not fit raises `BlockCorrupt` or `PackCorrupt`.

This room knows nothing of object stores, files, the index, caches or threads.
"""
