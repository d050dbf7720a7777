# SPDX-License-Identifier: GPL-3.0-or-later
"""Inodes, names, links and extended attributes."""

import stat

import pytest

from cas3fs.index import ROOT_INODE, Index, InodeRow
from tests.index.conftest import FILE_MODE, NOW_NS, add_file, add_inode, make_pack

ODD_NAMES = [b"a", b"\xff\xfe", b"with\nnewline", "\u00fcml\u00e4ut".encode(), b"x" * 255]


def test_a_new_index_has_a_root_directory(index: Index) -> None:
    root = InodeRow(*index.namespace.inode(ROOT_INODE))
    assert (root.number, root.mode, root.nlink) == (1, stat.S_IFDIR | 0o755, 2)
    assert not index.in_group


def test_an_inode_comes_back_as_it_was_made(index: Index) -> None:
    values = (0o20644, 2**32 - 2, 2**32 - 2, 3, 2**63 - 1, 2**32 - 1, 2**63 - 1, -1, 0, 1, 2**63 - 1)
    number = add_inode(index, *values)
    assert index.namespace.inode(number) == (number, *values, 0, 0)


def test_inode_and_entry_numbers_are_never_used_again(index: Index) -> None:
    names = index.namespace
    inode = add_file(index)
    entry = names.add_entry(1, b"a", inode)
    names.remove_entry(1, b"a")
    names.remove_inodes([inode])
    index.commit()
    assert add_file(index) > inode
    assert names.add_entry(1, b"a", inode) > entry


def test_an_unknown_inode_or_name_is_none(index: Index) -> None:
    names = index.namespace
    assert (names.inode(99), names.lookup(1, b"none"), names.child(1, b"none")) == (None, None, None)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_of_any_bytes_is_found(index: Index, name: bytes) -> None:
    number = add_inode(index, FILE_MODE, 1, 2, 1, 0, 3, 5, 6, 7, 8, 9)
    entry = index.namespace.add_entry(1, name, number)
    assert index.namespace.lookup(1, name) == (number, FILE_MODE, 1, 2, 1, 0, 3, 5, 6, 7, 8, 9, 0, 0)
    assert index.namespace.child(1, name) == (entry, number)
    assert index.namespace.names_of(number) == [(1, name)]


def test_names_are_found_in_their_own_directory_only(index: Index) -> None:
    number = add_file(index, b"a")
    assert index.namespace.child(number, b"a") is None


def test_saving_inodes_keeps_creation_time_and_stored_sequence(index: Index) -> None:
    number = add_file(index)
    index.chunks.stored(number, 10, 20, 30, 40)
    row = InodeRow(number, 0o100600, 1, 2, 3, 4, 0x10, 5, 6, 7, 8, -1, -1, -1)
    index.namespace.save_inodes([row])
    assert index.namespace.inode(number) == row._replace(crtime_ns=NOW_NS, stored_seq=40, chunk_bytes=0)
    index.namespace.save_inodes([(*row[:7], 50, *row[8:11])])
    assert index.namespace.inode(number)[7] == 50


def test_saving_attributes_keeps_size_and_times_of_the_content(index: Index) -> None:
    number = add_file(index)
    index.chunks.stored(number, 10, 20, 30, 40)
    index.namespace.save_attributes([(number, 0o100600, 1, 2, 3, 0x10, 77)])
    expected = (number, 0o100600, 1, 2, 3, 0, 0x10, 10, 77, 20, 30, NOW_NS, 40, 0)
    assert index.namespace.inode(number) == expected


def test_removing_an_inode_removes_all_that_belongs_to_it(index: Index) -> None:
    names = index.namespace
    gone, kept = add_file(index), add_file(index)
    index.blocks.add_pack(make_pack("00000001/a", 1), 0)
    for number in (gone, kept):
        names.add_symlink(number, b"target")
        names.set_xattr(number, b"user.a", b"value")
        index.chunks.replace(number, 0, 10, [(0, 10, 1, 0)])
    names.remove_inodes([gone])
    assert names.inode(gone) is None
    assert (names.symlink(gone), names.list_xattrs(gone), index.chunks.bounds(gone, 0, 10)) == (None, [], [])
    assert (names.symlink(kept), names.list_xattrs(kept)) == (b"target", [b"user.a"])
    assert index.chunks.bounds(kept, 0, 10) == [(0, 10)]


def test_entries_come_in_the_order_of_their_cookies_in_pieces(index: Index) -> None:
    made = [(b"%03d" % (n * 7 % 100), add_file(index, b"%03d" % (n * 7 % 100))) for n in range(100)]
    add_file(index, b"elsewhere", parent=2)
    seen, after = [], 0
    while page := index.namespace.entries(1, after, 7):
        assert len(page) <= 7
        seen += [(row[1], row[2]) for row in page]
        after = page[-1][0]
    assert seen == made
    assert index.namespace.entries(1, 0, 1)[0][2:] == index.namespace.inode(made[0][1])[:2]
    assert index.namespace.entries_with_inodes(1, 0, 1)[0][2:] == index.namespace.inode(made[0][1])


@pytest.mark.promise("a-listing-shows-each-name-once")
def test_a_rename_over_a_name_keeps_the_place_of_that_name(index: Index) -> None:
    names = index.namespace
    old, new = add_file(index, b"old"), add_file(index)
    entry = names.child(1, b"old")[0]
    names.redirect_entry(1, b"old", new)
    assert names.child(1, b"old") == (entry, new)
    assert names.names_of(old) == []


def test_a_rename_within_a_directory_keeps_its_place(index: Index) -> None:
    number = add_file(index, b"old")
    entry = index.namespace.child(1, b"old")[0]
    index.namespace.rename_entry(1, b"old", b"new")
    assert index.namespace.child(1, b"old") is None
    assert index.namespace.child(1, b"new") == (entry, number)


def test_a_move_to_another_directory_comes_last_there(index: Index) -> None:
    names = index.namespace
    moved = add_file(index, b"moved")
    directory = add_file(index, b"dir", mode=stat.S_IFDIR | 0o755)
    add_file(index, b"before", parent=directory)
    entry = names.move_entry(1, b"moved", directory, b"after")
    assert [(row[0], row[1]) for row in names.entries(directory, 0, 9)][-1] == (entry, b"after")
    assert (names.child(1, b"moved"), names.parent_of(moved)) == (None, directory)
    with pytest.raises(KeyError):
        names.move_entry(1, b"none", directory, b"x")


def test_a_directory_without_names_in_it_is_empty(index: Index) -> None:
    assert index.namespace.is_empty(1)
    add_file(index, b"a")
    assert not index.namespace.is_empty(1)
    index.namespace.remove_entry(1, b"a")
    assert index.namespace.is_empty(1)


def test_a_file_may_have_many_names_and_the_root_has_none(index: Index) -> None:
    number = add_file(index, b"a")
    index.namespace.add_entry(5, b"b", number)
    assert index.namespace.names_of(number) == [(1, b"a"), (5, b"b")]
    assert index.namespace.parent_of(ROOT_INODE) is None


def test_unlinked_are_inodes_without_links_whatever_their_names(index: Index) -> None:
    add_file(index, b"named")
    _without_name, without_links = add_file(index), add_file(index, b"unlinked")
    index.namespace.save_attributes([(without_links, FILE_MODE, 0, 0, 0, 0, 0)])
    assert index.namespace.unlinked() == [without_links]


def test_extended_attributes_are_set_replaced_listed_and_removed(index: Index) -> None:
    names, number = index.namespace, add_file(index)
    assert names.list_xattrs(number) == []
    for name, value in [(b"user.b", b""), (b"user.a", b"\0" * 65536), (b"user.b", b"new")]:
        names.set_xattr(number, name, value)
    assert names.list_xattrs(number) == [b"user.a", b"user.b"]
    assert (names.get_xattr(number, b"user.b"), names.get_xattr(number, b"user.c")) == (b"new", None)
    assert len(names.get_xattr(number, b"user.a") or b"") == 65536
    assert (names.remove_xattr(number, b"user.a"), names.remove_xattr(number, b"user.a")) == (True, False)
    assert names.list_xattrs(number) == [b"user.b"]
