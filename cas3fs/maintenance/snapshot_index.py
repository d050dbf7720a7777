# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of a snapshot, restored to a temporary file, and which packs it records and references.

The index keeps two numbers for each pack, the snapshots with which it was born and died; the snapshots in between may
need it. A pack dies with the first gc that finds it unreferenced. So the last snapshot before that gc always seems to
need the pack, even if it was taken after the last file was deleted. Only that snapshot's own index shows which packs
its files reference. Restoring it costs as much as restoring the snapshot, so a gc does that only where the index is
small, or where it may free more.

The index of a snapshot may also hold unreferenced blocks, in packs that such a gc has deleted since. Code that makes a
snapshot the head again therefore drops those blocks first (`Garbage.delete_unreferenced_blocks`).
"""

import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from cas3fs.errors import IndexCorrupt
from cas3fs.index import IndexReader, PackRow, migrations
from cas3fs.index.scans import NeededPackScan, PackScan
from cas3fs.snapshots.archive import SnapshotArchive


@contextmanager
def restored_index(archive: SnapshotArchive, snapshot: str, scratch: Path) -> Iterator[Path]:
    """The index of a snapshot as a file, at the current schema; it is removed when the context ends.

    Raises:
        SnapshotError: the snapshot is damaged.
        StoreError, IndexDatabaseError: the store or the local disk failed.
    """
    with tempfile.TemporaryDirectory(prefix="look-", dir=scratch) as folder:
        path = Path(folder) / "index.sqlite"
        archive.restore(snapshot, path)
        migrations.upgrade(path)
        yield path


@contextmanager
def referenced_packs(archive: SnapshotArchive, snapshot: str, scratch: Path) -> Iterator[Container[str]]:
    """The names of the packs that the snapshot's files reference.

    Raises:
        IndexCorrupt: its index has lost chunks.
        SnapshotError, StoreError, IndexDatabaseError: as `restored_index`.
    """
    with restored_index(archive, snapshot, scratch) as path:
        with IndexReader(path) as reader:
            check_chunk_checksums(reader)
        with NeededPackScan(path) as needed:
            yield needed


def recorded_packs(archive: SnapshotArchive, snapshot: str, scratch: Path) -> Iterator[PackRow]:
    """The packs that the snapshot's index records, one by one; raises as `restored_index`."""
    with restored_index(archive, snapshot, scratch) as path, PackScan(path) as scan:
        for pack in scan:
            yield PackRow(*pack[:4])


def check_chunk_checksums(reader: IndexReader) -> None:
    """Checks that an index has not lost chunks; to be called before anything counts as unreferenced.

    Raises:
        IndexCorrupt: it has lost some, so blocks that seem unreferenced may be in use.
    """
    if files := reader.checksum_mismatches():
        raise IndexCorrupt(
            f"the index has lost parts of {files:,} files, so nothing is deleted: `cas3fs fsck` lists the files, and "
            "--repair takes them from snapshots"
        )
