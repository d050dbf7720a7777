# SPDX-License-Identifier: GPL-3.0-or-later
"""An index of its own for each test, and small ways to fill it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.index import Index
from cas3fs.index.scans import DeadBlockScan, EmptyPackScan
from cas3fs.values import BlockHash, PackedBlock, StoredPack

NOW_NS = 1_700_000_000_123_456_789
FILE_MODE = 0o100644
YOUNG = 10
"""Packs born with that snapshot are young."""


def add_inode(index: Index, *values: int) -> int:
    """Makes an inode of the values of `InodeRow` from mode to crtime; returns its number."""
    number = index.namespace.last_numbers()[0] + 1
    index.namespace.insert_inodes([(number, *values)])
    return number


def add_file(index: Index, name: bytes = b"", parent: int = 1, mode: int = FILE_MODE) -> int:
    """Makes an inode with one link, named if a name is given; returns its number."""
    number = add_inode(index, mode, 1000, 100, 1, 0, 0, 0, NOW_NS, NOW_NS, NOW_NS, NOW_NS)
    if name:
        index.namespace.add_entry(parent, name, number)
    return number


def make_pack(name: str, count: int, plain_length: int = 4096) -> StoredPack:
    """A pack of that many new blocks."""
    blocks = [PackedBlock(BlockHash(os.urandom(32)), 100 * n, 100, plain_length) for n in range(count)]
    return StoredPack(name, 100 * count, blocks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    with Index.open(path, create=True) as index:
        yield index


def watch(index: Index) -> None:
    """Begins to note which blocks chunks name."""
    with index.operation():
        index.garbage.watch()
    index.commit()


def bury(index: Index, young: int = YOUNG) -> None:
    """Marks packs that are empty as dead."""
    with EmptyPackScan(index.path, young) as empty:
        for packs in empty:
            with index.operation():
                index.garbage.mark_packs_dead(packs, YOUNG, young)


def drop_all(index: Index, young: int = YOUNG) -> int:
    """Deletes blocks that no chunk names, and marks packs that are empty; returns the number of blocks."""
    watch(index)
    dropped = 0
    with DeadBlockScan(index.path, young) as dead:
        for blocks in dead:
            with index.operation():
                dropped += index.garbage.delete_blocks(blocks, young)
    index.commit()
    bury(index, young)
    with index.operation():
        index.garbage.unwatch()
    index.commit()
    return dropped
