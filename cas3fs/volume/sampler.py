# SPDX-License-Identifier: GPL-3.0-or-later
"""Sampling: with each publishing the chunks of some files, others each time, are compared with their sums.

So an index of which the disk loses something while it is in use is noticed long before a gc or a check looks at all of
it: a million files are gone through in 50 publishings.
"""

import logging
import random
from typing import Final

from cas3fs.index import IndexReader

SAMPLED_FILES: Final = 20_000
"""Of one look, which takes some 20 ms."""

_log = logging.getLogger(__name__)


class IndexSampler:
    """Looks at the index of one volume, a part at a time; begins anywhere, as many a mount is short."""

    def __init__(self) -> None:
        self._after: int | None = None

    def look(self, reader: IndexReader) -> None:
        """Compares the next part with its sums, and logs an error where they differ.

        Raises:
            IndexDatabaseError: the index cannot be read.
        """
        last = reader.last_inode()
        if self._after is None:
            self._after = random.randrange(max(last, 1))
        elif self._after >= last:
            self._after = 0
        unlike = reader.checksum_mismatches(self._after, self._after + SAMPLED_FILES)
        self._after += SAMPLED_FILES
        if unlike:
            _log.error(
                "the index has lost parts of %d files: `cas3fs fsck` names them, and --repair takes them from "
                "snapshots; until then gc deletes nothing",
                unlike,
            )
