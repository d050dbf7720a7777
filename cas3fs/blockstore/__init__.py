# SPDX-License-Identifier: GPL-3.0-or-later
"""The block store: blocks on their way into packs, and back out of them through the caches.

Vocabulary, beside *block*, *pack* and *encoded block* of the rooms below:

- *session*: one storing job's line of blocks; they go into packs of its own, in the order in which they were added.
- *open pack*: the pack a session is filling; *sealed*: nothing is added any more, it is to be uploaded.
- *in flight* (writing): a block that was added and whose pack is not yet recorded. Reading, a *fetch* is a block being
  fetched: whoever wants it meanwhile waits for that fetch and shares its outcome.
- *run*: blocks that lie near each other in a pack and are fetched by one ranged GET.
- *ahead*: fetched before anyone asks, on a hint.

This room does not know of files, of the index (it is told where a block lies, and tells where it put one), or of
staging.
"""

from cas3fs.blockstore.reader import BlockReader
from cas3fs.blockstore.writer import BlockWriter, PackSession, StoredFuture

__all__ = ["BlockReader", "BlockWriter", "PackSession", "StoredFuture"]
