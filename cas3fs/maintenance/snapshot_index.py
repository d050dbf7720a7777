# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking into a snapshot: its index is restored to a temporary file and asked which packs its chunks need.

The two numbers that the index keeps of a pack say which snapshots may need it: those from its birth to its death, and
it dies with the first gc that finds it unused. So the snapshot before that gc always seems to need it, even if it was
taken after the last file went. A look tells. It costs as much as restoring the snapshot, so it is worth it only where
more would come free than that.

A snapshot's index may place blocks that no chunk names in packs that a look has freed. Whoever makes a snapshot the
head again therefore drops such blocks first (`Garbage.delete_unreferenced_blocks`).
"""

import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from cas3fs.errors import IndexCorrupt
from cas3fs.index import IndexReader, NeededPackScan, PackRow, PackScan, migrations
from cas3fs.snapshots.archive import SnapshotArchive


@contextmanager
def restored_index(archive: SnapshotArchive, snapshot: str, scratch: Path) -> Iterator[Path]:
    """The index of a snapshot as a file, at the current schema; it goes when the context ends.

    Raises:
        SnapshotError: it is damaged.
        StoreError, IndexDatabaseError: the store or the local disk failed.
    """
    with tempfile.TemporaryDirectory(prefix="look-", dir=scratch) as folder:
        path = Path(folder) / "index.sqlite"
        archive.restore(snapshot, path)
        migrations.upgrade(path)
        yield path


@contextmanager
def referenced_packs(archive: SnapshotArchive, snapshot: str, scratch: Path) -> Iterator[Container[str]]:
    """The names of the packs that the snapshot's files need; raises as `restored`."""
    with restored_index(archive, snapshot, scratch) as path:
        with IndexReader(path) as reader:
            check_chunk_sums(reader)
        with NeededPackScan(path) as needed:
            yield needed


def check_chunk_sums(reader: IndexReader) -> None:
    """To be called before anything is taken for dead.

    Raises:
        IndexCorrupt: the index has lost chunks, so what no chunk names may be in use.
    """
    if unlike := reader.checksum_mismatches():
        raise IndexCorrupt(
            f"the index has lost parts of {unlike:,} files, so nothing is deleted: `cas3fs fsck` tells of which, and "
            "--repair takes them from snapshots"
        )


def recorded_packs(archive: SnapshotArchive, snapshot: str, scratch: Path) -> Iterator[PackRow]:
    """The packs that the snapshot's index knows, one by one; raises as `restored`."""
    with restored_index(archive, snapshot, scratch) as path, PackScan(path) as scan:
        for pack in scan:
            yield PackRow(*pack[:4])
