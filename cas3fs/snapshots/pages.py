# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages entries: stores the new content of a snapshot in objects of limited size, and checks that they exist.

One object is written to a temporary file and stored before the next is begun. So no PUT is long, and what was stored
can be reused if a later PUT fails.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from cas3fs.entries.bodies import CHECKSUM_BYTES, BodyWriter
from cas3fs.entries.kinds import PagesEntry, PagesUse, SnapshotEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import ObjectMissing
from cas3fs.objectstores.base import ObjectStore
from cas3fs.values import Buffer, PagesNumber, SnapshotNumber

PART_BYTES: Final = 8 * 1024 * 1024
PAGES_MISSING: Final = "missing"

_log = logging.getLogger(__name__)


class PagesWriter:
    """Stores the pages entries of one attempt to create a snapshot; not thread-safe.

    Args:
        shelf: the volume's entries.
        number: the snapshot's number.
        time: recorded in the entries.
        folder: for temporary files.
        part_bytes: no object is longer, unless a single piece is.
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
        """Sizes of the objects that were stored, by id."""

    def write(self, stored: Buffer) -> tuple[str, int]:
        """Add a piece; return the id of its pages entry and its offset in the object.

        Raises:
            StoreError: an object could not be stored.
            OSError: the local disk failed.
        """
        if self._open is not None:
            _, body, _ = self._open
            if body.position + len(stored) + CHECKSUM_BYTES > self._part_bytes:
                self.finish()
        if self._open is None:
            self._open = self._begin()
        pages, body, _ = self._open
        return pages.id, body.write(stored)

    def finish(self) -> None:
        """Store the object that is open, if any; raises as `write` does."""
        if self._open is None:
            return
        pages, body, file = self._open
        with file:
            self._shelf.save_file(pages, body.finish())
        self.sizes[pages.id] = body.position + CHECKSUM_BYTES
        self._open = None

    def forget(self, lost: Iterable[str]) -> None:
        """Forget objects that the store has lost."""
        for pages in lost:
            self.sizes.pop(pages, None)

    def close(self) -> None:
        """Discard the object that is open and was not stored."""
        if self._open is not None:
            self._open[2].close()
            self._open = None

    def _begin(self) -> tuple[PagesEntry, BodyWriter, IO[bytes]]:
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
        return pages, BodyWriter(file, pages, pads=self._shelf.store.pads), file


def seals_of(store: ObjectStore, uses: Iterable[PagesUse]) -> tuple[str, ...]:
    """Return what a manifest has to say of these pages entries so that they are read with single requests."""
    seals = tuple(store.seal_of(PagesEntry.key_of(one.id)) for one in uses)
    return seals if any(seals) else ()


def learn_seals(store: ObjectStore, manifest: SnapshotEntry) -> None:
    """Tell the store what a manifest says of its pages entries."""
    for use, seal in zip(manifest.pages, manifest.seals, strict=False):
        if seal:
            store.learn_seal(PagesEntry.key_of(use.id), seal)


def find_lost_pages(
    store: ObjectStore, uses: Iterable[PagesUse], listed: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Return the pages entries among `uses` that are missing, or have a wrong size: the reason by id.

    An entry that the listing lacks is looked up by name before it counts as lost.

    Args:
        store: the object store.
        uses: the pages entries that are needed.
        listed: sizes by id, if the caller has listed them already.

    Raises:
        StoreError: the store failed, so the answer is unknown.
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
        found = store.head(PagesEntry.key_of(pages)).size
    except ObjectMissing:
        return PAGES_MISSING
    if found != size:
        return f"{found} bytes long instead of {size}"
    _log.warning("the store has %s but does not list it", PagesEntry.key_of(pages))
    return ""
