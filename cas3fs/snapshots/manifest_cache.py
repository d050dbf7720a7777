# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests that were read: they never change, so a listing tells of each whether it has to be read again.

It has to where size or time in the listing are others than when it was read, or, of one that this process has put, than
the store told then. Some stores tell the time of an object less exactly than they list it; such a one is read once.

Thread-safe; one lock, held for assignments only. Memory: about 10 KiB for each of at most `MOST_KNOWN` snapshots.
"""

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from cas3fs.entries.shelf import Listed
from cas3fs.snapshots.manifests import SnapshotInfo

MOST_KNOWN: Final = 1000
"""Of more than that, the oldest are read each time."""


class _Read(NamedTuple):
    info: SnapshotInfo
    size: int
    modified: datetime


class ManifestCache:
    """What the manifests of one volume say."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[str, _Read] = {}

    def get(self, listed: Listed) -> SnapshotInfo | None:
        """What the manifest says, if the listing shows the object that was read."""
        with self._lock:
            known = self._read.get(listed.id)
        return known.info if known is not None and known[1:] == (listed.size, listed.modified) else None

    def put(self, listed: Listed, info: SnapshotInfo) -> None:
        """It was read after the listing showed it."""
        with self._lock:
            self._read[listed.id] = _Read(info, listed.size, listed.modified)

    def size_bytes(self, ids: Iterable[str]) -> int:
        """How long the manifests are of those of the snapshots that were read."""
        with self._lock:
            return sum(self._read[one].size for one in ids if one in self._read)

    def keep(self, ids: Iterable[str]) -> None:
        """Forgets all others, and the oldest of too many; `ids` are ascending."""
        with self._lock:
            kept = [one for one in ids if one in self._read][-MOST_KNOWN:]
            self._read = {one: self._read[one] for one in kept}
