# SPDX-License-Identifier: GPL-3.0-or-later
"""Sampling: with each publication the chunks of some files, others each time, are compared with their checksums.

So damage that the disk does to an index in use is noticed long before a gc or a check reads all of it: 250
publications, one each minute, cover a million files.
"""

import logging
import random
from typing import Final

from cas3fs.index import IndexReader

SAMPLED_FILES: Final = 4_000
"""Files per call, which takes some 4 ms."""

_log = logging.getLogger(__name__)


class IndexSampler:
    """Checks the index of one volume, a part at a time; starts at a random inode, because many mounts are short."""

    def __init__(self) -> None:
        self._after: int | None = None

    def look(self, reader: IndexReader) -> None:
        """Compares the next part with its checksums, and logs an error if they differ.

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
