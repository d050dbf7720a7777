# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between two trees is found as a comparison of every path would find it."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.index import Index
from cas3fs.index.tree_difference import TreeChange, tree_changes
from tests.index.conftest import NOW_NS, add_inode

NAMES = (b"a", b"b", b"a-", b"\xff", b"long name")


def entry_of(index: Index, path: bytes) -> tuple[int, bytes]:
    """The directory that holds the name at `path`, and that name."""
    *above, name = path.split(b"/")
    parent = 1
    for one in above:
        parent = index.namespace.lookup(parent, one)[0]
    return parent, name


def number_of(index: Index, path: bytes) -> int:
    parent, name = entry_of(index, path)
    return int(index.namespace.lookup(parent, name)[0])


def make(index: Index, path: bytes, *, mode: int = stat.S_IFREG | 0o644, target: bytes = b"") -> None:
    parent, name = entry_of(index, path)
    number = add_inode(index, mode, 1000, 100, 1, 0, 0, 0, NOW_NS, NOW_NS, NOW_NS, NOW_NS)
    index.namespace.add_entry(parent, name, number)
    if stat.S_ISLNK(mode):
        index.namespace.add_symlink(number, target)


def make_directory(index: Index, path: bytes) -> None:
    make(index, path, mode=stat.S_IFDIR | 0o755)


def remove(index: Index, path: bytes) -> None:
    index.namespace.remove_entry(*entry_of(index, path))


def move(index: Index, path: bytes, to: bytes) -> None:
    index.namespace.move_entry(*entry_of(index, path), *entry_of(index, to))


def link(index: Index, path: bytes, to: bytes) -> None:
    index.namespace.add_entry(*entry_of(index, to), number_of(index, path))


def save(index: Index, path: bytes, column: int, value: int) -> None:
    row = list(index.namespace.inode(number_of(index, path)))
    row[column] = value
    index.namespace.save_inodes([row])


def write(index: Index, path: bytes, size: int) -> None:
    save(index, path, 7, size)


def change_mode(index: Index, path: bytes, bits: int) -> None:
    row = index.namespace.inode(number_of(index, path))
    save(index, path, 1, stat.S_IFMT(row[1]) | bits)


@attrs.frozen
class Pair:
    """An index, and a copy of an earlier state of it."""

    index: Index
    older: Path

    def keep(self) -> None:
        """The present state becomes the older one."""
        self.index.commit()
        self.index.copy_to(self.older)

    def changes(self, below: bytes = b"") -> list[TreeChange]:
        self.index.commit()
        newer = self.older.with_name("newer.sqlite")
        self.index.copy_to(newer)
        return list(tree_changes(self.older, newer, below))

    def told(self, below: bytes = b"") -> list[str]:
        """The changes as texts."""
        return [describe(one) for one in self.changes(below)]


def describe(one: TreeChange) -> str:
    what = "".join(letter for letter, has in (("c", one.content), ("a", one.attributes)) if has)
    old = f"{one.old_path.decode(errors='backslashreplace')} > " if one.old_path is not None else ""
    return f"{one.kind} {what}{' ' if what else ''}{old}{one.path.decode(errors='backslashreplace')}"


@pytest.fixture
def pair(index: Index, tmp_path: Path) -> Pair:
    """An older state with a few files."""
    with index.operation():
        make_directory(index, b"d")
        make_directory(index, b"d/deep")
        for path in (b"f", b"d/f", b"d/g", b"d/deep/h"):
            make(index, path)
        make(index, b"link", mode=stat.S_IFLNK | 0o777, target=b"f")
    pair = Pair(index, tmp_path / "older.sqlite")
    pair.keep()
    return pair


def test_nothing_differs_where_nothing_was_changed(pair: Pair) -> None:
    assert pair.told() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: make(index, b"new"), ["added new"]),
        (lambda index: remove(index, b"d/f"), ["removed d/f"]),
        (lambda index: write(index, b"d/f", 7), ["changed c d/f"]),
        (lambda index: change_mode(index, b"d", 0o700), ["changed a d"]),
        (lambda index: change_mode(index, b"d/f", 0o600), ["changed a d/f"]),
        (lambda index: save(index, b"f", 9, 5), ["changed a f"]),
        (lambda index: save(index, b"d", 9, 5), []),
        (lambda index: save(index, b"f", 8, 5), []),
        (lambda index: index.namespace.set_xattr(number_of(index, b"f"), b"user.x", b"1"), ["changed a f"]),
        (lambda index: move(index, b"f", b"d/z"), ["renamed f > d/z"]),
        (lambda index: move(index, b"d", b"e"), ["renamed d > e"]),
        (lambda index: (move(index, b"d", b"e"), write(index, b"e/deep/h", 3)),
         ["renamed d > e", "changed c e/deep/h"]),
        (lambda index: (move(index, b"f", b"z"), write(index, b"z", 1)), ["renamed c f > z"]),
        (lambda index: (move(index, b"f", b"t"), move(index, b"t", b"f")), []),
        (lambda index: (remove(index, b"f"), make(index, b"f")), []),
        (lambda index: (remove(index, b"f"), make(index, b"f"), write(index, b"f", 1)), ["changed c f"]),
        (lambda index: (remove(index, b"f"), move(index, b"d/f", b"f")), ["removed f", "renamed d/f > f"]),
        (lambda index: (remove(index, b"f"), make_directory(index, b"f")), ["changed ca f"]),
        (lambda index: link(index, b"f", b"g"), ["added g"]),
        (lambda index: (link(index, b"f", b"g"), write(index, b"f", 2)), ["changed c f", "added g"]),
        (lambda index: (link(index, b"f", b"g"), link(index, b"f", b"h"), remove(index, b"f")),
         ["removed f", "added g", "added h"]),
        (lambda index: (move(index, b"f", b"t"), move(index, b"d/f", b"f"), move(index, b"t", b"d/f")),
         ["renamed f > d/f", "renamed d/f > f"]),
        (lambda index: (remove(index, b"link"), make(index, b"link", mode=stat.S_IFLNK | 0o777, target=b"d")),
         ["changed c link"]),
        (lambda index: (move(index, b"d", b"e"), make_directory(index, b"d"), make(index, b"d/f")),
         ["added d", "added d/f", "renamed d > e"]),
        (lambda index: (make_directory(index, b"e"), move(index, b"d/f", b"e/f"), move(index, b"d/g", b"e/h"),
                        *(remove(index, path) for path in (b"d/deep/h", b"d/deep", b"d")), move(index, b"e", b"d")),
         ["removed d/deep", "removed d/deep/h", "renamed d/g > d/h"]),
    ],
)  # fmt: skip
def test_a_change_is_told_in_one_line(pair: Pair, change: Callable[[Index], object], told: list[str]) -> None:
    with pair.index.operation():
        change(pair.index)
    assert sorted(pair.told()) == sorted(told)


def test_the_result_is_in_the_order_of_paths(pair: Pair) -> None:
    with pair.index.operation():
        for path in (b"z", b"d-", b"d/a", b"A"):
            make(pair.index, path)
        remove(pair.index, b"f")
        write(pair.index, b"d/g", 1)
    assert [one.path for one in pair.changes()] == [b"A", b"d-", b"d/a", b"d/g", b"f", b"z"]


def test_a_path_limits_what_is_compared(pair: Pair) -> None:
    with pair.index.operation():
        make(pair.index, b"d/new")
        make(pair.index, b"dnew")
        move(pair.index, b"d/f", b"moved")
        change_mode(pair.index, b"d", 0o700)
    assert pair.told(b"d") == ["changed a d", "added d/new", "renamed d/f > moved"]
    assert pair.told(b"dnew") == ["added dnew"]


def test_the_root_changes_too(pair: Pair) -> None:
    row = list(pair.index.namespace.inode(1))
    row[1] = stat.S_IFDIR | 0o700
    with pair.index.operation():
        pair.index.namespace.save_inodes([row])
    assert pair.told() == ["changed a "]


# -- against a model


class Seen(NamedTuple):
    """What a walk over a whole tree finds at a path."""

    parent: int
    name: bytes
    inode: int
    content: tuple[int, ...]


def walk(index: Index) -> dict[bytes, Seen]:
    """Every path of a tree."""
    found: dict[bytes, Seen] = {}
    open_: list[tuple[bytes, int]] = [(b"", 1)]
    while open_:
        above, parent = open_.pop()
        for _, name, *row in index.namespace.entries_with_inodes(parent, 0, 10_000):
            path = above + b"/" + name if above else name
            is_directory = stat.S_ISDIR(row[1])
            found[path] = Seen(parent, name, row[0], (stat.S_IFMT(row[1]), 0 if is_directory else row[7]))
            if is_directory:
                open_.append((path, row[0]))
    return found


def expected(old: dict[bytes, Seen], new: dict[bytes, Seen]) -> set[str]:
    """What a comparison of every path tells."""
    lost = {path: one for path, one in old.items() if one[:3] not in {each[:3] for each in new.values()}}
    gained = {path: one for path, one in new.items() if one[:3] not in {each[:3] for each in old.values()}}
    contents = {one.inode: one.content for one in old.values()}
    told = set()
    sides = [[one.inode for one in side.values()] for side in (lost, gained)]
    moved = {one for one in sides[0] if all(side.count(one) == 1 for side in sides)}
    for path, one in new.items():
        changed = "c " if contents.get(one.inode, one.content) != one.content else ""
        if path not in gained:
            told |= {f"changed c {path!r}"} if changed else set()
        elif one.inode in moved:
            before = next(each for each, seen in lost.items() if seen.inode == one.inode)
            if before != path:
                told.add(f"renamed {changed}{before!r} > {path!r}")
            elif changed:
                told.add(f"changed c {path!r}")
        elif path in lost and lost[path].inode not in moved:
            told |= {f"changed c {path!r}"} if lost[path].content != one.content else set()
        else:
            told.add(f"added {path!r}")
    for path, one in lost.items():
        if one.inode not in moved and (path not in gained or gained[path].inode in moved):
            told.add(f"removed {path!r}")
    return told


def told_by(one: TreeChange) -> str:
    changed = "c " if one.content else ""
    old = f"{one.old_path!r} > " if one.old_path is not None else ""
    return f"{one.kind} {changed}{old}{one.path!r}"


STEPS = st.lists(
    st.tuples(st.sampled_from(["make", "mkdir", "remove", "move", "link", "write"]), st.randoms()), max_size=30
)


def take_step(index: Index, what: str, random: object) -> None:
    """One change of the tree, if it is possible."""
    paths = sorted(walk(index))
    directories = [b"", *(path for path in paths if stat.S_ISDIR(walk(index)[path].content[0]))]
    choose = random.choice  # type: ignore[attr-defined]
    above, name = choose(directories), choose(NAMES)
    free = above + b"/" + name if above else name
    if free in paths and what in ("make", "mkdir", "move", "link"):
        return
    path = choose(paths) if paths else b""
    is_directory = path in directories
    if what == "make":
        make(index, free)
    elif what == "mkdir":
        make_directory(index, free)
    elif what == "write" and not is_directory:
        write(index, path, choose(range(100)))
    elif what == "link" and not is_directory:
        link(index, path, free)
    elif what == "move" and path and not (is_directory and (free + b"/").startswith(path + b"/")):
        move(index, path, free)
    elif what == "remove" and path and (not is_directory or index.namespace.is_empty(number_of(index, path))):
        remove(index, path)


@settings(deadline=None, max_examples=150)
@given(before=STEPS, after=STEPS)
def test_any_two_trees_differ_as_a_comparison_of_all_paths_finds(
    tmp_path_factory: pytest.TempPathFactory, before: list[tuple[str, object]], after: list[tuple[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("trees")
    with Index.open(folder / "index.sqlite", create=True) as index:
        pair = Pair(index, folder / "older.sqlite")
        with index.operation():
            for step in before:
                take_step(index, *step)
        old = walk(index)
        pair.keep()
        with index.operation():
            for step in after:
                take_step(index, *step)
        found = [one for one in pair.changes() if one.path]
        assert {told_by(one) for one in found} == expected(old, walk(index))
        assert [one.path for one in found] == sorted(one.path for one in found)
