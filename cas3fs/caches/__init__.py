# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches: plain bytes of blocks, kept nearer than the object store.

A block is named by the hash of its bytes and never changes, so whatever a cache holds under a name is right or rotten,
never stale: no cache is ever told of a change, and any of them may lose anything at any time.

Vocabulary:

- *block*: the plain (decompressed) bytes behind a `BlockHash`.
- *part*: a range of a block, given by `skip` and `length`.
- *hit*, *miss*: a cache has the bytes and vouches for them, or it does not. Trouble of any sort is a miss.
- *tier*: one cache among several that are asked in turn, the fastest first.
- *rotten*: bytes that do not match the name they lie under; they are removed and count as a miss.

This room does not know of packs, of the object store, of files, or of who asks.
"""

from cas3fs.caches.base import BlockCache
from cas3fs.caches.disk import DiskCache
from cas3fs.caches.memory import MemoryCache
from cas3fs.caches.tiered import TieredCache
from cas3fs.caches.wrappers import VerifyingCache, ensure_verified

__all__ = ["BlockCache", "DiskCache", "MemoryCache", "TieredCache", "VerifyingCache", "ensure_verified"]
