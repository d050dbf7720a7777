# SPDX-License-Identifier: GPL-3.0-or-later
"""Block caches: plain bytes of blocks, kept nearer than the object store.

A block is named by the hash of its bytes and never changes. So a cached block is either right or corrupt, never stale:
nothing has to be invalidated, and any cache may lose any block at any time.

Vocabulary:

- *block*: the plain (decompressed) bytes behind a `BlockHash`.
- *part*: a range of a block, given by `skip` and `length`.
- *hit*, *miss*: the cache returns verified bytes, or it does not. Every failure is a miss.
- *tier*: one of several caches that are read in order, the fastest first (`tiered`).
- *corrupt*: bytes that do not match the hash they are stored under; they are deleted and count as a miss.
- *spec*: the text by which a user names a cache, such as ``disk:10GiB`` (`specs`, `registry`).

Where things are: `base` is the interface, also for caches of other packages; `memory`, `disk`, `memcached` and `web`
implement it; `tiered` and `wrappers` combine and protect caches; `registry` makes them from specs.

This subpackage knows nothing of packs, the object store, files, or of its callers.
"""

from cas3fs.caches.base import BlockCache
from cas3fs.caches.disk import DiskCache
from cas3fs.caches.memory import MemoryCache
from cas3fs.caches.tiered import TieredCache
from cas3fs.caches.wrappers import VerifyingCache, ensure_verified

__all__ = ["BlockCache", "DiskCache", "MemoryCache", "TieredCache", "VerifyingCache", "ensure_verified"]
