# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries are saved, loaded, listed and removed, and damage is detected."""

import doctest
import json
import struct
from pathlib import Path
from typing import ClassVar

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from cas3fs import entries
from cas3fs.entries.attributes import attribute, entry_kind
from cas3fs.entries.bodies import BodyWriter, encode_body
from cas3fs.entries.coercers import to_natural, to_string
from cas3fs.entries.entry import Entry
from cas3fs.entries.kinds import PackEntry, PartEntry
from cas3fs.entries.nodes import NodeEntry, Part
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import EntryCorrupt, InvalidAttribute, MissingAttribute, ObjectExists, ObjectMissing
from cas3fs.objectstores.base import ObjectInfo
from cas3fs.objectstores.memory import MemoryStore


@entry_kind
class Book(Entry):
    """A kind for these tests."""

    kind: ClassVar[str] = "book"
    folder: ClassVar[str] = "books"

    title: str = attribute(to_string, metadata=True)
    year: int = attribute(to_natural, default=1900)


@entry_kind
class NewerBook(Book):
    """The same kind as a later version declares it."""

    publisher: str = attribute(to_string, default="")


@entry_kind
class Note(Entry):
    """A sub-entry of books."""

    kind: ClassVar[str] = "note"
    body: str = attribute(to_string, default="")


@entry_kind
class Series(NodeEntry):
    """A node for these tests."""

    kind: ClassVar[str] = "series"
    folder: ClassVar[str] = "series"
    title: str = attribute(to_string, default="")


class ForgetfulStore(MemoryStore):
    """Drops all metadata, as some stores do."""

    def head(self, key: str) -> ObjectInfo:
        return super().head(key)._replace(metadata={})


class CountingStore(MemoryStore):
    """Records which ranges were read."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[str, int, int]] = []

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.ranges.append((key, start, length))
        return super().get_range(key, start, length)


def test_the_example_of_the_room_works() -> None:
    assert doctest.testmod(entries).attempted > 0
    assert doctest.testmod(entries).failed == 0


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(MemoryStore())


BOOK = Book(id="b1", title="Walden", year=1854)


def raw_body(key: str, attributes: object, kind: str = "book", version: int = 1, data: bytes = b"") -> bytes:
    head = json.dumps({"kind": kind, "key": key, "attributes": attributes}).encode()
    start = struct.pack(">8sH2xI", b"CAS3ENTR", version, len(head)) + head
    return start + blake3(start).digest() + data + blake3(data).digest()


@given(st.text(max_size=50), st.integers(0, 2**63 - 1), st.binary(max_size=300))
def test_what_is_saved_loads_the_same(title: str, year: int, data: bytes) -> None:
    shelf = Shelf(MemoryStore())
    book = Book(id="b", title=title.encode("utf-8", "replace").decode(), year=year)
    shelf.save(book, data)
    loaded, read = shelf.load_with_data(Book, "b")
    assert (loaded, bytes(read)) == (book, data)
    assert shelf.load_head(Book, "b") == book


def test_an_entry_is_never_overwritten(shelf: Shelf) -> None:
    shelf.save(BOOK)
    with pytest.raises(ObjectExists):
        shelf.save(BOOK.changed(year=2000))
    assert shelf.load(Book, "b1") == BOOK


def test_what_is_not_there_is_missing(shelf: Shelf) -> None:
    with pytest.raises(ObjectMissing):
        shelf.load(Book, "b1")
    with pytest.raises(ObjectMissing):
        shelf.load_head(Book, "b1")


def test_attributes_of_a_newer_version_are_kept(shelf: Shelf) -> None:
    shelf.save(NewerBook(id="b1", title="Walden", publisher="Ticknor"))
    old = shelf.load(Book, "b1")
    assert dict(old.unknown) == {"publisher": "Ticknor"}
    shelf.save(old.changed(id="b2"))
    assert shelf.load(NewerBook, "b2").publisher == "Ticknor"


def test_the_error_for_a_missing_attribute_names_object_and_attribute(shelf: Shelf) -> None:
    shelf.store.put_if_absent("books/b1", raw_body("books/b1", {"year": 1}))
    with pytest.raises(MissingAttribute, match=r"books/b1.*'title'"):
        shelf.load(Book, "b1")


def test_the_error_for_an_invalid_attribute_names_object_attribute_and_value(shelf: Shelf) -> None:
    shelf.store.put_if_absent("books/b1", raw_body("books/b1", {"title": "x", "year": "MCM"}))
    with pytest.raises(InvalidAttribute, match=r"books/b1.*'year'.*'MCM'"):
        shelf.load(Book, "b1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"CAS3ENTR",
        b"something else altogether, and longer than that",
        raw_body("books/b1", {"title": "x"}, kind="film"),
        raw_body("books/b2", {"title": "x"}),
        raw_body("books/b1", {"title": "x"}, version=2),
        raw_body("books/b1", ["title"]),
        struct.pack(">8sH2xI", b"CAS3ENTR", 1, 2**32 - 1) + bytes(100),
        encode_body(BOOK, b"data")[:-1],
        encode_body(BOOK, b"data") + b"x",
        encode_body(BOOK, b"")[:-32],
    ],
)
def test_a_body_of_no_such_entry_is_corrupt(shelf: Shelf, body: bytes) -> None:
    shelf.store.put_if_absent("books/b1", body)
    with pytest.raises(EntryCorrupt, match="books/b1"):
        shelf.load(Book, "b1")


@given(st.data())
def test_a_flipped_bit_anywhere_is_detected(data: st.DataObject) -> None:
    body = bytearray(encode_body(BOOK, b"some data"))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
    shelf = Shelf(MemoryStore())
    shelf.store.put_if_absent(BOOK.key, body)
    with pytest.raises(EntryCorrupt):
        shelf.load(Book, "b1")


def test_load_head_reads_a_long_head_but_not_the_data() -> None:
    store = CountingStore()
    shelf = Shelf(store)
    book = Book(id="b1", title="x" * 20_000)
    shelf.save(book, bytes(1_000_000))
    assert shelf.load_head(Book, "b1") == book
    assert sum(length for _, _, length in store.ranges) < 50_000


def test_a_listing_shows_the_entries_of_a_kind_in_order(shelf: Shelf) -> None:
    for name in ("b2", "b10", "b1"):
        shelf.save(Book(id=name, title=name))
    shelf.save(Note(id="n1", owner="books/b1"))
    shelf.save(PackEntry(id="00000001/ab"), b"blocks")
    assert [one.id for one in shelf.list_entries(Book)] == ["b1", "b10", "b2"]
    assert [one.id for one in shelf.list_entries(Book, start_after="b1")] == ["b10", "b2"]
    assert [one.id for one in shelf.list_entries(PackEntry)] == ["00000001/ab"]
    assert [book.title for book in shelf.load_all(Book)] == ["b1", "b10", "b2"]


def test_sub_entries_are_listed_and_removed_with_their_owner(shelf: Shelf) -> None:
    other = Book(id="b10", title="other")
    for book in (BOOK, other):
        shelf.save(book)
        note = Note(id="n1", owner=book.key, body="about " + book.title)
        shelf.save(note)
        shelf.save(Note(id="reply", owner=note.key))
    assert [child.id for child in shelf.sub_entries(BOOK)] == ["n1", "n1.reply"]
    assert shelf.load(Note, "n1", owner=BOOK.key).body == "about Walden"
    shelf.remove(BOOK)
    assert [info.key for info in shelf.store.list()] == ["books/b10", "books/b10.n1", "books/b10.n1.reply"]
    shelf.remove(BOOK)


def test_the_body_of_a_kind_with_its_own_format_is_its_data() -> None:
    for store, blocks in ((MemoryStore(), 5), (ForgetfulStore(), None)):
        shelf = Shelf(store)
        shelf.save(PackEntry(id="00000001/ab", blocks=5), b"the pack")
        assert store.get("packs/00000001/ab") == b"the pack"
        entry, data = shelf.load_with_data(PackEntry, "00000001/ab")
        assert (entry.blocks, bytes(data)) == (blocks, b"the pack")


def test_a_framed_entry_needs_no_metadata_from_the_store() -> None:
    shelf = Shelf(ForgetfulStore())
    shelf.save(BOOK)
    assert shelf.load_head(Book, "b1") == shelf.load(Book, "b1") == BOOK


def test_a_body_streamed_into_a_file_is_the_body_saved_at_once(shelf: Shelf, tmp_path: Path) -> None:
    with open(tmp_path / "body", "w+b") as file:
        writer = BodyWriter(file, BOOK)
        offsets = [writer.write(piece) for piece in (b"first", b"", b"second")]
        shelf.save_file(BOOK, writer.finish())
    assert shelf.store.get(BOOK.key) == encode_body(BOOK, b"firstsecond")
    assert shelf.store.get_range(BOOK.key, offsets[2], 6) == b"second"


@pytest.fixture
def series(shelf: Shelf) -> Series:
    node = Series(id="s1", parts=tuple(shelf.add_part(piece) for piece in (b"abc", b"", b"defgh", b"ij")))
    shelf.save(node)
    return node


@pytest.mark.parametrize("start", range(12))
@pytest.mark.parametrize("length", [0, 1, 3, 6, 20])
def test_any_range_of_a_node_is_that_of_its_joined_parts(shelf: Shelf, series: Series, start: int, length: int) -> None:
    assert shelf.read_node(series, start, length) == b"abcdefghij"[start : start + length]
    assert shelf.load(Series, "s1") == series


def test_reading_a_range_touches_only_the_parts_in_it() -> None:
    store = CountingStore()
    shelf = Shelf(store)
    node = Series(id="s", parts=tuple(shelf.add_part(bytes([n]) * 10) for n in range(5)))
    assert shelf.read_node(node, 25, 10) == b"\x02" * 5 + b"\x03" * 5
    assert [key for key, _, _ in store.ranges] == [node.parts[2].key, node.parts[3].key]


def test_replacing_a_part_makes_a_new_node_and_keeps_the_old(shelf: Shelf, series: Series) -> None:
    replaced = shelf.replace_part(series, 2, b"-----longer", node_id="s2")
    assert shelf.read_node(shelf.load(Series, "s2")) == b"abc-----longerij"
    assert replaced.parts[0] == series.parts[0]
    assert shelf.read_node(shelf.load(Series, "s1")) == b"abcdefghij"


def test_the_same_part_is_stored_once(shelf: Shelf) -> None:
    assert shelf.add_part(b"same") == shelf.add_part(b"same")
    assert len(list(shelf.list_entries(PartEntry))) == 1


def test_a_damaged_part_is_detected(shelf: Shelf) -> None:
    shelf.store.put_if_absent("parts/x", b"abd")
    node = Series(id="s", parts=(Part("parts/x", 0, 3, blake3(b"abc").digest()),))
    with pytest.raises(EntryCorrupt, match="parts/x"):
        shelf.read_node(node)


@pytest.mark.parametrize("value", [[["k", 0, 3]], [["k", 0, 3, "00"]], [["k", -1, 3, "00" * 32]], [5]])
def test_an_invalid_part_is_an_invalid_attribute(value: object) -> None:
    with pytest.raises(InvalidAttribute, match="parts"):
        Series(id="s", parts=value)  # type: ignore[arg-type]
