# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores blocks in packs, and reads them back through the caches.

Vocabulary, beside *block*, *pack* and *encoded block* of the packages below:

- *session*: the blocks that one job stores. They go into packs of their own, in the order in which they were added.
- *open pack*: the pack that a session is filling; when it is *sealed*, nothing is added to it any more, and it is
  uploaded.
- *in flight*: a block that is written is in flight from when it was added until its pack is recorded; a block that is
  read, while it is being fetched. Other readers of that block wait for the fetch and share its result.
- *range*: bytes of a pack that are fetched by one GET, with the blocks in them.
- *ahead*: fetched before a reader needs it, because of a hint.

`pack_store` names, stores and reads packs; `writer` and `pack_session` turn blocks into packs; `reader` and `fetcher`
find blocks in memory, in the caches or in the store.

This package does not know files, staging or the index: callers pass the location of a block that they read, and get
the location of a block that was written.
"""

from cas3fs.blockstore.reader import BlockReader
from cas3fs.blockstore.writer import BlockWriter, PackSession, StoredFuture

__all__ = ["BlockReader", "BlockWriter", "PackSession", "StoredFuture"]
