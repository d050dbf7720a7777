# SPDX-License-Identifier: GPL-3.0-or-later
"""What trees take, compared with a model that counts by hand: hard links, shared blocks, holes, staged bytes."""

import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.index import Index
from cas3fs.index.usage import Usage, UsageReader
from cas3fs.values import BlockHash, PackedBlock, StagedSize, StoredPack
from tests.index.conftest import FILE_MODE, NOW_NS, add_inode

FOLDER_MODE = 0o040755
LARGEST = 2**62
BLOCKS, PACKS = 12, 4
LENGTH = 10

Chunk = tuple[int, int]
"""The hole before it, in chunks, and its block."""


@attrs.frozen
class File:
    """A file: the folders in which it has a name, its chunks, and what is staged of it."""

    folders: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    staged: tuple[int, int, int] | None


@attrs.frozen
class Tree:
    """A volume. Folder 0 is the root; the parent of each later one is an earlier one."""

    parents: tuple[int, ...]
    files: tuple[File, ...]
    stored_lengths: tuple[int, ...]
    born: tuple[int, ...]

    @property
    def folders(self) -> range:
        return range(len(self.parents) + 1)

    def path(self, folder: int, above: int) -> bytes:
        names = []
        while folder != above:
            names.append(b"folder%d" % folder)
            folder = self.parents[folder - 1]
        return b"/".join(reversed(names))

    def above(self, folder: int) -> Iterator[int]:
        """The folder, and those above it."""
        while folder:
            yield folder
            folder = self.parents[folder - 1]
        yield 0

    def pack_of(self, block: int) -> int:
        return block % PACKS


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    parents = tuple(draw(st.integers(0, number)) for number in range(draw(st.integers(0, 5))))
    chunk = st.tuples(st.integers(0, 2), st.integers(0, BLOCKS - 1))
    file = st.builds(
        File,
        folders=st.lists(st.integers(0, len(parents)), min_size=1, max_size=3).map(tuple),
        chunks=st.lists(chunk, max_size=4).map(tuple),
        staged=st.none() | st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000)),
    )
    files = tuple(draw(st.lists(file, max_size=6)))
    lengths = tuple(draw(st.lists(st.integers(1, 1000), min_size=BLOCKS, max_size=BLOCKS)))
    born = tuple(draw(st.lists(st.integers(1, 9), min_size=PACKS, max_size=PACKS)))
    return Tree(parents, files, lengths, born)


def fill(index: Index, tree: Tree) -> tuple[list[int], list[int]]:
    """Makes the volume; returns the numbers of folders and files."""
    hashes = [BlockHash(os.urandom(32)) for _ in range(BLOCKS)]
    with index.operation():
        for pack in range(PACKS):
            own = [block for block in range(BLOCKS) if tree.pack_of(block) == pack]
            packed = [PackedBlock(hashes[one], 0, tree.stored_lengths[one], LENGTH) for one in own]
            index.blocks.add_pack(StoredPack(f"pack{pack}", 1, packed), tree.born[pack])
        ids = index.blocks.find(hashes)
        folders = [1]
        for place, parent in enumerate(tree.parents):
            folders.append(add(index, FOLDER_MODE, 2, 0))
            index.namespace.add_entry(folders[parent], b"folder%d" % (place + 1), folders[-1])
        files = []
        for file in tree.files:
            number = add(index, FILE_MODE, len(file.folders), size_of(file))
            for place, folder in enumerate(file.folders):
                index.namespace.add_entry(folders[folder], b"file%d-%d" % (number, place), number)
            rows, offset = [], 0
            for hole, block in file.chunks:
                offset += hole * LENGTH
                rows.append((offset, LENGTH, ids[hashes[block]], 0))
                offset += LENGTH
            index.chunks.replace(number, 0, offset, rows)
            files.append(number)
    index.commit()
    return folders, files


def add(index: Index, mode: int, links: int, size: int) -> int:
    return add_inode(index, mode, 1000, 100, links, 0, 0, size, NOW_NS, NOW_NS, NOW_NS, NOW_NS)


def size_of(file: File) -> int:
    return sum((hole + 1) * LENGTH for hole, _ in file.chunks)


def expected(
    tree: Tree, files: Sequence[File], folders: Sequence[int], newest: int, *, is_file: bool = False
) -> tuple[int, ...]:
    """The figures of a node with these files and folders; with `is_file`, of one name of a file."""
    staged = [file.staged for file in files if file.staged is not None]
    freed = [one for one in files if len(one.folders) == 1 or (not is_file and set(one.folders) <= set(folders))]
    named = {block for file in files for _, block in file.chunks}
    outside = {block for file in tree.files if file not in freed for _, block in file.chunks}
    unique = {block for file in freed for _, block in file.chunks} - outside
    held = {block for block in unique if tree.born[tree.pack_of(block)] <= newest}
    return (
        len(files),
        len(folders),
        sum(size_of(file) if file.staged is None else file.staged[0] for file in files),
        sum(len(file.chunks) * LENGTH if file.staged is None else file.staged[1] for file in files),
        len(staged),
        sum(one[2] for one in staged),
        *(sum(tree.stored_lengths[block] for block in some) for some in (named, unique, held)),
    )


def model(tree: Tree, roots: Sequence[int], depth: int, newest: int) -> set[Usage]:
    """What is expected of these folders, and of files, which are numbered behind the folders."""
    found = set()
    for place, root in enumerate(roots):
        if root >= len(tree.folders):
            file = tree.files[root - len(tree.folders)]
            found.add(Usage(place, 0, b"", *expected(tree, [file], [], newest, is_file=True)))
            continue
        for folder in tree.folders:
            way = list(tree.above(folder))
            if root in way and way.index(root) <= depth:
                below = [one for one in tree.folders if folder in tree.above(one)]
                files = [file for file in tree.files if set(file.folders) & set(below)]
                figures = expected(tree, files, below, newest)
                found.add(Usage(place, way.index(root), tree.path(folder, root), *figures))
    return found


@given(data=st.data(), tree=trees(), depth=st.integers(0, 4), newest=st.integers(0, 9))
def test_usage_is_what_a_count_by_hand_gives(data: st.DataObject, tree: Tree, depth: int, newest: int) -> None:
    # two files that are equal in the model are still two
    tree = attrs.evolve(tree, files=tuple(dict.fromkeys(tree.files)))
    roots = data.draw(st.lists(st.integers(0, len(tree.folders) + len(tree.files) - 1), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        with Index.open(path, create=True) as index:
            folders, files = fill(index, tree)
        staged = [
            StagedSize(number, *file.staged)
            for number, file in zip(files, tree.files, strict=True)
            if file.staged is not None
        ]
        with UsageReader(path) as reader:
            found = reader.measure([[*folders, *files][root] for root in roots], depth, staged, newest)
    assert len(found) == len(set(found))
    assert set(found) == model(tree, roots, depth, newest)


def measure(path: Path, *roots: int, depth: int = 0) -> list[Usage]:
    with UsageReader(path) as reader:
        return reader.measure(roots, depth, (), 0)


def test_two_sparse_files_may_be_larger_together_than_a_number(index: Index, path: Path) -> None:
    with index.operation():
        for name in (b"a", b"b", b"c"):
            index.namespace.add_entry(1, name, add(index, FILE_MODE, 1, LARGEST))
    index.commit()
    assert measure(path, 1)[0].logical_bytes == 3 * LARGEST


def test_a_symbolic_link_has_the_size_that_stat_shows(index: Index, path: Path) -> None:
    with index.operation():
        index.namespace.add_entry(1, b"link", add(index, stat.S_IFLNK | 0o777, 1, 7))
    index.commit()
    found = measure(path, 1)[0]
    assert (found.files, found.logical_bytes, found.allocated_bytes) == (1, 7, 7)


def test_a_folder_within_itself_does_not_keep_it_busy(index: Index, path: Path) -> None:
    """Only a damaged index has that."""
    with index.operation():
        folder = add(index, FOLDER_MODE, 2, 0)
        index.namespace.add_entry(1, b"folder", folder)
        index.namespace.add_entry(folder, b"itself", folder)
    index.commit()
    assert measure(path, 1)[0].folders == 2
    assert len(measure(path, 1, depth=3)) == 4


@pytest.mark.parametrize(
    ("named", "is_found"),
    [("/", True), ("", True), ("/a/b", True), ("//a/./b/", True), ("/a/c", False), ("/a/..", False), ("/a/b/c", False)],
)
def test_a_path_is_found_from_the_root(index: Index, path: Path, named: str, is_found: bool) -> None:
    with index.operation():
        folder = add(index, FOLDER_MODE, 2, 0)
        index.namespace.add_entry(1, b"a", folder)
        index.namespace.add_entry(folder, b"b", add(index, FILE_MODE, 1, 0))
    index.commit()
    with UsageReader(path) as reader:
        assert (reader.find(named) is not None) == is_found


def test_the_log_can_be_emptied_once_it_has_measured(index: Index, path: Path) -> None:
    index.close()
    with UsageReader(path) as reader, closing(sqlite3.connect(path)) as writer:
        reader.measure([1], 0, (), 0)
        writer.execute("INSERT INTO volume_state VALUES ('a', 'b')")
        writer.commit()
        is_busy, *_ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not is_busy
