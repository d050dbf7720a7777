# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages entries: how what is new in a snapshot is stored in objects of a bounded size, and whether they are all there.

A part is spooled to a file and put before the next one is begun, so that no PUT is long, and what was put stays of use
when a later one fails.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from cas3fs.entries.bodies import CHECKSUM_BYTES, BodyWriter
from cas3fs.entries.kinds import PagesEntry, PagesUse
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import ObjectMissing
from cas3fs.objectstores.base import ObjectStore
from cas3fs.values import Buffer, PagesNumber, SnapshotNumber

PART_BYTES: Final = 8 * 1024 * 1024
PAGES_MISSING: Final = "it is not there"

_log = logging.getLogger(__name__)


class PagesWriter:
    """Stores the pages entries of one attempt to make a snapshot; not thread-safe.

    Args:
        folder: where a part is spooled.
        part_bytes: no object is longer, unless one piece alone is.
    """

    def __init__(self, shelf: Shelf, number: SnapshotNumber, time: datetime, folder: Path, part_bytes: int) -> None:
        self._shelf = shelf
        self._number = number
        self._time = time
        self._folder = folder
        self._part_bytes = part_bytes
        self._part = 0
        self._open: tuple[PagesEntry, BodyWriter, IO[bytes]] | None = None
        self.sizes: dict[str, int] = {}
        """Bytes of the objects that are in the store, by id."""

    def write(self, stored: Buffer) -> tuple[str, int]:
        """Takes a piece; gives the id of the entry that it goes to, and its offset in that object.

        Raises:
            StoreError: a part could not be put.
            OSError: the local disk failed.
        """
        if self._open is not None:
            _, body, _ = self._open
            if body.position + len(stored) + CHECKSUM_BYTES > self._part_bytes:
                self.finish()
        if self._open is None:
            self._open = self._begun()
        pages, body, _ = self._open
        return pages.id, body.write(stored)

    def finish(self) -> None:
        """Puts the part that is open, if any; raises as `write`."""
        if self._open is None:
            return
        pages, body, file = self._open
        with file:
            self._shelf.save_file(pages, body.finish())
        self.sizes[pages.id] = body.position + CHECKSUM_BYTES
        self._open = None

    def forget(self, lost: Iterable[str]) -> None:
        """The store has not what it has taken: these do not count."""
        for pages in lost:
            self.sizes.pop(pages, None)

    def close(self) -> None:
        """Lets go of a part that was not put."""
        if self._open is not None:
            self._open[2].close()
            self._open = None

    def _begun(self) -> tuple[PagesEntry, BodyWriter, IO[bytes]]:
        epoch, sequence = self._number
        pages = PagesEntry(
            id=str(PagesNumber(self._number, self._part)),
            epoch=epoch,
            sequence=sequence,
            part=self._part,
            time=self._time,
        )
        self._part += 1
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `finish` or `close`
        return pages, BodyWriter(file, pages), file


def find_lost_pages(
    store: ObjectStore, uses: Iterable[PagesUse], listed: Mapping[str, int] | None = None
) -> dict[str, str]:
    """The pages entries among `uses` that the store lacks, or has in another size: why, by id.

    A listing shows what is there; what it lacks is asked for by name before it is taken to be lost.

    Args:
        listed: sizes by id of a listing that there is already.

    Raises:
        StoreError: the store failed, so nobody knows.
    """
    needed = {one.id: one.total_size for one in uses}
    if not needed:
        return {}
    for pages, size in _listed(store) if listed is None else listed.items():
        if needed.get(pages) == size:
            del needed[pages]
    lost = {pages: _fault(store, pages, size) for pages, size in sorted(needed.items())}
    return {pages: fault for pages, fault in lost.items() if fault}


def _listed(store: ObjectStore) -> Iterator[tuple[str, int]]:
    for info in store.list(PagesEntry.prefix()):
        yield info.key.removeprefix(PagesEntry.prefix()), info.size


def _fault(store: ObjectStore, pages: str, size: int) -> str:
    try:
        there = store.head(PagesEntry.key_of(pages)).size
    except ObjectMissing:
        return PAGES_MISSING
    if there != size:
        return f"it has {there} bytes, not {size}"
    _log.warning("the store does not list %s, which is there", PagesEntry.key_of(pages))
    return ""
